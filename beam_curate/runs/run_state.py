"""What lets a run be continued, refused or replaced: the files `run.json` and `input_shards.parquet` in its folder.

They are written before any work: the configuration that decides the results, and the shards with their sizes. The parts
of the score table that lie beside them are the work done so far.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.records import FAILED, ScorePart, Shard
from beam_curate.runs import score_table
from beam_curate.runs.claims import RunError, claim, is_claimed, release
from beam_curate.runs.run_files import (
    BESIDE,
    EXPORT,
    INPUT_SHARDS,
    LAYOUT_FILES,
    OF_THE_TABLE,
    ONLY_FORMATS,
    OURS,
    PACK,
    RUN,
    SCORES,
    VERDICTS,
    delete_matching,
    folders,
    matching,
)
from beam_curate.runs.state_files import flat, input_shards, read_run_file, read_summary
from beam_curate.runs.summary import SUMMARY, TABLE_ONLY
from beam_curate.storage.files import (
    all_files,
    atomic_output,
    clean_temporary,
    delete,
    exists,
    files_under,
    is_temporary,
    join,
    write_json,
)
from beam_curate.storage.json_files import DamagedFileError
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.places import Folders, identity
from beam_curate.threads import in_threads

__all__ = [
    "EXPORT",
    "INPUT_SHARDS",
    "LAYOUT_FILES",
    "PACK",
    "RUN",
    "RunError",
    "failed_rows",
    "input_shards",
    "part_paths",
    "prepare_output",
    "read_part_counts",
    "scores_folder",
]

LOOKED_INTO: Final = 1000
"""Parts of a table whose footers are read before a command writes anything, so that a damaged one is named at once; workers
look into all others, each when they read it. A footer is one or two requests, so these take seconds on an object store."""
# Configuration that only decides which samples fail: it may change when failed samples are tried again.
_LIMITS = ("max_pixels", "max_member_bytes")
_PART = re.compile(r"part-(\d+)\.parquet$")


def prepare_output(
    output: str,
    configuration: Mapping[str, Any],
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
        configuration: All that decides the results, as JSON values.
        shards: The input.
        resume: Continue the run that is there, which must have the same configuration and input.
        overwrite: Delete the files of the run that is there.
        retry: Reasons of failure: continue the run, complete or not, and score again the samples that failed for one of
            them. The limits that failed them may have changed. Duplicates, verdicts on the whole table and output shards that
            are there are deleted: what is kept, and so the packing, may change.
        scores: The folder of the run whose score table this one judges, for one that has only verdicts of its own. It is
            noted, and a run that is continued may name another: the table was moved.
        kind: EXPORT for an export, PACK for packed images; empty for a run with a score table.
        reads: Files and folders that the run reads besides the shards and `scores`: none may lie in the output folder.
        runs: Folders of runs that it reads besides `scores`: nor may the output folder lie in one of these.
        table_only: The run ends with its score table, so one that has ended so is complete; without, it is not. Its summary
            then stays until that of the whole run takes its place: that one can be told by TABLE_ONLY in it.

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
            return whole and (table_only or not read_summary(output).get(TABLE_ONLY))
        if there:
            kinds = _check_replaceable(output, scores, kind)
            _check_not_read(output, [*(shard.path for shard in shards), *reads], kinds)
            _delete_run(output, kinds)
        else:
            _check_new(output, resume or bool(retry))
        with atomic_output(output, INPUT_SHARDS) as stream:
            columns = {"path": [shard.path for shard in shards], "size": [shard.size for shard in shards]}
            pq.write_table(pa.table(columns, _SHARDS), stream)
        _write_run(output, configuration, shards, scores, kind)
        return False
    finally:
        if mine:
            release(output)


_SHARDS = pa.schema([("path", pa.string()), ("size", pa.int64())])


def _check_new(output: str, goes_on: bool) -> None:
    """Refuses a folder without a run to continue one, and one with other files to begin one."""
    # A run that was stopped between writing the shards and its mark has no mark yet. Below the folder too: parts of a table whose
    # run is not known would be taken for parts of this one.
    other = next((path for path in all_files(output) if not _of_a_start(output, path)), None)
    if other is not None:
        raise RunError(
            f"--output {output} is not empty and holds no run of beam_curate, but {other}; give an empty or new folder"
        )
    if goes_on:
        raise RunError(
            f"--output {output} holds no run to continue; leave out --resume and --retry_failed to start one"
        )


def _of_a_start(output: str, path: str) -> bool:
    """Whether a file is what a run may leave that was stopped before it had its mark."""
    return path == join(output, INPUT_SHARDS) or is_temporary(output, path)


def _continue(
    output: str,
    configuration: Mapping[str, Any],
    shards: Sequence[Shard],
    resume: bool,
    retry: Sequence[str],
    scores: str,
    kind: str,
) -> bool:
    """Makes the run that is there ready to go on; returns whether it is complete already."""
    if not resume and not retry:
        raise RunError(
            f"--output {output} holds a run already; continue it with --resume or replace it with --overwrite"
        )
    run = read_run_file(output)
    _check_kind(output, run, kind, "--resume")
    _check_same(output, run["configuration"], configuration, shards, _LIMITS if retry else ())
    folder = score_table.VERDICTS if "scores" in run else score_table.FOLDER
    parts = sorted(part_paths(output, folder).values())[:LOOKED_INTO]
    deque(in_threads(lambda path: read_part_counts(output, path), parts), maxlen=0)
    clean_temporary(output)
    if retry:
        _check_not_read(output, [shard.path for shard in shards], OF_THE_TABLE)
        delete_matching(output, OF_THE_TABLE)
    if retry or scores_folder(output) != (scores or output):
        _write_run(output, configuration, shards, scores, kind)
    return exists(join(output, SUMMARY))


def _write_run(output: str, configuration: Mapping[str, Any], shards: Sequence[Shard], scores: str, kind: str) -> None:
    table = {**({"kind": kind} if kind else {}), **({"scores": scores} if scores else {})}
    write_json(output, RUN, {"configuration": dict(configuration), "input_shards": len(shards), **table})


def scores_folder(output: str) -> str:
    """The folder of the run whose score table a run judges: its own, unless it was selected from another's.

    Raises:
        DamagedFileError: Its run.json is damaged.
        StorageError: It cannot be read.
    """
    if not exists(join(output, RUN)):
        return output  # a pipeline of the user's own, without the commands
    return str(read_run_file(output).get("scores", output))


def _check_apart(output: str, reads: Sequence[str], runs: Sequence[str]) -> None:
    """Refuses an output folder that holds what is read, or lies in a run that is: it would be deleted, or written into."""
    own = folders(output)
    ours = Folders(own)
    for path in (*reads, *runs):
        if ours.hold(path):
            raise RunError(f"--output {output} holds {path}, which this run reads; give another --output")
    for run in runs:
        theirs = Folders([run])
        if any(theirs.hold(folder) for folder in own):
            raise RunError(f"--output {output} lies in {run}, which this run reads; give another --output")


def _check_not_read(output: str, reads: Sequence[str], patterns: Sequence[str]) -> None:
    """Refuses to delete a file that is read under another name: a hard link, or a mount of this very file."""
    if scheme(output):
        return
    read = {found: path for path in reads if not scheme(path) and (found := identity(path))}
    for path in matching(output, patterns):
        found = identity(path)
        if found in read:
            raise RunError(
                f"--output {output} holds {read[found]}, which this run reads: it is the file {path}; give another --output"
            )


def _check_kind(output: str, run: Mapping[str, Any], kind: str, option: str) -> None:
    there = str(run.get("kind", ""))
    if there != kind:
        words = {"": "a run of curate.py or select.py", EXPORT: "an export", PACK: "packed images"}
        raise RunError(f"{option}: --output {output} holds {words.get(there, there)}; give another --output")


def _check_replaceable(output: str, scores: str, kind: str) -> Sequence[str]:
    """Refuses to delete what the new run cannot give again: another kind of run, or its scores.

    Returns:
        The patterns of the files to delete.
    """
    patterns = (*OURS, *BESIDE[kind])
    try:
        run = read_run_file(output)
    except DamagedFileError as error:
        # A file of this name alone may be of another program, and the tars beside it what they were downloaded as.
        if not exists(join(output, INPUT_SHARDS)):
            raise RunError(
                f"--overwrite: {error}. There is no {INPUT_SHARDS} either, so this may be no run of beam_curate: give another "
                f"--output, or move away what is there"
            ) from error
        # What the file does not say the others must: only what this kind of run writes may be there.
        foreign = (SCORES,) if scores else (SCORES, VERDICTS) if kind == EXPORT else ONLY_FORMATS
        others = matching(output, foreign)
        if others:
            raise RunError(
                f"--overwrite: {error}. There is {others[0]}, which this run cannot make again: give another --output"
            ) from error
        return patterns
    _check_kind(output, run, kind, "--overwrite")
    if scores and run.get("scores", output) == output:
        raise RunError(
            f"--overwrite: --output {output} holds the score table of a run of curate.py, which this one cannot make again; "
            "give another --output"
        )
    return patterns


def _delete_run(output: str, patterns: Sequence[str]) -> None:
    # The mark of a run goes last, so that an interrupted deletion can be repeated.
    delete_matching(output, patterns)
    clean_temporary(output)
    delete([join(output, RUN)])


def forget_unstarted(output: str) -> bool:
    """Deletes what `prepare_output` wrote for a new run, so that its folder holds none; returns whether it did.

    It does not where anything of the run is finished. No worker may be writing any more.
    """
    patterns = (*OURS, *BESIDE[str(read_run_file(output).get("kind", ""))])
    if matching(output, [pattern for pattern in patterns if pattern != INPUT_SHARDS]):
        return False
    _delete_run(output, patterns)
    return True


def _check_same(
    output: str,
    before_it: Mapping[str, Any],
    configuration: Mapping[str, Any],
    shards: Sequence[Shard],
    may_differ: Sequence[str],
) -> None:
    before, now = flat(before_it), flat(configuration)
    for name in sorted({*before, *now}):
        # An option that is newer than the run, and off, changes nothing.
        off = name not in before and now[name] in (False, "", [], None)
        if before.get(name) != now.get(name) and not off and name not in may_differ:
            raise RunError(
                f"--resume: {name} was {before.get(name)!r} and is {now.get(name)!r} now; give the same as before, or "
                f"start a new run in another --output"
            )
    listed = {shard.path: shard.size for shard in input_shards(output)}
    sizes = {shard.path: shard.size for shard in shards}
    for path in sorted({*listed, *sizes}):
        if listed.get(path) != sizes.get(path):
            was, is_now = (
                f"{size} bytes" if size is not None else "missing" for size in (listed.get(path), sizes.get(path))
            )
            raise RunError(
                f"--resume: the input changed: {path} was {was} and is {is_now} now; restore it, or start a new run in "
                f"another --output"
            )


def part_paths(output: str, folder: str = score_table.FOLDER) -> dict[int, str]:
    """The finished parts of the score table, or of the verdicts on it, by input shard, as paths relative to `output`."""
    found: dict[int, str] = {}
    for path in files_under(output, f"{folder}/part-*.parquet"):
        match = _PART.search(path)
        if match:
            found[int(match.group(1))] = f"{folder}/{match.group(0)}"
    return found


def failed_rows(output: str, path: str, reasons: Sequence[str]) -> list[int] | None:
    """The indexes of a part's rows that failed with one of the reasons, ascending.

    None if one of them is no sample but a damaged spot, or the shard as a whole (its key is empty): what a better reading finds
    there are other rows, so the shard is to be read again from its start.
    """
    part_path = join(output, path)
    with score_table.open_part(part_path) as part, score_table.damage_named(part_path):
        rows = part.read(columns=["index", "key", "status", "reason"]).to_pylist()
    failed = [row for row in rows if row["status"] == FAILED and row["reason"] in reasons]
    return [row["index"] for row in failed] if all(row["key"] for row in failed) else None


def read_part_counts(output: str, path: str) -> ScorePart:
    """What a finished part counts."""
    whole = join(output, path)
    with score_table.open_part(whole) as part:
        footprint = score_table.footprint(part.schema_arrow, part.metadata)
        return score_table.part_counts(part.schema_arrow, whole, footprint)
