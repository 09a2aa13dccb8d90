"""What docs/limits.md, reliability.md, scale.md and exporting.md say is held in memory, or sent to other workers: counted."""

import hashlib
import tracemalloc

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.export.fields import FIXED
from beam_curate.records import EmbeddedSample, ImageFacts, Member, PlacedRows, SampleRef, ScorePart, Shard
from beam_curate.runs import score_table
from beam_curate.runs.division import Division
from beam_curate.runs.parts import read_part_counts
from beam_curate.runs.placed_rows import Loose, packed
from beam_curate.runs.score_parts import write_part
from beam_curate.transforms import pack_files
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.pack_shards import PackShards
from beam_curate.transforms.score_and_filter import ScoreAndFilter, score_samples
from tests.conftest import tar_bytes

IN_PROCESS = PipelineOptions(["--runner=FnApiRunner"])
MB = 10**6


class FirstValue:
    """A score that needs no weights: the first value of the embedding."""

    def __init__(self, name):
        self.name = name

    def score(self, embeddings):
        return embeddings[:, 0].astype(np.float32)


HEADS = (FirstValue("aesthetic"), FirstValue("nsfw"))


def embedded(index, shard="/data/shards/00000.tar", size=90000, stride=100352, last=0):
    """A sample as a web dataset has it: an image, a caption, a JSON member, a URL."""
    key = f"00000{index:05d}"
    members = (Member("jpg", index * stride + 512, size), Member("json", index * stride + 90624, 600))
    members += (Member("txt", index * stride + 92160, 80),)
    caption = f"{index} a photo of a dog on the beach at sunset with many people behind it"
    url = f"https://example.org/pictures/{index}/photograph-large.jpg"
    ref = SampleRef(0, shard, index, key, members, "jpg", shard_rows=last, caption=caption, url=url)
    facts = ImageFacts(640, 480, "JPEG", hashlib.sha256(b"%d" % index).hexdigest(), size)
    vector = np.random.default_rng(index).normal(size=768).astype("<f2")
    return EmbeddedSample(ref, facts, vector.tobytes())


def held(make):
    """How many bytes more are held after `make`, whose result is held."""
    tracemalloc.start()
    try:
        result = make()
        return tracemalloc.get_traced_memory()[0] if result else 0
    finally:
        tracemalloc.stop()


def scored(count):
    batches = (range(start, min(start + 64, count)) for start in range(0, count, 64))
    return [row for batch in batches for row in score_samples([embedded(n) for n in batch], HEADS, ())]


def test_a_row_that_waits_for_its_shard_is_about_4_kb():
    scored(1)  # what is imported at first use
    assert 2000 < held(lambda: scored(512)) / 512 < 4096


def test_an_input_shard_is_about_200_bytes():
    count = 1000
    made = held(lambda: [Shard(n, f"gs://bucket/raw/{n:05d}.tar", 10**9 + n) for n in range(count)])
    assert 100 < made / count < 300


WAITING = {"now": 0, "most": 0}


def come(sample):
    WAITING["now"] += 1
    WAITING["most"] = max(WAITING["most"], WAITING["now"])
    return sample


def gone(row):
    WAITING["now"] -= 1
    return row


def test_64_samples_are_being_scored():
    WAITING.update(now=0, most=0)
    with beam.Pipeline(options=IN_PROCESS) as root:
        samples = root | beam.Create([0]) | beam.FlatMap(lambda _: map(embedded, range(200)))
        _ = samples | beam.Map(come) | ScoreAndFilter(HEADS) | "Gone" >> beam.Map(gone)
    assert WAITING["now"] == 0
    assert 64 <= WAITING["most"] <= 65  # and the one that comes


HELD = []


def values(count):
    """Values of 2 KB; from here on it is counted what is held."""
    tracemalloc.start()
    for n in range(count):
        yield n % 50, PlacedRows(n, "part", b"rows" * 500)


def look(key, group):
    """All values have come: what is held now is what the runner groups."""
    HELD.append(tracemalloc.get_traced_memory()[0])
    return sum(1 for _ in group)


