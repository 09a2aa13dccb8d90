"""Runs that start from another run: one that is not whole, not the same any more, or none of these, is refused."""

import shutil

import apache_beam as beam
import pytest

from beam_curate.commands import curate, dedup, export, pack, report, select
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.runs.table_parts import TablePlace
from beam_curate.transforms.list_parts import ListParts
from tests.conftest import encoded, photo
from tests.support.exporting_runs import MODEL, OFF, awkward, curated


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, one with --top, and a selection from the first."""
    folder = tmp_path_factory.mktemp("sources")
    pattern = awkward(folder)
    run = curated(pattern, folder / "run", "--samples_per_shard=5")
    curated(pattern, folder / "top", "--samples_per_shard=5", "--top=aesthetic=12")
    assert select.main([f"--scores={run}", f"--output={folder}/selected", "--keep=width < 200"]) == 0
    return folder


def refused(capsys, command, *flags):
    """The line with which a command refuses to work."""
    capsys.readouterr()
    assert command.main(list(flags)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("run", "gone", "words"),
    [
        ("run", ["run/scores/part-00001.parquet"], "run/summary.json and repeat the command of that run with --resume"),
        ("run", ["run/scores/part-00002.parquet"], "run/summary.json and repeat the command of that run with --resume"),
        ("top", ["top/verdicts/part-00001.parquet"], "delete"),
        ("top", [f"top/verdicts/part-0000{n}.parquet" for n in range(3)], "delete"),
        ("top", ["top/scores/part-00001.parquet"], "restore it"),
        ("selected", ["selected/verdicts/part-00000.parquet"], "selected/summary.json"),
        ("selected", [f"selected/verdicts/part-0000{n}.parquet" for n in range(3)], "selected/summary.json"),
        ("selected", ["run/scores/part-00001.parquet"], "holds only its verdicts; put it back"),
    ],
)
def test_a_source_that_lacks_a_part_is_refused(made, tmp_path, capsys, run, gone, words):
    for path in gone:
        (made / path).rename(tmp_path / path.replace("/", "-"))
    try:
        whole = made / ("top" if run != "top" else "run")
        output = made / "never"
        errors = [
            refused(capsys, dedup, f"--scores={made}/{run}", f"--output={output}"),
            refused(capsys, select, f"--scores={made}/{run}", f"--output={output}"),
        ]
        if run != "selected" or gone[0].startswith("selected"):
            errors.append(refused(capsys, dedup, f"--scores={whole}", f"--against={made}/{run}", f"--output={output}"))
    finally:
        for path in gone:
            (tmp_path / path.replace("/", "-")).rename(made / path)
    for error, option in zip(errors, ("--scores", "--scores", "--against"), strict=False):
        assert f"{option} {made}/{run}: {made}/{gone[0]} is missing: " in error
        assert words in error
    assert not output.exists()


def test_parts_that_go_while_the_command_starts_stop_the_job(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run" / "scores" / "part-00001.parquet").unlink()
    with pytest.raises(ScoreTableError, match=r"part-00001\.parquet is missing"), beam.Pipeline() as pipeline:
        pipeline | ListParts(TablePlace(str(tmp_path / "run")))


@pytest.mark.parametrize("what", ["found", "packed"])
def test_a_search_against_another_version_of_a_run_is_not_continued(made, tmp_path, capsys, what):
    other, output = tmp_path / "other", tmp_path / "clean"
    selection = [f"--scores={made}/run", f"--output={other}"]
    flags = [f"--scores={made}/selected", f"--against={other}", f"--output={output}", "--methods=exact"]
    assert select.main([*selection, "--top=aesthetic=3"]) == 0
    assert dedup.main(flags) == 0
    if what == "found":  # stopped after the search
        (output / "summary.json").unlink()
        shutil.rmtree(output / "verdicts")
    assert select.main([*selection, "--top=aesthetic=3", "--overwrite"]) == 0
    assert dedup.main([*flags, "--resume"]) == 0  # the same again
    assert select.main([*selection, "--top=aesthetic=4", "--overwrite"]) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    error = refused(capsys, dedup, *flags, "--resume")
    assert "duplicates.against_run.configuration.rules.top was 'aesthetic=3' and is 'aesthetic=4' now" in error
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_run_is_not_compared_with_itself(made, tmp_path, capsys):
    (tmp_path / "link").symlink_to(made / "run")
    for folder in (f"{made}/run/", f"{tmp_path}/link"):
        error = refused(capsys, dedup, f"--scores={made}/run", f"--against={folder}", f"--output={tmp_path}/never")
        assert f"--against {folder} is the same run as --scores" in error
    assert not (tmp_path / "never").exists()


def test_an_export_is_no_source(made, tmp_path, capsys):
    folder, output = tmp_path / "exported", tmp_path / "never"
    assert export.main([f"--input={made}/run", f"--output={folder}", "--format=tfrecord"]) == 0
    words = f"{folder} is an export, without a score table; give the run it was made of: {made}/run"
    assert f"--scores {words}" in refused(capsys, dedup, f"--scores={folder}", f"--output={output}")
    assert f"--scores {words}" in refused(capsys, select, f"--scores={folder}", f"--output={output}")
    flags = [f"--scores={made}/run", f"--against={folder}", f"--output={output}"]
    assert f"--against {words}" in refused(capsys, dedup, *flags)


def test_packed_images_are_no_source(made, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(encoded(photo(1)))
    packed, output = tmp_path / "packed", tmp_path / "never"
    assert pack.main([f"--input={tmp_path}/photos", f"--output={packed}"]) == 0
    words = f"{packed} holds packed images, without a score table; score them by beam-curate curate"
    assert f"--scores {words}" in refused(capsys, dedup, f"--scores={packed}", f"--output={output}")
    assert f"--scores {words}" in refused(capsys, select, f"--scores={packed}", f"--output={output}")
    assert f"--run {words}" in refused(capsys, report, f"--run={packed}")
    flags = [f"--scores={made}/run", f"--against={packed}", f"--output={output}"]
    assert f"--against {words}" in refused(capsys, dedup, *flags)
    flags = [f"--input={packed}", f"--output={output}", "--format=webdataset"]
    assert "holds packed images, and is not a run of beam-curate curate" in refused(capsys, export, *flags)


@pytest.mark.parametrize("gone", ["00001.tar", "00001.parquet", "all of 00001.parquet", "index.json"])
def test_an_export_of_a_run_that_lacks_a_file_is_refused_before_any_work(made, tmp_path, capsys, gone):
    folder, output = tmp_path / "run", tmp_path / "never"
    shutil.copytree(made / "run", folder)
    path = folder / gone.removeprefix("all of ")
    path.unlink() if path.name == gone else path.write_bytes(b"")
    error = refused(capsys, export, f"--input={folder}", f"--output={output}", "--format=webdataset")
    assert f"--input {folder}: {path} is {'missing' if path.name == gone else 'empty'}" in error
    assert "restore" in error
    assert not output.exists()


def test_a_run_whose_shards_are_elsewhere_is_refused_before_any_work(made, tmp_path, capsys):
    output, shards = tmp_path / "never", made / "awkward"
    flags = [f"--scores={made}/run", f"--output={output}"]
    shards.rename(made / "moved")
    try:
        for command in (select, dedup):
            error = refused(capsys, command, *flags)
            assert f"--scores {made}/run: {shards}/0.tar is missing, and the other input shards" in error
            assert "Put them back" in error
        assert not output.exists()
        assert select.main([*flags, "--dry_run"]) == 0
        assert dedup.main([*flags, "--table_only", "--methods=exact"]) == 0
        shards.mkdir()
        (shards / "2.tar").write_bytes((made / "moved" / "2.tar").read_bytes())
        flags[1] = f"--output={tmp_path}/last"
        assert select.main([*flags, f"--keep=shard == '{shards}/2.tar'"]) == 0
    finally:
        shutil.rmtree(shards, ignore_errors=True)
        (made / "moved").rename(shards)


def unchanged(folder):
    """The files of a run, but for those that tell of times."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name: (folder / name).read_bytes() for name in names - {"summary.json", "report.html"}}


