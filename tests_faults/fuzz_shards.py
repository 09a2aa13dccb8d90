"""Coverage-guided fuzzing of shard reading: python tests_faults/fuzz_shards.py [SECONDS].

Needs atheris (pip install atheris). Holds any bytes to the properties of `tests.support.torture.check_shard`; a finding is
left as a file `crash-…` in the working directory.
"""

import gzip
import sys

import atheris

with atheris.instrument_imports(include=["beam_curate"]):
    from tests.conftest import tar_bytes
    from tests.support import torture

LIMITS = {"max_member_bytes": 1 << 16, "max_shard_bytes": 1 << 20}


def seeds():
    """Small shards of the main dialects."""
    sound = tar_bytes([("a.jpg", b"image"), ("a.txt", b"text"), ("b.jpg", b"image"), ("b.json", b'{"url": "u"}')])
    return [
        sound,
        gzip.compress(sound),
        tar_bytes([("é" * 120 + ".jpg", b"image")], 2),
        tar_bytes([("n" * 200 + ".jpg", b"")], 1),
    ]


def one_shard(data):
    """The first byte chooses how; the rest is the shard."""
    torture.check_shard(data[1:], seekable=bool(data[:1] and data[0] & 1), **LIMITS)


if __name__ == "__main__":
    from tests_faults.fuzzing import fuzz

    fuzz(one_shard, [b"\0" + seed for seed in seeds()], sys.argv)
