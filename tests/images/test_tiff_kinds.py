"""TIFFs of every kind, written by hand and compared with what the format's definition says."""

import itertools

import numpy as np
import pytest

from beam_curate.images.decoding import DecodeOptions, ImageError, decode_image
from tests.support import tiffs
from tests.support.kinds import SIDE, assert_shows, over_white, picture, refusal, shown
from tests.support.tiffs import (
    BLACK_IS_ZERO,
    CMYK,
    DEFLATE,
    FLOAT,
    LAB,
    PALETTE,
    RAW,
    RGB,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
    Tiff,
    write_tiff,
)

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
ASSOCIATED, UNASSOCIATED = 1, 2

# (photometric, bits, sample format, extra samples)
READ = [
    *(
        (photometric, bits, UNSIGNED, ())
        for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
        for bits in (1, 2, 4, 8, 12, 16)
    ),
    *((photometric, 32, FLOAT, ()) for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)),
    (BLACK_IS_ZERO, 32, UNSIGNED, ()),
    *((RGB, bits, UNSIGNED, extra) for bits in (8, 16) for extra in ((), (0,), (ASSOCIATED,), (UNASSOCIATED,))),
    *((PALETTE, bits, UNSIGNED, ()) for bits in (1, 2, 4, 8)),
    *((CMYK, bits, UNSIGNED, ()) for bits in (8, 16)),
    (YCBCR, 8, UNSIGNED, ()),
]
"""What is surely read, with bits in the usual order."""

OTHERS = [
    *((photometric, bits, UNSIGNED, ()) for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) for bits in (24, 32)),
    *((BLACK_IS_ZERO, bits, UNSIGNED, (extra,)) for bits in (8, 16) for extra in (0, 1, 2)),
    *((WHITE_IS_ZERO, bits, UNSIGNED, (extra,)) for bits in (8, 16) for extra in (0, 1, 2)),
    *((RGB, bits, UNSIGNED, (UNASSOCIATED,)) for bits in (2, 4, 32)),
    *((RGB, bits, UNSIGNED, extra) for bits in (8, 16) for extra in ((0, 0), (1, 0), (2, 0), (0, 2))),
    *((RGB, bits, FLOAT, ()) for bits in (16, 32)),
    (PALETTE, 8, UNSIGNED, (UNASSOCIATED,)),
    (PALETTE, 8, UNSIGNED, (0,)),
    *((CMYK, 8, UNSIGNED, extra) for extra in ((0,), (UNASSOCIATED,))),
    (YCBCR, 16, UNSIGNED, ()),
]
"""What may be refused, but is right where it is read."""


def seen(samples, photometric, bits, sample_format, extra, palette):
    """What a person sees, (H, W, 3) of 0 to 255."""
    levels = samples / (1.0 if sample_format == FLOAT else 2.0**bits - 1) * 255
    colours = levels[..., : COLOURS[photometric]]
    if photometric == PALETTE:
        rgb = palette[samples[..., 0].astype(int)] / 257
    elif photometric == CMYK:
        rgb = (255 - colours[..., :3]) * (255 - colours[..., 3:]) / 255
    elif photometric == YCBCR:
        y, blue, red = colours[..., 0], colours[..., 1] - 128, colours[..., 2] - 128
        rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=2).clip(0, 255)
    else:
        rgb = (255 - colours if photometric == WHITE_IS_ZERO else colours) * np.ones(3)
    for place, kind in enumerate(extra):
        opacity = levels[..., COLOURS[photometric] + place] / 255
        if kind == ASSOCIATED:
            return rgb + 255 * (1 - opacity[..., None])
        if kind == UNASSOCIATED:
            return over_white(rgb, opacity)
    return rgb


def variants(kind):
    """The ways to store samples of a kind: byte order, planes, compression, strips and tiles, order of bits, predictor."""
    photometric, bits, sample_format, extra = kind
    several = COLOURS[photometric] + len(extra) > 1
    for order, planes, compression, layout, reverse_bits in itertools.product(
        "<>",
        (False, True) if several else (False,),
        (RAW, DEFLATE, tiffs.PACKBITS),
        ({}, {"rows": 7}, {"tile": 16}),
        (False, True),
    ):
        yield {"order": order, "planes": planes, "compression": compression, "reverse_bits": reverse_bits, **layout}
    for order, planes in itertools.product("<>", (False, True) if several else (False,)):
        if bits in (8, 16, 32):
            yield {
                "order": order,
                "planes": planes,
                "compression": DEFLATE,
                "predictor": 3 if sample_format == FLOAT else 2,
            }
    yield {"big": True}


