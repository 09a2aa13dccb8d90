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
none it is made (see `runs.layout.uids`). `_layout.json` says how many are which.

`laion`: `part-00000.parquet` with `URL`, `TEXT`, `WIDTH`, `HEIGHT`, `sha256`, `key`, and of `similarity`, `punsafe` (our
`nsfw`), `pwatermark` (a score named `watermark`) and `AESTHETIC_SCORE` (our `aesthetic`) those that the run has. LAION's
`hash`, a murmur hash of URL and text, is left out; `sha256` is that of the image.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.export.subsets import uid_buckets, write_subset
from beam_curate.records import KEPT, ScorePart
from beam_curate.runs import score_table
from beam_curate.runs.layout import DESCRIPTION, EMBEDDING, Columns, Layout, uids
from beam_curate.runs.layouts import all_layouts
from beam_curate.runs.run import Run
from beam_curate.runs.summary import Summary
from beam_curate.runs.table_parts import TablePlace
from beam_curate.storage.files import clean_temporary, exists, files_under, join, write_json
from beam_curate.storage.json_files import read_object

_LOGGER = logging.getLogger(__name__)
# At least as many digits as in the names of the score table's parts.
_MIN_DIGITS = 5


class LayoutError(ValueError):
    """A layout that cannot be written as asked; the message says what can."""


@dataclass(frozen=True)
class LayoutPlan:
    """A layout that is being written.

    Attributes:
        name: Its name.
        folder: Where it goes.
        table: The run's score table.
        columns: By name in the layout, the column of the score table.
        code: The short name of the model.
        digits: Digits of a part's number in file names.
    """

    name: str
    folder: str
    table: TablePlace
    columns: Columns
    code: str
    digits: int

    @property
    def layout(self) -> type[Layout]:
        """What it is."""
        return all_layouts()[self.name]

    def files(self, shard_index: int) -> list[str]:
        """The files of a part that has kept rows."""
        return [file.format(f"{shard_index:0{self.digits}d}") for file in self.layout.files]


def model_code(clip_model: str) -> str:
    """The short name of a model: DataComp's for the ViT family (`ViT-L-14` is `l14`), else as it is, made an identifier."""
    name = clip_model.replace("/", "-").removesuffix("-quickgelu")
    family = re.fullmatch(r"ViT-([A-Za-z]+)-(\d+)", name)
    return "".join(family.groups()).lower() if family else re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def begin_layout(output: str, name: str, folder: str, parts: Sequence[ScorePart]) -> LayoutPlan:
    """Looks at the run and the folder, and says there that a layout is being written.

    Args:
        output: The run's folder.
        name: The name of a layout.
        folder: Where the layout goes, on any Beam file system: new, or with an earlier writing of the same layout.
        parts: All parts of the run's score table.

    Raises:
        LayoutError: There is no such layout, the run is not complete, or the folder holds other files.
        ScoreTableError: The parts of the score table do not fit together.
        StorageError: A file cannot be read or written.
    """
    summary = _finished_run(output, parts)
    kept = sorted(part.shard_index for part in parts if part.kept)
    table = Run(output).table
    digits = max([_MIN_DIGITS, *(len(str(number)) for number in kept)])
    code = model_code(summary.configuration.scored.clip_model)
    plan = LayoutPlan(name, folder, table, all_layouts()[name].columns(_scores(table, kept), code), code, digits)
    _check_folder(folder, name, [file for number in kept for file in plan.files(number)])
    seed = summary.configuration.files.shuffle_seed
    if seed is not None:
        _LOGGER.warning("the run shuffled its shards (shuffle_seed=%s); the %s layout is in source order", seed, name)
    write_json(folder, DESCRIPTION, {"layout": name, "complete": False})
    return plan


class LayoutPart(NamedTuple):
    """A part of a layout that is written: its rows, and how many of their uids were made."""

    shard_index: int
    rows: int
    made: int


