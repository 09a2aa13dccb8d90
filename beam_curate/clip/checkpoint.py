"""The tensors of a CLIP checkpoint, as they lie in the file: those of one tower, one at a time, under open_clip's names.

Read are `.safetensors` and `torch.save` files (`.pt`, `.pth`, `.bin`; with `weights_only=True`, so no code is run). Names and
shapes in a checkpoint are open_clip's or those of transformers' CLIPModel (`vision_model.*`, `text_model.*`, and the
projections), which are mapped to open_clip's. open_clip's visual tower is `visual.*`; its text tower is `text.*` in a
CustomTextCLIP and has no prefix in a CLIP (`transformer.*`, `token_embedding.weight`, ...), as in OpenAI's files.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

_BLOCK_PARTS: Final = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
# What of a CLIP's names without a prefix belongs to the text tower. Source: open_clip's class CLIP.
_CLIP_TEXT: Final = frozenset({"transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"})


class _Half(NamedTuple):
    """How transformers names a tower: its prefix, its projection (a Linear) and open_clip's, and other names by open_clip's."""

    prefix: str
    projection: tuple[str, str]
    names: Mapping[str, str]


# Source: transformers' CLIPVisionTransformer and CLIPTextTransformer, open_clip's VisionTransformer and TextTransformer.
_VISION: Final = _Half(
    "vision_model.",
    ("visual_projection.weight", "proj"),
    {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm.weight": "ln_pre.weight",
        "pre_layrnorm.bias": "ln_pre.bias",
        "post_layernorm.weight": "ln_post.weight",
        "post_layernorm.bias": "ln_post.bias",
    },
)
_TEXT: Final = _Half(
    "text_model.",
    ("text_projection.weight", "text_projection"),
    {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    },
)


# A tensor of a tower, by open_clip's or transformers' names, whatever wrapped it.
_CLIP_NAME: Final = re.compile(r"(?:^|\.)(?:visual|vision_model|text|text_model|token_embedding)\.")


class WeightsError(ValueError):
    """The weights asked for cannot be had: the message names the option, its value and the remedy."""


class UnsaidError(WeightsError):
    """Nothing says what the wrong guess about would give plausible but wrong embeddings: the message asks for it.

    Attributes:
        options: The names of the options that would say it.
    """

    def __init__(self, message: str, *options: str) -> None:
        super().__init__(message)
        self.options = options


_OWN_REMEDY: Final = (
    "fetch it again if it was downloaded; if it is your own, save the tensors again, with "
    "safetensors.torch.save_file(model.state_dict(), 'NEW.safetensors')"
)
# What wraps a model in training puts before its names: DistributedDataParallel, torch.compile, FSDP, checkpointed activations.
_WRAPPERS: Final = re.compile(
    r"^(?:(?:module|_orig_mod)\.)+|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
)
_LFS: Final = b"version https://git-lfs"


def _plain(names: Collection[str], path: str) -> dict[str, str]:
    """The names of a checkpoint's tensors, without what wrapped the model in training, to those in the file."""
    plain = {_WRAPPERS.sub("", name): name for name in names}
    if len(plain) < len(names):
        twice = next(name for name in names if name not in plain.values())
        raise WeightsError(f"{path} has {_WRAPPERS.sub('', twice)} twice, also as {twice}: save only one of the two")
    return plain


@contextmanager
def _opened(path: str) -> Iterator[tuple[list[str], Callable[[str], torch.Tensor]]]:
    """Opens a checkpoint as its names and a function that reads one tensor."""
    with open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise WeightsError(f"{path} is a pointer of Git LFS, not the weights: run git lfs pull where it was cloned")
    if path.endswith((".npz", ".npy")):
        raise WeightsError(
            f"{path} is a numpy file, as big_vision writes them; these are not read: use open_clip's weights"
        )
    if path.endswith(".safetensors"):
        try:
            opened = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise WeightsError(f"{path} is not a complete safetensors file ({error}): {_OWN_REMEDY}") from error
        with opened as file:
            plain = _plain(list(file.keys()), path)
            yield list(plain), lambda name: file.get_tensor(plain[name])
        return
    state = _torch_state(path)
    plain = _plain(list(state), path)
    yield list(plain), lambda name: state[plain[name]]


def _torch_state(path: str) -> dict[str, torch.Tensor]:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            raise WeightsError(
                f"{path} is a TorchScript archive (as OpenAI publishes them), which holds code and is not loaded. "
                "Use pretrained='openai', or convert it once: python -c \"import sys, torch; "
                'torch.save(dict(torch.jit.load(sys.argv[1], "cpu").state_dict()), sys.argv[2])" ' + f"{path} NEW.pt"
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        # torch says it so: "Unsupported global: GLOBAL numpy._core.multiarray.scalar was not an allowed global".
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path} cannot be read as plain weights: it holds objects ({foreign[1]}) besides tensors, and reading those "
                "can run code. If you trust the file, save only its tensors, where it was made: "
                "torch.save({'state_dict': model.state_dict()}, 'NEW.pt')"
            ) from error
        raise WeightsError(f"{path} cannot be read as plain weights ({type(error).__name__}): {_OWN_REMEDY}") from error
    return _tensors(content, path)


