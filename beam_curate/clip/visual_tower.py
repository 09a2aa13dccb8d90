"""The visual tower of a CLIP model alone: built, filled, and applied to uint8 pixels.

The tower is open_clip's, built by its private `_build_vision_tower` (hence the pin open_clip_torch>=3.3,<3.4) on the
meta device, where it costs no memory, and filled tensor by tensor, each converted as it is read: the text tower is
never built and no weight is ever held twice. Towers with buffers that no checkpoint holds (rotary embeddings and
relative positions of the timm towers EVA, EVA02, PE-Core, Swin, vit_relpos) lose these on meta, so they are built in
the normal way and then filled: their peak memory has the fp32 tower in it besides the weights.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from beam_curate.clip.activations import separate_activations
from beam_curate.clip.batch_parts import BatchParts
from beam_curate.clip.checkpoint import read_visual_state
from beam_curate.clip.config import model_config
from beam_curate.clip.empty_towers import empty_tower
from beam_curate.clip.independent_rows import IndependentRows, fix_arithmetic
from beam_curate.clip.model_description import (
    PRECISIONS,
    ModelDescription,
    QuickGelu,
    choose_device,
    choose_precision,
    describe_source,
)
from beam_curate.clip.on_device import memory_error, on_host
from beam_curate.clip.open_clip_parts import transformer
from beam_curate.clip.pixel_buffers import HostBuffer
from beam_curate.clip.pixel_files import PixelFile
from beam_curate.clip.preprocessing import AUTO, Preprocess
from beam_curate.clip.quick_gelu import fold_quick_gelu
from beam_curate.clip.tower_weights import fitted, random_state
from beam_curate.clip.weights import WeightsSource, fetch_weights
from beam_curate.devices import give_up_device, out_of_memory

_LOG = logging.getLogger(__name__)

Pixels: TypeAlias = bytes | npt.NDArray[np.uint8] | torch.Tensor
"""An image: (S, S, 3) uint8, RGB, in the host's memory or, as a tensor, on the device."""
Images: TypeAlias = Sequence[Pixels] | npt.NDArray[np.uint8] | PixelFile


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
        if isinstance(module, transformer.VisionTransformer):
            self._fold()
        if device.type == "cpu":
            separate_activations(module)
        self._independent = IndependentRows(module)
        self._buffer = HostBuffer(description.image_size, device)
        shape = (1, description.image_size, description.image_size, 3)
        self._one = torch.zeros(shape, dtype=dtype, device=device).permute(0, 3, 1, 2)

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

    def one(self) -> "VisualTower":
        """Itself: see careful_calls.Model."""
        return self

    def recover(self, error: BaseException) -> bool:
        """There is no other tower in this process; if it has lost its GPU, it ends: see devices.give_up_device."""
        give_up_device(error)
        return False

    def embed(self, images: Images, places: int = 0) -> npt.NDArray[np.float16]:
        """Embeds images in one call of the model.

        Args:
            images: N images, such as (N, S, S, 3) uint8; S is the model's image size.
            places: The size of a whole batch, at least N; 0 means N. What is left of it is filled up with black images, as far
                as that makes a difference: see IndependentRows.shape.

        Returns:
            (N, D) float16, L2-normalised rows in the order of the input. On one machine a row depends on its image and on
            `places` alone: not on the other images, nor on its place (on a GPU a warning tells where it does). A degenerate row
            is NaN.

        Raises:
            TypeError: If an image has another shape or type.
            torch.cuda.OutOfMemoryError: If the device's memory does not do, whichever library found that out.
        """
        if isinstance(images, np.ndarray) and images.dtype != np.uint8:
            raise TypeError(f"pixels are {images.dtype} {images.shape}, expected uint8 {self._expected()}")
        try:
            return self._embed(images, max(places, len(images), 1))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            message = str(error)
        # A new error, without the old one's frames, which hold what was allocated as long as somebody keeps the error.
        raise memory_error(message, self._device)

    def look(self, places: int) -> None:
        """Does what the first call with a whole batch does before it computes: see IndependentRows.

        On a GPU it does nothing: where its memory is short, a call tells, and the batch is halved.

        Args:
            places: The size of a whole batch.
        """
        if self._device.type == "cpu":
            BatchParts(self._independent, places, self._device).look(self._one)

    def _expected(self) -> str:
        size = self._description.image_size
        return f"(N, {size}, {size}, 3)"

    def _embed(self, images: Images, places: int) -> npt.NDArray[np.float16]:
        parts = BatchParts(self._independent, places, self._device)
        with torch.inference_mode():
            rows = parts.compute(len(images), self._one, functools.partial(self._on_device, images), self._rows)
            result: npt.NDArray[np.float16] = on_host(rows).numpy()
            return result

    def _rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, D) float16 of (N, S, S, 3) uint8."""
        # Seen as (N, 3, S, S) they have torch's channels-last layout: nothing is copied.
        batch = pixels.permute(0, 3, 1, 2)
        if self._folded:
            batch = batch.to(self._dtype) - self._shift
        else:
            batch = ((batch.float() - self._shift) / self._scale).to(self._dtype)
        return self._independent.call(self._features, batch).to(torch.float16)

    def _on_device(self, images: Images, shape: int) -> torch.Tensor:
        """(shape, S, S, 3) uint8 on the device: the images, wherever they are, and black ones."""
        if isinstance(images, PixelFile | np.ndarray):
            return self._buffer.upload(images, shape)
        here = [image for image in images if not isinstance(image, torch.Tensor)]
        if len(here) == len(images):
            return self._buffer.upload(here, shape)
        uploaded = iter(self._buffer.upload(here, len(here)) if here else ())
        size = self._description.image_size
        batch = torch.zeros((shape, size, size, 3), dtype=torch.uint8, device=self._device)
        # By places that are on the host, as in batch[[1, 3]] = ..., it would wait for the GPU.
        rows = [self._there(image) if isinstance(image, torch.Tensor) else next(uploaded) for image in images]
        torch.stack(rows, out=batch[: len(rows)])
        return batch

    def _there(self, image: torch.Tensor) -> torch.Tensor:
        if image.is_cuda:
            # It may be of another stream, which shall not have its memory again before this one has read it.
            image.record_stream(torch.cuda.current_stream(image.device))
        return image.to(self._device)

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, D) float32, L2-normalised, of what the tower takes."""
        out = self._module(batch)
        features = (out[0] if isinstance(out, tuple) else out).float()
        # No epsilon: a zero vector has no direction, and becomes NaN, which the handler reports.
        return features / torch.linalg.vector_norm(features, dim=-1, keepdim=True)


