"""What can be chosen of the decoding of images."""

from dataclasses import dataclass
from typing import Final

from beam_curate.images import resizing

FAST: Final = "fast"
PILLOW: Final = "pillow"
SCALED: Final = "scaled"
DALI: Final = "dali"
DECODERS: Final = (FAST, PILLOW)
"""The decoders for one image at a time; `scaled` is a variant of `fast`, and `dali` is for batches: see `DecodeOptions`."""

MAX_PIXELS: Final = 178_956_970
"""The most pixels that Pillow decodes: twice its `Image.MAX_IMAGE_PIXELS`, where its warning turns into an error."""

MAX_SIZE: Final = 2048  # pixels; open_clip's largest models take 512


@dataclass(frozen=True)
class DecodeOptions:
    """How images are decoded.

    Attributes:
        size: S, the model's image size in pixels.
        resize_mode: `shortest` (resize the shorter side to S, crop the centre) or `squash` (both sides to S), by the names
            of open_clip's `preprocess_cfg`.
        interpolation: `bicubic` or `bilinear`, both antialiased.
        decoder: `pillow` (the reference); `fast`: nowhere more than 2 levels from it, and of photographs nearly everywhere at
            most 1 (see `resizing.resize_array`); `scaled`: the same, but JPEGs whose shorter side is 10 times S or more may be
            decoded at a fraction of their size: there it is at most 4 levels on photographs as cameras take them, 8 where they
            are sharp to the pixel, and 25 in coloured text. `dali`: JPEGs
            in batches, see `dali_decoding`; an image alone is decoded as with `pillow`.
        apply_exif_orientation: Turn images upright first. open_clip's transform does not. Pillow turns TIFF by itself in any
            case.
        extract_exif: Write the EXIF tags into the facts: 0.3 ms for the 40 tags of a camera, nothing where there are none.
        max_pixels: Images whose header claims more are refused.
    """

    size: int = 224
    resize_mode: str = resizing.SHORTEST
    interpolation: str = "bicubic"
    decoder: str = FAST
    apply_exif_orientation: bool = True
    extract_exif: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"size is {self.size}: use the image size of the model, 1 to {MAX_SIZE} pixels")
        if self.resize_mode == "longest":
            raise ValueError(
                "resize_mode is 'longest', which pads the image: this is not supported; use a model whose "
                "preprocess_cfg says 'shortest' or 'squash'"
            )
        for name, value, choices in (
            ("resize_mode", self.resize_mode, resizing.RESIZE_MODES),
            ("interpolation", self.interpolation, tuple(resizing.INTERPOLATIONS)),
            ("decoder", self.decoder, (*DECODERS, SCALED, DALI)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}: use one of {', '.join(choices)}")
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"max_pixels is {self.max_pixels}: use 1 to {MAX_PIXELS}, the most that Pillow decodes")

    @property
    def target(self) -> resizing.Target:
        """The size and the way to it."""
        return resizing.Target(self.size, self.resize_mode, self.interpolation)