def test_a_value_that_waits_on_disk_takes_about_a_fifth_of_a_kb():
    count = 4000
    HELD.clear()
    try:
        with beam.Pipeline(options=IN_PROCESS) as root:
            pairs = root | beam.Create([count]) | beam.FlatMap(values)
            _ = pairs | GroupRows(PlacedRows) | beam.MapTuple(look)
    finally:
        tracemalloc.stop()
    assert len(HELD) == 50
    assert 20 < HELD[0] / count < 250


def table(count):
    rows = scored(count)
    return score_table.to_table(rows, ["aesthetic", "nsfw"], 768)


def travelling(columns, rows_of_a_file):
    """Bytes that travel of a row in a shuffle, with these columns."""
    count = 2000
    rows = table(count).select([*columns])
    order = np.random.default_rng(0).permutation(count)
    rows = rows.append_column("source_key", rows.column("key"))
    rows = rows.append_column("source_part", pa.array(np.zeros(count, np.int64)))
    rows = rows.append_column("source_rank", pa.array(np.arange(count)))
    rows = rows.append_column("output_file", pa.array(order // rows_of_a_file))
    rows = rows.append_column("output_place", pa.array(order % rows_of_a_file))
    sent = list(packed([Loose(ScorePart(0, "a.tar", "part", count, count, 0, 0, {}), rows)]))
    assert sum(placed.count for _, placed in sent) == count
    assert len(sent) == count // rows_of_a_file
    return sum(len(placed.rows) for _, placed in sent) / count


def test_bytes_of_a_sample_in_a_shuffled_export():
    few = [*FIXED, "members", "links"]
    usual = [*few, "aesthetic", "nsfw", "caption", "url", "uid", "exif"]
    assert 80 <= travelling(few, 100) < travelling(usual, 100) < 200
    assert 400 < travelling(few, 1) < travelling(usual, 1) < 700  # no two rows of a file go together
    # Random numbers do not compress: 2 bytes for each of the 768 values.
    assert travelling([*usual, "embedding"], 100) - travelling(usual, 100) == pytest.approx(2 * 768, rel=0.1)


def test_a_thread_that_writes_a_shard_holds_about_40_mb(tmp_path, monkeypatch):
    """A shard of 1000 samples in source order: of its 50 MB of images only what is fetched together is held."""
    count, size = 1000, 50_000
    body = np.random.default_rng(0).bytes(size + count)
    images = [body[n : n + size] for n in range(count)]
    (tmp_path / "0.tar").write_bytes(tar_bytes([(f"{n:05d}.jpg", data) for n, data in enumerate(images)]))
    stride = 512 + -(-size // 512) * 512
    rows = []
    for n, data in enumerate(images):
        sample = embedded(n, str(tmp_path / "0.tar"))
        ref = SampleRef(0, str(tmp_path / "0.tar"), n, f"{n:05d}", (Member("jpg", n * stride + 512, size),), "jpg",
                        caption=sample.ref.caption, shard_rows=count if n == count - 1 else 0)  # fmt: skip
        facts = ImageFacts(640, 480, "JPEG", hashlib.sha256(data).hexdigest(), size)
        rows += score_samples([EmbeddedSample(ref, facts, sample.embedding)], HEADS, ())
    written = score_table.to_table(rows, ["aesthetic", "nsfw"], 768)
    write_part(str(tmp_path / "out"), 0, str(tmp_path / "0.tar"), written)
    del rows, images, written
    work, peaks = pack_files._WriteFile.work, []

    def measured(self, element, *side):
        usual = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(usual)  # counts from nothing
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            result = list(work(self, element, *side))
            peaks.append((tracemalloc.get_traced_memory()[1], pool.max_memory()))
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(usual)
        return result

    monkeypatch.setattr(pack_files._WriteFile, "work", measured)
    with beam.Pipeline(options=IN_PROCESS) as root:
        part = read_part_counts(str(tmp_path / "out"), "scores/part-00000.parquet")
        _ = root | beam.Create([part]) | PackShards(str(tmp_path / "out"), Division(count))
    ((python, arrow),) = peaks
    assert (tmp_path / "out" / "00000.tar").stat().st_size > count * size
    assert 8 * MB < python + arrow < 44 * MB
