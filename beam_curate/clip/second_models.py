"""Second models: a further embedding of every image, in a column of its own beside the first one's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from beam_curate.clip.checkpoint import UnsaidError
from beam_curate.clip.model_description import ModelDescription, describe_model
from beam_curate.clip.weights import for_any_folder

QUICK_GELU: Final[Mapping[str, bool | Literal["auto"]]] = {"auto": "auto", "yes": True, "no": False}
"""The words that say `quick_gelu` in a text, and what they mean."""


_ANSWERS: Final = {"quick_gelu": ",quick_gelu=yes (or no)", "preprocess": ",preprocess=TAG"}


class SecondModelError(ValueError):
    """A second model that cannot be had; the message names its text and the remedy."""


@dataclass(frozen=True)
class SecondModel:
    """A model whose embedding goes to the column `embedding_<name>`.

    Attributes:
        name: Of the embedding.
        pretrained: Its weights, as a worker finds them.
        description: What the model is.
    """

    name: str
    pretrained: str
    description: ModelDescription


def embedding_name(clip_model: str) -> str:
    """The name of a model's embedding: `ViT-B-16` gives `vit_b_16`."""
    return re.sub(r"[^a-z0-9]+", "_", clip_model.lower()).strip("_")


def find_second_models(texts: Sequence[str], model_dir: str | None = None) -> dict[str, SecondModel]:
    """Describes second models by the names of their embeddings.

    Args:
        texts: `MODEL=WEIGHTS`, with options of the first model's behind it where they must be said:
            `MODEL=WEIGHTS,quick_gelu=no,preprocess=TAG`.
        model_dir: A models directory, where a tag is looked for before the hub.

    Raises:
        SecondModelError: A value is none, two give the same name, or a model cannot be had.
    """
    found: dict[str, SecondModel] = {}
    for text in texts:
        clip_model, pretrained, options = _parsed(text)
        try:
            description = describe_model(clip_model, pretrained, model_dir=model_dir, fetch=True, **options)
        except UnsaidError as error:
            said = "".join(_ANSWERS[name] for name in error.options)
            raise SecondModelError(
                f"{text}: {error}; for a second model it stands behind the weights: {clip_model}={pretrained}{said}"
            ) from error
        except ValueError as error:
            raise SecondModelError(f"{text}: {error}") from error
        name = embedding_name(description.clip_model)
        if name in found:
            raise SecondModelError(f"{text}: there is a second model {clip_model} already; give each model once")
        found[name] = SecondModel(name, for_any_folder(clip_model, pretrained), description)
    return found


def _parsed(text: str) -> tuple[str, str, dict[str, Any]]:
    """Reads `MODEL=WEIGHTS,quick_gelu=no,preprocess=TAG`: the model, its weights, and the options of describe_model."""
    first, *more = re.split(r",\s*(quick_gelu|preprocess)\s*=", text)
    clip_model, _, pretrained = (part.strip() for part in first.partition("="))
    if not clip_model or not pretrained:
        raise SecondModelError(
            f"{text!r} is not a model with weights; give MODEL=WEIGHTS, such as ViT-B-16=laion2b_s34b_b88k"
        )
    options: dict[str, Any] = {}
    for name, value in zip(more[::2], (value.strip() for value in more[1::2]), strict=True):
        if name in options:
            raise SecondModelError(f"{text!r} has {name} twice; give it once")
        if name == "quick_gelu" and value not in QUICK_GELU:
            raise SecondModelError(f"{text!r}: quick_gelu={value!r}; give {', '.join(QUICK_GELU)}")
        options[name] = QUICK_GELU[value] if name == "quick_gelu" else value
    return clip_model, pretrained, options


def widths(models: Mapping[str, SecondModel]) -> dict[str, int]:
    """The widths of the embeddings, by name."""
    return {name: model.description.embed_dim for name, model in models.items()}
