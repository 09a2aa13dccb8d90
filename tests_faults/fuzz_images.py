"""Coverage-guided fuzzing of image decoding: python tests_faults/fuzz_images.py [SECONDS].

Needs atheris (pip install atheris). Any bytes give pixels or a failure with a reason, with either decoder; a finding is left as
a file `crash-…` in the working directory.
"""

import sys

import atheris

with atheris.instrument_imports(include=["beam_curate", "PIL"]):
    from beam_curate.images.decoding import DECODERS, DecodeOptions
    from beam_curate.records import Sample, SampleRef
    from beam_curate.transforms.decode_images import decode_sample
    from tests.conftest import encoded, photo
    from tests.support import torture

FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "TIFF",
    "BMP",
    "AVIF",
    "JPEG2000",
    "ICO",
    "PPM",
    "TGA",
    "QOI",
    "DDS",
    "PCX",
    "SGI",
    "ICNS",
)
OPTIONS = [DecodeOptions(size=8, decoder=decoder, max_pixels=1 << 20) for decoder in DECODERS]


def one_image(data):
    """The first byte chooses the decoder; the rest is the image."""
    sample = Sample(SampleRef(0, "s.tar", 0, "k"), data[1:])
    image = decode_sample(sample, OPTIONS[bool(data[:1] and data[0] & 1)])
    if image.failure is None:
        assert len(image.pixels) == 3 * 8 * 8
    else:
        torture.check_failure(image.failure.step, image.failure.reason, image.failure.message)
    assert image.facts.size == len(data) - 1 if data else True


if __name__ == "__main__":
    from tests_faults.fuzzing import fuzz

    seeds = [bytes([place % 2]) + encoded(photo(1, 40, 32), name) for place, name in enumerate(FORMATS)]
    for seed in seeds:
        one_image(seed)  # what is imported late takes seconds, which are none of an input's
    fuzz(one_image, seeds, sys.argv)
