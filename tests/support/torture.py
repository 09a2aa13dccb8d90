"""What the torture tests and the fuzz targets share: the properties that hold whatever the input, and a run to hold them to."""

import io
import json
import re
import tarfile
import unicodedata

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from beam_curate import DecodeImages, DecodeOptions, ReadTarShards, ScoreAndFilter, WriteWebDatasetShards, reasons
from beam_curate.images import opening
from beam_curate.images.errors import PILLOW_ERRORS
from beam_curate.records import EmbeddedSample, Shard
from beam_curate.tars.headers import BLOCK
from beam_curate.tars.samples import read_samples
from beam_curate.transforms.decode_images import decode_sample
from tests.conftest import encoded, photo
from tests.support.stubs import DIM, StubHandler, stub_heads

SIZE = 32
GOOD = [encoded(photo(seed, 48, 40), format) for seed, format in enumerate(["JPEG", "PNG", "WEBP"] * 4)]
GOOD_SUFFIXES = ["jpg", "png", "webp"] * 4
READ_REASONS = {
    reasons.NOT_A_TAR,
    reasons.EMPTY_SHARD,
    reasons.TRUNCATED_TAR,
    reasons.CORRUPT_TAR,
    reasons.CORRUPT_COMPRESSION,
    reasons.UNSUPPORTED_COMPRESSION,
    reasons.SHARD_TOO_LARGE,
    reasons.UNSUPPORTED_MEMBER,
    reasons.MEMBER_TOO_LARGE,
    reasons.TOO_MANY_MEMBERS,
    reasons.UNRESOLVED_LINK,
    reasons.DUPLICATE_KEY,
    reasons.DUPLICATE_MEMBER,
    reasons.NO_IMAGE,
}
DECODE_REASONS = {
    reasons.NOT_AN_IMAGE,
    reasons.TRUNCATED_IMAGE,
    reasons.CORRUPT_IMAGE,
    reasons.TOO_MANY_PIXELS,
    reasons.UNSUPPORTED_IMAGE,
}
_MACHINE = re.compile(r"0x[0-9a-f]{9,}|at 0x| object at |/tmp/|/home/|site-packages|\.py\b|Traceback")


def is_plain(text):
    """Whether a text may be printed on a terminal: one line, valid UTF-8, no control and no bidirectional characters."""
    text.encode("utf-8")
    return not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text)


def check_failure(step, reason, message):
    """A failure that a person understands, and that says nothing of the machine."""
    assert reason in {"read": READ_REASONS, "decode": DECODE_REASONS}[step], (step, reason)
    assert message.strip(), reason
    assert len(message) < 1000, message
    assert is_plain(message), message
    assert not _MACHINE.search(message), message


def check_shard(data, *, seekable=False, options=None, **limits):
    """Reads (and with `options` decodes) a shard and holds it to what holds for any bytes; returns the samples."""
    samples = []
    for sample in read_samples(io.BytesIO(data), Shard(3, "s.tar", len(data)), seekable=seekable, **limits):
        image = decode_sample(sample, options) if options else None
        failure = image.failure if image else sample.failure
        if failure is not None:
            check_failure(failure.step, failure.reason, failure.message)
            assert not (image and image.pixels)
        elif image:
            assert len(image.pixels) == 3 * options.size**2
            assert image.facts.size == len(sample.data)
        if sample.failure is None:
            member = next(member for member in sample.ref.members if member.suffix == sample.ref.image)
            assert member.size == len(sample.data)
        for text in (
            sample.ref.key,
            sample.ref.caption or "",
            sample.ref.url or "",
            *(m.suffix for m in sample.ref.members),
        ):
            text.encode("utf-8")
        samples.append(sample)
    samples.sort(key=lambda sample: sample.ref.index)  # those with links come last
    assert [sample.ref.index for sample in samples] == list(range(len(samples)))
    assert [sample.ref.shard_rows for sample in samples[:-1]] == [0] * (len(samples) - 1)
    assert samples[-1].ref.shard_rows == len(samples)
    keys = [sample.ref.key for sample in samples if sample.failure is None]
    assert len(keys) == len(set(keys))
    return samples


DIFFERENT = {
    # It lacks its end marker alone: the scan is whole.
    "afl__id_000385_src_000000_op_int32_pos_500_val_-32768_+cov.jpg": True,
    # The checksum of its pixels is wrong.
    "gofuzz_png__d446be6373be79de3ad27234ad9e86341db65b62-2": False,
}
"""Files of the reference assets that are decoded though Pillow refuses them, or the reverse."""


def decodes(path):
    """Whether the image at a path is to be decoded: as plain Pillow does, but for `DIFFERENT`."""
    return DIFFERENT.get(path.name, pillow_decodes(path.read_bytes()))


def pillow_decodes(data):
    """Whether plain Pillow opens, loads and converts an image, in a format that runs no program."""
    try:
        with Image.open(io.BytesIO(data), formats=opening._formats()) as image:
            image.load()
            image.convert("RGB")
    except PILLOW_ERRORS:
        return False
    return True


def run(pattern, output, decoder="pillow", per_shard=500, **reading):
    """The transforms from shards to shards with a stub model; returns the summary and the rows of the score table."""
    score = ScoreAndFilter(stub_heads())
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        _ = (
            root
            | ReadTarShards(str(pattern), **reading)
            | DecodeImages(DecodeOptions(size=SIZE, decoder=decoder))
            | RunInference(StubHandler()).with_output_types(EmbeddedSample)
            | score
            | WriteWebDatasetShards(str(output), score.score_names, DIM, per_shard)
        )
    summary = json.loads((output / "summary.json").read_text())
    columns = ["key", "shard", "shard_index", "index", "status", "step", "reason", "error_message", "sha256", "url"]
    rows = pq.read_table(output / "scores", columns=[*columns, "caption", "exif"]).to_pylist()
    rows.sort(key=lambda row: (row["shard_index"], row["index"]))
    return summary, rows


def check_run(summary, rows):
    """Accounts that add up, indexes without a gap, and failures that a person understands."""
    counts = summary["funnel"]
    assert counts["input"] == len(rows) == counts["kept"] + counts["failed"]
    assert counts["kept"] == sum(row["status"] == "kept" for row in rows)
    by_shard = {}
    for row in rows:
        by_shard.setdefault(row["shard_index"], []).append(row["index"])
        if row["status"] == "failed":
            check_failure(row["step"], row["reason"], row["error_message"])
    assert sorted(by_shard) == list(range(summary["input_shards"]))
    assert all(indexes == list(range(len(indexes))) for indexes in by_shard.values())


def written(output):
    """Names and bytes of all members of the output, each name once."""
    found = {}
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as archive:
            for info in archive:
                assert info.name not in found, info.name
                found[info.name] = archive.extractfile(info).read()
    return found


def good(place):
    """A good image and its suffix."""
    return GOOD_SUFFIXES[place % len(GOOD)], GOOD[place % len(GOOD)]


def header_offsets(data):
    """Where the members' header blocks lie in a sound tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [info.offset_data - BLOCK for info in archive]
