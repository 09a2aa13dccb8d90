"""What of the input has no row of its own: counted in the parts, the summary, on the terminal and in the report."""

import json
import shutil
import tarfile

import pyarrow.parquet as pq
import pytest

from beam_curate.commands import curate, dedup, select
from beam_curate.runs.part_files import footprint, part_counts
from beam_curate.runs.parts import part_paths, read_part_counts
from beam_curate.runs.score_table import PART_METADATA, SCHEMA_VERSION, write_table
from beam_curate.tars.skipped import KINDS, in_order, lost
from tests.conftest import encoded, photo
from tests.support.models import MODEL
from tests.tars.test_links import linked_tar

FLAGS = [*MODEL, "--min_aesthetic=none", "--max_nsfw=none"]
COUNTS = {
    "no_extension": 3,
    "further_images": 2,
    "unresolved_links": 1,
    "special_files": 1,
    "metadata": 1,
    "apple_double": 1,
    "directories": 2,
}


def shard(number):
    """Pictures, and in the first shard one of each kind of what has no row; more of some in the second."""
    pictures = [(f"s{number}{index}.jpg", encoded(photo(10 * number + index))) for index in range(3)]
    odd = [
        (f"s{number}0.1.jpg", encoded(photo(99))),
        ("d/", tarfile.DIRTYPE, ""),
        ("README", b"read me"),
        *([("lost.jpg", tarfile.SYMTYPE, "elsewhere.jpg"), ("pipe.jpg", tarfile.FIFOTYPE, "")] if not number else []),
        *([("__meta__", b""), ("._s.jpg", b"")] if not number else [(".jpg", b"")]),
    ]
    large = [(f"big{number}.jpg", encoded(photo(7, 300, 300))), ("again.jpg", tarfile.LNKTYPE, f"big{number}.jpg")]
    # The counts travel with the shard's last row, which is not among those that are tried again.
    return linked_tar([pictures[0], *odd, *pictures[1:], *large, (f"z{number}.jpg", encoded(photo(8)))])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skipped")
    for number in range(2):
        (folder / f"{number}.tar").write_bytes(shard(number))
    flags = [f"--input={folder}/*.tar", f"--output={folder / 'out'}", *FLAGS]
    assert curate.main([*flags, "--max_pixels=50000"]) == 0
    return folder, flags


def told(output):
    return json.loads((output / "summary.json").read_text())["skipped"]


def test_the_kinds():
    assert set(COUNTS) == set(KINDS)
    assert in_order({"metadata": 1, "no_extension": 0, "x": 2, "further_images": 3}) == {
        "further_images": 3,
        "metadata": 1,
        "x": 2,
    }
    assert lost({"directories": 3}) == {}


def test_they_are_counted_by_kind_for_each_shard_and_in_the_summary(run):
    folder, _ = run
    output = folder / "out"
    parts = {
        index: dict(read_part_counts(str(output), path).skipped) for index, path in part_paths(str(output)).items()
    }
    assert parts[1] == {"no_extension": 2, "further_images": 1, "directories": 1}
    assert {kind: parts[0].get(kind, 0) + parts[1].get(kind, 0) for kind in COUNTS} == COUNTS
    assert told(output) == COUNTS
    assert list(told(output)) == list(KINDS)


def lines(text):
    """The kinds and counts that a command's output tells."""
    rows = text.partition("members of the input without a row of their own:\n")[2].splitlines()
    pairs = [row.split()[:2] for row in rows if row.startswith("  ")]
    return {kind.removesuffix(":"): int(number) for kind, number in pairs}


LOST = {kind: number for kind, number in COUNTS.items() if kind != "directories"}


def test_the_terminal_tells_them_again_when_the_run_is_complete(run, capsys):
    _, flags = run
    assert curate.main([*flags, "--max_pixels=50000", "--resume"]) == 0
    assert lines(capsys.readouterr().out) == LOST


def test_the_report_tells_them(run):
    page = (run[0] / "out" / "report.html").read_text()
    section = page.partition("Members of the input without a row of their own")[2].partition("</table>")[0]
    for kind in LOST:
        assert f"<code>{kind}</code>" in section
    assert "directories" not in section


