"""Packing: what is finished is neither read nor written again, and the table is read at most twice. Counted, not compared."""

import collections
import functools
import hashlib
import json
import os
import shutil

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.export.copied_tars import CopiedTars
from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample
from beam_curate.runs import score_table
from beam_curate.runs.division import Division
from beam_curate.runs.parts import read_part_counts
from beam_curate.runs.placed_rows import Loose
from beam_curate.runs.score_parts import write_part
from beam_curate.storage import ranged_reading
from beam_curate.transforms import pack_files, place_rows
from beam_curate.transforms.pack_shards import PackShards
from tests.conftest import tar_bytes

DIM = 256


def body(part, row):
    return bytes([part, row % 256]) * 60


def make_run(folder, parts, per, *, kept=1.0, group_rows=None, name="out"):
    """A table of some parts, whose samples lie in tars of their own; `group_rows` of each row group."""
    output = folder / name
    rng = np.random.default_rng(1)
    for part in range(parts):
        path = folder / f"{part}.tar"
        path.write_bytes(tar_bytes([(f"{part}-{row}.jpg", body(part, row)) for row in range(per)]))
        rows = []
        for row in range(per):
            data = body(part, row)
            ref = SampleRef(part, str(path), row, f"{part}-{row}", (Member("jpg", row * 1024 + 512, len(data)),), "jpg")
            facts = ImageFacts(9, 9, "JPEG", hashlib.sha256(data).hexdigest(), len(data))
            keep = rng.random() < kept
            vector = rng.standard_normal(DIM).astype("<f2").tobytes()
            verdict = ("kept",) if keep else ("rejected", "filter", "aesthetic_below_min")
            rows.append(ScoredSample(ref, facts, vector, {"aesthetic": float(row)}, *verdict))
        table = score_table.to_table(rows, ["aesthetic"], DIM)
        write_part(str(output), part, str(path), table, group_rows=group_rows)
    return output


