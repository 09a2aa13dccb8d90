"""Listing local disks leaves nothing out: what cannot be looked at, or read, is named."""

import collections
import errno
import glob
import os
import re
from itertools import product

import pytest

from beam_curate.storage import local_files as local
from beam_curate.storage import retrying
from beam_curate.storage.listing import InputError, list_shards
from beam_curate.storage.operations import all_files, files_under
from beam_curate.storage.walking import NO_FILE, files_below


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 3)


@pytest.fixture
def folder(tmp_path):
    """Files at three levels, and folders behind links: one of them elsewhere, one that is there already, one above itself."""
    here = tmp_path / "here"
    tree(here, "a.tar", "1.tar", ".b.tar", "d/a.tar", "d/e/a.tar", "e/1.tar", "sp [1].d/a.tar")
    tree(tmp_path / "there", "c.tar", "f/c.tar")
    (here / "elsewhere").symlink_to(tmp_path / "there")
    (here / "again").symlink_to(here / "d")
    (here / "d" / "up").symlink_to(here)
    (here / "file.tar").symlink_to(here / "a.tar")
    return here


def test_without_stars_for_folders_it_finds_what_the_standard_library_does(folder):
    levels = ["*", "?", "d", "[de]", "[!d]", "elsewhere", "again", "sp [[]1].d", "a*", "up"]
    files = ["*", "*.tar", "a.tar", "[ac].tar", "?.tar", "nothing"]
    for parts in [[file] for file in files] + [*product(levels, files), *product(levels, levels, files)]:
        pattern = "/".join([glob.escape(str(folder)), *parts])
        # Its star leaves out what begins with a dot; ours does not.
        wanted = {path for path in glob.glob(pattern) if not os.path.isdir(path)}
        found = [path for path in local.local_matches(pattern) if not os.path.basename(path).startswith(".")]
        assert found == sorted(wanted), pattern


def test_two_stars_look_behind_links_and_into_each_folder_once(folder):
    names = [path.removeprefix(f"{folder}/") for path in local.local_matches(f"{folder}/**.tar")]
    wanted = [".b.tar", "1.tar", "a.tar", "d/a.tar", "d/e/a.tar", "e/1.tar", "elsewhere/c.tar", "elsewhere/f/c.tar", "file.tar",
              "sp [1].d/a.tar"]  # fmt: skip
    assert names == sorted(wanted)
    assert sorted(path.removeprefix(f"{folder}/") for path in all_files(str(folder))) == sorted(wanted)


@pytest.mark.parametrize(
    ("pattern", "named", "what"),
    [
        ("*.tar", "gone.tar", "a link that leads nowhere"),
        ("l*.tar", "loop.tar", "a link that leads nowhere"),
        ("los*/*.tar", "lost", "a link that leads nowhere"),
        ("lost/*.tar", "lost", "a link that leads nowhere"),
        ("p*.tar", "pipe.tar", "a pipe or a device"),
        ("**.tar", "gone.tar", "a link that leads nowhere"),
    ],
)
def test_a_pattern_that_matches_no_file_but_a_name_is_refused(folder, pattern, named, what):
    (folder / "gone.tar").symlink_to("/nowhere.tar")
    (folder / "loop.tar").symlink_to("loop.tar")
    (folder / "lost").symlink_to("/nowhere")
    os.mkfifo(folder / "pipe.tar")
    with pytest.raises(InputError, match=re.escape(f"matches {folder}/{named}, which is {what}")):
        list_shards(f"{folder}/{pattern}")


def test_shards_behind_a_link_to_a_folder_are_found(folder):
    assert [shard.path for shard in list_shards(f"{folder}/else*/*.tar")] == [f"{folder}/elsewhere/c.tar"]


