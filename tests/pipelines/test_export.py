"""Exporting: every sample of a run, byte for byte or smaller, in files that the readers of training loops take."""

import gzip
import hashlib
import html
import importlib.util
import io
import json
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image
from tfrecord import tfrecord_loader

from beam_curate.commands import dedup, export, select
from beam_curate.commands.demo_data import build_demo_dataset
from tests.conftest import encoded, photo, tar_bytes
from tests.support import models
from tests.support.exporting_runs import awkward, curated

DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
SMALL = "--resize_shortest=64"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """21 made samples in shards of 5."""
    folder = tmp_path_factory.mktemp("export")
    return curated(awkward(folder), folder / "run", "--samples_per_shard=5")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The good samples of the demo: photographs of scikit-image in many formats."""
    folder = tmp_path_factory.mktemp("real")
    return curated(build_demo_dataset(folder / "data").pattern, folder / "run", "--samples_per_shard=30")


def exported(run, name, *flags, status=0, format="webdataset"):
    output = run.parent / name
    found = export.main([f"--input={run}", f"--output={output}", f"--format={format}", "--samples_per_file=4", *flags])
    assert found == status
    return output


def summary(output):
    return json.loads((output / "summary.json").read_text())["export"]


def samples(folder, extension="tar"):
    """All samples in the order of the tars: key to members."""
    found = {}
    for path in sorted(folder.glob(f"*.{extension}")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = archive.extractfile(member).read()
    return found


def rows(output):
    return pa.concat_tables([pq.read_table(path) for path in sorted(output.glob("[0-9]*.parquet"))]).to_pylist()


def files(output):
    """All files but those that tell of the time."""
    own = ("summary.json", "run.json")
    return {
        path.name: path.read_bytes() for path in sorted(output.iterdir()) if path.name not in own and path.is_file()
    }


def sizes(output):
    return list(json.loads((output / "sizes.json").read_text()).values())


def records(output, **options):
    paths = sorted(output.glob("*.tfrecord*"))
    return [dict(found) for path in paths for found in tfrecord_loader(str(path), None, **options)]


# --- WebDataset


def test_without_options_the_samples_are_the_same_in_other_files(run):
    output = exported(run, "plain")
    assert list(samples(output).items()) == list(samples(run).items())
    assert sizes(output) == [4, 4, 4, 4, 4, 1]
    before = rows(run)
    for old, new in zip(before, rows(output), strict=True):
        assert {name: old[name] for name in new} == new
        assert not {"embedding", "members", "status", "reencoded"} & new.keys()
    assert summary(output) == {"input": 21, "failed": 0, "exported": 21, "reencoded": 0, "reasons": {}}


def test_real_photographs_become_smaller_and_nothing_else_changes(real):
    output = exported(real, "smaller", SMALL, "--image_format=jpeg")
    before, after = samples(real), samples(output)
    assert list(before) == list(after)
    old_rows = {row["key"]: row for row in rows(real)}
    for row in rows(output):
        old, key = old_rows[row["key"]], row["key"]
        data = after[key]["jpg"]
        image = Image.open(io.BytesIO(data))
        assert (image.format, row["image"], row["size"]) == ("JPEG", "jpg", len(data))
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["original_width"], row["original_height"]) == (old["width"], old["height"])
        assert row["original_sha256"] == old["sha256"]
        if row["reencoded"]:
            assert image.size == (row["width"], row["height"])
            assert min(image.size) == min(64, old["width"], old["height"])
            assert image.mode == "RGB"
            assert 0x0112 not in image.getexif()
        else:
            assert data == before[key][old["image"]]
        others = {name: body for name, body in before[key].items() if name != old["image"]}
        assert {name: body for name, body in after[key].items() if name != "jpg"} == others
    assert summary(output)["reencoded"] == sum(row["reencoded"] for row in rows(output)) > 70


def test_what_is_small_enough_stays_byte_for_byte_and_says_so(run):
    output = exported(run, "small", SMALL)
    before, after = samples(run), samples(output)
    kept = [row for row in rows(output) if not row["reencoded"]]
    assert {row["key"] for row in kept} == {"04", "14", "24", "15"}
    for row in kept:
        assert after[row["key"]] == before[row["key"]]
        assert (row["width"], row["height"]) == (row["original_width"], row["original_height"])
    formats = {row["key"][1]: (row["image"], row["format"]) for row in rows(output) if row["reencoded"]}
    assert formats["0"] == ("jpg", "JPEG")
    assert formats["1"] == ("png", "PNG")
    assert formats["2"] == ("webp", "WEBP")
    assert formats["3"] == ("png", "PNG")  # a GIF


def test_the_readers_of_webdataset_take_it(real):
    output = exported(real, "readers", SMALL, "--image_format=jpeg", "--shuffle_seed=5")
    keys = [row["key"] for row in rows(output)]
    paths = sorted(str(path) for path in output.glob("*.tar"))
    read = list(wds.WebDataset(paths, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in read] == keys
    assert all(min(sample["jpg"].size) <= 64 and sample["json"]["caption"] == sample["txt"] for sample in read)

    import wids

    indexed = wids.ShardListDataset(str(output / "index.json"), cache_dir=str(output.parent / "wids"), keep=True)
    assert [indexed[place]["__key__"] for place in range(len(indexed))] == keys


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return str(tmp_path / "cache")


def test_datasets_reads_it_by_its_card(real, no_cache):
    from datasets import load_dataset

    output = exported(
        real, "hub", SMALL, "--image_format=jpeg", "--license=cc0-1.0", "--dataset_name=Photographs: a few"
    )
    keys = [row["key"] for row in rows(output)]
    tars = load_dataset(str(output), cache_dir=no_cache)["train"]
    assert tars["__key__"] == keys
    assert tars[0]["jpg"].size[1] <= 64
    streamed = load_dataset(str(output), streaming=True, cache_dir=no_cache)["train"]
    assert [sample["__key__"] for sample in streamed] == keys


def test_datasets_reads_the_rows_of_tfrecord_files_by_the_card(real, no_cache):
    from datasets import load_dataset

    output = exported(real, "hub-rows", "--fields=caption,aesthetic,embedding", format="tfrecord")
    table = load_dataset(str(output), cache_dir=no_cache)["train"]
    assert table["key"] == [row["key"] for row in rows(output)]
    assert table.features["aesthetic"].dtype == "float32"
    assert len(table[0]["embedding"]) == len(rows(real)[0]["embedding"])
    assert "nsfw" not in table.column_names


def test_features_of_the_tars_are_in_the_card_where_extensions_tell_them(real, no_cache):
    from datasets import Image as HubImage
    from datasets import load_dataset

    output = exported(real, "features", SMALL, "--image_format=webp", "--fields=caption,embedding,.txt")
    tars = load_dataset(str(output), cache_dir=no_cache)["train"]
    assert tars.features.keys() == {"webp", "txt", "__key__", "__url__"}
    assert isinstance(tars.features["webp"], HubImage)
    assert set(rows(output)[0]) >= {"caption", "embedding"}
    assert "aesthetic" not in rows(output)[0]


# --- TFRecord


def check_records(found, run):
    """Every record has its sample's bytes and facts."""
    before, old = samples(run), {row["key"]: row for row in rows(run)}
    assert len(found) == len(before)
    for record in found:
        key = record["image/source_id"].decode()
        row = old[key]
        assert record["image/encoded"] == before[key][row["image"]]
        assert record["image/format"].decode() == row["format"].lower()
        assert (record["image/width"][0], record["image/height"][0]) == (row["width"], row["height"])
        assert record["image/filename"].decode() == f"{key}.{row['image']}"
        assert record["image/key/sha256"].decode() == row["sha256"]
        assert record["caption"].decode() == (row["caption"] or "")
        assert record["aesthetic"][0] == np.float32(row["aesthetic"])


