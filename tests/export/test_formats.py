"""Formats: a selection writes in one pass what export writes of it, failures keep the files before them, every run has a card."""

import io
import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from tfrecord import tfrecord_loader

import beam_curate
from beam_curate import Division, Export, ExportFiles, ListParts, PackShards, Reencoding, Run
from beam_curate.commands import export, select
from beam_curate.export.fields import Fields
from beam_curate.export.formats import all_formats
from beam_curate.runs import output_files
from beam_curate.runs.finished_run import RunNotUsableError, read_run
from beam_curate.tars.sources import SourceReader
from beam_curate.transforms import pack_files, place_rows
from tests.conftest import encoded, photo, tar_bytes
from tests.support.exporting_runs import awkward, curated


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """21 made samples in three source shards of 7 and in output shards of 5."""
    folder = tmp_path_factory.mktemp("formats")
    return curated(awkward(folder), folder / "run", "--samples_per_shard=5")


def data_files(folder):
    kinds = (".tar", ".tfrecord", ".tfindex", ".gz", ".mds", ".parquet")
    skipped = ("input_shards.parquet", "failures.parquet")
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in kinds and path.name not in skipped
    }


def selected(run, output, *flags, status=0):
    assert select.main([f"--scores={run}", f"--output={output}", "--samples_per_shard=4", *flags]) == status
    return output


def exported(run, output, *flags, status=0):
    assert export.main([f"--input={run}", f"--output={output}", "--samples_per_file=4", *flags]) == status
    return output


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["--format=tfrecord", "--resize_shortest=64", "--fields=*,embedding,.json", "--shuffle_seed=3"], 0),
        (["--format=webdataset", "--image_format=webp"], 1),
    ],
)
def test_a_selection_writes_in_one_pass_what_export_writes_of_it(run, tmp_path, capsys, flags, status):
    once = selected(run, tmp_path / "once", *flags, status=status)
    twice = exported(run, tmp_path / "twice", *flags, status=status)
    assert data_files(once) == data_files(twice)
    files = json.loads((once / "summary.json").read_text())
    counts = json.loads((twice / "summary.json").read_text())["export"]
    del counts["input"]
    assert files["files"] == {"format": flags[0].partition("=")[2], **counts}
    assert files["funnel"]["kept"] == counts["exported"] + counts["failed"] == 21
    failed = [
        pq.read_table(folder / "failures.parquet").select(["key", "reason"]).to_pylist() for folder in (once, twice)
    ]
    assert failed[0] == failed[1]
    assert ("in no shard; see" in capsys.readouterr().err) == bool(status)
    with pytest.raises(RunNotUsableError, match="give the run that it was selected from"):
        read_run(str(once))
    selected(run, once, *flags, "--resume", status=status)
    assert "is complete already" in capsys.readouterr().out
    selected(run, once, "--resume", status=2)


@pytest.mark.parametrize(
    ("kind", "name"), [("TFRecordFiles", "tfrecord"), ("MDSFiles", "mds"), ("ResizedTars", "webdataset")]
)
def test_a_pipeline_of_ones_own_writes_a_format_as_the_commands_do(run, tmp_path, kind, name):
    packed, options = Run(str(run)).packed, PipelineOptions(["--runner=FnApiRunner"])
    wanted = getattr(beam_curate, kind)(Fields(("caption",), ()), packed.schema, Reencoding(shortest=64))
    flags = [f"--format={name}", "--fields=caption", "--resize_shortest=64", "--shuffle_seed=3"]
    with beam.Pipeline(options=options) as root:
        _ = root | ExportFiles(Export(str(run), str(tmp_path / "own"), wanted, packed.total, Division(4, 3)))
    assert data_files(tmp_path / "own") == data_files(exported(run, tmp_path / "exported", *flags)) != {}
    assert "# own\n" in (tmp_path / "own" / "README.md").read_text()
    assert json.loads((tmp_path / "own" / "croissant.json").read_text())["name"] == "own"


def test_a_table_is_packed_as_a_format_by_public_names(run, tmp_path):
    chosen = selected(run, tmp_path / "chosen", "--min_side=48")
    packed, options = Run(str(chosen)).packed, PipelineOptions(["--runner=FnApiRunner"])
    wanted = beam_curate.MDSFiles(Fields(("caption",), ()), packed.schema)
    with beam.Pipeline(options=options) as root:
        parts = root | ListParts(Run(str(chosen)).table)
        _ = parts | PackShards(str(chosen), Division(4, 3), {"scores_meaningless": True}, wanted)
    flags = ["--format=mds", "--fields=caption", "--min_side=48", "--shuffle_seed=3"]
    once = selected(run, tmp_path / "once", *flags)
    assert {path.name: path.read_bytes() for path in chosen.glob("*.mds")} == {
        path.name: path.read_bytes() for path in once.glob("*.mds")
    }


