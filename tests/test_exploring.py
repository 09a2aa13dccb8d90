"""The programs of docs/exploring.md: the page shows the files of examples/, and each of them runs on a run."""

import ast
import gzip
import json
import re
import runpy
import tarfile

import jsonschema
import pytest

from beam_curate import read_score_table
from beam_curate.commands import pack
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.exporting_runs import curated

PAGE = (ROOT / "docs" / "exploring.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
SHOWN = ("explore_duckdb", "explore_polars", "explore_daft", "explore_pandas", "to_huggingface", "to_fiftyone")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exploring")
    members = [(f"{n}.{end}", data) for n in range(6) for end, data in (("jpg", encoded(photo(n))), ("txt", b"a text"))]
    (folder / "in.tar").write_bytes(tar_bytes([*members, ("broken.jpg", b"no image"), ("broken.txt", b"x")]))
    curated(folder / "in.tar", folder / "run")
    return folder / "run"


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_the_page_shows_the_files(number):
    code = ast.parse((ROOT / "examples" / f"{SHOWN[number]}.py").read_text())
    assert ast.dump(ast.Module(code.body[1:], [])) == ast.dump(ast.parse(BLOCKS[number]))  # all but the docstring
    assert len(BLOCKS) == len(SHOWN)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("explore_duckdb", r"failed *│ not_an_image *│ +1 │(.|\n)*in\.tar"),
        ("explore_polars", r"4\.0 \d\n4\.5 \d\n5\.0 \d\n5\.5 \d\n"),
        ("explore_daft", r"failed *┆ not_an_image *┆ 1 (.|\n)*│ [0-5] *┆ \d"),
        ("explore_pandas", r"0 +(1\.0|0\.99)\d+ (.|\n)*a text"),
    ],
)
def test_each_says_what_the_run_holds(finished, name, wanted, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, str(finished)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    assert re.search(wanted, capsys.readouterr().out)


def test_the_code_of_the_layout_page_reads_a_run(finished):
    page = (ROOT / "docs" / "architecture.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    found = {}
    exec(code.replace("gs://bucket/best", str(finished)), found)
    assert found["run"].summary.funnel.kept == 6
    assert found["run"].configuration.rules.min_aesthetic is None
    assert found["run"].configuration.scored.model.weights == "random:0"


def test_what_goes_to_the_hub_comes_back_by_pack(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["to_huggingface", str(finished)])
    runpy.run_path(str(ROOT / "examples" / "to_huggingface.py"))
    assert pack.main([f"--input={finished}-hub.parquet", f"--output={tmp_path / 'out'}", "--key_column=__key__"]) == 0
    import webdataset

    back = {
        each["__key__"]: each["jpg"]
        for each in webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False)
    }
    assert back == {str(n): encoded(photo(n)) for n in range(6)}


def test_photographs_of_a_camera_go_to_the_hub_with_all_that_is_known_of_them(tmp_path, monkeypatch):
    """Extensions in capitals, formats side by side, fields and types that the first five samples do not have."""
    from datasets import Dataset

    facts = [{"n": 1}] * 6 + [{"n": "two", "more": [1, {}]}]
    members = [
        (f"{n}.{end}", data)
        for n, fact in enumerate(facts)
        for end, data in (("png" if n == 3 else "JPG", encoded(photo(n))), ("json", json.dumps(fact).encode()))
    ]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    run = curated(tmp_path / "in.tar", tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["to_huggingface", str(run)])
    runpy.run_path(str(ROOT / "examples" / "to_huggingface.py"))
    written = Dataset.from_parquet(f"{run}-hub.parquet", cache_dir=str(tmp_path / "cache"))
    assert [row["json"] for row in written] == facts
    assert [(row["JPG"] or row["png"]).size for row in written] == [photo(0).size] * 7
    assert pack.main([f"--input={run}-hub.parquet", f"--output={tmp_path / 'out'}", "--image_column=JPG"]) == 0
    packed = json.loads((tmp_path / "out" / "summary.json").read_text())["pack"]
    assert (packed["packed"], packed["failed"]) == (6, 1)  # the PNG is in the other column
    with tarfile.open(tmp_path / "out" / "00000.tar") as archive:
        found = [json.load(archive.extractfile(member))["json"] for member in archive if member.name.endswith(".json")]
    assert found == [fact for n, fact in enumerate(facts) if n != 3]


def test_a_run_whose_card_names_the_rows_has_no_images_for_the_hub(tmp_path, monkeypatch):
    members = [
        (f"{n}.{end}", data)
        for n in range(2)
        for end, data in (("jpg", encoded(photo(n))), ("json", b"{}"), ("x", b""))
    ]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    run = curated(tmp_path / "in.tar", tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["to_huggingface", str(run)])
    with pytest.raises(SystemExit, match="datasets reads no images there"):
        runpy.run_path(str(ROOT / "examples" / "to_huggingface.py"))


# docs.voxel51.com, "Importing datasets", FiftyOneImageClassificationDataset: labels by the path below data/ without extension.
OF_FIFTYONE = {
    "type": "object",
    "required": ["classes", "labels"],
    "additionalProperties": False,
    "properties": {
        "classes": {"type": ["array", "null"], "items": {"type": "string"}},
        "labels": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["label"],
                "additionalProperties": False,
                "properties": {
                    "label": {"type": "string"},
                    "confidence": {"type": "number"},
                    "attributes": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
                },
            },
        },
    },
}


