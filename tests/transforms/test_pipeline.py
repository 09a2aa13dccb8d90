"""The transforms together, with a stub model: exact contents, conservation, the same bytes twice."""

import json
import os
import pathlib
import re
import tarfile
import threading

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor

from beam_curate import DecodeImages, DecodeOptions, ReadTarShards, ScoreAndFilter, WriteWebDatasetShards
from beam_curate.records import DecodedImage, EmbeddedSample, Sample
from beam_curate.storage.retrying import StorageError
from tests.conftest import encoded, photo, tar_bytes
from tests.support.stubs import DIM, StubHandler, stub_heads


def sample_members(key, seed, suffix="jpg", **members):
    image = encoded(photo(seed), {"jpg": "JPEG", "JPG": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix])
    return [(f"{key}.{suffix}", image), *((f"{key}.{name}", data) for name, data in members.items())]


@pytest.fixture
def dataset(tmp_path):
    """Three shards: 12 + 7 + 9 samples, of which 3 are bad and some share keys between shards."""
    folder = tmp_path / "data"
    folder.mkdir()
    first = [
        m for n in range(12) for m in sample_members(f"{n:03d}", n, txt=b"caption %d" % n, json=b'{"url": "u%d"}' % n)
    ]
    second = [m for n in range(6) for m in sample_members(f"s/{n:03d}", 50 + n, "JPG" if n % 2 else "png")]
    second.insert(4, ("bad.jpg", b"no image at all"))
    third = [m for n in range(7) for m in sample_members(f"{n:03d}", 90 + n, "webp", cls=b"%d" % n)]
    third += [("003.jpg", b"late"), ("only.txt", b"no image")]
    (folder / "a.tar").write_bytes(tar_bytes(first))
    (folder / "b.tar").write_bytes(tar_bytes(second))
    (folder / "c.tar").write_bytes(tar_bytes(third, tarfile.PAX_FORMAT))
    return folder


def run(dataset, output, flags=(), per_shard=5, seed=None, **rules):
    score = ScoreAndFilter(stub_heads(), **rules)
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *flags])) as root:
        _ = (
            root
            | ReadTarShards(f"{dataset}/*.tar*")
            | DecodeImages(DecodeOptions(size=32))
            | RunInference(StubHandler()).with_output_types(EmbeddedSample)
            | score
            | WriteWebDatasetShards(str(output), score.score_names, DIM, per_shard, seed)
        )
    return json.loads((output / "summary.json").read_text())


def members_of(paths):
    found = {}
    for path in paths:
        with tarfile.open(path) as archive:
            for info in archive:
                assert info.name not in found
                found[info.name] = archive.extractfile(info).read()
    return found


def files(folder: pathlib.Path, pattern="**/*"):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()}


def table(output):
    return pq.read_table(f"{output}/scores").to_pylist()


def test_every_sample_is_accounted_for_and_every_member_copied(dataset, tmp_path):
    output = tmp_path / "out"
    summary = run(dataset, output)
    assert summary["funnel"] == {
        "input": 28,
        "failed": 3,
        "rejected": 0,
        "kept": 25,
        "reasons": {"not_an_image": 1, "duplicate_key": 1, "no_image": 1},
    }
    assert json.loads((output / "sizes.json").read_text()) == {f"{n:05d}.tar": 5 for n in range(5)}
    source = members_of([dataset / "a.tar", dataset / "b.tar"])
    written = members_of(sorted(output.glob("*.tar")))
    del source["bad.jpg"]
    # The third shard's keys are the first one's: they are made unique, and nothing else changes.
    third = {}
    with tarfile.open(dataset / "c.tar") as archive:
        for info in archive:
            if info.name.endswith((".webp", ".cls")):
                key, suffix = info.name.split(".")
                third[f"{key}-s00002.{suffix}"] = archive.extractfile(info).read()
    assert written == source | third
    rows = table(output)
    assert len(rows) == 28
    assert all((row["status"] == "failed") == (row["aesthetic"] is None) for row in rows)
    assert [row["caption"] for row in rows[:2]] == ["caption 0", "caption 1"]
    assert not (output / "_temporary").exists() or not os.listdir(output / "_temporary")


def test_same_bytes_twice_on_two_workers_and_with_repeated_bundles(dataset, tmp_path):
    run(dataset, tmp_path / "1")
    expected = files(tmp_path / "1")
    for name, flags in {
        "2": [],
        "repeat": ["--direct_runner_bundle_repeat=2"],
        "threads": ["--direct_num_workers=2", "--direct_running_mode=multi_threading"],
        "in_memory": ["--direct_num_workers=2", "--direct_running_mode=in_memory"],
    }.items():
        run(dataset, tmp_path / name, flags)
        found = files(tmp_path / name)
        assert found.keys() == expected.keys()
        assert [path for path in found if found[path] != expected[path] and path != "summary.json"] == []


def test_shuffle_keeps_the_samples_and_changes_the_order(dataset, tmp_path):
    run(dataset, tmp_path / "plain")
    run(dataset, tmp_path / "shuffled", seed=3)
    plain, shuffled = (
        [tarfile.open(path).getnames() for path in sorted((tmp_path / name).glob("*.tar"))]
        for name in ("plain", "shuffled")
    )
    assert sorted(sum(plain, [])) == sorted(sum(shuffled, []))
    assert plain != shuffled
    assert [len({name.split(".")[0] for name in names}) for names in shuffled] == [5] * 5
    assert members_of((tmp_path / "plain").glob("*.tar")) == members_of((tmp_path / "shuffled").glob("*.tar"))


