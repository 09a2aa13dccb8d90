"""What a model and its weights are, and on what it can run: all that is known before the tower is built."""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch

from beam_curate.clip.checkpoint import UnsaidError, WeightsError
from beam_curate.clip.config import model_config
from beam_curate.clip.open_clip_parts import tags
from beam_curate.clip.preprocessing import AUTO, KEYS, Preprocess, decide_preprocessing
from beam_curate.clip.weights import WeightsSource, fetch_weights, find_weights
from beam_curate.cuda import device_count, problem
from beam_curate.images.resizing import Target

QuickGelu: TypeAlias = bool | Literal["auto"]
PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelDescription:
    """What a model and its weights are, as it goes into a run's configuration.

    `image_size` is the side in pixels, `mean` and `std` are per channel (RGB, of values 0 to 1), `interpolation` and
    `resize_mode` are open_clip's words (`bicubic`, `shortest`); `preprocess_by` says who decided these four, `quick_gelu_by` who
    decided `quick_gelu`; `weights` is the identity of the weights (see WeightsSource.identity); `random` ones give
    meaningless embeddings.
    """

    clip_model: str
    pretrained: str
    embed_dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    preprocess_by: str
    quick_gelu: bool
    quick_gelu_by: str
    weights: str
    random: bool

    @property
    def target(self) -> Target:
        """What the model wants of an image."""
        return Target(self.image_size, self.resize_mode, self.interpolation)

    @property
    def preprocess(self) -> dict[str, object]:
        """How an image is prepared, as the option of the same name takes it."""
        return {key: getattr(self, key) for key in KEYS}


def describe_model(
    clip_model: str,
    pretrained: str,
    *,
    model_dir: str | None = None,
    seed: int = 0,
    quick_gelu: QuickGelu = "auto",
    preprocess: Preprocess = AUTO,
    fetch: bool = False,
) -> ModelDescription:
    """Describes a model and its weights without building it or loading a tensor: for checks at launch.

    Args:
        clip_model: A model name of open_clip.
        pretrained: `random`, a tag, a file or a directory: see `weights`.
        model_dir: A models directory, where a tag is looked for before the hub.
        seed: The seed of `random`.
        quick_gelu: Whether the tower's activation is QuickGELU, as OpenAI's weights need; a wrong choice gives plausible
            but wrong embeddings. `auto` decides by the first of these that speaks: the model (its name ends with
            `-quickgelu`); open_clip's record of the tag, also where a file lies in a folder named after the tag (see
            `model_dir_places`) or in the hub's cache; the configuration beside the checkpoint (open_clip's `quick_gelu`,
            transformers' `hidden_act`); the file (a name with `openai` in it, or the entries that only
            OpenAI's checkpoints have). If none does, it is an error where open_clip knows weights of the model that
            were trained with QuickGELU (ViT-B-32, ViT-L-14, ...); for all other models GELU, as open_clip itself does.
            The tensors do not tell: they have the same names, shapes and `logit_scale` (100) either way.
        preprocess: How an image is prepared (mean, std, interpolation, resize_mode): a pretrained tag, of this model or of
            another, as open_clip's record of it says; the path of an open_clip_config.json (or of transformers'
            preprocessor_config.json); values, as `mean=0.5,std=0.5,interpolation=bicubic,resize_mode=squash` (`/` between the
            channels of one) or as a mapping. `auto`: as the tag, or the files beside the weights, or else all of open_clip's
            records of the model say; where these differ, or there are none, it is an error: see preprocessing.
        fetch: Downloads a tag's weights now, so that `weights` is their checksum instead of the tag.

    Raises:
        WeightsError: For anything that cannot be had (see find_weights and fetch_weights).
        UnsaidError: For an activation or a preprocessing that `auto` cannot know.
    """
    source = find_weights(clip_model, pretrained, model_dir=model_dir, seed=seed)
    return describe_source(fetch_weights(source) if fetch else source, quick_gelu, preprocess)