def test_fiftyone_gets_the_images_that_links_point_to(tmp_path, monkeypatch):
    plain = tmp_path / "in.tar"
    plain.write_bytes(tar_bytes([(f"{n}.jpg", encoded(photo(n))) for n in range(2)]))
    with tarfile.open(plain, "a") as archive:
        for name, kind, target in (("2.jpg", tarfile.LNKTYPE, "0.jpg"), ("3.jpg", tarfile.SYMTYPE, "1.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    (tmp_path / "in.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    run = curated(f"{plain},{plain}.gz", tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["to_fiftyone", str(run), str(tmp_path / "for-fiftyone")])
    runpy.run_path(str(ROOT / "examples" / "to_fiftyone.py"))
    found = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "for-fiftyone").rglob("*.jpg")}
    assert list(found.values()).count(encoded(photo(0))) == list(found.values()).count(encoded(photo(1))) == 4
    plain.write_bytes(plain.read_bytes().replace(encoded(photo(0)), encoded(photo(0))[:-3] + b"abc"))
    with pytest.raises(SystemExit, match="no longer as it was scored"):
        runpy.run_path(str(ROOT / "examples" / "to_fiftyone.py"))


@pytest.mark.parametrize(("more", "number"), [((), 6), (("2",), 2)])
def test_what_fiftyone_takes(finished, tmp_path, monkeypatch, more, number):
    target = tmp_path / "for-fiftyone"
    monkeypatch.setattr("sys.argv", ["to_fiftyone", str(finished), str(target), *more])
    runpy.run_path(str(ROOT / "examples" / "to_fiftyone.py"))

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    said = json.loads((target / "labels.json").read_text(), parse_constant=refuse)
    jsonschema.validate(said, OF_FIFTYONE)
    images = {path.relative_to(target / "data").with_suffix("").as_posix(): path for path in target.rglob("*.jpg")}
    assert images.keys() == said["labels"].keys() == {f"0/{n}" for n in range(number)}
    rows = {row["key"]: row for row in read_score_table(str(finished)).to_pylist()}
    for name, label in said["labels"].items():
        row = rows[label["attributes"]["key"]]
        assert images[name].read_bytes() == encoded(photo(int(row["key"])))
        assert (label["label"], label["attributes"]["caption"]) == ("kept", "a text")
        assert {score: label["attributes"][score] for score in ("aesthetic", "nsfw")} == {
            score: row[score] for score in ("aesthetic", "nsfw")
        }
