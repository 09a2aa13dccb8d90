"""The text tower of a CLIP model alone: built, filled, and applied to texts.

The counterpart of `visual_tower`, built by open_clip's private `_build_text_tower` on the meta device and filled
tensor by tensor: the visual tower is never built. It runs on the CPU in fp32 unless asked otherwise, since a run embeds a
few prompts, once, at launch. Nothing here goes to the network but fetch_weights: a tokenizer that is not on this machine
is an error, and so is a text tower that transformers builds (RoBERTa, mT5, NLLB), whose configuration is on the hub.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import huggingface_hub
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.model import _build_text_tower
from open_clip.tokenizer import HFTokenizer
from torch import nn

from beam_curate.clip.activations import separate_activations
from beam_curate.clip.batch_parts import BatchParts
from beam_curate.clip.beside import check_text_beside
from beam_curate.clip.checkpoint import WeightsError, read_logit_scale, read_text_state
from beam_curate.clip.config import model_config
from beam_curate.clip.independent_rows import IndependentRows, fix_arithmetic
from beam_curate.clip.model_description import (
    PRECISIONS,
    QuickGelu,
    choose_device,
    choose_precision,
    decide_quick_gelu,
)
from beam_curate.clip.on_device import memory_error, on_host
from beam_curate.clip.quick_gelu import fold_quick_gelu, scaled
from beam_curate.clip.tower_weights import random_state
from beam_curate.clip.weights import WeightsSource, fetch_weights
from beam_curate.devices import give_up_device, out_of_memory

# Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, section 2.5: the
# logits are the cosines times a learned scale, clipped so that they are not scaled by more than 100.
MAX_LOGIT_SCALE: Final = 100.0
_BATCH: Final = 8
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"


class TextTower:
    """A filled tower on its device: texts in, embeddings out. Built by build_text_tower.

    Attributes:
        source: The weights.
        embed_dim: D, the width of the embeddings.
        quick_gelu: Whether its activation is QuickGELU.
        logit_scale: What the cosines of images and texts are multiplied by, at most 100; 100 where the weights do not say.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Callable[[list[str]], torch.Tensor],
        source: WeightsSource,
        embed_dim: int,
        quick_gelu: bool,
        logit_scale: float,
        device: torch.device,
    ) -> None:
        self._module: Any = module
        self._tokenizer = tokenizer
        self._device = device
        self.source = source
        self.embed_dim = embed_dim
        self.quick_gelu = quick_gelu
        self.logit_scale = logit_scale
        if device.type == "cpu":
            separate_activations(module)
        self._independent = IndependentRows(module)

    def describe(self) -> WeightsSource:
        """Returns the weights."""
        return self.source

    def runtime(self) -> tuple[str, str]:
        """Returns the device (`cpu`, `cuda:0`) and the precision (`bf16`, ...) in use."""
        dtype = next(self._module.parameters()).dtype
        return str(self._device), next(name for name, each in PRECISIONS.items() if each == dtype)

    def one(self) -> "TextTower":
        """Itself: see careful_calls.Model."""
        return self

    def recover(self, error: BaseException) -> bool:
        """There is no other tower in this process; if it has lost its GPU, it ends: see devices.give_up_device."""
        give_up_device(error)
        return False

    def embed(self, texts: Sequence[str], places: int = 0) -> npt.NDArray[np.float32]:
        """Embeds texts.

        Args:
            texts: N texts, tokenized as open_clip does for the model: what is beyond its context (mostly 77 tokens) is cut.
            places: The size of a whole batch, at least N, which is computed in one call: see VisualTower.embed. 0 makes as many
                calls as it takes, of one small shape.

        Returns:
            (N, D) float32, L2-normalised rows in the order of the input. A row depends on its text alone. A degenerate row
            is NaN.

        Raises:
            TypeError: If `texts` is a single string.
            WeightsError: If the tokenizer has tokens that the model does not know.
            torch.cuda.OutOfMemoryError: If the device's memory does not do, whichever library found that out.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts is a string: give a list, [{texts!r}]")
        size = max(places, len(texts)) if places else _BATCH
        starts = range(0, len(texts), size) if texts else range(bool(places))
        try:
            parts = [self._call(list(texts[start : start + size]), size) for start in starts]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            message = str(error)
        else:
            return np.concatenate([np.empty((0, self.embed_dim), np.float32), *parts])
        raise memory_error(message, self._device)  # see VisualTower.embed

    def _call(self, part: list[str], places: int) -> npt.NDArray[np.float32]:
        """Embeds up to `places` texts, filled up with empty ones as far as that makes a difference."""
        tokens = self._tokenizer([*part, ""])
        if int(tokens.max()) >= self._module.vocab_size:
            raise WeightsError(
                f"the tokenizer of {self.source.clip_model} gives token {int(tokens.max())}, but the text tower knows "
                f"{self._module.vocab_size}: its configuration needs another vocab_size or hf_tokenizer_name"
            )
        tokens = tokens.to(self._device)

        def filled(places: int) -> torch.Tensor:
            return torch.cat([tokens[:-1], tokens[-1:].expand(places - len(part), -1)])

        with torch.inference_mode():
            parts = BatchParts(self._independent, places, self._device)
            rows = parts.compute(len(part), tokens[:1], filled, self._rows)
            result: npt.NDArray[np.float32] = on_host(rows).numpy()
            return result

    def _rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, D) float32 of (N, T) tokens."""
        return self._independent.call(self._features, tokens)

    def _features(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, D) float32, L2-normalised, of tokens."""
        out = self._module(tokens)
        features = (out[0] if isinstance(out, tuple) else out).float()
        # No epsilon: see VisualTower._features.
        return features / torch.linalg.vector_norm(features, dim=-1, keepdim=True)


def build_text_tower(
    source: WeightsSource, *, precision: str = "fp32", device: str = "cpu", quick_gelu: QuickGelu = "auto"
) -> TextTower:
    """Builds the text tower of a model and fills it, fetching the weights first where they are a tag's.

    Args:
        source: What find_weights found.
        precision: See model_description.choose_precision.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`.
        quick_gelu: The same as for the visual tower: see model_description.describe_model.

    Raises:
        WeightsError: If the weights or the tokenizer cannot be had, or the weights do not fit; names those that do not.
        ValueError: For an unknown device or precision.
        RuntimeError: If CUDA is asked for and absent.
    """
    fix_arithmetic()
    target = choose_device(device)
    empty = _empty_tower(source, quick_gelu, choose_precision(precision, target))
    factors = fold_quick_gelu(empty.module)
    source, module, wanted = empty.source, empty.module, empty.module.state_dict()
    if source.seed is None:
        stored, scale = read_text_state(source.path), read_logit_scale(source.path)
    else:
        stored, scale = _random_text_state(wanted, source.seed), None
    _fill(module, stored, wanted, target, source, factors)
    if module.attn_mask is not None:
        module.attn_mask = module.build_causal_mask()  # a buffer that no checkpoint holds, lost on meta
    module = module.to(target).eval().requires_grad_(False)
    logit_scale = MAX_LOGIT_SCALE if scale is None or scale >= math.log(MAX_LOGIT_SCALE) else math.exp(scale)
    return TextTower(module, empty.tokenizer, source, empty.embed_dim, empty.quick_gelu, logit_scale, target)


def check_text_weights(source: WeightsSource, quick_gelu: QuickGelu = "auto") -> None:
    """Checks that there is a tokenizer and that the stored tensors of the text tower fit: what `build_text_tower` would find.

    Raises:
        WeightsError: As there.
    """
    empty = _empty_tower(source, quick_gelu, torch.float32)
    path = empty.source.path
    if empty.source.seed is None:
        read_logit_scale(path)
        meta = torch.device("meta")
        _fill(empty.module, read_text_state(path), empty.module.state_dict(), meta, empty.source)


class _EmptyTower(NamedTuple):
    """A text tower whose tensors are still to come: `module` is on meta, `source` has its files here."""

    source: WeightsSource
    module: Any
    tokenizer: Callable[[list[str]], torch.Tensor]
    embed_dim: int
    quick_gelu: bool


def _empty_tower(source: WeightsSource, quick_gelu: QuickGelu, dtype: torch.dtype) -> _EmptyTower:
    _, config = model_config(source.clip_model)
    if config["text_cfg"].get("hf_model_name"):
        raise WeightsError(
            f"clip_model={source.clip_model!r} has transformers' text tower {config['text_cfg']['hf_model_name']}, which "
            "cannot be built without the network: text scores need a model with open_clip's own text tower"
        )
    source = fetch_weights(source)
    if source.path and not source.recorded:
        check_text_beside(source.clip_model, Path(source.path))
    tokenizer = _tokenizer(source, config["text_cfg"])
    use_quick_gelu, _ = decide_quick_gelu(source, quick_gelu)
    with torch.device("meta"):
        module = _build_text_tower(config["embed_dim"], config["text_cfg"], use_quick_gelu).to(dtype)
    return _EmptyTower(source, module, tokenizer, config["embed_dim"], use_quick_gelu)


def _tokenizer(source: WeightsSource, text_config: Mapping[str, Any]) -> Callable[[list[str]], torch.Tensor]:
    """Makes the model's tokenizer; one of transformers' is read from beside the weights or from the hub's cache.

    It is read as a folder, since by its name transformers would ask the hub for it, even with `local_files_only`.
    """
    name = text_config.get("hf_tokenizer_name")
    if not name:
        return open_clip.get_tokenizer(source.clip_model)
    reason = f"there is no {_TOKENIZER_CONFIG}"
    cached = huggingface_hub.try_to_load_from_cache(name, _TOKENIZER_CONFIG)
    places = [Path(path).parent for path in (source.path, cached) if path and isinstance(path, str)]
    for folder in places:
        if (folder / _TOKENIZER_CONFIG).is_file():
            try:
                return HFTokenizer(
                    str(folder),
                    context_length=text_config.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
                    tokenizer_mode=text_config.get("tokenizer_mode"),
                    local_files_only=True,
                    **text_config.get("tokenizer_kwargs", {}),
                )
            except (ImportError, OSError, ValueError) as error:
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                break
    raise WeightsError(
        f"clip_model={source.clip_model!r} has transformers' tokenizer {name}, which cannot be loaded beside the weights or "
        f"from the hub's cache ({reason}), and nothing is downloaded for it: put tokenizer.json and {_TOKENIZER_CONFIG} of "
        f"https://huggingface.co/{name} beside the weights, or fill the cache where there is a network: python -c "
        f"\"import open_clip; open_clip.get_tokenizer('{source.clip_model}')\" (it needs the package transformers)"
    )


def _random_text_state(wanted: Mapping[str, torch.Tensor], seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Makes random weights as for a visual tower, but not the same ones: both have tensors of the same names."""
    for name, tensor in random_state({f"text.{name}": like for name, like in wanted.items()}, seed):
        yield name.removeprefix("text."), tensor


def _fill(
    module: nn.Module,
    stored: Iterator[tuple[str, torch.Tensor]],
    wanted: Mapping[str, torch.Tensor],
    device: torch.device,
    source: WeightsSource,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Copies the stored tensors to the device, in the types wanted and times their factors, into the module."""
    state = {
        name: scaled(tensor, factors.get(name), device, wanted[name].dtype) if name in wanted else tensor
        for name, tensor in stored
    }
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:  # torch lists what is missing, unexpected or of another shape
        reasons = " ".join(str(error).split())[:1000]
        raise WeightsError(
            f"the text weights of {source.path} do not fit {source.clip_model} ({reasons}): name their model "
            "with clip_model"
        ) from error