def _tensors(content: object, path: str) -> dict[str, torch.Tensor]:
    """Finds the tensors in what a training script saved: open_clip's `state_dict`, else the only mapping that has some."""
    nested = {"": content} | ({str(key): part for key, part in content.items()} if isinstance(content, dict) else {})
    states = {
        key: {str(name): value for name, value in part.items() if torch.is_tensor(value)}
        for key, part in nested.items()
        if isinstance(part, dict)
    }
    if "state_dict" in states:
        return states["state_dict"]
    clip = [key for key, state in states.items() if any(_CLIP_NAME.search(name) for name in state)]
    if len(clip) > 1:
        raise WeightsError(f"{path} holds the weights of several models ({', '.join(clip)}): save only one of them")
    return states[clip[0]] if clip else states.get("", {})


def checkpoint_names(path: str) -> frozenset[str]:
    """Lists the names of a checkpoint's tensors.

    Raises:
        WeightsError: For a file that is damaged or holds code.
    """
    with _opened(path) as (names, _):
        return frozenset(names)


def read_visual_state(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Reads the tensors of the visual tower from a checkpoint, one at a time, under open_clip's names.

    Yields:
        `(name, tensor)`: the name within the tower (`conv1.weight`), the tensor as stored, perhaps a view of the
        mapped file, so copy it.

    Raises:
        WeightsError: For a file that is damaged, holds code, or is not a CLIP checkpoint.
    """
    with _opened(path) as (names, get):
        visual = [name for name in names if name.startswith("visual.")]
        if visual:
            for name in visual:
                yield name.removeprefix("visual."), get(name)
        elif any(name.startswith("vision_model.") for name in names):
            yield from _from_transformers(names, get, _VISION)
        else:
            raise WeightsError(
                f"{path} has neither open_clip's `visual.*` nor transformers' `vision_model.*` tensors (it starts with "
                f"{', '.join(names[:3]) or 'nothing'}): it is not a CLIP checkpoint that can be read"
            )


def read_text_state(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Reads the tensors of the text tower from a checkpoint, as read_visual_state does those of the visual one.

    Yields:
        `(name, tensor)`: the name within the tower (`token_embedding.weight`), the tensor as stored.

    Raises:
        WeightsError: For a file that is damaged, holds code, or has no text tower.
    """
    with _opened(path) as (names, get):
        text = [name for name in names if name.startswith("text.")]
        if text:
            for name in text:
                yield name.removeprefix("text."), get(name)
        elif any(name.startswith("text_model.") for name in names):
            yield from _from_transformers(names, get, _TEXT)
        elif "token_embedding.weight" in names:
            for name in names:
                if name.partition(".")[0] in _CLIP_TEXT:
                    yield name, get(name)
        else:
            raise WeightsError(
                f"{path} has no text tower: neither open_clip's `text.*` or `token_embedding.weight` nor transformers' "
                f"`text_model.*` tensors (it starts with {', '.join(names[:3]) or 'nothing'}): text needs the weights of a "
                "whole CLIP model"
            )


def read_logit_scale(path: str) -> float | None:
    """Reads a checkpoint's `logit_scale` as it is stored, the logarithm of the scale of the cosines; None if it has none."""
    with _opened(path) as (names, get):
        return float(get("logit_scale").item()) if "logit_scale" in names else None


def _from_transformers(
    names: Collection[str], get: Callable[[str], torch.Tensor], half: _Half
) -> Iterator[tuple[str, torch.Tensor]]:
    """Maps a tower's tensors in a CLIPModel to open_clip's; an unknown name is passed on, to be reported as unexpected."""
    projection, projected = half.projection
    for name in names:
        if name == projection:
            yield projected, get(name).T  # a Linear there, x @ projection here
            continue
        inner = name.removeprefix(half.prefix)
        if inner == name:
            continue
        if inner in half.names:
            yield half.names[inner], get(name)
        elif inner.startswith("encoder.layers."):
            number, _, part = inner.removeprefix("encoder.layers.").partition(".")
            owner, _, kind = part.rpartition(".")
            block = f"transformer.resblocks.{number}"
            if owner == "self_attn.q_proj":
                fused = [get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
                yield f"{block}.attn.in_proj_{kind}", torch.cat(fused)
            elif owner not in ("self_attn.k_proj", "self_attn.v_proj"):
                yield f"{block}.{_BLOCK_PARTS.get(owner, owner)}.{kind}", get(name)
        elif not inner.endswith("position_ids"):
            yield name, get(name)
