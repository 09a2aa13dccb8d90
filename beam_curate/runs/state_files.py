"""The files that say what a run is and how far it is, as their readers rely on them.

Each reader names a file that is damaged (empty, cut, of another shape) and a remedy that works when it is followed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from beam_curate.records import Shard
from beam_curate.runs.configuration import EXPORT, PACK, Configuration
from beam_curate.runs.part_files import damage_named
from beam_curate.runs.run_files import INDEX, INPUT_SHARDS, RUN, SIZES, SUMMARY
from beam_curate.runs.score_table import ScoreTableError
from beam_curate.runs.summary import ExportSummary, PackSummary, Summary, modern
from beam_curate.storage.files import atomic_output, exists, join, open_read, write_json
from beam_curate.storage.json_files import DamagedFileError, read_object
from beam_curate.storage.json_records import read_record, to_json

_SHARDS = pa.schema([("path", pa.string()), ("size", pa.int64())])
KINDS = {"": "a run of beam-curate curate, select or dedup", EXPORT: "an export", PACK: "packed images"}
"""What a folder holds, in words, by its kind."""
_MADE_AGAIN = "restore it, or delete it and repeat the command of that run with `resume`"


@dataclass(frozen=True)
class RunFile:
    """run.json: what is known before any work.

    Attributes:
        configuration: What decides the result.
        kind: EXPORT for an export, PACK for packed images; empty for a run with a score table.
        scores: The folder whose score table is judged; empty: the run's own.
        input_shards: How many there are.
        mark: What each part of its table, or of its verdicts, has in its metadata, see `own_parts`; empty in runs of before.
        retry: The reasons of failure whose samples are being scored again; none when the run has come to its end.
        outdated: Whether what follows from the table is still to be deleted, because samples are about to be scored again.
        seen: The state of the other runs that are read, see `read_runs`.
    """

    configuration: Configuration
    kind: str = ""
    scores: str = ""
    input_shards: int = 0
    mark: str = ""
    retry: Sequence[str] = ()
    outdated: bool = False
    seen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexedShard:
    """A shard in index.json."""

    url: str
    filesize: int
    nsamples: int
    md5sum: str


@dataclass(frozen=True)
class Index:
    """index.json."""

    shardlist: Sequence[IndexedShard]


def repeat_remedy(run: str) -> str:
    """What to do about a file of a finished run that is gone or damaged, and that the run's end writes."""
    return f"restore it, or delete {join(run, SUMMARY)} and repeat the command of that run with `resume`"


def _start_again(run: str) -> str:
    return f"restore it, or repeat the command of the run in {run} with `overwrite`, which begins it again"


def read_run_file(output: str) -> RunFile:
    """Reads run.json.

    Raises:
        DamagedFileError: It is damaged.
        StorageError: It cannot be read.
    """
    return read_record(RunFile, join(output, RUN), _start_again(output), modern)


def write_run_file(output: str, file: RunFile, shards: Sequence[Shard] | None = None) -> None:
    """Writes run.json, which marks the folder as a run's, after the list of shards where there is a new one."""
    if shards is not None:
        with atomic_output(output, INPUT_SHARDS) as stream:
            columns = {"path": [shard.path for shard in shards], "size": [shard.size for shard in shards]}
            pq.write_table(pa.table(columns, _SHARDS), stream)
    said = {name: value for name, value in to_json(file).items() if value not in ("", [], {}, False)}
    write_json(output, RUN, said)


def settle_retry(output: str) -> None:
    """Notes that no failed samples are left to be scored again. A pipeline of the user's own may have left no run.json."""
    if exists(join(output, RUN)) and (file := read_run_file(output)).retry:
        write_run_file(output, replace(file, retry=()))


def read_summary(run: str) -> Summary:
    """Reads summary.json of a run.

    Raises:
        DamagedFileError: It is damaged, or that of an export.
        StorageError: It cannot be read.
    """
    return read_record(Summary, join(run, SUMMARY), _MADE_AGAIN, modern)


def read_export_summary(run: str) -> ExportSummary:
    """Reads summary.json of an export; errors as `read_summary`."""
    return read_record(ExportSummary, join(run, SUMMARY), _MADE_AGAIN, modern)


def read_pack_summary(run: str) -> PackSummary:
    """Reads summary.json of a packing; errors as `read_summary`."""
    return read_record(PackSummary, join(run, SUMMARY), _MADE_AGAIN, modern)


def ended_kind(run: str) -> str:
    """The kind of what summary.json is the end of, as in `RunFile`; errors as `read_summary`."""
    ended = _ended(run)
    return EXPORT if "export" in ended else PACK if "pack" in ended else ""


def is_table_only(run: str) -> bool:
    """Whether summary.json is that of a run which has ended with its score table; errors as `read_summary`."""
    return bool(_ended(run).get("table_only"))


def _ended(run: str) -> dict[str, object]:
    return read_object(join(run, SUMMARY), {"table_only?": bool}, _MADE_AGAIN)


def read_index(run: str) -> Sequence[IndexedShard]:
    """Reads the list of shards in index.json; errors as `read_run_file`."""
    return read_record(Index, join(run, INDEX), repeat_remedy(run)).shardlist


def read_sizes(run: str) -> dict[str, int]:
    """Reads sizes.json: the number of samples by the name of the file; errors as `read_run_file`."""
    return read_object(join(run, SIZES), {"*": int}, repeat_remedy(run))


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
        raise DamagedFileError(f"{path} is damaged, or not a Parquet file; {_start_again(output)}") from error
    kinds = {"path": pa.types.is_string, "size": pa.types.is_integer}
    for name, is_right in kinds.items():
        there = name in table.column_names
        if not there or not is_right(table.schema.field(name).type) or table.column(name).null_count:
            raise DamagedFileError(f"{path} is damaged: it has no column {name} of its kind; {_start_again(output)}")
    rows = zip(table.column("path").to_pylist(), table.column("size").to_pylist(), strict=True)
    return [Shard(index, path, size) for index, (path, size) in enumerate(rows)]
