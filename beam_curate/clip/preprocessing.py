"""How an image is prepared for a model: what of it is said, by whom, and what is asked for.

open_clip resizes an image to the model's size in one of several ways and subtracts a mean. Weights give plausible but wrong
embeddings where it is done in another way than in their training (cosine 0.28 to 0.92 to the right ones, for SigLIP,
MobileCLIP, CLIPA and others). The tensors do not tell, so what neither the user, a tag nor a file says is taken from
open_clip's records of the model's published weights where all of them agree, and asked for otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, TypeAlias

from beam_curate.clip.beside import said_by_file
from beam_curate.clip.checkpoint import UnsaidError, WeightsError
from beam_curate.clip.config import did_you_mean
from beam_curate.clip.open_clip_parts import DEFAULT_PREPROCESSING, tags
from beam_curate.images.resizing import INTERPOLATIONS, RESIZE_MODES

Channels: TypeAlias = tuple[float, float, float]
Preprocess: TypeAlias = str | Mapping[str, object]
"""The option: `auto`, a pretrained tag, the path of a JSON file, `mean=0.5,std=0.5,...`, or the same as a mapping."""

AUTO: Final = "auto"


@dataclass(frozen=True)
class Preprocessing:
    """How an image is prepared: see model_description.ModelDescription for the fields."""

    mean: Channels
    std: Channels
    interpolation: str
    resize_mode: str

    def __str__(self) -> str:
        """The same in the words of the option."""
        mean, std = (
            f"{values[0]:g}" if len(set(values)) == 1 else "/".join(map(repr, values))
            for values in (self.mean, self.std)
        )
        return f"mean={mean},std={std},interpolation={self.interpolation},resize_mode={self.resize_mode}"


_DEFAULTS: Final = Preprocessing(**DEFAULT_PREPROCESSING)
KEYS: Final = tuple(field.name for field in fields(Preprocessing))


@dataclass(frozen=True)
class _Said:
    """Those values of a Preprocessing that are said; None where nothing is."""

    mean: Channels | None = None
    std: Channels | None = None
    interpolation: str | None = None
    resize_mode: str | None = None

    def or_else(self, other: Preprocessing) -> Preprocessing:
        """With another one's values where nothing is said."""
        return Preprocessing(
            self.mean or other.mean,
            self.std or other.std,
            self.interpolation or other.interpolation,
            self.resize_mode or other.resize_mode,
        )


def _checked(said: Mapping[str, object], by: str) -> _Said:
    """Checks the values that are said (null says nothing) and gives them in one form.

    Raises:
        WeightsError: For a value that open_clip would not take, or that this project cannot do.
    """
    mean, std = (_channels(key, said.get(key), by) for key in ("mean", "std"))
    interpolation, resize_mode = (_word(key, said.get(key), by) for key in ("interpolation", "resize_mode"))
    if said.get("mode") not in (None, "RGB"):
        raise WeightsError(f"{by} says mode={said['mode']!r}: images are given to a model as RGB only")
    return _Said(mean, std, interpolation, resize_mode)


def _channels(key: str, value: object, by: str) -> Channels | None:
    if value is None:
        return None
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    numbers = [n for n in values if isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)]
    if len(numbers) != len(values) or len(numbers) not in (1, 3) or (key == "std" and min(numbers) <= 0):
        above = " above 0" if key == "std" else ""
        raise WeightsError(f"{by} says {key}={value!r}: it must be one number{above} for all channels, or three")
    if min(numbers) < 0 or max(numbers) > 1:
        raise WeightsError(
            f"{by} says {key}={value!r}: pixels count from 0 to 1; divide values of a scale to 255 by 255"
        )
    if value == 0:  # open_clip's image_transform takes a plain 0 for "not given", and OpenAI's mean in its place
        raise WeightsError(f"{by} says {key}={value!r}, which open_clip reads as OpenAI's mean: write [0, 0, 0]")
    red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    return float(red), float(green), float(blue)


def _word(key: str, value: object, by: str) -> str | None:
    if value is None:
        return None
    if key == "interpolation" and value == "random":
        return "bicubic"  # as open_clip's image_transform takes it where it does not train
    known = tuple(INTERPOLATIONS) if key == "interpolation" else RESIZE_MODES
    if value not in known:
        pads = " (longest pads the image, which is not supported)" if value == "longest" else ""
        raise WeightsError(f"{by} says {key}={value!r}{pads}: there are {' and '.join(known)}")
    return str(value)


def _of_record(record: Mapping[str, object]) -> Preprocessing:
    return _checked(record, "open_clip's record").or_else(_DEFAULTS)