@pytest.fixture
def run(tmp_path):
    return functools.partial(make_run, tmp_path)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Gives the table of three parts of 1000 rows, which are made once for each size of the row groups."""
    return functools.cache(
        lambda group_rows: make_run(tmp_path_factory.mktemp("large"), 3, 1000, group_rows=group_rows)
    )


class Counts:
    """Bytes read and files written, by the kind of the file."""

    def __init__(self, monkeypatch):
        self.read = collections.Counter()
        self.written = []
        fetch = ranged_reading.RangeReader._fetch

        def counted(reader, start, stop):
            data = fetch(reader, start, stop)
            self.read["scores" if "/scores/" in reader.path else reader.path.rpartition(".")[2]] += len(data)
            return data

        monkeypatch.setattr(ranged_reading.RangeReader, "_fetch", counted)
        rename = beam.io.filesystems.FileSystems.rename

        def renamed(sources, targets):
            self.written += [target.rpartition("/")[2] for target in targets]
            return rename(sources, targets)

        monkeypatch.setattr(beam.io.filesystems.FileSystems, "rename", staticmethod(renamed))


def pack(output, per_shard, seed=None):
    names = sorted(path.name for path in (output / "scores").iterdir())
    parts = [read_part_counts(str(output), f"scores/{name}") for name in names]
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        _ = root | beam.Create(parts) | PackShards(str(output), Division(per_shard, seed))
    return json.loads((output / "summary.json").read_text())


@pytest.mark.parametrize("seed", [None, 3])
def test_a_finished_shard_is_neither_read_nor_written_again(run, monkeypatch, seed):
    output = run(6, 20)
    pack(output, 15, seed)
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("0*")}
    (output / "summary.json").unlink()
    sent = []

    def process(writer, element, *side):
        sent.append(element)
        return ()

    monkeypatch.setattr(pack_files._WriteFile, "process", process)
    counts = Counts(monkeypatch)
    pack(output, 15, seed)
    assert sent == []  # nor are rows of the table read for it
    assert counts.read["tar"] == 0
    assert [name for name in counts.written if name[0] == "0"] == []
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("0*")}
    assert after == before


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("gone", ["00003.tar", "00003.parquet", "00003_stats.json"])
def test_a_shard_that_lacks_a_file_is_written_again_and_no_other(run, monkeypatch, seed, gone):
    output = run(6, 20)
    pack(output, 15, seed)
    before = {path.name: path.read_bytes() for path in output.glob("0*")}
    (output / gone).unlink()
    (output / "summary.json").unlink()
    counts = Counts(monkeypatch)
    pack(output, 15, seed)
    assert sorted(name for name in counts.written if name[0] == "0") == [
        "00003.parquet", "00003.tar", "00003_stats.json"]  # fmt: skip
    assert 0 < counts.read["tar"] < 6 * 20 * 1024
    assert {path.name: path.read_bytes() for path in output.glob("0*")} == before


@pytest.mark.parametrize("name", ["00003.tar", "00003.parquet"])
def test_a_file_that_was_replaced_after_its_end_is_written_again_and_no_other(run, monkeypatch, name):
    """By one of the same length: only its time tells."""
    output = run(6, 20)
    pack(output, 15)
    before = {path.name: path.read_bytes() for path in output.glob("0*")}
    path, end = output / name, (output / "00003_stats.json").stat().st_mtime_ns
    if name.endswith(".tar"):
        path.write_bytes(bytes(len(before[name])))
    os.utime(path, ns=(end, end))
    if name.endswith(".tar"):  # of the same moment: nothing tells
        assert written_again(output, monkeypatch) == []
    os.utime(path, ns=(end + 1_000_000, end + 1_000_000))
    assert written_again(output, monkeypatch) == ["00003.parquet", "00003.tar", "00003_stats.json"]
    assert {path.name: path.read_bytes() for path in output.glob("0*")} == before


def test_a_table_that_lacks_a_row_makes_its_shard_be_written_again(run, monkeypatch):
    output = run(2, 20)
    pack(output, 15)
    path, end = output / "00001.parquet", (output / "00001_stats.json").stat().st_mtime_ns
    before = path.read_bytes()
    pq.write_table(pq.read_table(path).slice(1), path)
    os.utime(path, ns=(end, end))
    assert written_again(output, monkeypatch) == ["00001.parquet", "00001.tar", "00001_stats.json"]
    assert path.read_bytes() == before


def written_again(output, monkeypatch):
    """The output files that a run writes which goes on."""
    (output / "summary.json").unlink()
    with monkeypatch.context() as patched:
        counts = Counts(patched)
        pack(output, 15)
    return sorted(name for name in counts.written if name[0] == "0")


def test_a_tar_of_another_size_and_statistics_without_a_plan_are_not_taken_for_finished(run):
    output = run(2, 20)
    pack(output, 15)
    before = {path.name: path.read_bytes() for path in output.glob("0*")}
    (output / "00000.tar").write_bytes(b"short")
    stats = json.loads((output / "00001_stats.json").read_text())
    del stats["plan"]
    (output / "00001_stats.json").write_text(json.dumps(stats))
    pack(output, 15)
    assert {path.name: path.read_bytes() for path in output.glob("0*")} == before


def test_shards_of_another_packing_are_written_again(run):
    output, fresh = run(4, 20), run(4, 20, name="fresh")
    pack(output, 15)
    pack(output, 16, 1)
    pack(fresh, 16, 1)
    assert {path.name: path.read_bytes() for path in output.glob("0000[0-4]*")} == {
        path.name: path.read_bytes() for path in fresh.glob("0*")
    }


def test_a_part_that_changed_makes_the_shards_from_it_on_again(run, monkeypatch):
    output = run(4, 20)
    pack(output, 15)
    run(4, 20, kept=0.5, name="other")
    changed = (output.parent / "other/scores/part-00002.parquet").read_bytes()
    (output / "scores/part-00002.parquet").write_bytes(changed)
    counts = Counts(monkeypatch)
    pack(output, 15)
    # 40 rows lie before it: two shards of 15, and the first 10 rows of the third.
    assert {name[:5] for name in counts.written if name[0] == "0"} == {"00002", "00003", "00004"}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("per_shard", [40, 100, 350, 2000])
@pytest.mark.parametrize("group_rows", [(1000,), (250,) * 4, (900, 100)])
def test_the_table_is_read_at_most_twice(large, tmp_path, monkeypatch, seed, per_shard, group_rows):
    output = shutil.copytree(large(group_rows), tmp_path / "out")
    size = sum(path.stat().st_size for path in (output / "scores").iterdir())
    footers = 3 * 3 * (1 << 16)  # each part is opened to learn its counts, its keys and its rows: 64 KiB from its end
    counts = Counts(monkeypatch)
    pack(output, per_shard, seed)
    opened = counts.read["scores"] - 2 * size
    assert opened <= footers + 3 * -(-3000 // per_shard) * (1 << 16) * (seed is None)


def test_a_row_of_a_shuffle_is_read_once_however_many_parts_there_are(run, monkeypatch):
    read = {}
    for parts in (5, 40):
        output = run(parts, 30, name=f"out{parts}")
        size = sum(path.stat().st_size for path in (output / "scores").iterdir())
        counts = Counts(monkeypatch)
        pack(output, 30, 1)
        monkeypatch.undo()
        read[parts] = counts.read["scores"] / size
    assert read[40] < 1.2 * read[5]


def test_rows_meet_whatever_way_they_travel(run):
    """The same packing from parts of one row group and of many: by reference, and by themselves."""
    whole, split = run(3, 60, name="whole"), run(3, 60, group_rows=(60,), name="split")
    pack(whole, 50)
    monkey = pytest.MonkeyPatch()
    monkey.setattr("beam_curate.runs.placed_rows._is_cheap", lambda *_: False)
    pack(split, 50)
    monkey.undo()
    read = [{path.name: path.read_bytes() for path in output.glob("0*")} for output in (whole, split)]
    assert read[0] == read[1]


def test_rows_that_wait_are_measured_once(monkeypatch):
    """However many small parts wait for each other: 32 MiB of them go together."""
    asked, together = [], []

    class Table:
        schema = "the same"

        @property
        def nbytes(self):
            asked.append(1)
            return 1 << 20

    monkeypatch.setattr(place_rows, "packed", lambda loose: together.append(len(loose)) or iter(()))
    place = place_rows.PlaceRows(None, CopiedTars())
    place.start_bundle()
    for _ in range(100):
        assert list(place._pass_on(Loose(None, Table()))) == []
    assert list(place.finish_bundle()) == []
    assert together == [32, 32, 32, 4]
    assert len(asked) == 100


def test_a_sample_that_is_lost_on_the_way_to_its_file_ends_the_job(run, monkeypatch):
    """Wherever it is lost: here the format leaves one out of each file and says nothing."""
    output = run(2, 5)
    write = CopiedTars.write
    monkeypatch.setattr(CopiedTars, "write", lambda form, out, rows: write(form, out, rows.slice(1)))
    with pytest.raises(Exception, match="10 samples were kept and 7 written, in 3 files"):
        pack(output, 4)
    assert not (output / "summary.json").exists()
    assert not (output / "index.json").exists()
