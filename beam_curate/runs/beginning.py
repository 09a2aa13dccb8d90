"""How a run begins: it is new, or is continued, refused or replaced by what `run.json` and `input_shards.parquet` say.

They are written before any work: the configuration that decides the results, and the shards with their sizes. The parts
of the score table that lie beside them are the work done so far.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from beam_curate.records import Shard
from beam_curate.runs import score_table
from beam_curate.runs.claims import RunError, claim, is_claimed, release
from beam_curate.runs.configuration import LIMITS, Configuration, Files
from beam_curate.runs.parts import part_paths, read_part_counts
from beam_curate.runs.run_files import (
    CROISSANT,
    EXPORT,
    INPUT_SHARDS,
    OF_THE_TABLE,
    PACK,
    RUN,
    SCORES,
    SUMMARY,
    VERDICTS,
    delete_matching,
    folders,
    matching,
    of_other_formats,
    ours,
)
from beam_curate.runs.state_files import RunFile, input_shards, is_table_only, read_run_file, write_run_file
from beam_curate.storage.files import all_files, clean_temporary, delete, exists, is_temporary, join
from beam_curate.storage.json_files import DamagedFileError
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.places import Folders, identity
from beam_curate.threads import in_threads

LOOKED_INTO: Final = 1000
"""Parts of a table whose footers are read before a command writes anything, so that a damaged one is named at once; workers
look into all others, each when they read it. A footer is one or two requests, so these take seconds on an object store."""


def begin(
    output: str,
    configuration: Configuration,
    shards: Sequence[Shard],
    *,
    resume: bool = False,
    overwrite: bool = False,
    retry: Sequence[str] = (),
    scores: str = "",
    kind: str = "",
    reads: Sequence[str] = (),
    runs: Sequence[str] = (),
    table_only: bool = False,
) -> bool:
    """Makes the output folder ready for the run; returns whether the run is complete already.

    The folder is claimed meanwhile, see `claims`: of two jobs that come at the same moment one is refused. A command claims it
    before, and until its end.

    Args:
        output: The run's folder.
        configuration: All that decides the results.
        shards: The input.
        resume: Continue the run that is there, which must have the same configuration and input.
        overwrite: Delete the files of the run that is there.
        retry: Reasons of failure: continue the run, complete or not, and score again the samples that failed for one of
            them. The limits that failed them may have changed. Duplicates and verdicts on the whole table are deleted, for they
            may change; output files whose plan still holds stay.
        scores: The folder of the run whose score table this one judges, for one that has only verdicts of its own. It is
            noted, and a run that is continued may name another: the table was moved.
        kind: EXPORT for an export, PACK for packed images; empty for a run with a score table.
        reads: Files and folders that the run reads besides the shards and `scores`: none may lie in the output folder.
        runs: Folders of runs that it reads besides `scores`: nor may the output folder lie in one of these.
        table_only: The run ends with its score table, so one that has ended so is complete; without, it is not. Its summary
            then stays until that of the whole run takes its place: that one can be told by `table_only` in it.

    Raises:
        RunError: The folder holds something else, or another run, or another job writes there; it names the difference and the
            remedy.
        DamagedFileError: A file of the run that is to be continued is damaged.
        ScoreTableError: A part of its table is damaged.
        StorageError: A file cannot be read, written or deleted.
    """
    _check_apart(output, [*(shard.path for shard in shards), *reads], [*runs, scores] if scores else runs)
    mine = not is_claimed(output)
    claim(output)
    try:
        there = exists(join(output, RUN))
        if there and not overwrite:
            whole = _continue(output, configuration, shards, resume, retry, scores, kind)
            return whole and (table_only or not is_table_only(output))
        if there:
            kinds = _check_replaceable(output, configuration.files, scores, kind)
            _check_not_read(output, [*(shard.path for shard in shards), *reads], kinds)
            _delete_run(output, kinds)
        else:
            _check_new(output, resume or bool(retry))
        write_run_file(output, RunFile(configuration, kind, scores, len(shards)), shards)
        return False
    finally:
        if mine:
            release(output)


def _check_new(output: str, goes_on: bool) -> None:
    """Refuses a folder without a run to continue one, and one with other files to begin one."""
    # A run that was stopped between writing the shards and its mark has no mark yet. Below the folder too: parts of a table whose
    # run is not known would be taken for parts of this one.
    other = next((path for path in all_files(output) if not _of_a_start(output, path)), None)
    if other is not None:
        raise RunError(
            f"`output` {output} is not empty and holds no run of beam_curate, but {other}; give an empty or new folder"
        )
    if goes_on:
        raise RunError(
            f"`output` {output} holds no run to continue; leave out `resume` and `retry_failed` to start one"
        )


def _of_a_start(output: str, path: str) -> bool:
    """Whether a file is what a run may leave that was stopped before it had its mark."""
    return path == join(output, INPUT_SHARDS) or is_temporary(output, path)


def _continue(
    output: str,
    configuration: Configuration,
    shards: Sequence[Shard],
    resume: bool,
    retry: Sequence[str],
    scores: str,
    kind: str,
) -> bool:
    """Makes the run that is there ready to go on; returns whether it is complete already."""
    if not resume and not retry:
        raise RunError(
            f"`output` {output} holds a run already; continue it with `resume` or replace it with `overwrite`"
        )
    run = read_run_file(output)
    _check_kind(output, run, kind, "resume")
    _check_same(output, run.configuration, configuration, shards, LIMITS if retry else ())
    folder = score_table.VERDICTS if run.scores else score_table.FOLDER
    parts = sorted(part_paths(output, folder).values())[:LOOKED_INTO]
    deque(in_threads(lambda path: read_part_counts(output, path), parts), maxlen=0)
    clean_temporary(output)
    if retry:
        _check_not_read(output, [shard.path for shard in shards], OF_THE_TABLE)
        delete_matching(output, OF_THE_TABLE)
    if retry or run.scores != scores:
        write_run_file(output, RunFile(configuration, kind, scores, len(shards)))
    return exists(join(output, SUMMARY))


def _check_apart(output: str, reads: Sequence[str], runs: Sequence[str]) -> None:
    """Refuses an output folder that holds what is read, or lies in a run that is: it would be deleted, or written into."""
    own = folders(output)
    ours = Folders(own)
    for path in (*reads, *runs):
        if ours.hold(path):
            raise RunError(f"`output` {output} holds {path}, which this run reads; give another `output`")
    for run in runs:
        theirs = Folders([run])
        if any(theirs.hold(folder) for folder in own):
            raise RunError(f"`output` {output} lies in {run}, which this run reads; give another `output`")


def _check_not_read(output: str, reads: Sequence[str], patterns: Sequence[str]) -> None:
    """Refuses to delete a file that is read under another name: a hard link, or a mount of this very file."""
    if scheme(output):
        return
    read = {found: path for path in reads if not scheme(path) and (found := identity(path))}
    for path in matching(output, patterns):
        found = identity(path)
        if found in read:
            raise RunError(
                f"`output` {output} holds {read[found]}, which this run reads: it is the file {path}; give another `output`"
            )


def _check_kind(output: str, run: RunFile, kind: str, argument: str) -> None:
    if run.kind != kind:
        words = {"": "a run of beam-curate curate or select", EXPORT: "an export", PACK: "packed images"}
        raise RunError(f"`{argument}`: `output` {output} holds {words.get(run.kind, run.kind)}; give another `output`")


def _check_replaceable(output: str, files: Files, scores: str, kind: str) -> Sequence[str]:
    """Refuses to delete what the new run cannot give again: another kind of run, or its scores.

    Returns:
        The patterns of the files to delete.
    """
    try:
        run = read_run_file(output)
    except DamagedFileError as error:
        # A file of this name alone may be of another program, and the tars beside it what they were downloaded as.
        if not exists(join(output, INPUT_SHARDS)):
            raise RunError(
                f"`overwrite`: {error}. There is no {INPUT_SHARDS} either, so this may be no run of beam_curate: give another "
                f"`output`, or move away what is there"
            ) from error
        # What the file does not say the others must: only what this kind of run writes may be there.
        foreign = (SCORES,) if scores else (SCORES, VERDICTS) if kind == EXPORT else (CROISSANT,)
        others = [*matching(output, foreign), *of_other_formats(output, files)]
        if others:
            raise RunError(
                f"`overwrite`: {error}. There is {others[0]}, which this run cannot make again: give another `output`"
            ) from error
        return ours(files, kind)
    _check_kind(output, run, kind, "overwrite")
    if scores and run.scores in ("", output):
        raise RunError(
            f"`overwrite`: `output` {output} holds the score table of a run of beam-curate curate, which this one cannot make "
            "again; give another `output`"
        )
    return ours(run.configuration.files, kind)


def _delete_run(output: str, patterns: Sequence[str]) -> None:
    # The mark of a run goes last, so that an interrupted deletion can be repeated.
    delete_matching(output, patterns)
    clean_temporary(output)
    delete([join(output, RUN)])


def forget_unstarted(output: str) -> bool:
    """Deletes what `begin` wrote for a new run, so that its folder holds none; returns whether it did.

    It does not where anything of the run is finished. No worker may be writing any more.
    """
    run = read_run_file(output)
    patterns = ours(run.configuration.files, run.kind)
    if matching(output, [pattern for pattern in patterns if pattern != INPUT_SHARDS]):
        return False
    _delete_run(output, patterns)
    return True


def _check_same(
    output: str,
    before_it: Configuration,
    configuration: Configuration,
    shards: Sequence[Shard],
    may_differ: Sequence[str],
) -> None:
    before, now = before_it.flat(), configuration.flat()
    for name in sorted({*before, *now}):
        # An option that is newer than the run, and off, changes nothing.
        off = name not in before and now[name] in (False, "", [], None)
        if before.get(name) != now.get(name) and not off and name not in may_differ:
            raise RunError(
                f"`resume`: {name} was {before.get(name)!r} and is {now.get(name)!r} now; give the same as before, or "
                f"start a new run in another `output`"
            )
    listed = {shard.path: shard.size for shard in input_shards(output)}
    sizes = {shard.path: shard.size for shard in shards}
    for path in sorted({*listed, *sizes}):
        if listed.get(path) != sizes.get(path):
            was, is_now = (
                f"{size} bytes" if size is not None else "missing" for size in (listed.get(path), sizes.get(path))
            )
            raise RunError(
                f"`resume`: the input changed: {path} was {was} and is {is_now} now; restore it, or start a new run in "
                f"another `output`"
            )
