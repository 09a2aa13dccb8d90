"""What a command says at its end, and its status: 1 where samples were lost or not written, or where none could be processed."""

import json

import pytest

from beam_curate.commands import outcome
from beam_curate.commands.outcome import report
from beam_curate.records import ScorePart
from beam_curate.runs.ending import finish_table


def said(folder, capsys, kept=0, rejected=0, failed=0, **more):
    """Status, standard output and standard error of the end of a run with so many samples."""
    reasons = {"aesthetic_below_min": rejected, "no_image": failed}
    part = ScorePart(
        0, "/s/0.tar", "scores/part-00000.parquet", kept + rejected + failed, kept, rejected, failed, reasons
    )
    finish_table(str(folder), [part], 1, {})
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["funnel"] |= more.pop("funnel", {})
    path.write_text(json.dumps(summary | {"table_only": False} | more))
    capsys.readouterr()
    return report(str(folder), "out", 1.0), *capsys.readouterr()


@pytest.mark.parametrize(
    ("counts", "status", "first", "error"),
    [
        ({"kept": 3, "failed": 1}, 0, "input     4 samples in 1 shard", ""),
        ({"kept": 1}, 0, "input     1 sample in 1 shard", ""),
        ({"rejected": 2}, 0, "input     2 samples in 1 shard", "warning: no sample passed the rules"),
        ({"failed": 1}, 1, "input     1 sample in 1 shard", "error: the only sample failed; "),
        ({"failed": 1200}, 1, "input     1,200 samples in 1 shard", "error: all 1,200 samples failed; "),
        (
            {"kept": 3, "funnel": {"kept": 2}},
            1,
            "input     3 samples",
            "error: input = kept + rejected + failed does not hold",
        ),
    ],
)
def test_the_status_follows_from_the_counts(tmp_path, capsys, counts, status, first, error):
    found, out, err = said(tmp_path, capsys, **counts)
    assert (found, out.startswith(first)) == (status, True)
    assert err.startswith(error)
    assert bool(err) == bool(error)


def test_what_a_worker_that_died_has_left_is_deleted_at_the_end(tmp_path, monkeypatch):
    left = tmp_path / "_temporary" / f"{32 * 'a'}-00000.tar"
    left.parent.mkdir()
    for ended in (False, True):
        left.write_bytes(b"x")
        monkeypatch.setattr(outcome, "run_pipeline", lambda *args, ended=ended, **more: ended)
        assert outcome.finish_run(None, str(tmp_path), "mark", name="curate", new=True) is ended
        assert left.exists() is not ended  # a job that goes on without this command may be writing it


def test_kept_samples_that_are_in_no_file_are_a_failure(tmp_path, capsys):
    files = {"format": "tfrecord", "failed": 1, "exported": 2, "reencoded": 0, "reasons": {"unencodable_image": 1}}
    status, _, err = said(tmp_path, capsys, kept=3, files=files)
    assert status == 1
    assert err == "error: 1 kept sample is in no shard; see out/failures.parquet\n"