@pytest.mark.parametrize("gone", ["scores/part-00001.parquet", "verdicts/part-00002.parquet", "00001.tar", "00001.parquet",
                                  "00001_stats.json", "index.json", "sizes.json", "a byte of 00001.tar",
                                  "all of 00001.parquet"])  # fmt: skip
def test_a_complete_run_that_lacks_a_file_says_so_and_is_mended(made, tmp_path, capsys, gone):
    output = tmp_path / "top"
    shutil.copytree(made / "top", output)
    before = unchanged(output)
    path = output / gone.removeprefix("a byte of ").removeprefix("all of ")
    left = {"a byte": path.read_bytes()[:-1], "all of": b""}.get(gone[:6])
    path.unlink() if left is None else path.write_bytes(left)
    flags = [f"--input={made}/awkward/*.tar", f"--output={output}", *MODEL, *OFF, "--samples_per_shard=5"]
    flags += ["--top=aesthetic=12", "--resume"]
    error = refused(capsys, curate, *flags)
    assert f"{path} {'has' if 'byte' in gone else 'is empty' if 'all' in gone else 'is missing'}" in error
    assert f"delete {output}/summary.json and repeat the command of that run with --resume" in error
    (output / "summary.json").unlink()
    assert curate.main(flags) == 0
    assert unchanged(output) == before
    assert curate.main(flags) == 0
    assert "is complete already" in capsys.readouterr().out


@pytest.mark.parametrize(("format", "gone"), [("webdataset", "00001.tar"), ("tfrecord", "00000.tfrecord"),
                                              ("tfrecord", "00000.tfindex"), ("tfrecord", "failures.parquet")])  # fmt: skip
def test_a_complete_export_that_lacks_a_file_says_so_and_is_mended(made, tmp_path, capsys, format, gone):
    output = tmp_path / "exported"
    flags = [f"--input={made}/run", f"--output={output}", f"--format={format}", "--samples_per_file=8"]
    assert export.main(flags) == 0
    before = unchanged(output)
    (output / gone).unlink()
    flags.append("--resume")
    assert f"{output}/{gone} is missing" in refused(capsys, export, *flags)
    (output / "summary.json").unlink()
    assert export.main(flags) == 0
    assert unchanged(output) == before
    (output / gone).write_bytes(b"")
    if not gone.endswith("tfindex"):
        assert ("is empty" if gone.endswith("parquet") else "bytes") in refused(capsys, export, *flags)
