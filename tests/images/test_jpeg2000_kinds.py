import struct

import numpy as np
import pytest
from PIL import Image

from beam_curate.images import jpeg2000_kinds
from beam_curate.images.decoding import DecodeOptions, decode_image
from tests.conftest import encoded, photo
from tests.support.kinds import SIDE, assert_shows, refusal


def box(name, contents):
    return struct.pack(">I4s", len(contents) + 8, name) + contents


def with_boxes(data, *boxes):
    """The file with further boxes at the end of its header box."""
    at = data.index(b"jp2h") - 4
    end = at + struct.unpack_from(">I", data, at)[0]
    return data[:at] + box(b"jp2h", data[at + 8 : end] + b"".join(boxes)) + data[end:]


def with_space(data, number):
    at = data.index(b"colr") + 7
    return data[:at] + struct.pack(">I", number) + data[at + 4 :]


def channels(*entries):
    """The box that says what the channels are: (channel, kind, colour)."""
    return box(b"cdef", struct.pack(">H", len(entries)) + b"".join(struct.pack(">3H", *entry) for entry in entries))


def jp2(image):
    return encoded(image, "JPEG2000", irreversible=False)


def as_deep(data, bits=16):
    """The file, with a header that says that its samples have more bits (its pixels are others then)."""
    at = data.index(b"\xff\x4f\xff\x51") + 42
    count = struct.unpack_from(">H", data, at - 2)[0]
    return data[:at] + bytes((bits - 1, 1, 1)) * count + data[at + 3 * count :]


def test_usual_files_are_as_they_were():
    image = photo(1, SIDE, SIDE)
    assert_shows(jp2(image), np.asarray(image), levels=0)
    usual = channels((0, 0, 1), (1, 0, 2), (2, 0, 3))
    assert_shows(with_boxes(jp2(image), usual), np.asarray(image), levels=0)
    assert_shows(jp2(image.convert("L")), np.asarray(image.convert("L").convert("RGB")), levels=0)


def test_deep_grey_is_scaled():
    grey = np.linspace(0, 65535, SIDE).astype(np.uint16)[None].repeat(SIDE, axis=0)
    assert_shows(jp2(Image.fromarray(grey)), (grey / 257)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA"])
def test_deep_colours_in_which_white_may_be_black_are_refused(mode, monkeypatch):
    image = photo(1, SIDE, SIDE).convert("RGB")
    image.paste((0, 0, 0), (0, 0, 8, 8))
    monkeypatch.setattr(jpeg2000_kinds, "_depth", lambda data: 12)
    assert "12 bits" in refusal(jp2(image.convert(mode)))
    # Where nothing is 0, nothing was white.
    bright = image.point(lambda level: max(level, 1)).convert(mode)
    decode_image(jp2(bright), DecodeOptions(size=SIDE))


def test_the_depth_is_that_of_the_codestream():
    data = jp2(photo(1, SIDE, SIDE))
    assert jpeg2000_kinds._depth(data) == 8
    assert jpeg2000_kinds._depth(as_deep(data)) == 16
    assert jpeg2000_kinds._depth(data[:100]) == 0


def test_colour_spaces_and_orders_that_pillow_does_not_heed_are_refused():
    data = jp2(photo(1, SIDE, SIDE))
    assert "colour space 14" in refusal(with_space(data, 14))  # CIELab
    assert "channels" in refusal(with_boxes(data, channels((0, 0, 3), (1, 0, 2), (2, 0, 1))))
    straight = jp2(photo(1, SIDE, SIDE).convert("RGBA"))
    usual, premultiplied = struct.pack(">3H", 3, 1, 0), struct.pack(">3H", 3, 2, 0)
    assert usual in straight
    assert "channels" in refusal(straight.replace(usual, premultiplied))