def test_tfrecord_reads_back_the_bytes_of_real_photographs(real):
    output = exported(real, "records", "--fields=*,embedding,.json", format="tfrecord")
    found = records(output)
    check_records(found, real)
    assert [record["image/source_id"].decode() for record in found] == list(samples(real))
    before, old = samples(real), rows(real)
    for record, row in zip(found, old, strict=True):
        assert record["member/json"] == before[row["key"]]["json"]
        assert np.array_equal(record["embedding"], np.array(row["embedding"], np.float32))


def test_gzip_reads_back_and_has_no_index(run, capsys):
    output = exported(run, "gzip", "--compression=gzip", format="tfrecord")
    assert "DALI does not read gzip" in capsys.readouterr().err
    check_records(records(output, compression_type="gzip"), run)
    assert not list(output.glob("*.tfindex"))
    data = (output / "00000.tfrecord.gz").read_bytes()
    assert data[3:8] == bytes(5)  # no flags, thus no name, and no time
    plain = exported(run, "not-gzip", format="tfrecord")
    assert gzip.decompress(data) == (plain / "00000.tfrecord").read_bytes()


def test_the_index_is_that_of_tfrecord2idx(run):
    from tfrecord.tools.tfrecord2idx import create_index

    output = exported(run, "index", format="tfrecord")
    for path in output.glob("*.tfrecord"):
        create_index(str(path), str(output.parent / "theirs"))
        assert path.with_suffix(".tfindex").read_text() == (output.parent / "theirs").read_text()
    part = tfrecord_loader(str(output / "00000.tfrecord"), str(output / "00000.tfindex"), shard=(1, 2))
    assert [record["image/source_id"].decode() for record in part] == list(samples(run))[2:4]


