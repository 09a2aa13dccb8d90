"""Reading a whole score table into memory."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.records import KEPT
from beam_curate.runs.configuration import Funnel
from beam_curate.runs.read_runs import unchanged
from beam_curate.runs.run import Run
from beam_curate.runs.score_table import FOLDER, VERDICTS, ScoreTableError, part_name
from beam_curate.storage.files import absolute

_THREADS: Final = 8  # reading is waiting, where the table lies on an object store


def read_score_table(folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads the score table of a finished run of `curate`, `select` or `dedup`: all rows, with the verdicts of that run.

    Args:
        folder: The run's folder.
        columns: Those to read, in this order; None reads all. The embeddings are most of the table.

    Returns:
        The rows in the order of the input. The columns are those of docs/score-table.md.

    Raises:
        ScoreTableError: There is no score table, its run is not finished, parts of it are missing, it lacks a column, or it does
            not fit its overlays, or a row names a tar that is not an input of the run.
        RunChangedError: The run was changed while it was read.
        DamagedFileError: A file that says what the run is is damaged.
    """
    run = Run(absolute(folder))
    found = run.judged_parts
    if not found:
        raise ScoreTableError(f"{folder} holds no score table: {part_name(0)} is missing; give the folder of a run")
    if not run.is_finished:
        raise ScoreTableError(
            f"the run in {folder} is not finished: it has no summary.json; continue it with `resume`, or read {FOLDER}/ as it is"
        )
    ended = run.summary
    place = run.table_of_end(ended)

    def read(number: int) -> pa.Table:
        with place.open(number) as part:
            return part.read(columns)

    reading = unchanged(run.seen)
    with reading, ThreadPoolExecutor(_THREADS, thread_name_prefix="read") as pool:
        whole = pa.concat_tables(list(pool.map(read, sorted(found))))
    _check_counts(run, ended.funnel, whole)
    return whole if columns is None else whole.select(list(columns))


def _check_counts(run: Run, funnel: Funnel, rows: pa.Table) -> None:
    """Raises if these are not the rows, or not the verdicts, that the run ended with: files of it are gone."""
    counts = {"input": (rows.num_rows, funnel.input)}
    if "status" in rows.column_names:
        counts["kept"] = (pc.sum(pc.equal(rows.column("status"), KEPT)).as_py() or 0, funnel.kept)
    for name, (number, ended) in counts.items():
        if number != ended:
            raise ScoreTableError(
                f"{run.folder}: the run ended with {ended} samples ({name}), and the table has {number}: files in {FOLDER}/ or "
                f"{VERDICTS}/ are missing, or of another run"
            )
