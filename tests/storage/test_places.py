import os

import pytest

from beam_curate.records import Shard
from beam_curate.runs.claims import RunError
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage import places
from beam_curate.storage.places import Folders, same_place


@pytest.fixture
def run(tmp_path):
    """A run in `out` with one packed shard, and a folder `data` beside it."""
    output = tmp_path / "out"
    Run(str(output)).begin(WantedRun(Configuration(), [Shard(0, "/s/0.tar", 1)]))
    (output / "00000.tar").write_bytes(b"precious")
    (tmp_path / "data").mkdir()
    return tmp_path


def link(path, target):
    path.symlink_to(target)
    return path


def by_shard_link(folder):
    return link(folder / "data" / "0.tar", folder / "out" / "00000.tar")


def by_link_to_link(folder):
    return link(folder / "data" / "1.tar", by_shard_link(folder))


def by_relative_link(folder):
    return link(folder / "data" / "0.tar", "../out/00000.tar")


def by_link_that_lies_in_it(folder):
    (folder / "data" / "real.tar").write_bytes(b"precious")
    (folder / "out" / "00000.tar").unlink()
    inside = link(folder / "out" / "00000.tar", folder / "data" / "real.tar")
    return link(folder / "data" / "0.tar", inside)


def by_folder_link(folder):
    return link(folder / "data" / "in", folder / "out") / "00000.tar"


def by_hard_link(folder):
    os.link(folder / "out" / "00000.tar", folder / "data" / "0.tar")
    return folder / "data" / "0.tar"


def by_other_spelling(folder):
    return f"{folder}/data/..//out/./00000.tar"


def by_a_subfolder_that_leads_away(folder):
    (folder / "data" / "0.parquet").write_bytes(b"precious")
    (folder / "out" / "duplicates").mkdir()
    link(folder / "out" / "duplicates" / "hashes", folder / "data")
    return folder / "data" / "0.parquet"


WAYS = [by_shard_link, by_link_to_link, by_relative_link, by_link_that_lies_in_it, by_folder_link, by_hard_link,
        by_other_spelling, by_a_subfolder_that_leads_away]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read_as", ["shard", "file"])
def test_overwrite_does_not_delete_what_is_read(run, way, read_as):
    path = str(way(run))
    shards = [Shard(0, path, 8)] if read_as == "shard" else [Shard(0, "/s/0.tar", 1)]
    before = {found: found.read_bytes() for found in run.rglob("*") if found.is_file()}
    with pytest.raises(RunError, match=r"`output` \S+/out holds \S+, which this run reads.*; give another `output`"):
        Run(str(run / "out")).begin(
            WantedRun(Configuration(), shards, overwrite=True, reads=[path] if read_as == "file" else [])
        )
    assert {found: found.read_bytes() for found in run.rglob("*") if found.is_file()} == before


def test_a_mount_of_the_output_folder_is_that_folder(run, monkeypatch):
    """Two names of one folder that no link connects, as of a bind mount: told by device and inode."""
    mount = run / "mount"
    mount.mkdir()
    (mount / "00000.tar").write_bytes(b"precious")
    true = places.identity
    monkeypatch.setattr(places, "identity", lambda path: true(run / "out" if path == str(mount) else path))
    with pytest.raises(RunError, match=r"holds \S+/mount/00000.tar, which this run reads"):
        Run(str(run / "out")).begin(WantedRun(Configuration(), [Shard(0, str(mount / "00000.tar"), 8)], overwrite=True))
    assert same_place(str(mount), str(run / "out"))


@pytest.mark.parametrize("below", ["", "/best", "/duplicates", "/scores/x"])
def test_an_output_folder_in_a_run_that_is_read_is_refused(run, below):
    with pytest.raises(RunError, match="which this run reads; give another `output`"):
        Run(f"{run}/out{below}").begin(WantedRun(Configuration(), [], scores=str(run / "out")))
    (run / "away").mkdir()
    (run / "away" / "scores").symlink_to(run / "out" / "scores")
    with pytest.raises(RunError, match=r"`output` \S+/away lies in \S+/out, which this run reads"):
        Run(f"{run}/away").begin(WantedRun(Configuration(), [], runs=[str(run / "out")]))


def test_an_output_folder_beside_the_input_is_fine(run):
    data = run / "data" / "0.tar"
    data.write_bytes(b"x")
    output = run / "data" / "curated"
    Run(str(output)).begin(WantedRun(Configuration(), [Shard(0, str(data), 1)], reads=[str(run)]))
    Run(str(output)).begin(WantedRun(Configuration(), [Shard(0, str(data), 1)], reads=[str(run)], overwrite=True))


@pytest.mark.parametrize(
    ("folder", "path", "holds"),
    [
        ("gs://b/out", "gs://b/out/0.tar", True),
        ("gs://b/out/", "gs://b/out/0.tar", True),
        ("gs://b/out", "gs://b/out/", True),
        ("gs://b", "gs://b/out/0.tar", True),
        ("gs://b/out", "gs://b/out2/0.tar", False),
        ("gs://b/out", "gs://c/out/0.tar", False),
        # Names of objects are literal: these are others.
        ("gs://b/out", "gs://b//out/0.tar", False),
        ("s3://b/out", "s3://b/a/../out/0.tar", False),
        ("gs://b/out", "gs://b/out//0.tar", True),
        ("gs://b/out", "/b/out/0.tar", False),
    ],
)
def test_names_in_buckets(folder, path, holds):
    assert Folders([folder]).hold(path) == holds
    assert same_place("gs://b/out/", "gs://b/out")
    assert not same_place("gs://b//out", "gs://b/out")