def test_rules_reject_with_reason_and_scores(dataset, tmp_path):
    summary = run(dataset, tmp_path / "out", min_aesthetic=5.0, max_nsfw=0.5)
    rows = table(tmp_path / "out")
    rejected = [row for row in rows if row["status"] == "rejected"]
    assert summary["funnel"]["rejected"] == len(rejected) > 0
    for row in rejected:
        assert row["reason"] == ("aesthetic_below_min" if row["aesthetic"] < 5.0 else "nsfw_above_max")
        assert row["nsfw"] is not None
    kept = [row for row in rows if row["status"] == "kept"]
    assert kept
    assert all(row["aesthetic"] >= 5 and row["nsfw"] < 0.5 for row in kept)


def test_nothing_kept_gives_no_shard_but_a_summary(dataset, tmp_path):
    summary = run(dataset, tmp_path / "out", min_aesthetic=20.0)
    assert summary["funnel"]["kept"] == summary["output_shards"] == 0
    assert list((tmp_path / "out").glob("*.tar")) == []


def test_shard_tables_follow_the_tars(dataset, tmp_path):
    output = tmp_path / "out"
    run(dataset, output)
    for path in sorted(output.glob("*.tar")):
        keys = list(dict.fromkeys(name.split(".")[0] for name in tarfile.open(path).getnames()))
        rows = pq.read_table(path.with_suffix(".parquet"))
        assert rows.column("key").to_pylist() == keys
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        assert stats["samples"] == len(keys)
        assert stats["size"] == path.stat().st_size


def test_compressed_shards_give_the_same_members(dataset, tmp_path):
    import gzip

    import zstandard

    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "a.tar.gz").write_bytes(gzip.compress((dataset / "a.tar").read_bytes()))
    (packed / "b.tar.zst").write_bytes(zstandard.compress((dataset / "b.tar").read_bytes()))
    (packed / "c.tar").write_bytes((dataset / "c.tar").read_bytes())
    run(dataset, tmp_path / "plain", seed=1)
    run(packed, tmp_path / "out", seed=1)
    assert files(tmp_path / "plain", "*.tar") == files(tmp_path / "out", "*.tar")


def test_a_changed_source_is_an_error(dataset, tmp_path, monkeypatch):
    from beam_curate.transforms import pack_files

    data = bytearray((dataset / "a.tar").read_bytes())
    data[700] ^= 1  # inside the first image

    def change(part, *rest):
        (tmp_path / f"{threading.get_ident()}").write_bytes(data)  # several shards are written at once
        (tmp_path / f"{threading.get_ident()}").replace(dataset / "a.tar")
        return original(part, *rest)

    original = pack_files.write_file
    monkeypatch.setattr(pack_files, "write_file", change)
    with pytest.raises(RuntimeError, match=r"a\.tar changed after it was scored: the image of sample '000'"):
        run(dataset, tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()
    assert not (tmp_path / "out" / "00000.tar").exists()


def test_a_missing_shard_at_run_time_names_it(dataset, tmp_path):
    with pytest.raises(Exception, match="matches no file"):
        run(tmp_path / "nowhere", tmp_path / "out")


def test_a_shard_that_cannot_be_opened_any_more_is_an_error_of_storage(dataset, tmp_path, monkeypatch):
    from beam_curate.transforms import read_tar_shards

    def gone(path):
        raise StorageError(f"opening {path} failed: PermissionError")

    monkeypatch.setattr(read_tar_shards, "open_read", gone)
    with pytest.raises(StorageError, match=r"shard \S+\.tar cannot be read: opening \S+\.tar failed: PermissionError"):
        run(dataset, tmp_path / "out")


def test_bytes_of_stub_are_not_trivial(dataset, tmp_path):
    run(dataset, tmp_path / "out")
    rows = [row for row in table(tmp_path / "out") if row["status"] == "kept"]
    assert len({tuple(row["embedding"]) for row in rows}) == len(rows)


class _Shuffles(PipelineVisitor):
    """What is reshuffled or grouped: the types of its elements."""

    def __init__(self):
        self.types = []

    def enter_composite_transform(self, node):
        if isinstance(node.transform, beam.Reshuffle | beam.GroupByKey | beam.CoGroupByKey):
            self.types += [repr(each.element_type) for each in node.inputs]

    visit_transform = enter_composite_transform


@pytest.mark.parametrize("shuffled", [False, True])
def test_images_pass_no_shuffle(tmp_path, shuffled):
    """Image bytes and pixels stay in the stage that reads them: only names, references and rows travel."""
    score = ScoreAndFilter(stub_heads())
    root = beam.Pipeline(runner="FnApiRunner")
    samples = root | ReadTarShards(f"{tmp_path}/*.tar")
    if shuffled:
        samples |= beam.Reshuffle().with_input_types(Sample)
    _ = (
        samples
        | DecodeImages(DecodeOptions(size=32))
        | RunInference(StubHandler()).with_output_types(EmbeddedSample)
        | score
        | WriteWebDatasetShards(str(tmp_path), score.score_names, DIM, 5, 1, duplicates=None)
    )
    visitor = _Shuffles()
    root.visit(visitor)
    assert len(visitor.types) > 5
    held = (Sample, DecodedImage, EmbeddedSample)
    assert any(re.search(rf"\b{kind.__name__}\b", found) for kind in held for found in visitor.types) == shuffled