def made(kind, variant):
    """The bytes of a file of a kind, and what is to be seen."""
    photometric, bits, sample_format, extra = kind
    white = 1 if sample_format == FLOAT else 2**bits - 1
    samples = picture(COLOURS[photometric] + len(extra), 256 if sample_format == FLOAT else white, seed=bits)
    samples = samples / 256 if sample_format == FLOAT else samples
    if ASSOCIATED in extra:
        colours = COLOURS[photometric]
        alpha = samples[..., colours + extra.index(ASSOCIATED)]
        samples[..., :colours] = np.minimum(samples[..., :colours], alpha[..., None])
    palette = np.random.default_rng(bits).integers(0, 256, (1 << min(bits, 8), 3)) * 257
    tags = {320: (3, palette.T.reshape(-1).tolist())} if photometric == PALETTE else {}
    if photometric == YCBCR:
        tags = {530: (3, [1, 1])}
    how = Tiff(bits=bits, photometric=photometric, sample_format=sample_format, extra=extra, tags=tags, **variant)
    return write_tiff(samples, how), seen(samples, photometric, bits, sample_format, extra, palette)


@pytest.mark.parametrize("kind", READ, ids=str)
def test_kinds_that_are_read(kind):
    for variant in variants(kind):
        data, expected = made(kind, variant)
        unusual = variant.get("reverse_bits") and (kind[1] > 8 or kind[3] or kind[0] in (CMYK, YCBCR))
        if unusual or (variant.get("planes") and kind[3] == (0,)):
            assert_right_or_refused(data, expected)
        else:
            np.testing.assert_allclose(shown(data), expected, rtol=0, atol=2.01, err_msg=str(variant))


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_other_kinds_are_right_or_refused(kind):
    for variant in variants(kind):
        assert_right_or_refused(*made(kind, variant))


def assert_right_or_refused(data, expected):
    try:
        pixels = shown(data)
    except ImageError:
        return
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=2.01)


def test_signs_count():
    grey = np.arange(SIDE)[None, :, None].repeat(SIDE, axis=0)
    for bits, order, compression in itertools.product((8, 16, 32), "<>", (RAW, DEFLATE)):
        kind = Tiff(bits=bits, photometric=BLACK_IS_ZERO, sample_format=SIGNED, order=order, compression=compression)
        # Of values with a sign the file does not say what is black: the range is that of the values.
        row = shown(write_tiff(grey - 12, kind))[0, :, 0]
        np.testing.assert_allclose(row, np.arange(SIDE) * 255 / 23, atol=0.51)
        assert shown(write_tiff(grey, kind))[0, :, 0].tolist() == list(range(SIDE))


def test_unsigned_values_of_32_bits_reach_beyond_the_signed_ones():
    samples = np.full((SIDE, SIDE, 1), 10000 * 65537)
    samples[:, 12:] = 50000 * 65537
    row = shown(write_tiff(samples, Tiff(bits=32, photometric=BLACK_IS_ZERO)))[0, :, 0]
    assert row.tolist() == [39] * 12 + [195] * 12  # 10000 / 65535 and 50000 / 65535 of 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_kind_that_libtiff_is_to_read(orientation):
    samples = picture(3, 65535)[:16]
    kind = Tiff(bits=16, planes=True, tags={274: (3, [orientation])})
    upright = samples / 257
    # TIFF 6.0, tag 274: where row 0 and column 0 are.
    upright = upright[::-1] if orientation in (3, 4) else upright
    upright = upright[:, ::-1] if orientation in (2, 3) else upright
    if orientation >= 5:
        upright = upright.transpose(1, 0, 2)
        upright = upright[:, ::-1] if orientation in (6, 7) else upright
        upright = upright[::-1] if orientation in (7, 8) else upright
    facts, pixels = decode_image(write_tiff(samples, kind), DecodeOptions(size=16, resize_mode="shortest"))
    assert (facts.width, facts.height) == upright.shape[1::-1]
    cut = upright[:, 4:20] if orientation < 5 else upright[4:20]
    np.testing.assert_allclose(pixels, cut, rtol=0, atol=1.01)


