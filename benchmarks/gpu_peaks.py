"""What a model costs and what a GPU can do, for the share of a GPU's arithmetic that is used (MFU)."""

import re
from typing import Final

import torch
from open_clip.model import _build_vision_tower
from torch.utils.flop_counter import FlopCounterMode

from beam_curate.clip.config import model_config

# Dense, without sparsity: tensor cores in fp16 and bf16, the ordinary cores in fp32, which has no TF32: not in matrix products by
# torch's default, and not in convolutions, where torch's default has it (torch.backends.cudnn.allow_tf32), by the handler's.
# Source: NVIDIA's data sheets of T4, V100, L4, L40S, A10, A100, H100 and H200, and the Ada white paper for the RTX 4090, from
# memory: check the one of your card, and give --peak_tflops where it differs. First match counts. A card whose clock is held
# down, by power or heat, never reaches its figure.
_PEAKS: Final = (
    (r"\bH200\b", {"fp16": 989.4, "bf16": 989.4, "fp32": 66.9}),
    (r"\bH100\b.*\bPCIe\b", {"fp16": 756.0, "bf16": 756.0, "fp32": 51.2}),
    (r"\bH100\b.*\bNVL\b", {"fp16": 835.0, "bf16": 835.0, "fp32": 60.0}),
    (r"\bH100\b", {"fp16": 989.4, "bf16": 989.4, "fp32": 66.9}),
    (r"\bA100\b", {"fp16": 312.0, "bf16": 312.0, "fp32": 19.5}),
    (r"\bL40S\b", {"fp16": 362.0, "bf16": 362.0, "fp32": 91.6}),
    (r"\bL4\b", {"fp16": 121.0, "bf16": 121.0, "fp32": 30.3}),
    (r"\bA10\b", {"fp16": 125.0, "bf16": 125.0, "fp32": 31.2}),
    (r"\bRTX 4090\b", {"fp16": 165.2, "bf16": 165.2, "fp32": 82.6}),
    (r"\bV100\b", {"fp16": 125.0, "fp32": 15.7}),
    (r"\bT4\b", {"fp16": 65.0, "fp32": 8.1}),
)


def peak_tflops(device: str, precision: str) -> float | None:
    """The most that a GPU computes in a precision, in TFLOP/s, by its name; None if that is not known."""
    return next((peaks.get(precision) for pattern, peaks in _PEAKS if re.search(pattern, device)), None)


def image_gflops(clip_model: str) -> float:
    """The cost of an image in GFLOP (a multiplication and an addition are two), counted on open_clip's whole tower.

    162.03 for ViT-L-14 and 8.82 for ViT-B-32, as open_clip's own profile says. The tower that runs leaves out of its last block
    what nobody reads (see `beam_curate/clip/visual_tower.py`), so it does a little less.
    """
    _, config = model_config(clip_model)
    vision = config["vision_cfg"]
    with torch.device("meta"):
        tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
        size = vision.get("image_size", 224)
        image = torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        tower(image)
    return counter.get_total_flops() / 1e9
