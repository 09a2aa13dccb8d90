"""Hostile names and texts: they stay in the output folder, break no file and no terminal, and stay unique."""

import io
import json
import pathlib
import pickle
import shutil
import subprocess
import tarfile
import unicodedata

import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from beam_curate.clip import checkpoint
from beam_curate.commands.endings import fail
from beam_curate.heads import files
from beam_curate.heads.head import HeadError
from beam_curate.reasons import DESCRIPTIONS
from beam_curate.tars.sources import SourceChangedError, SourceReader
from beam_curate.tars.writing import safe_key, write_end, write_member
from tests.conftest import tar_bytes
from tests.support import torture

KEYS = [
    "../up",
    "a/../../up",
    "/absolute/path",
    "//server/share",
    "C:/windows",
    "C:drive",
    "CON",
    "aux/NUL",
    "back\\slash\\..\\..\\x",
    "new\nline",
    "carriage\rreturn",
    "bell\a\b",
    "\x1b[31mred\x1b[2J",
    "\x9b31m",
    "\u202egnp",
    "\u2066isolate",
    "<script>alert(1)</script>",
    "'; DROP TABLE samples; --",
    "-rf",
    "--checkpoint-action=exec=sh",
    "$(touch x)",
    "~/home",
    "trailing/",
    "double//slash",
    "double/slash",
    "double/./slash",
    "./here",
    "here",
    ".//here",
    " space ",
    "é日本\U0001f600",
    "bad\udcff\udc80bytes",
    "same\nkey",
    "same~0a~key",
    "Same~0A~key",
    "/__meta",
    "/__meta__/x",
    "k" * 200,
    "d" * 200 + "/" + "e" * 150,
]
SUFFIXES = ["jpg", "X\ny", "x~5c~y", "\x1b[31m", "\u202etxt", "..", "con:stream", "b__"]


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """The run over a shard of hostile names, with the summary and the rows."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "in").mkdir()
    members = []
    for place, key in enumerate(KEYS):
        members.append((f"{key}.jpg", torture.GOOD[0] + bytes(place)))
        members += [(f"{key}.{suffix}", b"%d" % place) for suffix in SUFFIXES[1:]]
    members += [("nul.jpg", torture.GOOD[0]), ("nul.txt", b"a\0b\x1b[31m\xff\n<b>" + b"c" * 2**19)]
    members += [("nul.json", json.dumps({"url": "h\0ttp\x1b[0m\ud800"}).encode())]
    members += [("long" * 16_384 + ".jpg", torture.GOOD[0])]
    (folder / "in" / "a.tar").write_bytes(tar_bytes(members, tarfile.PAX_FORMAT))
    (folder / "in" / "b.tar").write_bytes(tar_bytes(members[: 9 * len(SUFFIXES)], tarfile.GNU_FORMAT))
    summary, rows = torture.run(folder / "in" / "*.tar", folder / "out", per_shard=7)
    return folder, members, summary, rows


def test_every_sample_is_kept_or_has_a_reason(curated):
    _, _, summary, rows = curated
    torture.check_run(summary, rows)
    assert summary["funnel"]["reasons"] == {"unsupported_member": 1}  # the name of 64 KB
    assert "a name of more than 4,096 characters" in DESCRIPTIONS["unsupported_member"]
    assert summary["funnel"]["kept"] == len(KEYS) + 1 + 9


def test_nothing_leaves_the_folder_it_is_extracted_in(curated, tmp_path):
    folder, _, _, _ = curated
    before = sorted(path for path in folder.rglob("*"))
    tars = sorted((folder / "out").glob("*.tar"))
    assert tars
    for path in tars:
        names = tarfile.open(path).getnames()
        assert len(set(names)) == len(names)
        for name in names:
            assert not any(unicodedata.category(character) == "Cc" for character in name)
            pure = pathlib.PurePosixPath(name)
            windows = pathlib.PureWindowsPath(name)
            assert not pure.is_absolute()
            assert not windows.drive or ":" in name[2:]
            assert not windows.root
            assert ".." not in pure.parts + windows.parts
        for tool in ("python", "gnu"):
            inside = tmp_path / path.stem / tool
            inside.mkdir(parents=True)
            if tool == "python":
                with tarfile.open(path) as archive:
                    archive.extractall(inside, filter="data")
            elif shutil.which("tar"):
                subprocess.run(["tar", "-xf", path, "-C", inside], check=True, stderr=subprocess.PIPE)
            else:
                continue
            found = [found for found in inside.rglob("*") if found.is_file()]
            assert len(found) == len(names)  # none was extracted over another
    assert sorted(path for path in folder.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.stem for path in tars)


def test_readers_find_every_sample_once(curated):
    folder, members, summary, _ = curated
    shards = [str(path) for path in sorted((folder / "out").glob("*.tar"))]
    found = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(found) == len({sample["__key__"] for sample in found}) == summary["funnel"]["kept"]
    # The key of `back\\slash\\..\\..\\x.jpg` ends before its first dot.
    images = sorted(next(data for name, data in sample.items() if name.endswith("jpg")) for sample in found)
    kept = [data for name, data in members[:-1] if name.endswith(".jpg")]
    kept += [data for name, data in members[: 9 * len(SUFFIXES)] if name.endswith(".jpg")]
    assert images == sorted(kept)
    # A member each for the hostile extensions: none was lost, none became another.
    assert all(len(sample) == 3 + len(SUFFIXES) for sample in found if "txt" not in sample)


def test_tables_and_json_hold_texts_as_data(curated):
    folder, _, _, rows = curated
    (row,) = [row for row in rows if row["key"] == "nul"]
    assert row["caption"].startswith("a\0b\x1b[31m\ufffd\n<b>ccc")
    assert row["url"] == "h\0ttp\x1b[0m?"
    keys = [
        key for path in sorted((folder / "out").glob("*.parquet")) for key in pq.read_table(path)["key"].to_pylist()
    ]
    assert len(set(keys)) == len(keys)
    assert all(safe_key(key) == key for key in keys)
    for path in (folder / "out").glob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("suffix", ["jpg/../../x", "/../../x", "x/../../../etc", "..", "jpg\0", "\\..\\x", "a\nb"])
def test_a_suffix_does_not_escape_either(suffix, tmp_path):
    out = io.BytesIO()
    write_member(out, f"key.{suffix}", b"data")
    write_end(out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        (name,) = archive.getnames()
        assert ".." not in name.split("/")
        archive.extractall(tmp_path / "in", filter="data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_extensions_that_become_one_are_duplicates():
    image = torture.GOOD[0]
    found = torture.check_shard(
        tar_bytes(
            [
                ("a.jpg", image),
                ("a.x\ny", b""),
                ("a.x~0a~y", b""),
                ("b.jpg", image),
                ("b.\x1b[31m", b""),
                ("b.\x1b[31M", b""),
            ]
        )
    )
    assert [sample.failure.reason for sample in found] == ["duplicate_member"] * 2


def test_errors_do_not_act_on_the_terminal(capsys, tmp_path):
    assert fail(ValueError("key '\x1b[31m\u202e\n\x9b2J' \ud800 is wrong")) == 2
    line = capsys.readouterr().err
    assert line == "error: key '?[31m? ?2J' ? is wrong\n"
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.jpg", b"1")]))
    with SourceReader() as reader, pytest.raises(SourceChangedError) as caught:
        reader.read(str(path), 512, 1, "jpg", "\x1b[31m\n")
    assert torture.is_plain(str(caught.value))


# --- model files


class _Touch:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path(self.path),))


def hostile_files(path, mark):
    """A model file that runs code when it is unpickled, in the ways in which that can be written."""
    torch.save({"weight": torch.zeros(2), "more": _Touch(mark)}, path)
    yield
    torch.save({"state_dict": _Touch(mark)}, path, _use_new_zipfile_serialization=False)
    yield
    path.write_bytes(pickle.dumps(_Touch(mark)))
    yield


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".safetensors"])
def test_no_model_file_is_unpickled(tmp_path, ending):
    path, mark = tmp_path / f"model{ending}", tmp_path / "mark"
    for _ in hostile_files(path, mark):
        with pytest.raises(HeadError, match="safetensors"):
            files.read_weights(str(path))
        with pytest.raises(ValueError, match=r"safetensors|fetch|state_dict") as caught:
            list(checkpoint.read_visual_state(str(path)))
        assert torture.is_plain(str(caught.value))
        assert not mark.exists()
    with path.open("wb") as stream:
        pickle.dump(_Touch(mark), stream)
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the pickle does what it says where somebody loads it