@pytest.mark.skipif(not DALI, reason="NVIDIA DALI is not installed (the extra dali-cuda13)")
def test_dali_reads_the_records(run):
    import nvidia.dali.fn as fn
    import nvidia.dali.tfrecord as tfrec
    from nvidia.dali import pipeline_def

    output = exported(run, "dali", "--shuffle_seed=1", "--image_format=jpeg", format="tfrecord", status=0)

    @pipeline_def(batch_size=21, num_threads=1, device_id=None)
    def reader():
        features = {
            "image/encoded": tfrec.FixedLenFeature((), tfrec.string, ""),
            "image/source_id": tfrec.FixedLenFeature((), tfrec.string, ""),
            "image/width": tfrec.FixedLenFeature([1], tfrec.int64, 0),
            "nsfw": tfrec.FixedLenFeature([1], tfrec.float32, 0.0),
        }
        paths, indexes = (sorted(map(str, output.glob(f"*.{end}"))) for end in ("tfrecord", "tfindex"))
        found = fn.readers.tfrecord(path=paths, index_path=indexes, features=features)
        pixels = fn.decoders.image(found["image/encoded"], device="cpu")
        return found["image/encoded"], found["image/source_id"], found["image/width"], found["nsfw"], pixels

    pipeline = reader()
    pipeline.build()
    encoded, ids, widths, scores, pixels = pipeline.run()
    expected = {record["image/source_id"]: record for record in records(output)}
    assert [np.array(ids[n]).tobytes() for n in range(21)] == list(expected)
    for n, record in enumerate(expected.values()):
        assert np.array(encoded[n]).tobytes() == record["image/encoded"]
        assert np.array(widths[n])[0] == record["image/width"][0] == pixels[n].shape()[1]
        assert np.array(scores[n])[0] == record["nsfw"][0]


# --- the order, and the same bytes


