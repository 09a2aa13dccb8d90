"""Listing local disks leaves nothing out: what cannot be looked at, or read, is named."""

import errno
import glob
import os
import re
from itertools import product

import pytest

from beam_curate.storage import local_files as local
from beam_curate.storage import retrying
from beam_curate.storage.listing import InputError, list_shards
from beam_curate.storage.operations import all_files
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
