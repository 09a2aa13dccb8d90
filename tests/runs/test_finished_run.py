"""The spans of a run's members are computed: they must be where a reader of tars finds them."""

import json
import shutil
import tarfile

import pytest

from beam_curate.runs.finished_run import RunNotUsableError, read_run, read_samples_table
from beam_curate.runs.run import Run
from beam_curate.runs.whole_run import MissingFileError
from beam_curate.tars.events import TarEntry
from beam_curate.tars.reading import TarReader
from tests.conftest import encoded, photo, tar_bytes
from tests.support.exporting_runs import curated

KEYS = ["plain", "a/b/deep", "x" * 99, "y/" + "z" * 150, "w" * 300, "\u00fcml\u00e4ut", "back\\slash", "sp ace"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    members = []
    for n, key in enumerate(KEYS):
        members += [(f"{key}.jpg", encoded(photo(n))), (f"{key}.seg.v2.txt", b"x" * (n * 511)), (f"{key}.cls", b"")]
    members.append(("hostile.v\x01.jpg", encoded(photo(99))))
    (folder / "in.tar").write_bytes(tar_bytes(members, format=1))  # GNU: names of any length
    return curated(folder / "in.tar", folder / "run", "--samples_per_shard=3")


def test_spans_are_where_the_members_lie(run):
    found = read_run(str(run))
    assert found.total == len(KEYS) + 1 == sum(found.counts)
    assert list(found.counts) == [3, 3, 3]
    for shard in found.shards:
        with open(shard.path, "rb") as stream:
            entries = [event for event in TarReader(stream).events() if isinstance(event, TarEntry)]
        rows = read_samples_table(str(run), shard, ["key", "members"]).to_pylist()
        spans = [
            (f"{row['key']}.{span['suffix']}", span["offset"], span["size"]) for row in rows for span in row["members"]
        ]
        assert spans == [(entry.name, entry.offset, entry.size) for entry in entries]


def test_a_folder_with_the_name_of_a_pattern_is_that_folder(run, tmp_path):
    folder = tmp_path / "run[1]*?"
    shutil.copytree(run, folder)
    found = read_run(str(folder))
    assert [shard.path for shard in found.shards] == [f"{folder}/0000{n}.tar" for n in range(3)]
    Run(str(folder)).check_files()
    (folder / "00001.tar").unlink()
    with pytest.raises(MissingFileError, match="00001"):
        Run(str(folder)).check_files()


def test_members_of_any_name_are_exported(run):
    from beam_curate.commands import export

    output = run.parent / "exported"
    flags = [
        f"--input={run}",
        f"--output={output}",
        "--format=webdataset",
        "--samples_per_file=4",
        "--resize_shortest=32",
    ]
    assert export.main(flags) == 0
    names = [name for path in sorted(output.glob("*.tar")) for name in tarfile.open(path).getnames()]
    assert names == [name for path in sorted(run.glob("*.tar")) for name in tarfile.open(path).getnames()]
    assert "hostile.v~01~.jpg" in names


def test_a_table_of_another_shard_is_refused(run, tmp_path):
    found = read_run(str(run))
    for name in ("00000.tar", "00001.parquet"):
        (tmp_path / name.replace("00001", "00000")).write_bytes((run / name).read_bytes())
    with pytest.raises(RunNotUsableError, match="the two do not belong together"):
        read_samples_table(str(tmp_path), found.shards[0], ["key", "members"])


def test_an_index_that_tells_of_other_samples_is_refused(run, tmp_path):
    for path in run.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = json.loads((run / "index.json").read_text())
    index["shardlist"].pop()
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(RunNotUsableError, match=r"index.json names 6 samples and summary.json 9"):
        read_run(str(tmp_path))