@pytest.mark.parametrize("format", ["webdataset", "tfrecord"])
def test_a_seed_gives_one_order_and_the_same_bytes(run, format):
    first = exported(run, f"seed-{format}", "--shuffle_seed=3", format=format)
    twice = exported(run, f"seed-{format}-2", "--shuffle_seed=3", "--direct_runner_bundle_repeat=2", format=format)
    other = exported(run, f"seed-{format}-3", "--shuffle_seed=4", format=format)
    card = {"README.md", "croissant.json"}  # they tell the folder's name
    same = {name: data for name, data in files(first).items() if name not in card}
    assert same == {name: data for name, data in files(twice).items() if name not in card}
    orders = [[row["key"] for row in rows(output)] for output in (run, first, other)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sizes(first) == [4, 4, 4, 4, 4, 1]


def test_the_order_is_that_of_the_packing(run):
    from tests.runs.test_packing import permuted

    keys = [row["key"] for row in rows(run)]
    expected = [keys[permuted(position, len(keys), 9)] for position in range(len(keys))]
    assert [row["key"] for row in rows(exported(run, "arithmetic", "--shuffle_seed=9"))] == expected


# --- samples that cannot be exported


@pytest.mark.parametrize("seed", [[], ["--shuffle_seed=2"]])
def test_what_cannot_be_encoded_is_listed_and_the_files_stay_full(run, capsys, seed):
    output = exported(run, f"failing{len(seed)}", "--image_format=webp", *seed, status=1)
    assert "4 samples are not in the export" in capsys.readouterr().err
    assert summary(output)["reasons"] == {"duplicate_member": 3, "unencodable_image": 1}
    failed = pq.read_table(output / "failures.parquet").to_pylist()
    assert {row["key"] for row in failed} == {"06", "16", "26", "15"}
    (wide,) = [row for row in failed if row["key"] == "15"]
    assert wide["error_message"] == "WEBP takes sides up to 16383 pixels, and the image has 17000"
    assert (wide["shard"], wide["row"]) == ("00002.tar", 2)
    assert sizes(output) == [4, 4, 4, 4, 1]
    assert set(samples(output)) == set(samples(run)) - {row["key"] for row in failed}
    assert not list(output.glob("00005*"))
    again = exported(run, f"failing{len(seed)}-again", "--image_format=webp", *seed, status=1)
    assert files(again)["00002.tar"] == files(output)["00002.tar"]


@pytest.mark.parametrize("good", [0, 1])
def test_files_that_failures_leave_empty_go(tmp_path, good):
    members = [(f"{n}.png", encoded(photo(n, 20 if n < good else 17000, 20), "PNG")) for n in range(6)]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    run = curated(tmp_path / "in.tar", tmp_path / "run")
    output = exported(run, "out", "--image_format=webp", "--samples_per_file=2", status=1)
    assert sizes(output) == [1] * good
    assert sorted(path.name for path in output.glob("0*")) == ["00000.parquet", "00000.tar", "00000_stats.json"] * good
    assert summary(output)["failed"] == 6 - good
    exported(run, "out", "--image_format=webp", "--samples_per_file=2", "--resume", status=1)


def test_workers_in_processes_of_their_own_write_the_same(run):
    one = exported(run, "one", "--shuffle_seed=3", SMALL)
    two = exported(
        run, "two", "--shuffle_seed=3", SMALL, "--direct_running_mode=multi_processing", "--direct_num_workers=2"
    )
    tars = [{path.name: path.read_bytes() for path in output.glob("[0-9]*")} for output in (one, two)]
    assert tars[0] == tars[1]


def test_an_image_that_changed_in_the_run_stops_the_export(run, tmp_path):
    from beam_curate.tars.sources import SourceChangedError

    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    tar = bytearray((copy / "00001.tar").read_bytes())
    tar[700] ^= 1
    (copy / "00001.tar").write_bytes(tar)
    with pytest.raises((SourceChangedError, RuntimeError), match="has sha256"):
        export.main([f"--input={copy}", f"--output={tmp_path}/out", "--format=webdataset"])
    assert not (tmp_path / "out" / "summary.json").exists()


# --- continuing, refusing, replacing


def test_a_stopped_export_goes_on_and_keeps_what_it_has(run, capsys):
    flags = [SMALL, "--shuffle_seed=3"]
    output = exported(run, "stopped", *flags)
    expected = files(output)
    for name in ("summary.json", "index.json", "README.md", "00001_stats.json", "00001.tar", "00002_stats.json",
                 "00003.tar", "00004.parquet"):  # fmt: skip
        (output / name).unlink()
    times = {name: (output / name).stat().st_mtime_ns for name in ("00000.tar", "00002.tar")}
    exported(run, "stopped", *flags, "--resume")
    assert files(output) == expected
    assert (output / "00000.tar").stat().st_mtime_ns == times["00000.tar"]
    assert (output / "00002.tar").stat().st_mtime_ns != times["00002.tar"]
    exported(run, "stopped", *flags, "--resume")
    assert "is complete already" in capsys.readouterr().out
    exported(run, "stopped", *flags, "--resume", "--samples_per_file=5", status=2)
    assert "samples_per_file was 4 and is 5 now" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [[], ["--shuffle_seed=2"]])
