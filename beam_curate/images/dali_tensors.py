"""What DALI has decoded and resized, as torch's tensors on its device: the pixels never leave a GPU."""

from collections.abc import Sequence
from typing import Any

from beam_curate.cuda import wait_for
from beam_curate.images.dali_plans import Plan


def tensors(resized: Any, plans: Sequence[Plan], stream: Any) -> list[Any]:
    """For each image its pictures as tensors on DALI's device, turned upright; they do not share DALI's buffers.

    Args:
        resized: What DALI gave.
        plans: Of the images.
        stream: One of torch's that nothing else runs in, or None on the processor. In torch's usual one the copies, and DALI's
            next run with them, would wait until the model has done all that it was given before.
    """
    import torch
    from torch.utils.dlpack import from_dlpack

    with torch.cuda.stream(stream):
        try:
            batches = [from_dlpack(each.as_tensor()).clone() for each in resized]
            return [
                tuple(upright_tensor(picture, plan.orientation) for picture in pictures)
                for pictures, plan in zip(zip(*batches, strict=True), plans, strict=True)
            ]
        finally:
            # Before DALI's next run writes over what is copied; or frees it, where memory has run out on the way.
            if stream is not None:
                wait_for(stream)


def upright_tensor(picture: Any, number: int) -> Any:
    """Turns a tensor (S, S, 3) by its EXIF orientation (1 to 8), as `exif.turn_upright` turns an image."""
    if number >= 5:
        picture = picture.transpose(0, 1)
    # Exif 3.0, tag 0x0112: what is mirrored, once rows and columns have changed places.
    flips = [axis for axis, numbers in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))) if number in numbers]
    return picture.flip(flips).contiguous() if flips or number >= 5 else picture


def stream_of_its_own(device: int) -> Any:
    """A stream of torch's on a GPU in which nothing else runs."""
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