def test_ycbcr_with_halved_colours_that_is_not_compressed():
    luma, blue, red = np.full((SIDE, SIDE, 1), 120), 90, 200
    packed = bytes([120, 120, 120, 120, blue, red]) * (SIDE * SIDE // 4)
    kind = Tiff(photometric=YCBCR, encode=lambda part, data: packed, tags={530: (3, [2, 2])})
    data = write_tiff(luma.repeat(3, axis=2), kind)
    expected = [120 + 1.402 * 72, 120 + 0.344136 * 38 - 0.714136 * 72, 120 - 1.772 * 38]
    assert_shows(data, np.broadcast_to(expected, (SIDE, SIDE, 3)))


def test_a_palette_of_8_bits():
    """Against the letter of TIFF 6.0, but written by old software, and read so by libtiff."""
    samples = picture(1, 15)
    palette = np.random.default_rng(1).integers(0, 256, (16, 3))
    kind = Tiff(bits=4, photometric=PALETTE, tags={320: (3, palette.T.reshape(-1).tolist())})
    assert_shows(write_tiff(samples, kind), palette[samples[..., 0]])


def test_a_fourth_sample_of_zeros_that_the_file_does_not_call_alpha():
    samples = picture(4, 255)
    samples[..., 3] = 0
    assert_shows(write_tiff(samples, Tiff()), samples[..., :3])
    assert (shown(write_tiff(samples, Tiff(extra=(UNASSOCIATED,)))) == 255).all()
    samples[0, 0, 3] = 255
    assert (shown(write_tiff(samples, Tiff()))[1:] == 255).all()


def test_an_orientation_in_xmp_alone_does_not_turn():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="3"/>'
    samples = picture(3, 255)
    assert_shows(write_tiff(samples, Tiff(tags={700: (1, list(packet))})), samples)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Tiff(photometric=None), "no PhotometricInterpretation"),
        (Tiff(photometric=LAB, planes=True), "planes of this kind"),
        (Tiff(bits=32), "3 x 32 bits, photometric 2"),
        (Tiff(photometric=9), "photometric 9"),
        (Tiff(bits=16, photometric=RGB, sample_format=FLOAT), "(floating point)"),
        (Tiff(compression=34712), "compression 34712"),
        (Tiff(compression=50001, encode=lambda part, data: b"RIFF"), "WebP's compression"),
        (Tiff(photometric=LAB, tags={318: (11, [0.31271, 0.32902])}), "where (0.3457, 0.3585) (D50) is read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused_says_why(kind, words):
    assert words in refusal(write_tiff(picture(3, 255), kind))


def test_what_the_file_does_not_say_is_not_guessed():
    grey = picture(1, 255)
    assert "no PhotometricInterpretation" in refusal(write_tiff(grey, Tiff(photometric=None)))
    assert "palette of 30 values" in refusal(
        write_tiff(grey % 16, Tiff(bits=4, photometric=PALETTE, tags={320: (3, [9] * 30)}))
    )
    inks = Tiff(photometric=CMYK, tags={332: (3, [2])})
    assert "inks other than CMYK" in refusal(write_tiff(picture(4, 255), inks))
    assert "BigTIFF" in refusal(write_tiff(grey, Tiff(photometric=BLACK_IS_ZERO, big=True, order=">")))


def test_lab_whose_white_is_the_one_that_is_read_anyway():
    lab = np.full((SIDE, SIDE, 3), (200, 10, 250), np.uint8)
    said = {318: (11, [0.3457, 0.3585])}
    same = [shown(write_tiff(lab, Tiff(photometric=LAB, tags=tags))) for tags in ({}, said)]
    np.testing.assert_array_equal(*same)


def test_a_damaged_directory_is_no_kind():
    data = write_tiff(picture(3, 255), Tiff(bits=32))
    with pytest.raises(ImageError) as caught:
        shown(data[:100])
    assert caught.value.reason == "corrupt_image"