def records(clip_model: str) -> dict[Preprocessing, list[str]]:
    """How images are prepared for the published weights of a model, with the tags that have it; most tags first."""
    found: dict[Preprocessing, list[str]] = {}
    for tag in tags.list_pretrained_tags_by_model(clip_model):
        found.setdefault(_of_record(tags.get_pretrained_cfg(clip_model, tag)), []).append(tag)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def decide_preprocessing(
    clip_model: str,
    option: Preprocess = AUTO,
    said: Mapping[str, object] | None = None,
    said_by: str = "",
    *,
    weights: str = "",
) -> tuple[Preprocessing, str]:
    """Decides by the first that speaks: the option, the tag or file, open_clip's records where all of them agree.

    A file that leaves a value out means open_clip's default, as open_clip reads it; but where a record of the model has another
    value, it is asked for.

    Args:
        clip_model: A model name as open_clip keeps it.
        option: What the user says: see Preprocess.
        said: What a tag's record or the files beside the weights say; None: nothing.
        said_by: Who says it.
        weights: What the question is about, for its text; empty for random weights, about which nothing is asked.

    Returns:
        How images are prepared, and who says so.

    Raises:
        UnsaidError: Nobody says it.
        WeightsError: A wrong option, or a value that open_clip would not take.
    """
    known = records(clip_model)
    means_defaults = said is not None
    if option != AUTO:
        said, said_by, means_defaults = _from_option(option, clip_model)
    values = _checked(said or {}, said_by)
    missing: list[str] = []
    agreed: dict[str, object] = {}
    speaking = [*known, _DEFAULTS] if means_defaults else list(known)
    for key in (key for key in KEYS if getattr(values, key) is None):
        candidates = {getattr(record, key) for record in speaking}
        if len(candidates) == 1:
            agreed[key] = candidates.pop()
        elif weights:  # random ones were trained with no preprocessing at all: the defaults do
            missing.append(key)
    if missing:
        question = _question(clip_model, known, missing if said is not None else [], weights, said_by)
        raise UnsaidError(f"preprocess='{AUTO}', but {question}" if option == AUTO else question, "preprocess")
    return values.or_else(_of_record(agreed)), said_by or f"open_clip's record of {clip_model}"


def _question(
    clip_model: str, known: Mapping[Preprocessing, Sequence[str]], missing: Sequence[str], weights: str, said_by: str
) -> str:
    """Words the question: what is not known, what the choices are, and how to answer."""
    what = f"{said_by} does not give {' and '.join(missing)}" if missing else "nothing says how images are prepared"
    if known:
        choices = "; ".join(f"{record} has {_some(names)}" for record, names in known.items())
        why = f"of the published weights of {clip_model} {choices}"
    else:
        why = f"open_clip knows no published weights of {clip_model}"
    tag = next(iter(known.values()))[0] if known else "openai"
    return (
        f"{what} for {weights}, and {why}; the wrong way gives plausible but wrong embeddings: give "
        f"`preprocess` with the tag whose images are prepared in the same way, such as {tag}"
        f"{'' if known else ' where open_clip trained them with its defaults'}, with values such as "
        f"{Preprocessing((0.5,) * 3, (0.5,) * 3, 'bicubic', 'squash')}, or with the path of an open_clip_config.json"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[:3] if more else names) + more


def _from_option(option: Preprocess, clip_model: str) -> tuple[dict[str, object], str, bool]:
    """Reads the option: the values, who says them, and whether open_clip's defaults are meant for those left out."""
    by = f"preprocess={option!r}"
    if isinstance(option, Mapping) or ("=" in option and not option.endswith(".json")):
        values = dict(option) if isinstance(option, Mapping) else _parsed(option, by)
        for key in values:
            if key not in KEYS:
                raise WeightsError(f"{by}: there is no {key!r}; {did_you_mean(str(key), KEYS)}")
        # Said by the user, a 0 is a 0.
        return {key: [0, 0, 0] if key == "mean" and value == 0 else value for key, value in values.items()}, by, False
    path = Path(option)
    if option.endswith(".json"):
        if not path.is_file():
            raise WeightsError(f"{by}: there is no such file")
        return dict(said_by_file(path)), str(path), True
    record = tags.get_pretrained_cfg(clip_model, option)
    alike = {_of_record(record)} if record else set()
    if not record:
        models = tags.list_pretrained_models_by_tag(option)
        alike = {_of_record(tags.get_pretrained_cfg(model, option)) for model in models}
    if len(alike) > 1:
        choices = " or ".join(sorted(map(str, alike)))
        raise WeightsError(f"{by}: {clip_model} has no such tag, and the models that have it differ; give {choices}")
    if not alike:
        every = {tag for _, tag in tags.list_pretrained()}
        own = tags.list_pretrained_tags_by_model(clip_model)
        close = did_you_mean(option, every)
        known = close if close.startswith("did") else f"known: {', '.join(own or ['openai', 'webli'])}, ..."
        raise WeightsError(
            f"{by} is neither a pretrained tag ({known}) nor the path of a JSON file, nor values such as "
            "mean=0.5,std=0.5,interpolation=bicubic,resize_mode=squash"
        )
    return asdict(alike.pop()), f"open_clip's record of the tag {option!r}, as the option preprocess says", True


def _parsed(text: str, by: str) -> dict[str, object]:
    """Reads `mean=0.48/0.46/0.41,std=0.5,...`."""
    values: dict[str, object] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key in values:
            raise WeightsError(f"{by}: {part.strip()!r} is not key=value, or its key is given twice")
        try:
            values[key] = [float(n) for n in value.split("/")] if key in ("mean", "std") else value
        except ValueError as error:
            raise WeightsError(
                f"{by}: {key}={value!r} is neither a number nor three numbers with / between them, such as 0.48/0.46/0.41"
            ) from error
    return values