def test_what_stands_for_an_image_and_is_none_is_told_by_its_size(folder):
    (folder / "gone.jpg").symlink_to("/nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    sizes = {os.path.basename(path): size for path, size in files_below(str(folder))}
    assert (sizes["gone.jpg"], sizes["pipe.jpg"], sizes["a.tar"]) == (0, NO_FILE, 3)


@pytest.fixture
def looks(monkeypatch):
    """How often each path is looked at (`stat`) or listed (`scandir`), by the name of the call."""
    counts = {"stat": collections.Counter(), "scandir": collections.Counter()}

    def counting(name, real):
        def look(path, *args, **more):
            counts[name][str(path)] += 1
            return real(path, *args, **more)

        return look

    for name in counts:
        monkeypatch.setattr(local.os, name, counting(name, getattr(os, name)))
    return counts


@pytest.mark.parametrize(
    "pattern", ["*.tar", "**.tar", "{d,e}/*.tar", "{a,1,.b}.tar", "many/{00..19}.tar", "sp*/?.tar"]
)
def test_each_file_that_an_input_names_is_looked_at_once(folder, looks, pattern):
    tree(folder, *(f"many/{number:02d}.tar" for number in range(20)))
    shards = list_shards(f"{folder}/{pattern}")
    files = {shard.path for shard in shards}
    links = {f"{folder}/file.tar"} if pattern == "**.tar" else set()  # the walk asks whether a folder is behind it
    assert {path: looks["stat"][path] for path in files} == {path: 1 + (path in links) for path in files}
    assert all(shard.size == 3 for shard in shards)
    assert set(looks["scandir"].values()) <= {1}


def test_the_files_of_a_folder_of_ours_are_looked_at_once_and_no_other(folder, looks):
    found = files_under(str(folder), "*.tar")
    assert [*found.items()] == [(f"{folder}/{name}.tar", 3) for name in (".b", "1", "a", "file")]
    assert {path: looks["stat"][path] for path in found} == dict.fromkeys(found, 1)
    assert looks["scandir"] == {str(folder): 1}
    assert not any(looks["stat"][f"{folder}/{name}"] for name in ("d", "e", "elsewhere", "again"))


def test_a_file_of_a_folder_of_ours_that_the_disk_fails_to_look_at_is_asked_for_again_and_not_left_out(
    folder, monkeypatch
):
    wanted = files_under(str(folder), "*.tar")
    Disk(monkeypatch, folder / "a.tar", errno.EIO, 1)
    assert files_under(str(folder), "*.tar") == wanted
    Disk(monkeypatch, folder / "a.tar", errno.EIO, -1)
    with pytest.raises(retrying.StorageError, match=re.escape(f"{folder}/a.tar")):
        files_under(str(folder), "*.tar")


class Disk:
    """Fails where a folder is listed or a file looked at."""

    def __init__(self, monkeypatch, path, code, times):
        self.left = times
        for name in ("scandir", "stat"):
            monkeypatch.setattr(local.os, name, self.failing(getattr(os, name), str(path), code))
        monkeypatch.setattr(retrying, "sleep", lambda seconds: None)

    def failing(self, real, bad, code):
        def look(path, *args, **more):
            if self.left and str(path) == bad:
                self.left -= 1
                raise OSError(code, os.strerror(code), path)
            return real(path, *args, **more)

        return look


@pytest.mark.parametrize("path", ["d", "d/a.tar"])
def test_a_disk_that_fails_is_asked_again(folder, monkeypatch, path):
    wanted = list_shards(f"{folder}/*/*.tar")
    Disk(monkeypatch, folder / path, errno.EIO, 1)
    assert list_shards(f"{folder}/*/*.tar") == wanted


def test_a_folder_that_may_not_be_listed_is_an_error_where_all_must_be_found(folder, monkeypatch):
    Disk(monkeypatch, folder / "d", errno.EACCES, -1)
    for look in (lambda: list_shards(f"{folder}/*/*.tar"), lambda: list(files_below(str(folder)))):
        with pytest.raises(retrying.StorageError, match=re.escape(f"{folder}/d")):
            look()
