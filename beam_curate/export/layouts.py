"""Layouts that other tools read, made from a finished run's score table: clip-retrieval's, DataComp's and LAION's.

Kept rows only, in source order: that of the input shards and of the samples in them. It is the order of the output
shards too, unless the run shuffled them with a seed; then a warning and `_layout.json` say that the orders differ. Keys
are those of the source (the writer of the output shards changes one that two shards share). Files carry the number of
the part of the score table that they come from, zero-padded so that names sort as the parts do; a part without kept
rows has no files, because embedding-reader skips empty arrays without skipping the table that goes with them.

`clip-retrieval`: `img_emb/img_emb_00000.npy`, (N, D) float16, L2-normalised, and `metadata/metadata_00000.parquet` with
`image_path` (the key), `caption`, `url`, `width`, `height`, `sha256`, `shard` and the scores: for embedding-reader
(`parquet_npy`), autofaiss, and clip-retrieval's index and back.

`datacomp`: `metadata/00000.parquet` (`uid`, `url`, `text`, `original_width`, `original_height`,
`clip_l14_similarity_score` if captions were scored, `sha256`, `shard`, `key`), `metadata/00000.npz` with the features
(`l14_img`, `b32_img`, … by the model) and `subset.npy`, all different uids as a sorted array of "u8,u8". A uid is that of the
sample's `.json` member, where DataComp's resharder looks for it, so the subset selects from the pool; for a sample that has
none it is made (see `layout_files.uids`). `_layout.json` says how many are which.

`laion`: `part-00000.parquet` with `URL`, `TEXT`, `WIDTH`, `HEIGHT`, `sha256`, `key`, and of `similarity`, `punsafe` (our
`nsfw`), `pwatermark` (a score named `watermark`) and `AESTHETIC_SCORE` (our `aesthetic`) those that the run has. LAION's
`hash`, a murmur hash of URL and text, is left out; `sha256` is that of the image.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.export.layout_files import DESCRIPTION, EMBEDDING, LAYOUTS, SUBSET, Layout, model_code, write_subset
from beam_curate.records import KEPT, ScorePart
from beam_curate.runs import score_table
from beam_curate.runs.run_files import LAYOUT_FILES
from beam_curate.runs.run_state import read_part_counts
from beam_curate.runs.state_files import read_summary
from beam_curate.runs.summary import SUMMARY
from beam_curate.runs.table_parts import TablePlace, finished_table
from beam_curate.storage.files import absolute, clean_temporary, exists, files_under, join, write_json
from beam_curate.storage.json_files import read_object

_LOGGER = logging.getLogger(__name__)
# At least as many digits as in the names of the score table's parts.
_MIN_DIGITS = 5


class LayoutError(ValueError):
    """A layout that cannot be written as asked; the message says what can."""


@dataclass(frozen=True)
class _Run:
    """A finished run: the parts of its score table that have kept rows, in source order, and what its summary says."""

    table: TablePlace
    parts: Sequence[ScorePart]
    clip_model: str
    shuffle_seed: int | None


def write_layout(output: str, name: str, folder: str) -> list[str]:
    """Writes a layout of a finished run's kept samples; of the score table one part at a time is in memory.

    The same run gives the same bytes. A call that was stopped can be repeated with the same folder.

    Args:
        output: The run's folder.
        name: `clip-retrieval`, `datacomp` or `laion`.
        folder: Where the layout goes, on any Beam file system: new, or with an earlier writing of the same layout.

    Returns:
        The paths of the files, in the order written; the last is `_layout.json`, which describes the layout.

    Raises:
        LayoutError: There is no such layout, the run is not complete, or the folder holds other files; before any work.
        ScoreTableError: The parts of the score table do not fit together.
        StorageError: A file cannot be read or written.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise LayoutError(f"layout={name!r} is not known; choose one of {', '.join(LAYOUTS)}")
    output, folder = absolute(output), absolute(folder)
    run = _finished_run(output)
    files = _file_names(layout, run.parts)
    _check_folder(folder, name, [file for names in files for file in names])
    if run.shuffle_seed is not None:
        _LOGGER.warning(
            "the run shuffled its shards (shuffle_seed=%s); the %s layout is in source order", run.shuffle_seed, name
        )
    write_json(folder, DESCRIPTION, {"layout": name, "complete": False})
    written = [*_write_parts(run, layout, folder, files), *_write_end(run, name, layout, folder, files)]
    clean_temporary(folder)
    return [join(folder, file) for file in written]