def test_a_stopped_export_with_failures_goes_on_and_writes_nothing_twice(run, seed):
    name = f"stopped-failing{len(seed)}"
    output = exported(run, name, "--image_format=webp", *seed, status=1)
    expected = files(output)
    for lost in ("summary.json", "00003_stats.json"):
        (output / lost).unlink()
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("0*.tar")}
    exported(run, name, "--image_format=webp", *seed, "--resume", status=1)
    assert files(output) == expected
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("0*.tar")}
    assert [name for name in times if times[name] != after[name]] == ["00003.tar"]


def test_failures_that_were_noted_of_other_rows_do_not_count(run):
    """The note of another run's failures, and one that is damaged, are no reason to leave samples out."""
    output = exported(run, "noted", "--image_format=webp", status=1)
    expected = files(output)
    table = pq.read_table(output / "failures.parquet")
    for damaged in (False, True):
        metadata = {key: value.replace(b'"rows": "', b'"rows": "0') for key, value in table.schema.metadata.items()}
        first = table.slice(0, 1).replace_schema_metadata(metadata)
        pq.write_table(first, output / "failures.parquet")
        if damaged:
            (output / "failures.parquet").write_bytes(b"PAR1")
        (output / "summary.json").unlink()
        exported(run, "noted", "--image_format=webp", "--resume", status=1)
        assert files(output) == expected


@pytest.mark.parametrize("finished", [True, False])
def test_a_source_that_was_written_again_is_not_continued(run, tmp_path, capsys, finished):
    source, flags = tmp_path / "source", ["--shuffle_seed=1", "--samples_per_shard=5"]
    assert select.main([f"--scores={run}", f"--output={source}", *flags]) == 0
    output = exported(source, "export")
    if not finished:
        (output / "summary.json").unlink()
    assert select.main([f"--scores={run}", f"--output={source}", *flags, "--overwrite"]) == 0
    exported(source, "export", "--resume")  # the same again
    if not finished:
        (output / "summary.json").unlink()
    flags[0] = "--shuffle_seed=2"
    assert select.main([f"--scores={run}", f"--output={source}", *flags, "--overwrite"]) == 0
    before = files(output)
    capsys.readouterr()
    exported(source, "export", "--resume", status=2)
    assert "source.configuration.files.shuffle_seed was 1 and is 2 now" in capsys.readouterr().err
    assert files(output) == before


def test_a_source_of_the_same_configuration_but_other_samples_is_not_continued(run, tmp_path, capsys):
    source = tmp_path / "source"
    assert select.main([f"--scores={run}", f"--output={source}", "--samples_per_shard=5"]) == 0
    output = exported(source, "export")
    summary = json.loads((source / "summary.json").read_text())
    summary["table"] = "0" * 64
    (source / "summary.json").write_text(json.dumps(summary))
    capsys.readouterr()
    exported(source, "export", "--resume", status=2)
    assert "source.content was" in capsys.readouterr().err
    assert (output / "summary.json").exists()


