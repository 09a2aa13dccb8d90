"""Technical quality scores without a model: from the pixels that the model sees, and from the facts of the image.

They tell blur, darkness, bars at the sides and the like, and cost no reading and no decoding: the pixels are those of
`DecodedImage`, resized to the model's size S and cropped. It follows that

- `sharpness` compares images of different resolution, as all are judged at the same scale; but blur smaller than a pixel of
  the resized image is not seen, an image smaller than S was enlarged and scores low, values at one S are not values at
  another, and below about 3 there is nothing but the rounding of pixels to whole levels;
- what the centre crop cuts off is not judged: bars at the short sides of a wide image may lie outside, and the same bars
  take a larger share of what is left than of the whole.

Each value is for one image, alone, and a pure function of its pixels. Sums are of integers and so exact: neither batch nor
machine changes a bit (save the last one of a logarithm, between C libraries).

Cost of an image at S = 224 on one core, of the score asked alone, in microseconds, as orders of magnitude: below 1
`aspect_ratio`, `bytes_per_pixel` and `frames`; 100 to 200 each of the others, `border` 600 where all four sides have one. All
together: 600, as they share the planes, the grey image and its histogram.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.records import ImageFacts

_Levels = npt.NDArray[np.uint8]

BORDER_TOLERANCE: Final = 8
"""A pixel of a border differs from the border's colour by at most this many levels of 255, in every channel: what JPEG
leaves of a flat bar. Measured: bars come out the same from 4 to 16; of 220 photographs 13 to 33 have more than 0.02 of border
(skies, dark backgrounds), 22 at 8."""

BORDER_PIXELS: Final = 98
"""Percent of a line's pixels that must have the border's colour: specks do not end a border, a line of text does."""


class _Picture:
    """An image with what several scores need of it, each computed at most once."""

    def __init__(self, pixels: _Levels, facts: ImageFacts) -> None:
        self._pixels = pixels
        self.facts = facts

    @cached_property
    def planes(self) -> _Levels:
        """(3, H, W): red, green, blue, each in one piece (numpy is several times faster on that)."""
        return np.ascontiguousarray(self._pixels.transpose(2, 0, 1))

    @cached_property
    def grey(self) -> _Levels:
        """(H, W): luma of ITU-R BT.601, in the fixed-point form that Pillow's mode `L` has, so its values too."""
        red, green, blue = self.planes
        luma = red * np.uint32(19595)
        luma += green * np.uint32(38470)
        luma += blue * np.uint32(7471)
        luma += np.uint32(1 << 15)
        luma >>= np.uint32(16)
        return luma.astype(np.uint8)

    @cached_property
    def histogram(self) -> npt.NDArray[np.int64]:
        """(256,): the number of pixels of each grey level."""
        return _histogram(self.grey)


def _histogram(levels: _Levels) -> npt.NDArray[np.int64]:
    return np.bincount(levels.ravel(), minlength=256).astype(np.int64)


