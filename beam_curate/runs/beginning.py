"""How a run begins: it is new, or is continued, refused or replaced by what `run.json` and `input_shards.parquet` say.

They are written before any work: the configuration that decides the results, and the shards with their sizes. The parts
of the score table that lie beside them are the work done so far.
"""

import posixpath
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from beam_curate.runs import score_table
from beam_curate.runs.claims import RunError, claim, is_claimed, release
from beam_curate.runs.configuration import EXPORT, LIMITS, Configuration
from beam_curate.runs.own_parts import mark_of
from beam_curate.runs.parts import part_paths, read_part_counts
from beam_curate.runs.read_runs import check_same
from beam_curate.runs.run_files import (
    CROISSANT,
    INPUT_SHARDS,
    RUN,
    SCORES,
    SUMMARY,
    VERDICTS,
    delete_matching,
    folders,
    matching,
    of_other_formats,
    of_the_table,
    ours,
)
from beam_curate.runs.state_files import KINDS, RunFile, input_shards, is_table_only, read_run_file, write_run_file
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage.files import all_files, clean_temporary, delete, exists, is_temporary, join
from beam_curate.storage.json_files import DamagedFileError
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.places import Folders, identity
from beam_curate.threads import in_threads

LOOKED_INTO: Final = 1000
"""Parts of a table whose footers are read before a command writes anything, so that a damaged one is named at once; workers
look into all others, each when they read it. A footer is one or two requests, so these take seconds on an object store."""


def begin(output: str, wanted: WantedRun) -> bool:
    """Makes the output folder ready for a run; returns whether the run is complete already.

    The folder is claimed meanwhile, see `claims`: of two jobs that come at the same moment one is refused. A command claims it
    before, and until its end.

    Raises:
        RunError: The folder holds something else, or another run, or another job writes there; it names the difference and the
            remedy.
        DamagedFileError: A file of the run that is to be continued is damaged.
        ScoreTableError: A part of its table is damaged.
        RunChangedError: A run that it reads is not what it was when it was begun.
        StorageError: A file cannot be read, written or deleted.
    """
    _check_apart(output, wanted)
    mine = not is_claimed(output)
    claim(output)
    try:
        there = exists(join(output, RUN))
        if there and not wanted.overwrite:
            whole = _continue(output, wanted)
            return whole and (wanted.table_only or not is_table_only(output))
        if there:
            kinds = _check_replaceable(output, wanted)
            _check_not_read(output, wanted.read, kinds)
            _delete_run(output, kinds)
        else:
            _check_new(output, wanted.goes_on)
        write_run_file(output, _run_file(wanted, mark_of(wanted.configuration, wanted.shards)), wanted.shards)
        return False
    finally:
        if mine:
            release(output)


def _run_file(wanted: WantedRun, mark: str, begun: Sequence[str] = ()) -> RunFile:
    retry = list(dict.fromkeys([*begun, *wanted.retry]))
    return RunFile(
        wanted.configuration,
        wanted.kind,
        wanted.scores,
        len(wanted.shards),
        mark,
        retry,
        bool(wanted.retry),
        wanted.seen,
    )


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


def _continue(output: str, wanted: WantedRun) -> bool:
    """Makes the run that is there ready to go on; returns whether it is complete already."""
    if not wanted.goes_on:
        raise RunError(
            f"`output` {output} holds a run already; continue it with `resume` or replace it with `overwrite`"
        )
    run = read_run_file(output)
    _check_kind(output, run, wanted.kind, "resume")
    _check_same(output, run.configuration, wanted)
    check_same(run.seen, wanted.seen)
    folder = score_table.VERDICTS if run.scores else score_table.FOLDER
    parts = sorted(part_paths(output, folder).values())[:LOOKED_INTO]
    widths = {} if run.scores else _widths(wanted.configuration)
    deque(in_threads(lambda path: read_part_counts(output, path, widths), parts), maxlen=0)
    clean_temporary(output)
    outdated = bool(wanted.retry) or run.outdated
    if outdated:
        _check_not_read(output, [shard.path for shard in wanted.shards], of_the_table())
    if wanted.retry or (run.scores, run.seen) != (wanted.scores, wanted.seen):
        # Before anything is deleted: whoever goes on must know that samples are to be scored again.
        write_run_file(output, _run_file(wanted, run.mark, run.retry), wanted.shards if wanted.kind == EXPORT else None)
    if outdated:
        delete_matching(output, of_the_table())
        write_run_file(output, replace(_run_file(wanted, run.mark, run.retry), outdated=False))
    return exists(join(output, SUMMARY))