def test_the_source_alone_is_read(run, tmp_path, monkeypatch):
    read = set()
    start = SourceReader._start
    monkeypatch.setattr(SourceReader, "_start", lambda reader, path: (read.add(path), start(reader, path)))
    selected(run, tmp_path / "once", "--format=tfrecord")
    assert {path.rpartition("/")[2] for path in read} == {"0.tar", "1.tar", "2.tar"}
    assert all("/awkward/" in path for path in read)
    assert not list((tmp_path / "once").glob("*.tar"))


def test_only_the_files_from_the_first_failure_on_are_made_again(run, tmp_path, monkeypatch):
    """Sample 06, the seventh, fails: of six files the first stays, and the others are written twice."""
    written, looked = [], []
    write, find = output_files.write_file, output_files.finished_file

    def noted(format, output, index, rows, plan=""):
        written.append(index)
        return write(format, output, index, rows, plan)

    def found(format, output, index, plan):
        looked.append(index)
        return find(format, output, index, plan)

    monkeypatch.setattr(pack_files, "write_file", noted)
    monkeypatch.setattr(pack_files, "finished_file", found)
    output = exported(run, tmp_path / "out", "--format=webdataset", "--image_format=webp", status=1)
    assert sorted(written) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    written.clear()
    before = data_files(output), (output / "00000.tar").stat().st_ino
    (output / "summary.json").unlink()
    exported(run, output, "--format=webdataset", "--image_format=webp", "--resume", status=1)
    assert (data_files(output), (output / "00000.tar").stat().st_ino) == before
    assert 0 not in written
    assert looked.count(0) >= 2


@pytest.mark.parametrize("format", sorted(all_formats()))
def test_a_finished_file_is_found_without_listing_the_folder(run, tmp_path, monkeypatch, format):
    output = exported(run, tmp_path / "out", f"--format={format}")
    (output / "summary.json").unlink()
    calls = []
    for name in ("files_under", "match"):
        monkeypatch.setattr(
            f"beam_curate.storage.files.{name}", lambda *_, name=name: calls.append(name), raising=False
        )
    names = json.loads((output / "sizes.json").read_text())
    extension = next(iter(names)).partition(".")[2]
    beside = tuple(f".{path.name.partition('.')[2]}" for path in output.glob("00000.*index"))
    kind = type("Kind", (), {"extension": extension, "beside": beside})
    for index in range(6):
        plan = json.loads((output / f"{index:05d}_stats.json").read_text())["plan"]
        assert output_files.finished_file(kind(), str(output), index, plan).index == index
        assert output_files.finished_file(kind(), str(output), index, "another") is None
    assert calls == []


def test_a_format_is_called_by_the_name_of_its_file():
    for name, kind in all_formats().items():
        assert kind(Fields((), ()), pa.schema([])).name == name


def test_a_row_travels_without_the_embedding_unless_it_is_asked_for(run, tmp_path, monkeypatch):
    columns = []
    place = place_rows.place_part

    def noted(*arguments):
        for result in place(*arguments):
            columns.append(set(result.table.column_names))
            yield result

    monkeypatch.setattr(place_rows, "place_part", noted)
    selected(run, tmp_path / "without", "--format=tfrecord", "--shuffle_seed=1")
    assert len(columns) == 3
    assert not any("embedding" in names for names in columns)
    columns.clear()
    selected(run, tmp_path / "with", "--format=tfrecord", "--shuffle_seed=1", "--fields=embedding")
    assert all("embedding" in names and "aesthetic" not in names for names in columns)


def test_datasets_loads_the_folder_of_a_run(run, tmp_path, monkeypatch):
    from datasets import load_dataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache = str(tmp_path / "cache")
    keys = [row["key"] for path in sorted(run.glob("[0-9]*.parquet")) for row in pq.read_table(path).to_pylist()]
    # JPEG, PNG, WebP and GIF beside .json members: their extensions tell the features.
    assert load_dataset(str(run), cache_dir=cache)["train"]["__key__"] == keys
    one_kind = selected(
        run, tmp_path / "jpeg", "--keep=format == 'JPEG' and key != '06' and key != '16' and key != '26'"
    )
    tars = load_dataset(str(one_kind), cache_dir=cache)["train"]
    assert [key for key in keys if key[1] in "045" and key != "15"] == [key for key in tars["__key__"] if key != "15"]
    assert tars[0]["jpg"].size == (120, 90)