def write_layout_part(plan: LayoutPlan, part: ScorePart) -> tuple[LayoutPart, dict[int, bytes]]:
    """Writes the files of a part with kept rows; gives its uids too, by bucket, if the layout lists all of them.

    Raises:
        ScoreTableError: The part does not have the columns or the rows that it should have.
        StorageError: A file cannot be read or written.
    """
    layout = plan.layout
    needed = sorted({*plan.columns.values(), *([EMBEDDING] if layout.embeddings else [])})
    rows = _kept_rows(plan.table, part, needed)
    layout.write(plan.folder, plan.files(part.shard_index), rows, plan.columns, plan.code)
    if not layout.subset:
        return LayoutPart(part.shard_index, rows.num_rows, 0), {}
    return LayoutPart(part.shard_index, rows.num_rows, rows.column("uid").null_count), uid_buckets(uids(rows))


def finish_layout(
    plan: LayoutPlan, output: str, written: Iterable[LayoutPart], different: Iterable[tuple[int, int]]
) -> None:
    """Writes what a layout has once: the file of all uids, and the description last.

    Args:
        plan: The layout, whose parts are written.
        output: The run's folder.
        written: All parts with kept rows.
        different: How many different uids there are, by bucket.
    """
    if read_description(plan.folder)["complete"]:
        return  # a bundle that is repeated
    configuration = Run(output).summary.configuration
    parts = sorted(written)
    total = sum(part.rows for part in parts)
    description: dict[str, object] = {"layout": plan.name, "complete": True, "rows": total}
    files = [file for part in parts for file in plan.files(part.shard_index)]
    description |= {"files": files, "clip_model": configuration.scored.clip_model or None}
    description |= {"order": "source", "shuffle_seed_of_the_shards": configuration.files.shuffle_seed}
    if plan.layout.subset:
        description["different_uids"] = write_subset(plan.folder, dict(different))
        made = sum(part.made for part in parts)
        description["uids_of_samples"], description["uids_made"] = total - made, made
        description["uid"] = (
            "uid of the sample's .json; where it has none, the first 32 hex digits of the sha256 of shard, NUL and key"
        )
    write_json(plan.folder, DESCRIPTION, description)
    clean_temporary(plan.folder)


def _finished_run(output: str, parts: Sequence[ScorePart]) -> Summary:
    run = Run(output)
    if not run.is_finished:
        raise LayoutError(
            f"{output} holds no complete run (summary.json is missing); finish the run with `resume`, or give its folder"
        )
    summary = run.summary
    found = (len(parts), sum(part.kept for part in parts))
    expected = (summary.input_shards, summary.funnel.kept)
    if found != expected:
        raise LayoutError(
            f"{output} has {found[0]} parts of the score table with {found[1]} kept samples, and its summary says "
            f"{expected[0]} with {expected[1]}; restore the files, or run again with `resume` or `overwrite`"
        )
    return summary


def _check_folder(folder: str, name: str, files: Sequence[str]) -> None:
    """Refuses a folder with files that a reader would take for the layout's, or that are not ours to replace."""
    found = sorted(path for pattern in all_layouts()[name].patterns() for path in files_under(folder, pattern))
    before = read_description(folder)["layout"] if exists(join(folder, DESCRIPTION)) else None
    others = found if before is None else sorted(set(found) - {join(folder, file) for file in files})
    if others or before not in (None, name):
        what = f"the layout {before}" if before not in (None, name) else f"other files, such as {others[0]}"
        raise LayoutError(f"{folder} holds {what}; give an empty or new folder for the layout {name}")


def read_description(folder: str) -> dict[str, object]:
    """What lies in a layout's folder, and whether it is `complete`.

    Raises:
        DamagedFileError: The description is damaged.
        StorageError: It cannot be read.
    """
    remedy = f"delete the files of the layout in {folder} and write it again"
    return read_object(join(folder, DESCRIPTION), {"layout": str, "complete": bool}, remedy)


def _scores(table: TablePlace, kept: Sequence[int]) -> list[str]:
    if not kept:
        return []
    with table.open(kept[0]) as part:
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
