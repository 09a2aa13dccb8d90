import os

import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.localfilesystem import LocalFileSystem

from beam_curate import storage


def test_a_file_appears_whole(tmp_path):
    output = str(tmp_path / "out")
    with storage.atomic_output(output, "scores/a.bin") as stream:
        stream.write(b"half")
        assert not os.path.exists(f"{output}/scores/a.bin")
        stream.write(b" whole")
    assert storage.read_bytes(f"{output}/scores/a.bin") == b"half whole"
    storage.clean_temporary(output)
    assert sorted(os.listdir(output)) == ["scores"]


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    output = str(tmp_path)
    storage.write_json(output, "a.json", {"old": 1})
    with pytest.raises(ZeroDivisionError), storage.atomic_output(output, "a.json") as stream:
        stream.write(b"{")
        raise ZeroDivisionError
    assert storage.read_json(f"{output}/a.json") == {"old": 1}
    assert os.listdir(f"{output}/_temporary") == []


def test_a_failed_rename_is_an_error(tmp_path, monkeypatch):
    def refuse(self, sources, destinations):
        raise BeamIOError("Rename operation failed", {})

    monkeypatch.setattr(LocalFileSystem, "rename", refuse)
    with pytest.raises(BeamIOError, match="Rename"):
        storage.write_json(str(tmp_path), "a.json", 1)
    assert not storage.exists(f"{tmp_path}/a.json")


def test_clean_temporary_removes_what_a_killed_write_left(tmp_path):
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_temporary" / "x-a.tar").write_bytes(b"half")
    storage.clean_temporary(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_delete_of_a_missing_file_is_fine(tmp_path):
    storage.delete([f"{tmp_path}/never"])


def test_urls_stay_and_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("gs://bucket/a") == "gs://bucket/a"
    assert storage.absolute("a/b") == f"{tmp_path}/a/b"
    assert storage.join("/a/b/", "c") == "/a/b/c"
