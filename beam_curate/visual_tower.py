"""The visual tower of a CLIP model alone: described without weights, built, filled, and applied to uint8 pixels.

The tower is open_clip's, built by its private `_build_vision_tower` (hence the pin open_clip_torch>=3.3,<3.4) on the
meta device, where it costs no memory, and filled tensor by tensor, each converted as it is read: the text tower is
never built and no weight is ever held twice. Towers with buffers that no checkpoint holds (rotary embeddings and
relative positions of the timm towers EVA, EVA02, PE-Core, Swin, vit_relpos) lose these on meta, so they are built in
the normal way and then filled: their peak memory has the fp32 tower in it besides the weights.
"""

import hashlib
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import nn
from torch.nn import functional

from beam_curate.clip_weights import (
    WeightsError,
    WeightsSource,
    fetch_weights,
    find_weights,
    model_config,
    read_visual_state,
)

_LOG = logging.getLogger(__name__)

QuickGelu: TypeAlias = bool | Literal["auto"]
PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelDescription:
    """What a model and its weights are, as it goes into a run's configuration.

    `image_size` is the side in pixels, `mean` and `std` are per channel (RGB, of values 0 to 1), `interpolation` and
    `resize_mode` are open_clip's words (`bicubic`, `shortest`). `quick_gelu_by` says what decided `quick_gelu`, and
    `weights` is the identity of the weights (see WeightsSource.identity); `random` ones give meaningless embeddings.
    """

    clip_model: str
    pretrained: str
    embed_dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    quick_gelu: bool
    quick_gelu_by: str
    weights: str
    random: bool


def describe_model(
    clip_model: str,
    pretrained: str,
    *,
    model_dir: str | None = None,
    seed: int = 0,
    quick_gelu: QuickGelu = "auto",
    fetch: bool = False,
) -> ModelDescription:
    """Describes a model and its weights without building it or loading a tensor: for checks at launch.

    Args:
        clip_model: A model name of open_clip.
        pretrained: `random`, a tag, a file or a directory: see clip_weights.
        model_dir: A models directory, where a tag is looked for before the hub.
        seed: The seed of `random`.
        quick_gelu: Whether the tower's activation is QuickGELU, as OpenAI's weights need; a wrong choice gives plausible
            but wrong embeddings. `auto` decides by the first of these that speaks: the model (its name ends with
            `-quickgelu`); open_clip's record of the tag; the configuration beside the checkpoint (open_clip's
            `quick_gelu`, transformers' `hidden_act`); the file (a name with `openai` in it, or the entries that
            only OpenAI's checkpoints have). If none does, GELU, as open_clip itself does, with a warning.
        fetch: Downloads a tag's weights now, so that `weights` is their checksum instead of the tag.

    Raises:
        WeightsError: For anything that cannot be had: see find_weights and fetch_weights.
    """
    source = find_weights(clip_model, pretrained, model_dir=model_dir, seed=seed)
    return describe_source(fetch_weights(source) if fetch else source, quick_gelu)


def describe_source(source: WeightsSource, quick_gelu: QuickGelu = "auto") -> ModelDescription:
    """Describes weights that find_weights found: see describe_model."""
    _, config = model_config(source.clip_model)
    height, width = _pair(config["vision_cfg"].get("image_size", 224))
    if height != width:
        raise WeightsError(f"clip_model={source.clip_model!r} sees {width}x{height}: only square models are supported")
    preprocess = {**vars(open_clip.transform.PreprocessCfg()), **source.preprocess}
    use, by = _decide_quick_gelu(config, source, quick_gelu)
    return ModelDescription(
        clip_model=source.clip_model,
        pretrained=source.pretrained,
        embed_dim=config["embed_dim"],
        image_size=height,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resize_mode=preprocess["resize_mode"],
        quick_gelu=use,
        quick_gelu_by=by,
        weights=source.identity,
        random=source.seed is not None,
    )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _decide_quick_gelu(config: Mapping[str, Any], source: WeightsSource, wanted: QuickGelu) -> tuple[bool, str]:
    if "timm_model_name" in config["vision_cfg"]:
        if wanted is True:
            raise WeightsError(f"quick_gelu=True: {source.clip_model} is a timm tower, which has its own activation")
        return False, "timm towers have their own activation"
    if wanted != "auto":
        return wanted, "the option quick_gelu"
    if config.get("quick_gelu", False):
        return True, f"the configuration of {source.clip_model}"
    if source.quick_gelu is not None:
        return source.quick_gelu, source.said_by
    if source.seed is None and isinstance(config["vision_cfg"].get("layers", 12), int):
        _LOG.warning(
            "Nothing says whether %s was trained with QuickGELU: GELU is used. If the weights are OpenAI's, the embeddings "
            "would be wrong: give quick_gelu=True (or False, to say that GELU is right).",
            source.path,
        )
    return False, "nothing says, so GELU as open_clip does"


