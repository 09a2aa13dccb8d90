"""The geometry of CLIP preprocessing: resize to the model's image size, then crop the centre.

It is the geometry of open_clip's own evaluation transform, in two speeds. `resize_image` (Pillow) gives the same pixels
as that transform; `resize_array` (torch's uint8 kernel, as torchvision uses it) takes a third of the time and is never more
than 2 levels away. Both make the whole resized image before they crop it, as open_clip does, unless it is too large; then
the crop alone is made.
Source: open_clip 3.3 `image_transform(..., is_train=False)`, torchvision 0.29 `Resize` and `CenterCrop`.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

SHORTEST: Final = "shortest"
SQUASH: Final = "squash"
RESIZE_MODES: Final = (SHORTEST, SQUASH)

INTERPOLATIONS: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SUPPORT: Final = {"bicubic": 2.0, "bilinear": 1.0}  # radius of each kernel in output pixels (Pillow's Resample.c)

MAX_RESIZED_PIXELS: Final = 1 << 24
"""The most pixels (64 MiB as RGB) of a resized image that is made in full: a side ratio of 334 at 224 pixels."""

_LONG_SIDE_RATIO: Final = 4  # from this side ratio on, a copy of the crop's region is a small part of the image


@dataclass(frozen=True)
class Target:
    """What the model wants: `size` (S, pixels), `resize_mode` and `interpolation` by open_clip's names."""

    size: int
    resize_mode: str = SHORTEST
    interpolation: str = "bicubic"

    def __str__(self) -> str:
        """The same in the words of DecodeOptions and of Beam YAML; the records of pixels have it."""
        return f"size={self.size}, resize_mode={self.resize_mode!r}, interpolation={self.interpolation!r}"


def resized_size(width: int, height: int, target: Target) -> tuple[int, int]:
    """Gives the (width, height) that an image has after the resize and before the crop.

    `shortest` makes the shorter side S and truncates the longer one to a whole number; `squash` makes both S.
    Source: torchvision `_compute_resized_output_size`.
    """
    size = target.size
    if target.resize_mode == SQUASH:
        return size, size
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def crop_offset(length: int, size: int) -> int:
    """Gives where a centre crop of `size` pixels starts in `length` pixels (halves round to even, as torchvision's)."""
    return round((length - size) / 2.0)


def fits_in_memory(width: int, height: int, target: Target) -> bool:
    """Says whether the resized image is small enough to be made in full (`MAX_RESIZED_PIXELS`)."""
    new_width, new_height = resized_size(width, height, target)
    return new_width * new_height <= MAX_RESIZED_PIXELS


def suits_array(width: int, height: int, target: Target) -> bool:
    """Says whether `resize_array` is to be used: not for strips too long, nor to enlarge, which gains nothing."""
    return min(width, height) >= target.size and fits_in_memory(width, height, target)


def resize_image(image: Image.Image, target: Target) -> npt.NDArray[np.uint8]:
    """Resizes and crops an image with Pillow.

    Args:
        image: The image, in mode RGB or L.
        target: The size, resize mode and interpolation. Where the resized form exceeds `MAX_RESIZED_PIXELS`, the pixels of
            the crop alone are computed, of which rounding makes a few differ by 1 level: a strip of 1 x 100,000 pixels
            would become 224 x 22,400,000.

    Returns:
        (S, S, 3) or, of mode L, (S, S) uint8, C-contiguous and writable.
    """
    size = target.size
    width, height = resized_size(*image.size, target)
    left, top = crop_offset(width, size), crop_offset(height, size)
    if not fits_in_memory(*image.size, target):
        return np.array(_resized_crop(image, (width, height), (left, top), target))
    resample = INTERPOLATIONS[target.interpolation]
    resized = image if image.size == (width, height) else image.resize((width, height), resample)
    return np.array(resized.crop((left, top, left + size, top + size)))