def _percentile(histogram: npt.NDArray[np.int64], percent: int) -> int:
    """The lowest level that at least `percent` of the pixels do not exceed."""
    reached = np.cumsum(histogram) * 100
    return int(np.searchsorted(reached, percent * reached[-1] // 100))


def _moments(values: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Mean and variance (of the population), from exact sums."""
    count, total = values.size, int(values.sum(dtype=np.int64))
    wide = values.astype(np.int32)
    squares = int(np.multiply(wide, wide, out=wide).sum(dtype=np.int64))
    return total / count, (count * squares - total * total) / (count * count)


def _aspect_ratio(picture: _Picture) -> float:
    short, long = sorted((picture.facts.width, picture.facts.height))
    return long / short if short > 0 else math.nan


def _bytes_per_pixel(picture: _Picture) -> float:
    facts = picture.facts
    known = min(facts.width, facts.height, facts.size) > 0
    return facts.size / (facts.width * facts.height) if known else math.nan


def _frames(picture: _Picture) -> float:
    return float(picture.facts.frames) if picture.facts.frames > 0 else math.nan


def _sharpness(picture: _Picture) -> float:
    if min(picture.grey.shape) < 3:
        return 0.0  # no pixel has four neighbours
    grey = picture.grey.astype(np.int16)
    laplacian = grey[1:-1, 1:-1] * np.int16(-4)
    for neighbours in (grey[:-2, 1:-1], grey[2:, 1:-1], grey[1:-1, :-2], grey[1:-1, 2:]):
        laplacian += neighbours
    return _moments(laplacian)[1]


def _brightness(picture: _Picture) -> float:
    histogram = picture.histogram
    return int((histogram * np.arange(256)).sum()) / (255 * int(histogram.sum()))


def _brightness_p5(picture: _Picture) -> float:
    return _percentile(picture.histogram, 5) / 255


def _brightness_p99(picture: _Picture) -> float:
    return _percentile(picture.histogram, 99) / 255


def _entropy(picture: _Picture) -> float:
    counts = [count for count in picture.histogram.tolist() if count]
    total = sum(counts)
    return math.fsum(count * math.log2(total / count) for count in counts) / total


def _colourfulness(picture: _Picture) -> float:
    red, green, blue = picture.planes.astype(np.int16)
    mean_rg, variance_rg = _moments(red - green)
    mean_yb, variance_yb = _moments(red + green - np.int16(2) * blue)  # twice the paper's yb
    return math.sqrt(variance_rg + variance_yb / 4) + 0.3 * math.sqrt(mean_rg**2 + mean_yb**2 / 4)


def _chroma_p99(picture: _Picture) -> float:
    return float(_percentile(_histogram(picture.planes.max(axis=0) - picture.planes.min(axis=0)), 99))


def _border(picture: _Picture) -> float:
    """Rows are taken off first, then columns of what is left: the two may have different colours."""
    inside = picture.planes
    for _ in range(2):
        for _ in range(2):
            inside = inside[:, _border_lines(inside) :][:, ::-1]
            if not inside.size:
                return 1.0
        inside = inside.transpose(0, 2, 1)
    return 1.0 - inside.size / picture.planes.size


def _border_lines(planes: _Levels) -> int:
    """How many lines of (3, lines, pixels), from the first one on, have the colour of the first: its median."""
    colour = np.sort(planes[:, 0], axis=1)[:, planes.shape[2] // 2, None, None]
    if not _has_colour(planes[:, :1], colour).all():  # most images: the other lines cost nothing
        return 0
    same = _has_colour(planes, colour)
    return len(same) if same.all() else int(np.argmin(same))


def _has_colour(planes: _Levels, colour: _Levels) -> npt.NDArray[np.bool_]:
    near = ((np.maximum(planes, colour) - np.minimum(planes, colour)) <= BORDER_TOLERANCE).all(axis=0)
    return np.count_nonzero(near, axis=1) * 100 >= BORDER_PIXELS * near.shape[1]


@dataclass(frozen=True)
class Quality:
    """A score: what it says, and which values are usual limits.

    Attributes:
        name: Its column in the score table.
        score: The function.
        description: One line.
        unit: What it is counted in, empty for a plain number.
        low: No value is below it.
        high: No value is above it.
        needs_pixels: Whether it is NaN without pixels.
        suggested_min: Images below it are suspect; None if low values are not.
        suggested_max: Images above it are suspect; None if high values are not.
        source: Where definition and limits come from.
    """

    name: str
    score: Callable[[_Picture], float]
    description: str
    unit: str
    low: float
    high: float
    needs_pixels: bool = True
    suggested_min: float | None = None
    suggested_max: float | None = None
    source: str = "own definition"


_CLEANVISION: Final = "cleanvision 0.3.7"

# fmt: off
_ALL: Final = (
    Quality("aspect_ratio", _aspect_ratio, "longer / shorter side of the original image", "", 1.0, math.inf, False,
            suggested_max=3.0, source="DataComp's basic filter (Gadre et al. 2023, baselines/apply_filter.py); "
            f"{_CLEANVISION}, `odd_aspect_ratio`, has 1 / 0.35 = 2.86"),
    Quality("bytes_per_pixel", _bytes_per_pixel, "size of the image member / pixels of the original image", "bytes",
            0.0, math.inf, False, suggested_min=0.05, source="own; measured on JPEGs: flat images have 0.01 to 0.03, "
            "photographs mostly 0.08 to 0.65; WebP and AVIF take less"),
    Quality("frames", _frames, "frames of an animation as the file says (GIF, PNG, WebP, AVIF), 1 for a still image; the model "
            "sees the first", "", 1.0, math.inf, False, suggested_max=1.5, source="own: whatever moves"),
    Quality("sharpness", _sharpness, "variance of the Laplacian of the grey image, low if blurred or empty",
            "levels squared", 0.0, 1020.0**2, suggested_min=100.0, source="Pech-Pacheco et al. 2000, Diatom autofocusing "
            "in brightfield microscopy; 4-neighbour kernel; limit measured at S = 224 by benchmarks/quality.py"),
    Quality("brightness", _brightness, "mean luma, 0 black to 1 white; the percentiles tell dark from bright better", "",
            0.0, 1.0, source="ITU-R BT.601"),
    Quality("brightness_p5", _brightness_p5, "5th percentile of the luma, high if no part is dark: overexposed", "",
            0.0, 1.0, suggested_max=0.95, source=f"{_CLEANVISION}, `light` (its score is 1 minus this), on luma of "
            "BT.601 and not on its mix of squared channels"),
    Quality("brightness_p99", _brightness_p99, "99th percentile of the luma, low if no part is bright: dark", "",
            0.0, 1.0, suggested_min=0.32, source=f"{_CLEANVISION}, `dark`, on luma of BT.601 as `brightness_p5`"),
    Quality("entropy", _entropy, "Shannon entropy of the 256 grey levels, low if the image holds little", "bits",
            0.0, 8.0, suggested_min=1.4, source=f"{_CLEANVISION}, `low_information`: 3 bits, of the channels' histograms "
            "in a row, which have log2(3) = 1.6 bits of a grey image by their being three"),
    Quality("border", _border, "share of the image in lines of one colour at its sides, 1 for a flat image", "",
            0.0, 1.0, suggested_max=0.2, source="own; a 2.39:1 film in a 16:9 frame has 0.26 of bars"),
    Quality("colourfulness", _colourfulness, "M3: 0 grey, 15 slightly, 33 moderately, 59 quite, 109 extremely colourful",
            "", 0.0, 297.7, source="Hasler and Suesstrunk 2003, Measuring colourfulness in natural images"),
    Quality("chroma_p99", _chroma_p99, "99th percentile of largest - smallest channel, low if grey", "levels",
            0.0, 255.0, suggested_min=10.0, source="own; measured: JPEGs of grey images have 0 to 2"),
)
# fmt: on

QUALITY: Final[Mapping[str, Quality]] = MappingProxyType({quality.name: quality for quality in _ALL})
"""All quality scores by name."""

_NO_PIXELS: Final = np.zeros((1, 1, 3), np.uint8)


def check_quality(names: Iterable[str]) -> None:
    """Checks that all names are of `QUALITY`.

    Raises:
        ValueError: One is not.
    """
    for name in names:
        if name not in QUALITY:
            close = difflib.get_close_matches(name, QUALITY, n=1)
            meant = f"; did you mean {close[0]}?" if close else ";"
            raise ValueError(f"{name!r} is not a quality score{meant} there are {', '.join(QUALITY)}")


def quality_scores(names: Sequence[str], pixels: _Levels | None, facts: ImageFacts) -> dict[str, float]:
    """Computes quality scores of one image.

    Args:
        names: Which ones, of `QUALITY`.
        pixels: (S, S, 3) uint8 RGB as the model sees them, or None. Any height and width will do.
        facts: Those of the original image.

    Returns:
        The scores by name, in the order of the names. NaN for a score of pixels without pixels, and for a score of facts
        that are not known (0).

    Raises:
        ValueError: A name is unknown, or the pixels are not of that shape and type, or there are none in them.
    """
    check_quality(names)
    if pixels is not None and (pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size):
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}: give uint8 (height, width, 3), RGB, or None")
    picture = _Picture(_NO_PIXELS if pixels is None else pixels, facts)
    scores = {}
    for name in names:
        quality = QUALITY[name]
        scores[name] = math.nan if pixels is None and quality.needs_pixels else quality.score(picture)
    return scores
