"""What docs/limits.md says of the memory that decoding takes: each kind of image in a process of its own.

Pillow and the decoders allocate outside of Python, so what is looked at is the most that the system gave the process.
"""

import json
import subprocess
import sys

import pytest
from PIL import Image

WIDTH = 2100
HEIGHT = {"16 bits": 6000}
"""Where the image is larger than several bands; else 2100, more than 4 Mi pixels: smaller images are copied once more."""
MB = 10**6
LIBRARIES = 16 * MB
"""What libraries keep after their first use, of which a pixel's share is nothing."""
GREYS = 140 * MB
"""Bands of greys of more than 8 bits."""
KINDS = {
    "JPEG": ("RGB", "JPEG", {}, 12, 0),
    "CMYK": ("CMYK", "JPEG", {}, 12, 0),
    "alpha": ("RGBA", "PNG", {"compress_level": 0}, 12, 2 * LIBRARIES),
    "16 bits": ("I;16", "PNG", {"compress_level": 0}, 12, GREYS),
    "floats": ("F", "TIFF", {}, 12, GREYS),
    "WebP": ("RGB", "WEBP", {"method": 0}, 16, 0),
}
"""Mode, format, how it is saved, the most bytes that a pixel may take, and what else there may be."""


def pixels(name):
    return WIDTH * HEIGHT.get(name, WIDTH)


DECODE_EACH = """
import json, os, re, sys
from beam_curate.images.decoding import DecodeOptions, decode_sizes

def kilobytes(name):
    with open("/proc/self/status") as status:
        return int(re.search(rf"^{name}:\\s+(\\d+) kB$", status.read(), re.M)[1])

def taken(path):
    with open(path, "rb") as file:
        data = file.read()
    before = kilobytes("VmRSS")
    decode_sizes(data, options, [options.target])
    return 1024 * (kilobytes("VmHWM") - before)

options = DecodeOptions()
taken(sys.argv[1])  # what is imported at first use
found = []
for path in sys.argv[2:]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(taken(path)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    found.append(int(os.read(reading, 100)))
    os.waitpid(child, 0)
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_bytes_of_a_pixel(tmp_path):
    circles, ramp = Image.radial_gradient("L"), Image.linear_gradient("L")
    picture = Image.merge("RGB", [circles, circles.rotate(90), ramp]).resize((WIDTH, WIDTH))
    picture.resize((300, 300)).save(tmp_path / "small", "JPEG")
    for name, (mode, kind, options, *_) in KINDS.items():
        picture.resize((WIDTH, HEIGHT.get(name, WIDTH))).convert(mode).save(tmp_path / name, kind, **options)
    paths = [str(tmp_path / name) for name in ("small", *KINDS)]
    done = subprocess.run(
        [sys.executable, "-c", DECODE_EACH, *paths], capture_output=True, text=True, check=True, timeout=300
    )
    found = dict(zip(KINDS, json.loads(done.stdout), strict=True))
    most = {name: each * pixels(name) + more + LIBRARIES for name, (*_, each, more) in KINDS.items()}
    assert {name: taken for name, taken in found.items() if taken > most[name]} == {}
    # The measure is live: none takes less than its pixels, and the bounds are near.
    assert {name: taken for name, taken in found.items() if taken < 3 * pixels(name)} == {}
    assert found["WebP"] > 12 * pixels("WebP")
    assert found["floats"] > GREYS / 2
