"""The tensors of a CLIP checkpoint, as they lie in the file: visual ones only, one at a time, under open_clip's names.

Read are `.safetensors` and `torch.save` files (`.pt`, `.pth`, `.bin`; with `weights_only=True`, so no code is run). Names and
shapes in a checkpoint are open_clip's (`visual.*`) or those of transformers' CLIPModel (`vision_model.*`,
`visual_projection.weight`), which are mapped to open_clip's.
"""

import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

_BLOCK_PARTS: Final = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


class WeightsError(ValueError):
    """The weights asked for cannot be had: the message names the option, its value and the remedy."""


@contextmanager
def _opened(path: str) -> Iterator[tuple[list[str], Callable[[str], torch.Tensor]]]:
    """Opens a checkpoint as its names and a function that reads one tensor."""
    if path.endswith(".safetensors"):
        try:
            opened = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise WeightsError(f"{path} is no complete safetensors file ({error}): fetch it again") from error
        with opened as file:
            yield list(file.keys()), file.get_tensor
        return
    state = _torch_state(path)
    yield list(state), state.__getitem__


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
        raise WeightsError(
            f"{path} cannot be read as plain weights ({type(error).__name__}): fetch it again, or use the safetensors file"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(name).removeprefix("module."): value for name, value in state.items() if torch.is_tensor(value)}


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
        WeightsError: For a file that is damaged, holds code, or is no CLIP checkpoint.
    """
    with _opened(path) as (names, get):
        visual = [name for name in names if name.startswith("visual.")]
        if visual:
            for name in visual:
                yield name.removeprefix("visual."), get(name)
        elif any(name.startswith("vision_model.") for name in names):
            yield from _from_transformers(names, get)
        else:
            raise WeightsError(
                f"{path} has neither open_clip's `visual.*` nor transformers' `vision_model.*` tensors (it starts with "
                f"{', '.join(names[:3]) or 'nothing'}): it is no CLIP checkpoint that can be read"
            )


def _from_transformers(
    names: Collection[str], get: Callable[[str], torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Maps CLIPModel's visual tensors to open_clip's; an unknown name is passed on, to be reported as unexpected.

    Source: transformers' CLIPVisionTransformer and open_clip's VisionTransformer.
    """
    fixed = {
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    }
    norms = {"vision_model.pre_layrnorm": "ln_pre", "vision_model.post_layernorm": "ln_post"}
    for name in names:
        if name == "visual_projection.weight":
            yield "proj", get(name).T  # a Linear there, x @ proj here
        elif name in fixed:
            yield fixed[name], get(name)
        elif name.rpartition(".")[0] in norms:
            owner, _, kind = name.rpartition(".")
            yield f"{norms[owner]}.{kind}", get(name)
        elif name.startswith("vision_model.encoder.layers."):
            number, _, part = name.removeprefix("vision_model.encoder.layers.").partition(".")
            owner, _, kind = part.rpartition(".")
            block = f"transformer.resblocks.{number}"
            if owner == "self_attn.q_proj":
                fused = [get(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
                yield f"{block}.attn.in_proj_{kind}", torch.cat(fused)
            elif owner not in ("self_attn.k_proj", "self_attn.v_proj"):
                yield f"{block}.{_BLOCK_PARTS.get(owner, owner)}.{kind}", get(name)
        elif name.startswith("vision_model.") and not name.endswith("position_ids"):
            yield name, get(name)
