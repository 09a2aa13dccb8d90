"""`pack.py` end to end: what it makes is read back by webdataset, wids and `datasets`; each row is accounted for."""

import json
import os
import shlex

import datasets
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import webdataset
import wids

from beam_curate.commands import curate, pack
from beam_curate.intake.images import Images
from beam_curate.intake.request import read_request
from beam_curate.progress import PROGRESS, samples_seen
from beam_curate.storage.listing import list_shards
from tests.conftest import encoded, photo, tar_bytes


def samples(folder):
    """The members of all samples, by key, as webdataset reads them."""
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    return {each["__key__"]: {k: v for k, v in each.items() if not k.startswith("__")} for each in dataset}


def statuses(folder):
    table = ds.dataset(folder / "rows").to_table().to_pylist()
    return {row["source"]: row["reason"] or row["status"] for row in table}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for n in range(7):
        (folder / f"{n}.jpg").write_bytes(encoded(photo(n)))
        (folder / f"{n}.txt").write_text(f"caption {n}")
    (folder / "3.json").write_text('{"a":  1}')
    (folder / "empty.png").touch()
    (folder / "notes.md").touch()
    return folder


@pytest.mark.parametrize("name", ["a,b", "it's [1] {2}"])
def test_the_command_that_comes_next_names_the_shards_whatever_the_folder_is_called(photos, tmp_path, capsys, name):
    assert pack.main([f"--input={photos}", f"--output={tmp_path}/{name}"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: "))
    assert [shard.path for shard in list_shards(words[words.index("--input") + 1])] == [f"{tmp_path}/{name}/00000.tar"]


def test_a_folder_of_photographs(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = [f"--input={photos}", f"--output={out}", "--samples_per_shard=3"]
    assert pack.main(command) == 0
    said = capsys.readouterr().out
    assert (
        "input   8 rows\nfailed  1 row\npacked  7 rows\n  empty_file: 1\npassed over: files of other kinds: 1\n" in said
    )
    assert f"beam-curate curate --input '{out}/*.tar'" in said
    found = samples(out)
    assert found.keys() == {str(n) for n in range(7)}
    for n in range(7):
        assert found[str(n)]["jpg"] == (photos / f"{n}.jpg").read_bytes()
        assert found[str(n)]["txt"] == f"caption {n}".encode()
    assert found["3"]["json"] == b'{"a":  1}'
    assert statuses(out) == {
        **{str(photos / f"{n}.jpg"): "packed" for n in range(7)}, str(photos / "empty.png"): "empty_file"
    }  # fmt: skip
    assert len(wids.ShardListDataset(str(out / "index.json"))) == 7
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pack"] == {"input": 8, "failed": 1, "packed": 7, "reasons": {"empty_file": 1}}

    # The same again, of which one shard is gone: only its images are read.
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tar")}
    (out / "00001.tar").unlink()
    (out / "summary.json").unlink()
    read, beside = [], Images.beside  # which reads an image too

    def counted(images, path):
        read.append(os.path.basename(path))
        return beside(images, path)

    monkeypatch.setattr(Images, "beside", counted)
    assert pack.main([*command, "--resume"]) == 0
    assert sorted(read) == ["3.jpg", "3.json", "3.txt", "4.jpg", "4.txt", "5.jpg", "5.txt"]
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tar")}
    assert {name: data for name, (_, data) in after.items()} == {name: data for name, (_, data) in before.items()}
    assert {name for name in after if after[name] != before[name]} == {"00001.tar"}
    assert pack.main([*command, "--resume"]) == 0
    assert "complete already" in capsys.readouterr().out
    for name in ("00001.tar", "sizes.json", "index.json"):
        data = (out / name).read_bytes()
        (out / name).unlink()
        assert pack.main([*command, "--resume"]) == 2
        assert f"{out / name} is missing: restore it, or delete {out}/summary.json" in capsys.readouterr().err
        (out / name).write_bytes(data)


def test_parquet_as_datasets_writes_it(tmp_path):
    images = [photo(n) for n in range(5)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"image": [{"bytes": encoded(image, "PNG"), "path": None} for image in images], "label": [0, 1, 0, 1, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"), batch_size=2)
    out = tmp_path / "out"
    assert pack.main([f"--input={tmp_path}/train-*.parquet", f"--output={out}", "--samples_per_shard=2"]) == 0
    found = samples(out)
    assert list(found) == [f"{n:09d}" for n in range(5)]
    assert [each["png"] for each in found.values()] == [encoded(image, "PNG") for image in images]
    assert [json.loads(each["json"])["label"] for each in found.values()] == [0, 1, 0, 1, 1]


def test_a_table_of_paths_and_what_is_wrong_in_it(photos, tmp_path, capsys):
    text = "id,file_name,caption\nx,0.jpg,one\nx,1.jpg,two\ny,gone.jpg,three\nz,2.jpg,four\nw\n"
    (tmp_path / "t.csv").write_text(text)
    out = tmp_path / "out"
    more = ["--key_column=id", "--caption_column=caption", f"--base={photos}"]
    look = samples_seen(PROGRESS.snapshot())
    assert pack.main([f"--input={tmp_path}/t.csv", f"--output={out}", *more]) == 0
    assert look(1.0).words == "5 samples, 5.0 images/s, 3 failed"
    assert f"images: the paths in the column file_name, relative to {photos}\n" in capsys.readouterr().err
    found = samples(out)
    assert found.keys() == {"x", "z"}
    assert (found["x"]["jpg"], found["x"]["txt"]) == ((photos / "0.jpg").read_bytes(), b"one")
    assert [reason for _, reason in sorted(statuses(out).items())] == [
        "packed", "duplicate_key", "missing_file", "packed", "bad_row"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file_name\n", "t.csv has no rows; give a table"),
        ("file_name\ngone.jpg\n", "the folder of the table; give another by --base"),
        ('file_name\n""\n', "the reasons are above"),
    ],
)
def test_where_no_row_is_packed_it_says_why(tmp_path, text, why, capsys):
    (tmp_path / "t.csv").write_text(text)
    assert pack.main([f"--input={tmp_path}/t.csv", f"--output={tmp_path}/out"]) == 1
    assert why in capsys.readouterr().err


def test_images_that_are_named_one_by_one(photos, tmp_path):
    named = tmp_path / "set [1]"
    named.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (named / name).write_bytes(encoded(photo(1)))
    (named / "a.txt").touch()
    assert pack.main([f"--input={named}/a.jpg,{photos}/1.jpg", f"--output={tmp_path}/out"]) == 0
    found = list(samples(tmp_path / "out").items())
    assert [key.rpartition("/")[2] for key, _ in found] == ["1", "a"]
    assert found[1][1]["txt"] == b""
    request = read_request(f"{named},{named}/a.jpg")  # a folder may have brackets in its name
    assert [(place.folder, place.pattern) for place in request.places] == [
        (str(named), ""), (str(named), f"{tmp_path}/set [[]1]/a.jpg")
    ]  # fmt: skip


def test_no_image_in_a_class_folder(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(encoded(photo(1)))
    assert pack.main([f"--input={tmp_path}/in", f"--output={tmp_path}/out", "--class_folders"]) == 1
    assert "no image lies in a class folder below --input; leave out --class_folders" in capsys.readouterr().err


def test_class_folders_are_numbered_as_torchvision_does(tmp_path, capsys):
    torchvision = pytest.importorskip("torchvision")
    for name in ("zebra", "ant", "bee"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "1.jpg").write_bytes(encoded(photo(1)))
    assert pack.main([f"--input={tmp_path}/in", f"--output={tmp_path}/out", "--class_folders"]) == 0
    assert "3 classes: ant, bee, zebra\n" in capsys.readouterr().out
    theirs = torchvision.datasets.ImageFolder(str(tmp_path / "in"))
    wanted = {os.path.relpath(path, tmp_path / "in").removesuffix(".jpg"): index for path, index in theirs.samples}
    found = samples(tmp_path / "out")
    assert {key: int(each["cls"]) for key, each in found.items()} == wanted
    assert json.loads(found["zebra/1"]["json"]) == {"class": "zebra", "class_index": 2}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["classes"] == theirs.classes


WRONG = [
    (["--input={photos}", "--output={photos}/packed"], "lies in "),
    (["--input={photos}", "--path_column=x"], "--path_column is for a table"),
    (["--input={photos}/*.jpg", "--class_folders"], "--class_folders needs one folder"),
    (["--input={photos}/x"], "there is no folder "),
    (["--input={photos}/*.gif"], "there is no image (.jpg, .png, .webp, …); give the tables that are there"),
    (["--input={photos}/a,b"], r"a comma separates several names; write it as \, in a name"),
    (["--input={photos}/tables.csv"], "give the tables that are there: '{photos}/tables.csv/*.parquet'"),
    (["--input={photos}/tars"], "shards need no packing: give beam-curate curate --input '{photos}/tars/*.tar'"),
    (["--input={photos}/phone"], "make JPEGs of the pictures that are there, such as {photos}/phone/IMG_1.HEIC"),
    (["--input={photos}/t.csv.gz"], "is neither an image nor a table (.csv, .tsv, "),
    (["--input={photos}", "--beside=txt,JPG"], "--beside jpg: files with this extension are images"),
    (["--input={photos}", "--beside=cls", "--class_folders"], "--beside cls and --class_folders both give the class"),
    (["--input={photos}/t.csv", "--beside=txt"], "--beside is for a folder of images"),
    (["--input=x.tar"], "they need no packing"),
    (["--input={photos}/t.csv,{photos}"], "pack them one after the other"),
    (["--input={photos}/t.csv", "--path_column=nope"], "there are: file_name"),
    (["--input={photos}/t.csv", "--class_folders"], "for a folder of images"),
    (["--input={photos}", "--samples_per_shard=0"], "give at least 1"),
    (["--input={photos}/t.csv", "--base={photos}/nowhere"], "nowhere is not a folder; give the one that"),
    (["--input={photos}/gone.csv"], "--input names files that do not exist: "),
    (["--input={photos}/t.parquet", "--path_column=image"], "--path_column image: it holds the bytes of images"),
]


@pytest.mark.parametrize(("words", "line"), WRONG)
def test_wrong_options_are_told_before_the_first_write(photos, tmp_path, words, line, capsys):
    (photos / "t.csv").write_text("file_name\n0.jpg\n")
    for folder in ("a,b", "tables.csv", "tars", "phone"):
        (photos / folder).mkdir(exist_ok=True)
    (photos / "phone" / "IMG_1.HEIC").touch()
    for path in ("t.parquet", "tables.csv/t.parquet"):
        pq.write_table(pa.table({"image": [b"image"]}), photos / path)
    for path in ("t.csv.gz", "tars/t.tar"):
        (photos / path).touch()
    given = [word.format(photos=photos) for word in words]
    given += [] if any(word.startswith("--output") for word in given) else [f"--output={tmp_path}/out"]
    assert pack.main(given) == 2
    assert line.format(photos=photos) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spec", "what"),
    [("{photos}/*.jpg", "is an image"), ("{photos}", "is a folder of images"), ("{photos}/t.csv", "is a table")],
)
def test_curate_says_how_to_pack(photos, tmp_path, spec, what, capsys):
    (photos / "t.csv").write_text("file_name\n0.jpg\n")
    spec = spec.format(photos=photos)
    assert curate.main([f"--input={spec}", f"--output={tmp_path}/out", "--model_dir=none"]) == 2
    error = capsys.readouterr().err
    assert what in error
    quoted = f"'{spec}'" if "*" in spec else spec
    assert f"beam-curate pack --input {quoted} --output packed/" in error


def test_curate_reads_what_was_packed_and_a_folder_of_tars_is_told_as_before(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.jpg", encoded(photo(1)))]))
    assert curate.main([f"--input={tmp_path}", f"--output={tmp_path}/out"]) == 2
    assert "is a folder; give the shards in it" in capsys.readouterr().err
