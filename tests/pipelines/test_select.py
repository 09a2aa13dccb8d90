"""Selecting again from a score table: what it keeps is what the main job keeps by the same rules, byte for byte."""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_curate import read_score_table
from beam_curate.commands import curate, dedup, launch, report, select
from beam_curate.progress import BYTES
from beam_curate.runs import score_table
from beam_curate.storage import retrying
from beam_curate.transforms import preview_selection, write_report
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.exporting_runs import as_of_0_1_0
from tests.support.fault_filesystem import KINDS, Faults, FaultyFileSystem
from tests.support.models import MODEL
from tests.support.part_marks import without_mark

OFF = ["--min_aesthetic=none", "--max_nsfw=none"]
RULES = ["--min_aesthetic=4.5", "--max_nsfw=0.7", "--min_side=70", "--keep=format != 'GIF' and length(caption) >= 9"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three shards of 12 samples, one of them bad in each; two shards share their keys."""
    folder = tmp_path_factory.mktemp("select")
    (folder / "data").mkdir()
    for shard in range(3):
        members = []
        for n in range(12):
            side = 60 if n == 3 else 90
            kind = "GIF" if n == 4 else "JPEG"
            image = b"no image" if n == 5 else encoded(photo(100 * shard + n, side, side), kind)
            key = f"{shard // 2}{n:03d}"
            members += [(f"{key}.{'gif' if n == 4 else 'jpg'}", image), (f"{key}.txt", b"caption %d" % n)]
        (folder / "data" / f"{shard}.tar").write_bytes(tar_bytes(members))
    return folder


def scored(folder, name, *flags):
    output = folder / name
    assert (
        curate.main([f"--input={folder}/data/*.tar", f"--output={output}", *MODEL, "--samples_per_shard=4", *flags])
        == 0
    )
    return output


@pytest.fixture(scope="module")
def scored_once(data):
    """Gives the run of some rules, which is made once for all tests that only read it."""
    numbers = itertools.count()
    return functools.cache(lambda *flags: scored(data, f"once-{next(numbers)}", *flags))


@pytest.fixture(scope="module")
def table(scored_once):
    """A run that keeps all."""
    return scored_once(*OFF)


def copied(run, name):
    """A copy of a run, for a test that changes it."""
    return shutil.copytree(run, run.parent / name)


def selected(table, name, *flags):
    output = table.parent / name
    assert select.main([f"--scores={table}", f"--output={output}", "--samples_per_shard=4", *flags]) == 0
    return output


def files(output):
    """All files but those that tell of the run itself."""
    own = ("summary.json", "run.json", "report.html")
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in own
    }


def rows(output):
    return read_score_table(str(output)).to_pylist()


def planless(name, data):
    """Statistics without the name of the plan, which tells of the table that a shard was made of."""
    if not name.endswith("_stats.json"):
        return data
    return {name: value for name, value in json.loads(data).items() if name != "plan"}


def same(one, other):
    """Whether two runs have the same table, which lies in one folder or in two, and the same files beside it."""
    tables = [read_score_table(str(output)) for output in (one, other)]
    beside = [
        {
            name: planless(name, data)
            for name, data in files(output).items()
            if not name.startswith(("scores/", "verdicts/"))
        }
        for output in (one, other)
    ]
    return tables[0].equals(tables[1]) and beside[0] == beside[1]


def test_the_same_rules_give_the_same_bytes_as_the_main_job(scored_once, table):
    direct = scored_once(*RULES)
    again = selected(table, "again", *RULES)
    assert same(direct, again)
    funnels = [json.loads((output / "summary.json").read_text())["funnel"] for output in (direct, again)]
    assert funnels[0] == funnels[1]
    reasons = funnels[0]["reasons"]
    rejected = {"aesthetic_below_min", "nsfw_above_max", "not_kept_by_rule", "side_below_min"}
    assert set(reasons) == {*rejected, "not_an_image"}
    assert reasons["side_below_min"] == reasons["not_an_image"] == 3
    assert 0 < funnels[0]["kept"] < 30


def test_scores_that_a_selection_added_go_on_to_the_next_one(table):
    first = selected(table, "first", "--prompt=cat=a photo of a cat", "--pretrained=random", "--min_aesthetic=5")
    second = selected(first, "second", "--prompt=plain=a plain photo", "--pretrained=random", "--keep=cat > -1")
    both = ["--prompt=cat=a photo of a cat;plain=a plain photo", "--pretrained=random", "--keep=cat > -1"]
    assert same(second, selected(table, "at-once", *both))
    assert {"cat", "plain"} < set(rows(second)[0])


def test_a_score_table_that_was_moved_is_named_before_any_work(table, capsys):
    source = copied(table, "moving")
    best = selected(source, "best-of-moving", "--min_aesthetic=5")
    before = rows(best)
    moved = source.rename(table.parent / "moved")
    assert select.main([f"--scores={best}", "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert "moving/scores/part-00000.parquet is missing: " in error
    assert "with --resume, and with the new folder as --scores" in error
    selected(moved, "best-of-moving", "--min_aesthetic=5", "--resume")
    assert rows(best) == before
    moved.rename(source)


def test_a_selection_of_a_selection_brings_back_what_was_rejected(table):
    few = selected(table, "few", "--min_aesthetic=6")
    back, again = selected(few, "back"), selected(table, "same")
    assert same(back, again)
    name = "verdicts/part-00001.parquet"
    assert without_mark((back / name).read_bytes()) == without_mark((again / name).read_bytes())
    assert not (back / "scores").exists()


@pytest.mark.parametrize("seed", [[], ["--shuffle_seed=3"]])
def test_the_top_fraction_is_exact(table, seed):
    output = selected(table, f"top{len(seed)}", "--top_fraction=aesthetic=0.3", "--max_nsfw=0.8", *seed)
    before = [row for row in rows(table) if row["status"] == "kept" and row["nsfw"] < 0.8]
    best = sorted(before, key=lambda row: (-row["aesthetic"], row["shard_index"], row["index"]))
    best = best[: round(0.3 * len(before))]
    kept = [row for row in rows(output) if row["status"] == "kept"]
    assert {(row["shard"], row["key"]) for row in kept} == {(row["shard"], row["key"]) for row in best}
    out = [row for row in rows(output) if row["reason"] == "below_top"]
    assert len(out) == len(before) - len(best)
    assert re.fullmatch(r"aesthetic is [\d.]+; kept if among the top 0.3 by aesthetic", out[0]["error_message"])


TOP = ["--top_fraction=aesthetic=0.4", *RULES]


@pytest.mark.parametrize("seed", [[], ["--shuffle_seed=3"]])
def test_a_rule_on_the_whole_table_is_the_same_in_the_main_job(scored_once, table, seed):
    direct = scored_once(*TOP, *seed)
    again = selected(table, f"again-top{len(seed)}", *TOP, *seed)
    assert same(direct, again)
    funnels = [json.loads((output / "summary.json").read_text())["funnel"] for output in (direct, again)]
    assert funnels[0] == funnels[1]
    assert funnels[0]["reasons"]["below_top"] > funnels[0]["kept"] > 0
    plain = scored_once(*RULES)
    assert not (plain / "verdicts").exists()
    for number in range(3):
        name = f"scores/part-{number:05d}.parquet"
        assert without_mark((direct / name).read_bytes()) == without_mark((plain / name).read_bytes())


@pytest.mark.parametrize(
    "gone",
    [
        ["summary.json"],
        ["summary.json", "index.json", "sizes.json", "*.tar", "0*", "verdicts/part-00001.parquet"],
        ["summary.json", "index.json", "sizes.json", "*.tar", "0*", "verdicts/*"],
        ["summary.json", "index.json", "sizes.json", "*.tar", "0*", "verdicts/*", "scores/part-00002.parquet"],
    ],
)
def test_a_stopped_main_job_chooses_the_same_rows_when_it_goes_on(data, scored_once, gone):
    shutil.rmtree(data / "top-stopped", ignore_errors=True)
    output = copied(scored_once(*TOP), "top-stopped")
    expected = files(output)
    for pattern in gone:
        for path in output.glob(pattern):
            path.unlink()
    scored(data, "top-stopped", *TOP, "--resume")
    assert files(output) == expected
    assert json.loads((output / "summary.json").read_text())["funnel"]["kept"] > 0


def test_failed_samples_that_are_tried_again_may_be_among_the_best(data, table):
    tops = ["--top=width=9", *OFF, "--samples_per_shard=4"]
    output = scored(data, "top-retried", *tops, "--max_pixels=5000")
    funnel = json.loads((output / "summary.json").read_text())["funnel"]
    assert (funnel["failed"], funnel["kept"]) == (33, 3)
    scored(data, "top-retried", *tops, "--max_pixels=100000", "--retry_failed=too_many_pixels")
    assert files(output) == files(scored(data, "top-whole", *tops, "--max_pixels=100000"))
    # The main job's own verdicts are no table of their own: another selection begins with the scores.
    assert same(selected(output, "top-all"), selected(table, "top-off-all"))


def test_ties_are_taken_in_source_order(table):
    kept = [row for row in rows(selected(table, "ties", "--top=width=14")) if row["status"] == "kept"]
    wide = [row for row in rows(table) if row["status"] == "kept" and row["width"] == 90]
    assert [(row["shard"], row["index"]) for row in kept] == [(row["shard"], row["index"]) for row in wide[:14]]


def test_a_dry_run_tells_what_a_run_keeps_and_writes_nothing(table, capsys):
    before = files(table)
    flags = ["--min_aesthetic=4.5", "--keep=nsfw < 0.7", "--top_fraction=aesthetic=1/2", "--samples_per_shard=4"]
    assert select.main([f"--scores={table}", "--dry_run", *flags]) == 0
    printed = capsys.readouterr().out
    assert files(table) == before
    output = selected(table, "wet", *flags)
    summary = json.loads((output / "summary.json").read_text())
    last = printed.strip().splitlines()[-3].split()
    assert int(last[0]) == summary["funnel"]["kept"]
    assert int(last[5]) == summary["output_shards"]
    assert "among the top 1/2 by aesthetic" in printed
    alone = sum(row["status"] == "kept" and row["nsfw"] < 0.7 for row in rows(table))
    assert re.search(rf"^ *{alone} .*nsfw < 0.7$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "does"), [("--keep=width >= 5000", "every"), ("--keep=nsfw >= 0 and width > 0", "no")]
)
def test_a_dry_run_says_between_which_values_that_lies_which_a_rule_reads(table, capsys, flags, does):
    assert select.main([f"--scores={table}", "--dry_run", flags]) == 0
    values = {name: [row[name] for row in rows(table) if row[name] is not None] for name in ("nsfw", "width")}
    said = [
        f"{name} is {min(each):.4g} to {max(each):.4g} in this data" for name, each in values.items() if name in flags
    ]
    (note,) = re.findall(r"^note: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert f" rejects {does} sample: " in note
    assert sorted(note.partition(" sample: ")[2].split(", ")) == said


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (select, ["--dry_run", "--min_aesthetic=4.5"]),
        (select, ["--dry_run", "--top=width=3"]),
        (select, ["--dry_run", "--min_aesthetic=4.5", "--top=width=3", "--report={page}"]),
        (report, ["--report={page}"]),
    ],
)
def test_what_progress_counts_is_what_is_read(table, tmp_path, monkeypatch, command, flags):
    told = []

    def noted(look, total, name, mode, unit=""):
        told.append((look, total, mode))
        return contextlib.nullcontext()

    monkeypatch.setattr(launch, "shown", noted)
    run = f"--run={table}" if command is report else f"--scores={table}"
    assert command.main([run, *(flag.format(page=tmp_path / "page.html") for flag in flags), "--progress=line"]) == 0
    (look, total, mode), (_, _, elsewhere) = told
    parts = len(list((table / "scores").glob("part-*.parquet")))
    assert look(1.0).done == total >= parts > 1
    assert (mode, elsewhere) == ("line", "none")


def test_the_progress_line_begins_with_the_name_of_the_command(table, tmp_path, monkeypatch):
    names, totals, seen = [], [], []

    @contextlib.contextmanager
    def noted(look, total, name, mode, unit=BYTES):
        names.append(name)
        totals.append(total)
        yield
        seen.append(look(1.0).words)

    monkeypatch.setattr(launch, "shown", noted)
    assert select.main([f"--scores={table}", f"--output={tmp_path}/selected"]) == 0
    assert dedup.main([f"--scores={table}", f"--output={tmp_path}/unique", "--methods=exact", "--table_only"]) == 0
    assert names == ["select", "the job", "dedup", "the job"]
    assert totals == [0, 0, 0, 0]  # it is not known how much of the shards will be read
    of_select, of_dedup = seen[1], seen[3]  # the other two are those of a job elsewhere
    funnel = json.loads((tmp_path / "selected" / "summary.json").read_text())["funnel"]
    rows, kept = funnel["input"], funnel["kept"]
    assert of_select == f"{rows} rows judged ({kept} kept), {kept} samples written"
    assert of_dedup == "1 of 1 buckets compared"  # it ends with its table


PREVIEWED = [
    *("--min_aesthetic=4", "--keep=nsfw < 0.9", "--top_fraction=plain=0.6"),
    *("--prompt=plain=a plain photo", "--pretrained=random", "--samples_per_shard=4"),
]


def test_a_dry_run_can_write_the_report_that_the_selection_will_have(data, tmp_path, monkeypatch, capsys):
    table = scored(data, "previewed", *OFF, "--screen=side >= 70")
    before = files(table)
    made = []

    def seen(module, name, place):
        original = getattr(module, name)

        def written(*given):
            made.append(given[place])
            return original(*given)

        monkeypatch.setattr(module, name, written)

    seen(preview_selection, "preview_page", 0)
    seen(write_report, "write_run_page", 2)
    page = tmp_path / "new" / "preview.html"
    flags = [f"--scores={table}", "--dry_run", *PREVIEWED, f"--report={page}"]
    assert select.main(flags) == 0
    assert f"nothing was written but {page}" in capsys.readouterr().out
    assert files(table) == before
    assert [path.name for path in page.parent.iterdir()] == ["preview.html"]
    document = page.read_text("utf-8")

    output = selected(table, "previewed-wet", *PREVIEWED)
    funnel = json.loads((output / "summary.json").read_text())["funnel"]
    assert {"aesthetic_below_min", "below_top", "not_kept_by_screen", "not_an_image"} <= set(funnel["reasons"])
    assert funnel["kept"] > 3
    tried, done = made
    assert {name: funnel[name] for name in tried.statuses} == tried.statuses == done.statuses
    assert funnel["reasons"] == tried.reasons == done.reasons
    assert [found.column for found in tried.distributions] == [found.column for found in done.distributions]
    assert "plain" in [found.column for found in tried.distributions]
    bounds = {name for found in tried.distributions for name, _ in found.bounds}
    assert bounds == {"aesthetic ≥", "nsfw <", "plain ≥"}
    assert [found.bounds for found in tried.distributions] == [found.bounds for found in done.distributions]
    for one, other in zip(tried.distributions, done.distributions, strict=True):
        assert (one.kept.tolist(), one.rejected.tolist()) == (other.kept.tolist(), other.rejected.tolist())
        assert one.edges.tolist() == other.edges.tolist()
    shown = [
        {place: dataclasses.replace(each.row, step="", message="") for place, each in sorted(found.shown.items())}
        for found in (tried, done)
    ]
    assert repr(shown[0]) == repr(shown[1])  # NaN is not equal to itself
    assert [gallery.places for gallery in tried.galleries] == [gallery.places for gallery in done.galleries]
    assert len(shown[0]) > 30
    assert repr(tried.failures.shown) == repr(done.failures.shown)

    assert "A preview: nothing was selected." in document
    assert "give the command its --prompt, --head and --scorer options too" in document
    assert "give the command its --prompt" not in (output / "report.html").read_text("utf-8")
    assert "Preview of a selection</h1>" in document
    assert f"3 input shards, {-(-funnel['kept'] // 4)} output shards" in document
    assert "data:image/jpeg;base64," in document
    assert "A preview" not in (output / "report.html").read_text("utf-8")
    assert select.main(flags) == 0
    assert page.read_text("utf-8") == document


def test_the_report_of_a_dry_run_goes_to_any_file_system(table, tmp_path, monkeypatch):
    flags = [f"--scores={table}", "--dry_run", "--min_aesthetic=5"]
    assert select.main([*flags, f"--report={tmp_path}/near/preview.html"]) == 0
    faults = Faults(seed=2, rates={kind: 0.2 for kind in KINDS if not kind.startswith("stale")})
    monkeypatch.setattr(FaultyFileSystem, "faults", faults)
    monkeypatch.setattr(retrying, "sleep", lambda seconds: None)
    assert select.main([*flags, f"--report=faulty://{tmp_path}/far/preview.html"]) == 0
    assert sum(faults.injected.values()) > 0
    assert (tmp_path / "far" / "preview.html").read_bytes() == (tmp_path / "near" / "preview.html").read_bytes()
    monkeypatch.setattr(FaultyFileSystem, "faults", Faults(seed=2, rates=dict.fromkeys(KINDS, 1.0)))
    assert select.main([*flags, f"--report=faulty://{tmp_path}/never/preview.html"]) == 2
    assert not (tmp_path / "never" / "preview.html").exists()


@pytest.mark.parametrize(
    ("report", "flags", "message"),
    [
        ("{table}/report.html", ["--dry_run"], "is in the folder of --scores, which stays as it is"),
        ("{table}/../{name}/new.html", ["--dry_run"], "is in the folder of --scores, which stays as it is"),
        ("{table}/..", ["--dry_run"], "is a folder; give the path of a file"),
        ("{table}-new/", ["--dry_run"], "is a folder; give the path of a file"),
        ("{table}-new.html", ["--output={table}-new"], "is for --dry_run"),
    ],
)
def test_a_report_of_a_dry_run_goes_to_a_file_of_its_own(table, capsys, report, flags, message):
    before = files(table)
    report = report.format(table=table, name=table.name)
    flags = [flag.format(table=table) for flag in flags]
    assert select.main([f"--scores={table}", f"--report={report}", *flags]) == 2
    assert message in capsys.readouterr().err
    assert files(table) == before


def test_the_bytes_of_a_dry_run_are_those_of_the_shards(table):
    from beam_curate.report.preview import Tally, preview_part
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.selection.rejudging import Selection

    selection = Selection(TablePlace(str(table)))
    tally = sum((preview_part(selection, shard).everything for shard in range(3)), Tally())
    shards = list(table.glob("*.tar"))
    assert tally.samples == 33
    ends = len(shards) * 1024
    assert tally.size == sum(path.stat().st_size for path in shards) - ends


@pytest.mark.parametrize("columns", [["key", "reason"], ["aesthetic"], ["status"]])
def test_a_table_whose_verdicts_are_gone_is_refused_whatever_is_read(scored_once, columns):
    """The table itself has verdicts too: those of before the choice among all rows."""
    run = copied(scored_once(*OFF, "--top=aesthetic=5"), f"gone-{columns[-1]}")
    whole = read_score_table(str(run), columns)
    assert whole.num_rows == 36
    shutil.rmtree(run / "verdicts")
    with pytest.raises(score_table.ScoreTableError, match=r"verdicts/part-00000\.parquet is missing"):
        read_score_table(str(run), columns)


def test_a_stopped_selection_goes_on(table):
    flags = ["--top_fraction=aesthetic=0.5"]
    output = selected(table, "stopped", *flags)
    expected = files(output)
    for name in ("summary.json", "index.json", "00001.tar", "verdicts/part-00001.parquet"):
        (output / name).unlink()
    time = (output / "verdicts" / "part-00000.parquet").stat().st_mtime_ns
    selected(table, "stopped", *flags, "--resume")
    assert files(output) == expected
    assert (output / "verdicts" / "part-00000.parquet").stat().st_mtime_ns == time


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep=aestetic > 5"], "error: --keep: there is no column 'aestetic'; did you mean aesthetic"),
        (["--keep=caption > 5"], "needs a text"),
        (["--keep=sha256 == 'a'"], "--keep: there is no column 'sha256'"),
        (["--top=caption=5"], "no column of numbers 'caption'"),
        (["--top_fraction=aesthetic=2"], "--top_fraction is 'aesthetic=2'; give a column and a number above 0"),
        (["--top=aesthetic=5", "--top_fraction=aesthetic=0.5"], "exclude each other"),
        (["--samples_per_shard=0"], "give at least 1"),
        (["--kep=1 < 2"], "did you mean --keep"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(table, capsys, flags, message):
    assert select.main([f"--scores={table}", f"--output={table.parent / 'never'}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (table.parent / "never").exists()


def test_a_source_that_is_no_finished_run_is_refused(table, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert select.main([f"--scores={tmp_path}/empty", "--dry_run"]) == 2
    assert "is not a run of beam-curate curate" in capsys.readouterr().err
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{}")
    assert select.main([f"--scores={tmp_path}/half", "--dry_run"]) == 2
    assert "continue it with --resume first" in capsys.readouterr().err
    assert select.main([f"--scores={table}", f"--output={table}"]) == 2
    assert "is the folder of --scores" in capsys.readouterr().err
    other_words = f"{table.parent}/./{table.name}/"
    assert select.main([f"--scores={table}", f"--output={other_words}", "--overwrite"]) == 2
    assert "is the folder of --scores" in capsys.readouterr().err
    assert (table / "summary.json").exists()
    assert select.main([f"--scores={table}"]) == 2
    assert "--output is missing" in capsys.readouterr().err


def test_a_table_of_an_earlier_version_lacks_the_uid_alone(data, table):
    old = data / "old"
    shutil.copytree(table, old)
    for path in (old / "scores").iterdir():
        found = pq.read_table(path)
        with open(path, "wb") as stream:
            score_table.write_table(stream, found.drop_columns(["uid"]))
    as_of_0_1_0(old)
    assert select.main([f"--scores={old}", "--dry_run", *RULES]) == 0
    assert same(selected(old, "of-old", *RULES), selected(table, "of-new", *RULES))


def test_prompts_score_stored_embeddings_as_the_main_job_does(data, table, capsys):
    prompts = "--prompt=cat=a photo of a cat,a photo of a dog;plain=a plain photo"
    direct = scored(data, "prompts", *OFF, prompts)
    again = selected(table, "prompts-again", prompts, "--pretrained=random")
    assert same(direct, again)
    assert len({row["plain"] for row in rows(again) if row["status"] == "kept"}) > 20
    never = table.parent / "never"
    assert select.main([f"--scores={table}", f"--output={never}", "--prompt=nsfw=a", "--pretrained=random"]) == 2
    assert "the table has a column nsfw already" in capsys.readouterr().err
    assert select.main([f"--scores={table}", f"--output={never}", "--prompt=cat", "--pretrained=random"]) == 2
    assert "--prompt: the prompt score 'cat' has no '='" in capsys.readouterr().err


def test_other_weights_than_those_of_the_embeddings_are_refused(table, tmp_path, capsys):
    import open_clip
    from safetensors.torch import save_file

    save_file(open_clip.create_model("ViT-S-32-alt").state_dict(), tmp_path / "other.safetensors")
    flags = ["--dry_run", "--prompt=cat=a cat", f"--pretrained={tmp_path}/other.safetensors"]
    assert select.main([f"--scores={table}", *flags]) == 2
    assert "these are not the weights that made the embeddings" in capsys.readouterr().err


def test_what_was_screened_out_stays_out(data):
    screened = scored(data, "screened", *OFF, "--quality=sharpness,border", "--screen=side >= 70 and border < 0.9")
    summary = json.loads((screened / "summary.json").read_text())
    assert summary["funnel"]["reasons"]["not_kept_by_screen"] == 3
    (first, *_) = [row for row in rows(screened) if row["step"] == "screen"]
    assert (first["status"], first["aesthetic"], first["width"]) == ("rejected", None, 60)
    assert first["sharpness"] > 0
    assert first["error_message"].startswith("side is 60, border is 0; kept if side >= 70")
    again = selected(screened, "screened-again", "--keep=sharpness > 0")
    assert json.loads((again / "summary.json").read_text())["funnel"] == summary["funnel"]


def test_animations_can_be_kept_out(data, tmp_path):
    pictures = [photo(seed, 90, 90) for seed in range(2)]
    members = [
        (f"{n}.gif", encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1 : 1 + n])) for n in range(2)
    ]
    (tmp_path / "moving.tar").write_bytes(tar_bytes(members))
    flags = [f"--input={tmp_path}/moving.tar", *MODEL, *OFF, "--quality=frames"]
    for rule, step in (("--screen=frames < 2", "screen"), ("--keep=frames < 2", "filter")):
        output = tmp_path / step
        assert curate.main([*flags, f"--output={output}", rule]) == 0
        assert [(row["frames"], row["status"], row["step"]) for row in rows(output)] == [
            (1.0, "kept", None),
            (2.0, "rejected", step),
        ]


def test_scores_of_the_users_own_are_the_same_from_stored_embeddings(data, table, tmp_path, monkeypatch, capsys):
    from safetensors.numpy import save_file

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    width = len(rows(table)[0]["embedding"])
    weight = np.random.default_rng(0).normal(size=(1, width)).astype(np.float32)
    save_file({"fc.weight": weight}, tmp_path / "taste.safetensors")
    description = {
        "name": "taste",
        "weights": "taste.safetensors",
        "layers": ["fc"],
        "activation": "none",
        "output": "raw",
    }
    (tmp_path / "taste.json").write_text(json.dumps(description))
    np.save(tmp_path / "example.npy", np.eye(1, width)[0])
    example = json.dumps({"example": str(tmp_path / "example.npy")})
    own = [f"--head={tmp_path}/taste.json", f"--scorer=red_scorer:Likeness {example}"]
    tastes = sorted(weight[0] @ np.array(row["embedding"], np.float32) for row in rows(table) if row["embedding"])
    at = len(tastes) // 4 + int(
        np.argmax(np.diff(tastes)[len(tastes) // 4 : -len(tastes) // 4])
    )  # where they lie far apart
    keep = f"--keep=taste > {(tastes[at] + tastes[at + 1]) / 2:.6f}"
    direct = scored(data, "own", *OFF, *own, keep)
    again = selected(table, "own-again", *own, keep)
    assert same(direct, again)
    summary = json.loads((again / "summary.json").read_text())
    assert 0 < summary["funnel"]["kept"] < 33
    assert summary["configuration"]["scores"]["scorers"][0]["scorer"] == "red_scorer:Likeness"
    for row in rows(again):
        if row["status"] != "failed":
            assert row["taste"] == pytest.approx(float(weight[0] @ np.array(row["embedding"], np.float32)), abs=1e-4)
    assert select.main([f"--scores={table}", "--dry_run", *own, keep]) == 0
    assert f" {summary['funnel']['kept']} " in capsys.readouterr().out
    assert select.main([f"--scores={table}", "--dry_run", "--scorer=red_scorer:Redness"]) == 2
    assert "needs images, and a score table has no images" in capsys.readouterr().err
    assert select.main([f"--scores={again}", "--dry_run", own[0]]) == 2
    assert "the table has a column taste already" in capsys.readouterr().err


def test_a_scorer_of_images_scores_what_the_model_sees(data, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    output = scored(data, "red", *OFF, "--scorer=red_scorer:Redness", "--quality=border", "--keep=redness > 0")
    found = rows(output)
    assert {row["redness"] is None for row in found if row["status"] == "failed"} == {True}
    values = {row["redness"] for row in found if row["status"] != "failed"}
    assert len(values) > 10
    assert all(0 <= value <= 1 for value in values)


def test_what_a_stopped_run_lacks_is_written_when_it_goes_on(table, capsys):
    output = selected(table, "lacking", "--min_aesthetic=5", "--layout=laion")
    before = (output / "report.html").read_bytes()
    (output / "report.html").unlink()
    (output / "layouts" / "laion" / "_layout.json").write_text('{"layout": "laion", "complete": false}')
    selected(table, "lacking", "--min_aesthetic=5", "--layout=laion,datacomp", "--resume")
    assert "is complete already; nothing to score" in capsys.readouterr().out
    assert (output / "report.html").read_bytes() == before
    for name in ("laion", "datacomp"):
        assert json.loads((output / "layouts" / name / "_layout.json").read_text())["complete"] is True
    selected(table, "lacking", "--min_aesthetic=5", "--overwrite")
    assert [path for path in (output / "layouts").rglob("*") if path.is_file()] == []


def test_layouts_come_with_a_run_and_go_with_it(table, capsys):
    output = selected(table, "layouts", "--min_aesthetic=5", "--layout=clip-retrieval, laion")
    kept = json.loads((output / "summary.json").read_text())["funnel"]["kept"]
    images = [np.load(path) for path in sorted((output / "layouts" / "clip-retrieval" / "img_emb").iterdir())]
    assert sum(len(image) for image in images) == kept > 0
    assert (output / "layouts" / "laion" / "_layout.json").exists()
    selected(table, "layouts", "--min_aesthetic=5", "--overwrite")
    assert [path for path in (output / "layouts").rglob("*") if path.is_file()] == []
    assert select.main([f"--scores={table}", "--dry_run", "--layout=odd"]) == 2
    assert "--layout odd is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quality=sharpnes"], "--quality: "),
        (["--screen=sharpness > 5"], "--screen: there is no column 'sharpness'"),
        (["--screen=aesthetic > 5"], "--screen: there is no column 'aesthetic'"),
        (["--keep=nothing > 5"], "--keep: there is no column 'nothing'"),
        (["--prompt=aesthetic=a"], "two scores are named aesthetic"),
        (["--prompt=a b=c"], "--prompt: the prompt score name 'a b'"),
        (["--prompt=side=a photo from the side"], "--prompt: "),
        (["--prompt=None=nothing"], "--prompt: "),
        (["--prompt=source_key=a"], "--prompt: "),
        (["--top=caption=5"], "--top: there is no column of numbers 'caption'"),
        (["--top=aesthetic=0"], "--top is 'aesthetic=0'; give a column and a whole number"),
        (["--top=aesthetic=5", "--top_fraction=aesthetic=0.5"], "exclude each other"),
        (["--max_nsfw=nan"], "--max_nsfw is nan; give a finite number"),
        (["--min_aesthetic=inf"], "--min_aesthetic is inf; give a finite number"),
    ],
)
def test_wrong_options_of_the_main_job(data, tmp_path, capsys, flags, message):
    assert curate.main([f"--input={data}/data/*.tar", f"--output={tmp_path}/out", *MODEL, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "script", ["curate", "select", "export", "fetch_models", "demo", "report", "template_metadata"]
)
def test_no_script_takes_this_one_for_the_standard_library(script):
    """A module `select` beside a script comes before the standard library's, which subprocess needs."""
    code = (
        "import runpy, sys\nsys.argv = [sys.argv[1], '--help']\nsys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "import select, subprocess\nassert select.select\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "pipelines" / f"{script}.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_embeddings_are_still_there(table):
    again = rows(selected(table, "embeddings", "--min_aesthetic=5"))
    first = rows(table)
    for old, new in zip(first, again, strict=True):
        assert np.array_equal(old["embedding"], new["embedding"])
        assert (old["key"], old["aesthetic"], old["members"]) == (new["key"], new["aesthetic"], new["members"])


def test_the_options_name_what_there_is():
    """The options are read before anything else is imported, so they name quality scores themselves."""
    from beam_curate.commands import duplicate_methods, duplicate_options
    from beam_curate.commands.curate_options import CurateOptions
    from beam_curate.commands.duplicate_methods.perceptual import MOST_BITS
    from beam_curate.duplicates.methods import all_methods, perceptual
    from beam_curate.duplicates.search import MOST_COMPARISONS
    from beam_curate.scores.quality import QUALITY

    offered = [(kind.name, kind.place) for kind in duplicate_methods.all_options()]
    assert offered == [(kind.name, kind.place) for kind in all_methods()]
    assert duplicate_options.MOST_COMPARISONS == MOST_COMPARISONS
    assert perceptual.MOST_DISTANCE == MOST_BITS
    assert all(
        kind().method() == method() for kind, method in zip(duplicate_methods.all_options(), all_methods(), strict=True)
    )
    helped = CurateOptions.__dataclass_fields__["quality"].metadata["help"]
    assert helped.rpartition("comma list of ")[2].split(", ") == list(QUALITY)
