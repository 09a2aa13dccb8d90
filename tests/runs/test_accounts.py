"""What is checked at the end of a run: a sample, a part or a file that is missing or doubled ends it without its mark."""

from dataclasses import replace

import pytest
from apache_beam.io.filesystems import FileSystems

from beam_curate.export.copied_tars import CopiedTars
from beam_curate.export.end import Export, finish_export
from beam_curate.export.end import finish_run as finish
from beam_curate.intake.ending import finish_packing
from beam_curate.intake.entries import PackedShard
from beam_curate.records import LeftOut, ScorePart, WrittenShard
from beam_curate.runs.division import Division
from beam_curate.runs.ending import finish_run, finish_table
from beam_curate.runs.summary import AccountingError

PARTS = [
    ScorePart(0, "/s/0.tar", "scores/part-00000.parquet", 6, 4, 1, 1, {"aesthetic_below_min": 1, "no_image": 1}),
    ScorePart(1, "/s/1.tar", "scores/part-00001.parquet", 3, 1, 2, 0, {"nsfw_above_max": 2}),
]
FILES = [WrittenShard(number, f"0000{number}.tar", samples, 9, "x") for number, samples in enumerate((2, 2, 1))]


def end(folder, parts=PARTS, files=FILES, shards=2, failed=0):
    return finish_run(str(folder), parts, files, shards, Division(2), {}, failed)


def test_accounts_that_add_up_end_the_run(tmp_path):
    found = end(tmp_path).funnel
    assert (found.input, found.kept, found.rejected, found.failed) == (9, 5, 3, 1)
    assert (tmp_path / "summary.json").exists()
    assert end(tmp_path, files=[*FILES[:2], replace(FILES[1], index=2, samples=0)], failed=1).funnel == found


def test_the_mark_of_an_end_is_written_last(tmp_path, monkeypatch):
    """Of a run, of one with its table alone, of an export and of a packing: whatever it vouches for is there before."""
    rename, written = FileSystems.rename, []

    def renamed(sources, targets):
        written.extend(targets)
        return rename(sources, targets)

    monkeypatch.setattr(FileSystems, "rename", staticmethod(renamed))
    run, table, exported, packed = (f"{tmp_path}/{name}" for name in ("run", "table", "exported", "packed"))
    export = Export(run, exported, CopiedTars(), samples=5, division=Division(2), croissant=False)
    shards = [PackedShard(number, f"0000{number}.tar", 2, 1, 9, "x", {"empty_file": 1}) for number in range(2)]
    for folder, ending, others in (
        (
            run,
            lambda: finish(run, PARTS, FILES, Division(2), {}, CopiedTars(), ()),
            {"index.json", "sizes.json", "README.md"},
        ),
        (table, lambda: finish_table(table, PARTS, 2, {}), set()),
        (exported, lambda: finish_export(export, FILES, ()), {"index.json", "sizes.json", "README.md"}),
        (packed, lambda: finish_packing(packed, 6, shards, {}, (), {}), {"index.json", "sizes.json"}),
    ):
        written.clear()
        ending()
        *before, last = [path.removeprefix(f"{folder}/") for path in written]
        assert (set(before), last) == (others, "summary.json")


SHORT = replace(FILES[2], samples=0)
WRONG_PARTS = {
    "a row that has no verdict": [replace(PARTS[0], kept=3), PARTS[1]],
    "a row with two verdicts": [replace(PARTS[0], failed=2), PARTS[1]],
    "a verdict without a reason": [replace(PARTS[0], reasons={"no_image": 1}), PARTS[1]],
    "a part that is missing": PARTS[:1],
    "a part that is doubled": [*PARTS, PARTS[1]],
    "a part of no input shard": [PARTS[0], replace(PARTS[1], shard_index=2)],
}
WRONG_FILES = {
    "a sample that was not written": [*FILES[:2], SHORT],
    "a sample that was written twice": [*FILES[:2], replace(FILES[2], samples=2)],
    "a file that is missing": [FILES[0], replace(FILES[1], samples=3)],
    "a file that is doubled": [FILES[0], FILES[0], SHORT],
    "a gap in the numbers": [*FILES[:2], replace(FILES[2], index=3)],
    "a file in the middle that is not full": [FILES[0], replace(FILES[1], samples=1), replace(FILES[2], samples=2)],
    "a sample that failed in the second try": [
        *FILES[:2], replace(FILES[2], failures=[LeftOut(0, 1, "k", "not_an_image", "no")])],
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_PARTS)
def test_a_table_that_does_not_add_up_has_no_end(what, tmp_path):
    for ending in (
        lambda: end(tmp_path, WRONG_PARTS[what]),
        lambda: finish_table(str(tmp_path), WRONG_PARTS[what], 2, {}),
    ):
        with pytest.raises(AccountingError):
            ending()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", WRONG_FILES)
def test_files_that_do_not_hold_the_kept_samples_have_no_end(what, tmp_path):
    export = Export("/run", str(tmp_path), CopiedTars(), samples=5, division=Division(2))
    for ending in (
        lambda: end(tmp_path, files=WRONG_FILES[what]),
        lambda: finish_export(export, WRONG_FILES[what], ()),
    ):
        with pytest.raises(AccountingError):
            ending()
    assert list(tmp_path.iterdir()) == []