class _ClassTokenBlock(nn.Module):
    """The last block for the class token alone: the other tokens' outputs are not used, so this is exact."""

    def __init__(self, block: transformer.ResidualAttentionBlock) -> None:
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
    source: WeightsSource,
    *,
    precision: str = "auto",
    device: str = "auto",
    quick_gelu: QuickGelu = "auto",
    preprocess: Preprocess = AUTO,
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
    fix_arithmetic()
    target = choose_device(device)
    dtype = choose_precision(precision, target)
    source = fetch_weights(source)
    description = describe_source(source, quick_gelu, preprocess)
    _, config = model_config(source.clip_model)
    module = empty_tower(config, description.quick_gelu, dtype)
    factors = fold_quick_gelu(module)
    wanted = module.state_dict()
    stored = read_visual_state(source.path) if source.seed is None else random_state(wanted, source.seed)
    module.load_state_dict(fitted(stored, wanted, target, source, factors), assign=True)
    module = module.to(target).eval().requires_grad_(False)
    if isinstance(module, transformer.VisionTransformer) and module.attn_pool is None and module.pool_type == "tok":
        last = module.transformer.resblocks[-1]
        if type(last) is transformer.ResidualAttentionBlock:
            module.transformer.resblocks[-1] = _ClassTokenBlock(last)
    if target.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # torch's default, of the process, would take the patches at 10 bits
    tower = VisualTower(module, description, target, dtype)
    _LOG.info("Loaded %s on %s in %s", description, *tower.runtime())
    return tower


def check_visual_weights(source: WeightsSource, quick_gelu: bool) -> None:
    """Checks that the stored tensors of a tower are all there and fit, one at a time: what `build_visual_tower` would find.

    Args:
        source: The weights.
        quick_gelu: Whether the model's activation is QuickGELU.

    Raises:
        WeightsError: If the weights cannot be had or do not fit; names the missing, unexpected and mis-shaped ones.
    """
    source = fetch_weights(source)
    if source.seed is not None:
        return
    _, config = model_config(source.clip_model)
    wanted = empty_tower(config, quick_gelu, torch.float32).state_dict()
    fitted(read_visual_state(source.path), wanted, torch.device("meta"), source)