def _widths(configuration: Configuration) -> dict[str, int]:
    """The widths of the embeddings of a table, by their columns, as far as the configuration tells."""
    models = {"": configuration.model, **configuration.second_models}
    named = {
        f"{score_table.SECOND_PREFIX}{name}" if name else score_table.EMBEDDING: model for name, model in models.items()
    }
    return {name: model.embed_dim for name, model in named.items() if model is not None and model.embed_dim}


def _check_apart(output: str, wanted: WantedRun) -> None:
    """Refuses an output folder that holds what is read, or lies in a run that is: it would be deleted, or written into."""
    runs = [*wanted.runs, wanted.scores] if wanted.scores else wanted.runs
    own = folders(output)
    ours = Folders(own)
    for path in (*wanted.read, *runs):
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
        raise RunError(f"`{argument}`: `output` {output} holds {KINDS.get(run.kind, run.kind)}; give another `output`")


def _check_replaceable(output: str, wanted: WantedRun) -> Sequence[str]:
    """Refuses to delete what the new run cannot give again: another kind of run, or its scores.

    Returns:
        The patterns of the files to delete.
    """
    files, kind = wanted.configuration.files, wanted.kind
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
        foreign = (SCORES,) if wanted.scores else (SCORES, VERDICTS) if kind == EXPORT else (CROISSANT,)
        others = [*matching(output, foreign), *of_other_formats(output, files)]
        if others:
            raise RunError(
                f"`overwrite`: {error}. There is {others[0]}, which this run cannot make again: give another `output`"
            ) from error
        return ours(files, kind)
    _check_kind(output, run, kind, "overwrite")
    if wanted.scores and run.scores in ("", output):
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


def _check_same(output: str, begun: Configuration, wanted: WantedRun) -> None:
    before, now = begun.flat(), wanted.configuration.flat()
    may_differ = LIMITS if wanted.retry else ()
    for name in sorted({*before, *now}):
        # An option that is newer than the run, and off, changes nothing.
        off = name not in before and now[name] in (False, "", [], None)
        # Of a run that is read it counts what it is, and not where it lies, if one was read before.
        place = name == "duplicates.against" and before.get(name) and "duplicates.against_run.content" in now
        if before.get(name) != now.get(name) and not off and not place and name not in may_differ:
            read = name.startswith(("source.", "duplicates.against_run."))
            remedy = (
                "the run that is read was changed since, or is another one: repeat the command with `overwrite`, or in"
                if read
                else "give the same as before, or start a new run in"
            )
            raise RunError(
                f"`resume`: {name} was {before.get(name)!r} and is {now.get(name)!r} now; {remedy} another `output`"
            )
    listed, sizes = (
        {posixpath.basename(shard.path) if wanted.kind == EXPORT else shard.path: shard.size for shard in shards}
        for shards in (input_shards(output), wanted.shards)
    )
    for path in sorted({*listed, *sizes}):
        if listed.get(path) != sizes.get(path):
            was, is_now = (
                f"{size} bytes" if size is not None else "missing" for size in (listed.get(path), sizes.get(path))
            )
            raise RunError(
                f"`resume`: the input changed: {path} was {was} and is {is_now} now; restore it, or start a new run in "
                f"another `output`"
            )
