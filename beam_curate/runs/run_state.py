"""What lets a run be continued, refused or replaced: the files `run.json` and `input_shards.parquet` in its folder.

They are written before any work: the configuration that decides the results, and the shards with their sizes. The parts
of the score table that lie beside them are the work done so far.
"""

import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.records import FAILED, ScorePart, Shard
from beam_curate.runs import score_table
from beam_curate.runs.summary import SUMMARY
from beam_curate.storage.files import (
    atomic_output,
    clean_temporary,
    delete,
    exists,
    files_under,
    join,
    open_read,
    read_json,
    write_json,
)
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.retrying import StorageError

RUN = "run.json"
INPUT_SHARDS = "input_shards.parquet"
# All that a run writes below its folder.
LAYOUT_FILES: Final[Mapping[str, Sequence[str]]] = {
    "clip-retrieval": ("img_emb/*", "metadata/*"),
    "datacomp": ("metadata/*",),
    "laion": ("*.parquet",),
}
"""By layout, the files below its folder of which its tool reads all, so that no others may lie there."""
_LAYOUTS = tuple(
    f"layouts/{name}/{pattern}"
    for name, patterns in LAYOUT_FILES.items()
    for pattern in ("_layout.json", "subset.npy", *patterns)
)
_PACKED = ("[0-9]*.tar", "[0-9]*.parquet", "[0-9]*_stats.json", "index.json", "sizes.json", "report.html", *_LAYOUTS)
_VERDICTS = f"{score_table.VERDICTS}/part-*.parquet"
# The mark of a complete duplicates table goes first.
_DUPLICATES = ("duplicates/summary.json", "duplicates/part-*.parquet", "duplicates/work/*")
_OURS = (SUMMARY, *_PACKED, _VERDICTS, *_DUPLICATES, f"{score_table.FOLDER}/part-*.parquet", INPUT_SHARDS)
EXPORT = "export"
# What runs of other kinds write beside it, by the kind that run.json names.
_BESIDE = {
    "": (),
    EXPORT: (
        "[0-9]*.tfrecord",
        "[0-9]*.tfrecord.gz",
        "[0-9]*.tfindex",
        "failures.parquet",
        "README.md",
        "croissant.json",
    ),
}
# Configuration that only decides which samples fail: it may change when failed samples are tried again.
_LIMITS = ("max_pixels", "max_member_bytes")
_NUMBERED = "[0-9]*"
_PART = re.compile(r"part-(\d+)\.parquet$")


class RunError(ValueError):
    """The output folder does not allow the run that was asked for; the message says what does."""


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
) -> bool:
    """Makes the output folder ready for the run; returns whether the run is complete already.

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
        kind: EXPORT for an export; empty for a run with a score table.
        reads: Folders that the run reads besides the shards and `scores`: none may lie in the output folder.

    Raises:
        RunError: The folder holds something else, or another run; it names the difference and the remedy.
    """
    _check_apart(output, shards, [*reads, scores] if scores else reads)
    if exists(join(output, RUN)):
        if overwrite:
            _check_replaceable(output, scores, kind)
            _delete_run(output)
        elif not resume and not retry:
            raise RunError(
                f"--output {output} holds a run already; continue it with --resume or replace it with --overwrite"
            )
        else:
            _check_kind(output, kind, "--resume")
            _check_same(output, configuration, shards, _LIMITS if retry else ())
            clean_temporary(output)
            if retry:
                _delete(output, (SUMMARY, *_PACKED, _VERDICTS, *_DUPLICATES))
            if retry or scores_folder(output) != (scores or output):
                _write_run(output, configuration, shards, scores, kind)
            return exists(join(output, SUMMARY))
    # A run that was stopped between writing these two has no mark yet.
    elif set(files_under(output, "*")) - {join(output, INPUT_SHARDS)}:
        raise RunError(f"--output {output} is not empty and holds no run of beam_curate; give an empty or new folder")
    elif resume or retry:
        raise RunError(
            f"--output {output} holds no run to continue; leave out --resume and --retry_failed to start one"
        )
    with atomic_output(output, INPUT_SHARDS) as stream:
        columns = {"path": [shard.path for shard in shards], "size": [shard.size for shard in shards]}
        pq.write_table(pa.table(columns), stream)
    _write_run(output, configuration, shards, scores, kind)
    return False


def _write_run(output: str, configuration: Mapping[str, Any], shards: Sequence[Shard], scores: str, kind: str) -> None:
    table = {**({"kind": kind} if kind else {}), **({"scores": scores} if scores else {})}
    write_json(output, RUN, {"configuration": dict(configuration), "input_shards": len(shards), **table})


def scores_folder(output: str) -> str:
    """The folder of the run whose score table a run judges: its own, unless it was selected from another's."""
    try:
        run = read_json(join(output, RUN))
    except StorageError:
        if exists(join(output, RUN)):
            raise
        return output  # a pipeline of the user's own, without the commands
    return str(run.get("scores", output))