def _resized_crop(image: Image.Image, resized: tuple[int, int], offset: tuple[int, int], target: Target) -> Image.Image:
    """Resizes the region of the image that the crop at `offset` of its `resized` form shows."""
    starts, ends, lows, highs = [], [], [], []
    for length, new_length, first in zip(image.size, resized, offset, strict=True):
        scale = length / new_length
        start, end = first * scale, min((first + target.size) * scale, length)
        margin = math.ceil(_SUPPORT[target.interpolation] * max(scale, 1.0)) + 1
        starts.append(start)
        ends.append(end)
        lows.append(max(0, math.floor(start) - margin))
        highs.append(min(length, math.ceil(end) + margin))
    if max(image.size) > _LONG_SIDE_RATIO * min(image.size):
        # Pillow keeps the box as 32-bit floats: far along a long strip they are too coarse. Near 0 they are not.
        image = image.crop((lows[0], lows[1], highs[0], highs[1]))
    else:
        lows = [0, 0]
    box = (starts[0] - lows[0], starts[1] - lows[1], ends[0] - lows[0], ends[1] - lows[1])
    return image.resize((target.size, target.size), INTERPOLATIONS[target.interpolation], box=box)


def resize_array(
    pixels: npt.NDArray[np.uint8],
    full_size: tuple[int, int],
    target: Target,
    orientation: int = 1,
) -> npt.NDArray[np.uint8]:
    """Resizes and crops an array: at most 2 levels from what Pillow makes of it.

    Both resize rows, round to whole levels, and resize columns; torch's weights have 15 bits. So each pass is off by less than
    255 n w / 2^15 < 0.04 before it rounds (n weights, the largest of them w): 1 level after the first one, and after the second,
    whose weights' magnitudes sum up to at most 1.17, 2 levels. Of 184 photographs at 224 pixels 3 had such values, 11 of 27.7
    million in all, and bilinear none; line art has them more often. Embeddings of 169 photographs (ViT-B/32 in
    fp32, random weights) had a cosine of at least 1 - 6e-7 with those of Pillow's pixels; bf16 itself takes up to 8e-5 off.

    torch's kernel works in the calling thread alone on processors with AVX2 (measured), so many threads may call this
    at once whatever `torch.set_num_threads` says.

    Args:
        pixels: (H, W, C) uint8, writable; C is 1 or 3. It may be a smaller version of the image (a JPEG decoded at a
            fraction).
        full_size: The (width, height) of the original image, from which the resized size follows.
        target: The size, resize mode and interpolation. The caller has asked `suits_array`.
        orientation: EXIF orientation (1 to 8) to apply first. Mirroring is done on the small result, where it is cheap and
            the same; exchanging the axes is not, since each pass of the resize rounds and clips.

    Returns:
        (S, S, C) uint8, C-contiguous.
    """
    size = target.size
    if orientation >= 5:
        pixels, full_size = np.ascontiguousarray(pixels.transpose(1, 0, 2)), full_size[::-1]
    width, height = resized_size(*full_size, target)
    turned = _by_torch(pixels, width, height, target.interpolation)
    # Exif 3.0, tag 0x0112; together with the exchange of axes it is what Pillow's ImageOps.exif_transpose does.
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    top, left = crop_offset(height, size), crop_offset(width, size)
    return np.ascontiguousarray(turned[top : top + size, left : left + size])


def _by_torch(pixels: npt.NDArray[np.uint8], width: int, height: int, interpolation: str) -> npt.NDArray[np.uint8]:
    rows, columns, channels = pixels.shape
    if (rows, columns) == (height, width):
        return pixels
    pixels = np.ascontiguousarray(pixels)
    from_numpy, interpolate = _torch()
    # torch gives the result the layout of the input, here channels last, only where the batch has a stride of its own, as
    # torchvision knows too (`resize_image` restrides for the same reason): else it copies, and takes three times as long.
    strides = (pixels.size, 1, columns * channels, channels)
    image = from_numpy(pixels).as_strided((1, channels, rows, columns), strides)
    resized = interpolate(image, size=(height, width), mode=interpolation, antialias=True)
    result: npt.NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return result


@functools.cache
def _torch() -> tuple[Any, Any]:
    """What is used of torch, which takes seconds to import; an import statement in every call takes the import lock."""
    import torch

    return torch.from_numpy, torch.nn.functional.interpolate