def test_an_earlier_export_is_refused_or_replaced_whole(run, capsys):
    output = exported(run, "replaced", format="tfrecord")
    exported(run, "replaced", status=2)
    assert "holds a run already" in capsys.readouterr().err
    exported(run, "replaced", "--overwrite", "--card=no", "--croissant=no")
    kinds = {path.suffix for path in output.iterdir()}
    assert kinds == {".tar", ".parquet", ".json"}
    assert not (output / "croissant.json").exists()
    assert list(samples(output)) == list(samples(run))


def test_a_run_of_another_kind_is_not_continued(run, capsys):
    exported(run, "run", "--resume", status=2)
    assert "is the folder of --input" in capsys.readouterr().err
    other = run.parent / "other"
    assert select.main([f"--scores={run}", f"--output={other}"]) == 0
    exported(run, "other", "--resume", status=2)
    assert "holds a run of beam-curate curate, select or dedup" in capsys.readouterr().err


def test_a_selection_is_exported_too(run):
    chosen = run.parent / "chosen"
    assert select.main([f"--scores={run}", f"--output={chosen}", "--keep=format == 'PNG'"]) == 0
    output = exported(chosen, "of-selection", format="tfrecord")
    assert {record["image/source_id"].decode() for record in records(output)} == {"01", "11", "21"}
    assert "Rule `keep`: `format == 'PNG'`." in (output / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples_per_file=0"], "--samples_per_file is 0; give at least 1"),
        (["--resize_shortest=0"], "--resize_shortest is 0; give at least 1"),
        (["--quality=101", SMALL], "--quality is 101; give 1 to 100"),
        (["--quality=90"], "--quality 90: no image is encoded"),
        (["--quality=90", "--image_format=png"], "--image_format png is lossless"),
        (["--compression=gzip"], "--compression gzip is for --format tfrecord"),
        (["--image_format=gif"], "--image_format: invalid choice: 'gif'"),
        (["--fields="], "--fields is empty"),
        (["--fields=captoin"], "--fields captoin: there is no column 'captoin' to export; did you mean caption?"),
        (
            ["--fields=.jsn"],
            "--fields .jsn: no sample of the 5 shards that were looked at has a member .jsn; there are: .gif",
        ),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--shufle_seed=1"], "did you mean --shuffle_seed"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(run, capsys, flags, message):
    exported(run, "never", *flags, status=2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (run.parent / "never").exists()


def test_what_is_no_finished_run_is_refused(run, tmp_path, capsys):
    def refused(folder):
        assert export.main([f"--input={folder}", f"--output={tmp_path}/out", "--format=tfrecord"]) == 2
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(tmp_path / "empty")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{}")
    assert "is not finished; continue it with --resume" in refused(tmp_path / "half")
    assert "is not a run of beam-curate curate, select or dedup" in refused(
        exported(run, "an-export", format="tfrecord")
    )
    nothing = run.parent / "nothing"
    assert select.main([f"--scores={run}", f"--output={nothing}", "--keep=width > 99999"]) == 0
    assert "has no kept samples" in refused(nothing)
    capsys.readouterr()
    missing = run.parent / "missing"
    assert select.main([f"--scores={run}", f"--output={missing}"]) == 0
    capsys.readouterr()
    (missing / "00000.tar").write_bytes(tar_bytes([("a.txt", b"b")]))
    assert "and index.json says" in refused(missing)
    (missing / "00000.tar").unlink()
    assert "is missing" in refused(missing)


# --- card and Croissant


def test_the_card_tells_where_it_comes_from(run):
    from huggingface_hub import DatasetCard

    flags = ["--license=cc-by-4.0", "--dataset_name=Test: set", "--shuffle_seed=1", "--fields=caption,.txt"]
    output = exported(run, "card", SMALL, *flags)
    card = DatasetCard((output / "README.md").read_text())
    assert card.data.license == "cc-by-4.0"
    assert card.data.pretty_name == "Test: set"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.configs == [{"config_name": "default", "data_files": [{"split": "train", "path": "[0-9]*.tar"}]}]
    (split,) = card.data.dataset_info["splits"]
    assert (split["name"], split["num_examples"]) == ("train", 21)
    text = card.text
    for part in (
        "| kept | 21 |",
        "| exported | 21 |",
        "The scores mean nothing",
        "shuffled by the seed 1",
        models.SMALL,
    ):
        assert part in text


def test_the_card_and_the_report_list_the_rules_of_every_step_that_counts(run):
    chosen, unique, used, back = (run.parent / name for name in ("ruled", "ruled-unique", "ruled-used", "ruled-back"))
    assert select.main([f"--scores={run}", f"--output={chosen}", "--keep=side >= 35", "--top=aesthetic=15"]) == 0
    flags = ["--methods=exact,perceptual", "--max_distance=3", "--keep_by=first"]
    assert dedup.main([f"--scores={chosen}", f"--output={unique}", *flags]) == 0
    rules = ["- Rule `keep`: `side >= 35`.", "- Rule `top`: `aesthetic=15`."]
    duplicates = "- Of duplicates the best one of a group is kept: "
    duplicates += "`methods` `exact,perceptual`, `max_distance` `3`, `keep_by` `first`."
    card = (exported(unique, "of-unique") / "README.md").read_text().splitlines()
    assert [line for line in card if "Rule" in line or "duplicates" in line or "rule was" in line] == [
        *rules,
        duplicates,
    ]
    report = " ".join(html.unescape(re.sub("<[^>]*>", "", (unique / "report.html").read_text())).split())
    assert (
        "Rules: --keep side >= 35 --top aesthetic=15, then --methods exact,perceptual --max_distance 3 --keep_by first"
        in report
    )
    assert "side ≥ 35 lets" in report
    assert "No threshold is set" not in report.partition("nsfw No threshold")[0]

    assert select.main([f"--scores={unique}", f"--output={used}", f"--duplicates={unique}", "--min_side=30"]) == 0
    card = (exported(used, "of-used") / "README.md").read_text()
    assert "- Rule `min_side`: `30`." in card
    assert duplicates in card
    assert rules[0] not in card
    assert select.main([f"--scores={unique}", f"--output={back}"]) == 0
    assert "- No rule was set." in (exported(back, "of-back") / "README.md").read_text()


def test_croissant_validates_and_its_records_load(run):
    import mlcroissant

    output = exported(run, "croissant", SMALL, "--fields=*,embedding")
    dataset = mlcroissant.Dataset(jsonld=str(output / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    found = list(dataset.records("rows"))
    expected = rows(output)
    assert [record["rows/key"].decode() for record in found] == [row["key"] for row in expected]
    assert [record["rows/width"] for record in found] == [row["width"] for row in expected]
    assert found[0]["rows/aesthetic"] == pytest.approx(expected[0]["aesthetic"])


# --- the command


def test_photographs_of_cameras(assets, tmp_path):
    """The reference photographs, 184 JPEG, PNG and WebP files with orientations and profiles of their own."""
    photos = sorted((assets / "photos").iterdir())[:40]
    members = [(f"{n:04d}{path.suffix}", path.read_bytes()) for n, path in enumerate(photos)]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    run = curated(tmp_path / "in.tar", tmp_path / "run", "--samples_per_shard=15")
    output = exported(run, "small", "--resize_shortest=256", "--image_format=jpeg", "--quality=90", "--shuffle_seed=1")
    read = {sample["__key__"]: sample["jpg"] for sample in wds.WebDataset(
        sorted(map(str, output.glob("*.tar"))), shardshuffle=False).decode("pil")}  # fmt: skip
    assert len(read) == len(samples(run)) > 35
    for row in rows(output):
        if row["reencoded"] and min(row["original_width"], row["original_height"]) > 256:
            assert min(read[row["key"]].size) == 256
            ratio = row["original_width"] / row["original_height"]
            assert row["width"] / row["height"] == pytest.approx(ratio, rel=0.01)
    records_of = exported(run, "records", format="tfrecord")
    check_records(records(records_of), run)
    assert re.search(r"\d", (records_of / "00000.tfindex").read_text())