def choose_device(device: str) -> torch.device:
    """Resolves `auto`, `cpu`, `cuda` or `cuda:N` on this machine.

    Raises:
        ValueError: For another name.
        RuntimeError: If CUDA is asked for and absent: never a silent CPU.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r}: give auto, cpu, cuda or cuda:N")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(
            f"device={device!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here: check "
            "the driver and that torch is a CUDA build, or give device='cpu'"
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
            able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            native = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
            return torch.bfloat16 if native else torch.float32
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: give auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision='fp16' on a CPU is five times slower than fp32 there: give bf16, fp32 or auto")
    return PRECISIONS[precision]


class VisualTower:
    """A filled tower on its device: pixels in, embeddings out. Built by build_visual_tower.

    Its methods take and give numpy arrays and plain values, so that it also works behind Beam's multi-process proxy.
    """

    def __init__(
        self, module: nn.Module, description: ModelDescription, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._module = module
        self._description = description
        self._device = device
        self._dtype = dtype
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (description.mean, description.std))
        self._shift, self._scale = mean * 255, std * 255
        self._folded = False
        if isinstance(module, VisionTransformer):
            self._fold()

    def _fold(self) -> None:
        """Moves the normalisation into the patch convolution, which is exact since that has no padding.

        With integers c near 255 mean: conv(W, (x/255 - mean)/std) = conv(W', x - c) + sum W' (c - 255 mean) with
        W' = W/(255 std). x - c is exact in bf16 and fp16, and the bias is small, so its rounding is too.
        """
        conv: Any = self._module.conv1
        weight = conv.weight.detach().float() / self._scale
        centre = self._shift.round()
        bias = (weight * (centre - self._shift)).sum((1, 2, 3))
        conv.weight = nn.Parameter(weight.to(self._dtype), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(self._dtype), requires_grad=False)
        self._shift, self._folded = centre.to(self._dtype), True

    def describe(self) -> ModelDescription:
        """Returns the description of the model and of its weights."""
        return self._description

    def runtime(self) -> tuple[str, str]:
        """Returns the device (`cpu`, `cuda:0`) and the precision (`bf16`, ...) in use."""
        return str(self._device), next(name for name, dtype in PRECISIONS.items() if dtype == self._dtype)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        """Embeds a batch of images.

        Args:
            pixels: (N, S, S, 3) uint8, RGB, S the model's image size.

        Returns:
            (N, D) float16, L2-normalised rows in the order of the input. A row depends on its image and on N alone:
            not on the other images, nor on its place. A degenerate row is NaN.

        Raises:
            TypeError: If `pixels` has another shape or type.
        """
        size = self._description.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise TypeError(f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 (N, {size}, {size}, 3)")
        with torch.inference_mode():
            batch = torch.from_numpy(pixels)
            if self._device.type == "cuda":
                batch = batch.pin_memory().to(self._device, non_blocking=True)
            # (N, S, S, 3) seen as (N, 3, S, S) is torch's channels-last layout: nothing is copied.
            batch = batch.permute(0, 3, 1, 2)
            if self._folded:
                batch = batch.to(self._dtype) - self._shift
            else:
                batch = ((batch.float() - self._shift) / self._scale).to(self._dtype)
            out = self._module(batch)
            features = (out[0] if isinstance(out, tuple) else out).float()
            # No epsilon: a zero vector has no direction, and becomes NaN, which the handler reports.
            features = features / torch.linalg.vector_norm(features, dim=-1, keepdim=True)
            result: npt.NDArray[np.float16] = features.to(torch.float16).cpu().numpy()
            return result


class _ClassTokenBlock(nn.Module):
    """The last block for the class token alone: the other tokens' outputs are not used, so this is exact."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (N, L, W) tokens to (N, 1, W)."""
        block, attention = self.block, self.block.attn
        tokens = block.ln_1(x)
        width, heads = attention.embed_dim, attention.num_heads
        # By hand, as nn.MultiheadAttention is slow on a CPU where the queries are not the keys.
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        query = functional.linear(tokens[:, 0], weight[:width], bias[:width]).view(len(x), heads, 1, -1)
        both = functional.linear(tokens, weight[width:], bias[width:]).view(*x.shape[:2], 2, heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).flatten(1)
        first = x[:, 0] + block.ls_1(attention.out_proj(mixed))
        return (first + block.ls_2(block.mlp(block.ln_2(first))))[:, None]


def build_visual_tower(
    source: WeightsSource, *, precision: str = "auto", device: str = "auto", quick_gelu: QuickGelu = "auto"
) -> VisualTower:
    """Builds the visual tower of a model and fills it, fetching the weights first where they are a tag's.

    In bf16 and fp16 the whole tower is converted, as open_clip's `pure_bf16` and `pure_fp16` do. torch's layer norm
    takes its statistics in fp32 all the same; open_clip's LayerNormFp32, which converts what goes in and out besides,
    takes 7% more time on a CPU for the same embeddings.

    Raises:
        WeightsError: If the weights cannot be had or do not fit; names the missing, unexpected and mis-shaped ones.
        ValueError: For an unknown device or precision.
        RuntimeError: If CUDA is asked for and absent.
    """
    target = choose_device(device)
    dtype = choose_precision(precision, target)
    source = fetch_weights(source)
    description = describe_source(source, quick_gelu)
    _, config = model_config(source.clip_model)
    module = _empty_tower(config, description.quick_gelu, dtype)
    wanted = module.state_dict()
    stored = read_visual_state(source.path) if source.seed is None else _random_state(wanted, source.seed)
    module.load_state_dict(_fitted(stored, wanted, target, source), assign=True)
    module = module.to(target).eval().requires_grad_(False)
    if isinstance(module, VisionTransformer) and module.attn_pool is None and module.pool_type == "tok":
        last = module.transformer.resblocks[-1]
        if type(last) is ResidualAttentionBlock:
            module.transformer.resblocks[-1] = _ClassTokenBlock(last)
    return VisualTower(module, description, target, dtype)


def _empty_tower(config: dict[str, Any], quick_gelu: bool, dtype: torch.dtype) -> nn.Module:
    """Builds the tower on meta (or, where that loses buffers, on the CPU) with the types that its tensors shall have."""
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    with torch.device("meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, quick_gelu)
    if set(dict(tower.named_buffers())) - set(tower.state_dict()):
        tower = _build_vision_tower(config["embed_dim"], vision, quick_gelu)
    return tower.to(dtype)


def _fitted(
    stored: Iterator[tuple[str, torch.Tensor]],
    wanted: Mapping[str, torch.Tensor],
    device: torch.device,
    source: WeightsSource,
) -> dict[str, torch.Tensor]:
    """Copies the stored tensors to the device, in the types wanted, and checks that they are all there and fit."""
    state: dict[str, torch.Tensor] = {}
    wrong: list[str] = []
    for name, tensor in stored:
        like = wanted.get(name)
        if like is None:
            wrong.append(f"{name} is unexpected")
        elif tensor.shape != like.shape:
            wrong.append(f"{name} is {tuple(tensor.shape)} instead of {tuple(like.shape)}")
            state[name] = like
        else:
            state[name] = tensor.to(device=device, dtype=like.dtype, copy=True)
    wrong += [f"{name} is missing" for name in wanted if name not in state]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise WeightsError(
            f"the visual weights of {source.path} do not fit {source.clip_model} ({'; '.join(wrong[:8])}{more}): name the "
            "model that they are of with clip_model"
        )
    return state


def _random_state(wanted: Mapping[str, torch.Tensor], seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Makes random weights: each tensor from its own generator, so the order and other threads do not matter.

    Matrices and kernels are normal with variance 1/fan-in, which keeps the signal's size through the layers
    (Source: LeCun et al., Efficient BackProp, 1998, section 4.6); norms are the identity, biases zero.
    """
    for name, like in wanted.items():
        if like.ndim >= 2 or name.endswith("class_embedding"):
            number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")
            generator = torch.Generator().manual_seed(number)
            fan_in = math.prod(like.shape[1:]) if like.ndim >= 2 else like.shape[0]
            yield name, torch.randn(like.shape, generator=generator) * fan_in**-0.5
        else:
            one = name.endswith(("weight", "gamma", "running_var"))
            yield name, torch.full(like.shape, float(one))