def describe_source(
    source: WeightsSource, quick_gelu: QuickGelu = "auto", preprocess: Preprocess = AUTO
) -> ModelDescription:
    """Describes weights that find_weights found: see describe_model."""
    _, config = model_config(source.clip_model)
    height, width = _pair(config["vision_cfg"].get("image_size", 224))
    if height != width:
        raise WeightsError(f"clip_model={source.clip_model!r} sees {width}x{height}: only square models are supported")
    questions: list[UnsaidError] = []
    try:
        use, by = decide_quick_gelu(source, quick_gelu)
    except UnsaidError as error:
        questions.append(error)
    try:
        weights = "" if source.seed is not None else source.path or source.tag
        prepared, prepared_by = decide_preprocessing(
            source.clip_model, preprocess, source.preprocess, source.preprocess_by, weights=weights
        )
    except UnsaidError as error:
        questions.append(error)
    if questions:
        options = (option for question in questions for option in question.options)
        raise UnsaidError("; and ".join(map(str, questions)), *options)
    return ModelDescription(
        clip_model=source.clip_model,
        pretrained=source.pretrained,
        embed_dim=config["embed_dim"],
        image_size=height,
        mean=prepared.mean,
        std=prepared.std,
        interpolation=prepared.interpolation,
        resize_mode=prepared.resize_mode,
        preprocess_by=prepared_by,
        quick_gelu=use,
        quick_gelu_by=by,
        weights=source.identity,
        random=source.seed is not None,
    )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def decide_quick_gelu(source: WeightsSource, wanted: QuickGelu = "auto") -> tuple[bool, str]:
    """Decides whether a model's activation is QuickGELU, and who says so: see describe_model.

    Raises:
        UnsaidError: Nobody says it, and it can be either.
        WeightsError: The model and the configuration beside the weights contradict each other, or the option the model.
    """
    _, config = model_config(source.clip_model)
    if "timm_model_name" in config["vision_cfg"]:
        if wanted is True:
            raise WeightsError(f"quick_gelu=True: {source.clip_model} is a timm tower, which has its own activation")
        return False, "timm towers have their own activation"
    if wanted != "auto":
        return wanted, "the option quick_gelu"
    if config.get("quick_gelu", False):
        if source.quick_gelu is False:
            raise WeightsError(
                f"clip_model={source.clip_model!r} has QuickGELU, but {source.said_by} says GELU: name the model without "
                "QuickGELU, or give `quick_gelu` yes or no (in Python True or False)"
            )
        return True, f"the configuration of {source.clip_model}"
    if source.quick_gelu is not None:
        return source.quick_gelu, source.said_by
    known = tags.list_pretrained_tags_by_model(source.clip_model)
    if source.seed is None and any(tags.get_pretrained_cfg(source.clip_model, tag).get("quick_gelu") for tag in known):
        raise UnsaidError(
            f"quick_gelu='auto', but nothing says whether {source.path} was trained with QuickGELU, as OpenAI's weights were, "
            "or with GELU, and the wrong one gives plausible but wrong embeddings: give `quick_gelu` yes (in Python True) "
            "if the weights are OpenAI's or made from them, else no (False)",
            "quick_gelu",
        )
    return False, f"the configuration of {source.clip_model}"


def choose_device(device: str) -> torch.device:
    """Resolves `auto`, `cpu`, `cuda` or `cuda:N` on this machine.

    Raises:
        ValueError: For another name.
        RuntimeError: If CUDA is asked for and absent: never a silent CPU.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r}: give auto, cpu, cuda or cuda:N")
    if device == "auto":
        return torch.device("cuda" if device_count() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= device_count():
        raise RuntimeError(
            f"device={device!r}, but torch {torch.__version__} can use {device_count()} CUDA devices here: "
            f"{problem() or 'there are no more'}; or give device='cpu'"
        )
    return chosen


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Resolves `auto`, `bf16`, `fp16` or `fp32` for a device.

    `auto` is bf16 where the hardware multiplies it (CPU: AVX512_BF16, AMX or Arm's bf16; GPU: Ampere and later), else
    fp16 on a GPU with tensor cores (T4, V100), else fp32. On a CPU bf16 halves the time, fp16 multiplies it by five.

    Raises:
        ValueError: For another name, and for fp16 on a CPU.
    """
    if precision == "auto":
        if device.type == "cpu":
            able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
            native = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
            return torch.bfloat16 if native else torch.float32
        # torch.cuda.is_bf16_supported tells the same of the first GPU, whichever is asked for.
        generation, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if generation >= 8 else torch.float16 if generation == 7 else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: give auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision='fp16' on a CPU is five times slower than fp32 there: give bf16, fp32 or auto")
    return PRECISIONS[precision]


def choose_batch_size(device: torch.device) -> int:
    """Chooses how many images go into a call of the model, for the whole run.

    32 on a CPU, where 16 to 32 were the fastest with ViT-B-32 and ViT-L-14. On a GPU enough to have it compute more than it is
    given kernels, and few enough for its memory: 64 with 16 GB (a T4), 128 with 24 (an L4), 256 with 40 and more (an A100, an
    H100). The GPUs' are estimates, not measurements.
    """
    if device.type == "cpu":
        return 32
    gigabytes = torch.cuda.get_device_properties(device).total_memory / 1e9
    return 256 if gigabytes > 36 else 128 if gigabytes > 20 else 64
