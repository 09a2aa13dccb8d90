"""Parts of the run in whose folder they lie, and of no other: each part has the run's mark in its metadata.

The mark is made of what decides the rows: the configuration and the input. Another run over the same input, with other weights or
another threshold, has another one. So a part that was copied from there is told apart whenever it is opened, however many parts
there are. Runs of versions without marks, and pipelines of the user's own that leave no run.json, have none: nothing is compared.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence

from beam_curate.records import Shard
from beam_curate.runs.configuration import LIMITS, Configuration
from beam_curate.runs.part_files import open_part
from beam_curate.runs.run_files import RUN
from beam_curate.runs.score_table import AGAIN, RUN_METADATA, ScoreTableError
from beam_curate.runs.state_files import read_run_file
from beam_curate.storage.files import exists, join
from beam_curate.storage.parquet_reading import ParquetFile


def mark_of(configuration: Configuration, shards: Sequence[Shard]) -> str:
    """The mark of a new run. What may change when a run goes on is no part of it, nor how output files are packed."""
    said = {
        name: value
        for name, value in configuration.flat().items()
        if name not in LIMITS and not name.startswith("files.")
    }
    listed = [(shard.path, shard.size) for shard in shards]
    return hashlib.sha256(json.dumps([said, listed], sort_keys=True).encode()).hexdigest()[:32]


def run_mark(run: str) -> str:
    """The mark of the run in a folder; empty if it has none.

    Raises:
        DamagedFileError: run.json is damaged.
        StorageError: It cannot be read.
    """
    return read_run_file(run).mark if exists(join(run, RUN)) else ""


@contextlib.contextmanager
def open_own_part(run: str, path: str) -> Iterator[ParquetFile]:
    """Opens a part of a run for reading.

    Args:
        run: Its folder.
        path: The part's path.

    Raises:
        ScoreTableError: As `part_files.open_part`, or it is a part of another run.
        DamagedFileError: run.json is damaged.
        StorageError: It cannot be opened.
    """
    with open_part(path) as part:
        mark = (part.schema_arrow.metadata or {}).get(RUN_METADATA.encode(), b"").decode()
        if mark != _known_mark(run):
            _known_mark.cache_clear()  # the run may have been made anew since the mark was read
            expected = _known_mark(run)
            if mark != expected and expected:
                raise ScoreTableError(
                    f"{path} is of another run, with another configuration or input than {join(run, RUN)} says; {AGAIN}"
                )
        yield part


@functools.lru_cache(maxsize=4)
def _known_mark(run: str) -> str:
    return run_mark(run)