def test_a_run_without_any_tells_nothing(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(linked_tar([("d/", tarfile.DIRTYPE, ""), ("d/a.jpg", encoded(photo(1)))]))
    assert curate.main([f"--input={tmp_path}/a.tar", f"--output={tmp_path / 'out'}", *FLAGS]) == 0
    assert "without a row" not in capsys.readouterr().out
    assert told(tmp_path / "out") == {"directories": 1}
    assert "without a row of their own" not in (tmp_path / "out" / "report.html").read_text()


def test_a_run_that_is_continued_counts_each_shard_once(run, tmp_path):
    folder, flags = run
    shutil.copytree(folder / "out", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "scores").iterdir()}
    (tmp_path / "out" / "summary.json").unlink()
    (tmp_path / "out" / "scores" / "part-00001.parquet").unlink()
    flags = [flags[0], f"--output={tmp_path / 'out'}", *flags[2:]]
    assert curate.main([*flags, "--max_pixels=50000", "--resume"]) == 0
    assert told(tmp_path / "out") == COUNTS
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "scores").iterdir()} == before


def test_samples_that_are_tried_again_change_no_count(run, tmp_path):
    """Only the failed rows of a shard are scored again: the counts are those of the whole shard all the same."""
    folder, flags = run
    shutil.copytree(folder / "out", tmp_path / "out")
    flags = [flags[0], f"--output={tmp_path / 'out'}", *flags[2:]]
    before = json.loads((tmp_path / "out" / "summary.json").read_text())["funnel"]["reasons"]
    assert before == {"too_many_pixels": 4, "unresolved_link": 1}
    assert curate.main([*flags, "--max_pixels=100000", "--retry_failed=too_many_pixels"]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["funnel"]["reasons"] == {"unresolved_link": 1}
    assert summary["skipped"] == COUNTS
    rows = pq.read_table(tmp_path / "out" / "scores").to_pylist()
    assert len({row["sha256"] for row in rows if row["key"] in ("again", "big0", "big1")}) == 1


def test_a_selection_tells_those_of_its_source(run, tmp_path, capsys):
    folder, _ = run
    source = f"--scores={folder / 'out'}"
    assert select.main([source, "--min_side=10", "--dry_run", f"--report={tmp_path / 'p.html'}"]) == 0
    assert lines(capsys.readouterr().out) == LOST
    assert "<code>further_images</code>" in (tmp_path / "p.html").read_text()
    assert select.main([source, "--min_side=10", f"--output={tmp_path / 'best'}"]) == 0
    assert lines(capsys.readouterr().out) == LOST
    assert select.main([f"--scores={tmp_path / 'best'}", "--min_side=20", f"--output={tmp_path / 'better'}"]) == 0
    assert lines(capsys.readouterr().out) == LOST
    assert told(tmp_path / "best") == told(tmp_path / "better") == COUNTS
    assert dedup.main([source, "--methods=exact", f"--output={tmp_path / 'unique'}"]) == 0
    assert lines(capsys.readouterr().out) == LOST


def test_verdicts_on_the_whole_table_keep_the_counts(run, tmp_path):
    flags = [run[1][0], f"--output={tmp_path / 'out'}", *FLAGS]
    assert curate.main([*flags, "--top=aesthetic=3"]) == 0
    assert sorted(part_paths(str(tmp_path / "out"), "verdicts")) == [0, 1]
    assert told(tmp_path / "out") == COUNTS


def test_a_part_that_was_written_without_counts_is_still_the_same(run, tmp_path):
    """The footprint by which a selection knows its source's parts does not depend on them."""
    table = pq.read_table(run[0] / "out" / "scores" / "part-00000.parquet")
    stored = json.loads(table.schema.metadata[PART_METADATA.encode()])
    table = table.replace_schema_metadata({"beam_curate.schema_version": SCHEMA_VERSION})
    paths = [tmp_path / "newer.parquet", tmp_path / "older.parquet"]
    for path in paths:
        with path.open("wb") as stream:
            write_table(stream, table, {PART_METADATA: json.dumps(stored)})
        stored.pop("skipped", None)
    newer, older = map(pq.ParquetFile, paths)
    assert part_counts(newer.schema_arrow).skipped
    assert part_counts(older.schema_arrow).skipped == {}
    assert footprint(newer.schema_arrow, newer.metadata) == footprint(older.schema_arrow, older.metadata)
