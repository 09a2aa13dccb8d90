"""The files that say what a run is and how far it is, as their readers rely on them.

Each reader names a file that is damaged (empty, cut, of another shape) and a remedy that works when it is followed.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.records import Shard
from beam_curate.runs.run_files import INPUT_SHARDS, RUN
from beam_curate.runs.score_table import ScoreTableError, damage_named
from beam_curate.runs.summary import SUMMARY
from beam_curate.storage.files import exists, join, open_read
from beam_curate.storage.json_files import DamagedFileError, misfit, read_object

NUMBER: Final = (int, float)
_OPTIONAL_NUMBER: Final = (int, float, type(None))
_OPTIONAL_TEXT: Final = (str, type(None))
_TRUTH: Final = (bool, type(None))


def _configuration(value: Any) -> str:
    return misfit(value, CONFIGURATION)


_SOURCE: Final[Mapping[str, Any]] = {"configuration?": _configuration}
CONFIGURATION: Final[Mapping[str, Any]] = {
    "model?": {"clip_model?": str, "embed_dim?": int, "weights?": str},
    "source?": _SOURCE,
    **{f"{name}?": _OPTIONAL_NUMBER for name in ("min_aesthetic", "max_nsfw", "min_side", "max_pixels", "shuffle_seed", "eps",
                                                 "max_distance")},
    **{f"{name}?": _OPTIONAL_TEXT for name in ("keep", "top", "top_fraction", "screen", "dedup", "methods", "clip_model",
                                               "against", "against_action", "keep_by")},
    "duplicates?": {"methods?": [str], "action?": str, "between_datasets?": bool, "eps?": _OPTIONAL_NUMBER,
                    "max_distance?": _OPTIONAL_NUMBER, "keep_by?": str},
}  # fmt: skip
"""What is asked of a configuration: options by name, and that of the run it was selected from inside."""
_RUN: Final[Mapping[str, Any]] = {"configuration": dict, "kind?": str, "scores?": str}
_COUNTS: Final[Mapping[str, Any]] = {"reasons?": {"*": int}, "*": int}
_OF_FILES: Final[Mapping[str, Any]] = {"failed": int, "exported": int, "reencoded": int, "reasons": {"*": int}}
_SUMMARY: Final[Mapping[str, Any]] = {
    "funnel?": _COUNTS,
    "export?": {"input": int, **_OF_FILES},
    "pack?": {"input": int, "failed": int, "packed": int, "reasons": {"*": int}},
    "files?": {"format": str, **_OF_FILES},
    "configuration?": CONFIGURATION,
    "source?": dict,
    **{f"{name}?": int for name in ("input_shards", "output_shards", "output_bytes", "output_files")},
    "scores_meaningless?": bool,
    "table_only?": bool,
    "table?": str,
    "random?": [str],
    "heads?": [{"name?": str}],
    "input?": {"pattern?": _OPTIONAL_TEXT, "run?": _OPTIONAL_TEXT, "duplicates?": _OPTIONAL_TEXT},
    "versions?": {"*": str},
    "runner?": str,
    "started?": str,
}
_INDEX: Final[Mapping[str, Any]] = {"shardlist": [{"url": str, "filesize": int, "nsamples": int, "md5sum": str}]}
_SIZES: Final[Mapping[str, Any]] = {"*": int}
RUN_FUNNEL: Final = ("input", "failed", "rejected", "kept")


def repeat_remedy(run: str) -> str:
    """What to do about a file of a finished run that is gone or damaged, and that the run's end writes."""
    return f"restore it, or delete {join(run, SUMMARY)} and repeat the command of that run with --resume"


def _start_again(run: str) -> str:
    return f"restore it, or repeat the command of the run in {run} with --overwrite, which begins it again"


def read_run_file(output: str) -> dict[str, Any]:
    """Reads run.json: `configuration`, and where they are said `kind` and `scores`.

    Raises:
        DamagedFileError: It is damaged.
        StorageError: It cannot be read.
    """
    return read_object(join(output, RUN), _RUN, _start_again(output))


def read_summary(run: str, *needed: str) -> dict[str, Any]:
    """Reads summary.json.

    Args:
        run: The folder.
        needed: Keys that must be there.

    Raises:
        DamagedFileError: It is damaged, or lacks a key.
        StorageError: It cannot be read.
    """
    shape = {**_SUMMARY, **{name: _SUMMARY[f"{name}?"] for name in needed}}
    if "funnel" in needed:
        shape["funnel"] = {**dict.fromkeys(RUN_FUNNEL, int), "reasons": {"*": int}, "*": int}
    remedy = "restore it, or delete it and repeat the command of that run with --resume"
    return read_object(join(run, SUMMARY), shape, remedy)


def read_index(run: str) -> list[dict[str, Any]]:
    """Reads the list of shards in index.json.

    Raises:
        DamagedFileError: It is damaged.
        StorageError: It cannot be read.
    """
    listed: list[dict[str, Any]] = read_object(join(run, "index.json"), _INDEX, repeat_remedy(run))["shardlist"]
    return listed


def read_sizes(run: str) -> dict[str, int]:
    """Reads sizes.json: the number of samples by the name of the file.

    Raises:
        DamagedFileError: It is damaged.
        StorageError: It cannot be read.
    """
    return read_object(join(run, "sizes.json"), _SIZES, repeat_remedy(run))


def input_shards(output: str) -> list[Shard]:
    """The shards of the run, as listed when it was started.

    Raises:
        DamagedFileError: The list is damaged, or missing though there is a run.
        StorageError: It cannot be read.
    """
    path = join(output, INPUT_SHARDS)
    if not exists(path) and exists(join(output, RUN)):
        raise DamagedFileError(f"{path} is missing; {_start_again(output)}")
    try:
        with damage_named(path), open_read(path) as stream:
            table = pq.ParquetFile(stream).read(use_threads=False)
    except ScoreTableError as error:
        raise DamagedFileError(f"{path} is damaged, or no Parquet file; {_start_again(output)}") from error
    kinds = {"path": pa.types.is_string, "size": pa.types.is_integer}
    for name, is_right in kinds.items():
        there = name in table.column_names
        if not there or not is_right(table.schema.field(name).type) or table.column(name).null_count:
            raise DamagedFileError(f"{path} is damaged: it has no column {name} of its kind; {_start_again(output)}")
    rows = zip(table.column("path").to_pylist(), table.column("size").to_pylist(), strict=True)
    return [Shard(index, path, size) for index, (path, size) in enumerate(rows)]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts by dotted name, as JSON holds them."""
    if not prefix:
        value = json.loads(json.dumps(value))
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in flat(inner, f"{prefix}.{key}" if prefix else key).items()
    }