def _kind(output: str) -> str:
    return str(read_json(join(output, RUN)).get("kind", ""))


def _check_apart(output: str, shards: Sequence[Shard], reads: Sequence[str]) -> None:
    """Refuses an output folder that holds what is read: --overwrite would delete it."""
    root = _real(output).rstrip("/")
    folders = {posixpath.dirname(shard.path): shard.path for shard in shards} | {folder: folder for folder in reads}
    for folder, path in folders.items():
        if f"{_real(folder).rstrip('/')}/".startswith(f"{root}/"):
            raise RunError(f"--output {output} holds {path}, which this run reads; give another --output")


def _real(folder: str) -> str:
    return folder if scheme(folder) else os.path.realpath(folder)


def _check_kind(output: str, kind: str, option: str) -> None:
    there = _kind(output)
    if there != kind:
        words = {"": "a run of curate.py or select.py", EXPORT: "an export"}
        raise RunError(f"{option}: --output {output} holds {words.get(there, there)}; give another --output")


def _check_replaceable(output: str, scores: str, kind: str) -> None:
    """Refuses to delete what the new run cannot give again: the scores of another kind of run."""
    _check_kind(output, kind, "--overwrite")
    if scores and scores_folder(output) == output:
        raise RunError(
            f"--overwrite: --output {output} holds the score table of a run of curate.py, which this one cannot make again; "
            "give another --output"
        )


def _delete_run(output: str) -> None:
    # The mark of a run goes last, so that an interrupted deletion can be repeated.
    _delete(output, (*_OURS, *_BESIDE.get(_kind(output), ())))
    clean_temporary(output)
    delete([join(output, RUN)])


def forget_unstarted(output: str) -> bool:
    """Deletes what `prepare_output` wrote for a new run, so that its folder holds none; returns whether it did.

    It does not where anything of the run is finished. No worker may be writing any more.
    """
    ours = [pattern for pattern in (*_OURS, *_BESIDE.get(_kind(output), ())) if pattern != INPUT_SHARDS]
    if any(_is_ours(path, pattern) for pattern in ours for path in files_under(output, pattern)):
        return False
    _delete_run(output)
    return True


def _delete(output: str, patterns: Sequence[str]) -> None:
    """Deletes what matches, in the order of the patterns: the mark of completeness before what it vouches for."""
    for pattern in patterns:
        found = [path for path in files_under(output, pattern) if _is_ours(path, pattern)]
        if found:
            delete(found)


def _is_ours(path: str, pattern: str) -> bool:
    """Whether a file that matches has a name that a run gives: of numbered files, five digits or more."""
    if not pattern.startswith(_NUMBERED):
        return True
    number = posixpath.basename(path).removesuffix(pattern.removeprefix(_NUMBERED))
    return number.isdigit() and len(number) >= 5


def _check_same(
    output: str, configuration: Mapping[str, Any], shards: Sequence[Shard], may_differ: Sequence[str]
) -> None:
    before = _flat(read_json(join(output, RUN))["configuration"])
    now = _flat(json.loads(json.dumps(configuration)))
    for name in sorted({*before, *now}):
        # An option that is newer than the run, and off, changes nothing.
        off = name not in before and now[name] in (False, "", [], None)
        if before.get(name) != now.get(name) and not off and name not in may_differ:
            raise RunError(
                f"--resume: {name} was {before.get(name)!r} and is {now.get(name)!r} now; give the same as before, or "
                f"start a new run in another --output"
            )
    listed = {shard.path: shard.size for shard in input_shards(output)}
    now = {shard.path: shard.size for shard in shards}
    for path in sorted({*listed, *now}):
        if listed.get(path) != now.get(path):
            was, is_now = (
                f"{size} bytes" if size is not None else "missing" for size in (listed.get(path), now.get(path))
            )
            raise RunError(
                f"--resume: the input changed: {path} was {was} and is {is_now} now; restore it, or start a new run in "
                f"another --output"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flat(inner, f"{prefix}.{key}" if prefix else key).items()
    }


def input_shards(output: str) -> list[Shard]:
    """The shards of the run, as listed when it was started."""
    with open_read(join(output, INPUT_SHARDS)) as stream:
        table = pq.ParquetFile(stream).read(use_threads=False)
    rows = zip(table.column("path").to_pylist(), table.column("size").to_pylist(), strict=True)
    return [Shard(index, path, size) for index, (path, size) in enumerate(rows)]


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
    with open_read(part_path) as stream, score_table.damage_named(part_path):
        part = score_table.open_part(stream, part_path)
        rows = part.read(columns=["index", "key", "status", "reason"], use_threads=False).to_pylist()
    failed = [row for row in rows if row["status"] == FAILED and row["reason"] in reasons]
    return [row["index"] for row in failed] if all(row["key"] for row in failed) else None


def read_part_counts(output: str, path: str) -> ScorePart:
    """What a finished part counts."""
    with open_read(join(output, path)) as stream:
        return score_table.part_counts(score_table.open_part(stream, join(output, path)).schema_arrow)