def test_a_member_that_only_later_shards_have_is_exported(tmp_path, capsys):
    (tmp_path / "0.tar").write_bytes(b"no tar at all")
    (tmp_path / "1.tar").write_bytes(tar_bytes([("a.jpg", encoded(photo(1)))]))
    (tmp_path / "2.tar").write_bytes(tar_bytes([("b.jpg", encoded(photo(2))), ("b.json", b'{"n": 1}')]))
    run = curated(tmp_path / "*.tar", tmp_path / "run", "--samples_per_shard=1")
    flags = ["--format=tfrecord", "--fields=caption,.json"]
    once = selected(run, tmp_path / "once", *flags)
    assert data_files(once) == data_files(exported(run, tmp_path / "twice", *flags))
    (record,) = (
        each for each in tfrecord_loader(str(once / "00000.tfrecord"), None) if each["image/source_id"] == b"b"
    )
    assert bytes(record["member/json"]) == b'{"n": 1}'


def as_datasets_reads(folder, members):
    """What `datasets` makes of the samples of a run: read at once, and streamed."""
    from datasets import load_dataset

    (folder / "in.tar").write_bytes(tar_bytes(members))
    run = curated(folder / "in.tar", folder / "run")
    whole = load_dataset(str(run), split="train", cache_dir=str(folder / "cache"))
    streamed = load_dataset(str(run), split="train", streaming=True, cache_dir=str(folder / "cache"))
    assert list(whole) == list(streamed)
    return list(whole)


@pytest.mark.parametrize("beside", ["txt", "json", "npy"])
def test_datasets_finds_images_with_extensions_in_capitals(tmp_path, monkeypatch, beside):
    """Cameras write .JPG. To `datasets` that is another member than .jpg, and one that a sample lacks is None."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = {"txt": b"a text", "json": b'{"a": 1}', "npy": npy(np.zeros(3))}[beside]
    endings = ["JPG", "Jpg"] if beside != "npy" else ["JPG"]
    members = [
        (f"{n}.{end}", image)
        for n in range(6)
        for end, image in ((endings[n % len(endings)], encoded(photo(n))), (beside, data))
    ]
    rows = as_datasets_reads(tmp_path, members)
    assert [row[endings[n % len(endings)]].size for n, row in enumerate(rows)] == [(96, 64)] * 6
    assert all(row[beside] for row in rows)


CHANGING = [{"n": 1, "boxes": [], "error": None, "x": "a", "at": 0}] * 6 + [
    {"n": 1.5, "boxes": [[0.25, 1]], "error": "late", "x": 7, "more": {"deep": [{"b": None}]}},
    [1, "a list"],
    "a text",
]
"""Fields and types that the first five samples do not tell of, as in DataComp's `face_bboxes`."""


def changing_members(**beside):
    """An image and a .json for each of CHANGING, and the same other members beside each."""
    return [
        (f"{n}.{end}", data)
        for n, value in enumerate(CHANGING)
        for end, data in {"jpg": encoded(photo(n)), "json": json.dumps(value).encode(), **beside}.items()
    ]


def test_datasets_gives_json_members_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = as_datasets_reads(tmp_path, changing_members())
    assert [row["json"] for row in rows] == CHANGING


def test_datasets_does_not_guess_what_is_in_json_members_beside_others(tmp_path, monkeypatch):
    """It would have to look for the shape of the arrays, and with it for the fields of .json: the rows are named."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = as_datasets_reads(tmp_path, changing_members(npy=npy(np.arange(3.0))))
    assert [row["key"] for row in rows] == [str(n) for n in range(len(CHANGING))]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_a_readme_of_the_users_own_stays(run, tmp_path):
    output = selected(run, tmp_path / "out")
    assert "- beam-curate" in (output / "README.md").read_text()
    (output / "README.md").write_text("my notes, with - beam-curate in them\n")
    selected(run, output, "--overwrite", "--keep=format == 'PNG'")
    assert (output / "README.md").read_text() == "my notes, with - beam-curate in them\n"
    (output / "README.md").unlink()
    selected(run, output, "--overwrite")
    card = (output / "README.md").read_text()
    assert "| kept | 21 |" in card
    selected(run, output, "--overwrite", "--keep=format == 'PNG'")
    assert "| kept | 3 |" in (output / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--compression=gzip"], "--compression gzip is for --format tfrecord"),
        (["--quality=90"], "--quality 90: no image is encoded"),
        (["--fields=captoin"], "--fields captoin: there is no column 'captoin' to export; did you mean caption?"),
        (["--fields="], "--fields is empty"),
        (["--format=zip"], "--format: invalid choice: 'zip'"),
    ],
)
def test_a_wrong_option_of_a_format_is_refused(run, tmp_path, capsys, flags, message):
    selected(run, tmp_path / "never", *flags, status=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "never").exists()