def _write_parts(run: _Run, layout: Layout, folder: str, files: Sequence[Sequence[str]]) -> list[str]:
    code = model_code(run.clip_model)
    columns = layout.columns(_scores(run), code)
    needed = sorted({*columns.values(), *([EMBEDDING] if layout.embeddings else [])})
    for part, names in zip(run.parts, files, strict=True):
        layout.write(folder, names, _kept_rows(run.table, part, needed), columns, code)
    return [file for names in files for file in names]


def _write_end(run: _Run, name: str, layout: Layout, folder: str, files: Sequence[Sequence[str]]) -> list[str]:
    description: dict[str, Any] = {"layout": name, "complete": True, "rows": sum(part.kept for part in run.parts)}
    description |= {"files": [file for names in files for file in names], "clip_model": run.clip_model or None}
    description |= {"order": "source", "shuffle_seed_of_the_shards": run.shuffle_seed}
    if layout.subset:
        description["different_uids"] = write_subset(folder, [names[0] for names in files])
        made = sum(_kept_rows(run.table, part, ["uid"]).column("uid").null_count for part in run.parts)
        description["uids_of_samples"], description["uids_made"] = description["rows"] - made, made
        description["uid"] = (
            "uid of the sample's .json; where it has none, the first 32 hex digits of the sha256 of shard, NUL and key"
        )
    write_json(folder, DESCRIPTION, description)
    return [*([SUBSET] if layout.subset else []), DESCRIPTION]


def _finished_run(output: str) -> _Run:
    if not exists(join(output, SUMMARY)):
        raise LayoutError(
            f"{output} holds no complete run ({SUMMARY} is missing); finish the run with --resume, or name its --output"
        )
    summary = read_summary(output, "input_shards", "funnel")
    table, paths = finished_table(output)
    parts = [read_part_counts(output, paths[index]) for index in sorted(paths)]
    found = (len(parts), sum(part.kept for part in parts))
    expected = (summary["input_shards"], summary["funnel"]["kept"])
    if found != expected:
        raise LayoutError(
            f"{output} has {found[0]} parts of the score table with {found[1]} kept samples, and {SUMMARY} says "
            f"{expected[0]} with {expected[1]}; restore the files, or run again with --resume or --overwrite"
        )
    configuration = summary.get("configuration", {})
    return _Run(
        table,
        [part for part in parts if part.kept],
        _clip_model(configuration),
        configuration.get("shuffle_seed"),
    )


def _clip_model(configuration: Mapping[str, Any]) -> str:
    """The model that made the embeddings; a run that selects from another has that one's configuration inside its own."""
    while "clip_model" not in configuration and "source" in configuration:
        configuration = configuration["source"].get("configuration", {})
    return configuration.get("clip_model", "")


def _file_names(layout: Layout, parts: Sequence[ScorePart]) -> list[list[str]]:
    digits = max([_MIN_DIGITS, *(len(str(part.shard_index)) for part in parts)])
    return [[file.format(f"{part.shard_index:0{digits}d}") for file in layout.files] for part in parts]


def _check_folder(folder: str, name: str, files: Sequence[str]) -> None:
    """Refuses a folder with files that a reader would take for the layout's, or that are not ours to replace."""
    found = sorted(path for pattern in LAYOUT_FILES[name] for path in files_under(folder, pattern))
    before = read_description(folder)["layout"] if exists(join(folder, DESCRIPTION)) else None
    others = found if before is None else sorted(set(found) - {join(folder, file) for file in files})
    if others or before not in (None, name):
        what = f"the layout {before}" if before not in (None, name) else f"other files, such as {others[0]}"
        raise LayoutError(f"{folder} holds {what}; give an empty or new folder for the layout {name}")


def read_description(folder: str) -> dict[str, Any]:
    """What lies in a layout's folder, and whether it is `complete`.

    Raises:
        DamagedFileError: The description is damaged.
        StorageError: It cannot be read.
    """
    remedy = f"delete the files of the layout in {folder} and write it again"
    return read_object(join(folder, DESCRIPTION), {"layout": str, "complete": bool}, remedy)


def _scores(run: _Run) -> list[str]:
    if not run.parts:
        return []
    with run.table.open(run.parts[0].shard_index) as part:
        return score_table.score_names(part.schema)


def _kept_rows(table: TablePlace, part: ScorePart, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part's kept rows, read row group by row group."""
    with table.open(part.shard_index) as source:
        tables = []
        for group in range(source.num_row_groups):
            rows = source.read_row_group(group, [*columns, "status"])
            tables.append(rows.filter(pc.equal(rows.column("status"), KEPT)).select(columns))
    rows = pa.concat_tables(tables)
    if rows.num_rows != part.kept:
        raise score_table.ScoreTableError(f"{part.path} has {rows.num_rows} kept rows, and its counts say {part.kept}")
    return rows
