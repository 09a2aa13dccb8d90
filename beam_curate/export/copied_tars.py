"""WebDataset shards whose members are copied byte for byte: what runs write unless told otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from beam_curate.records import WrittenShard
from beam_curate.runs.output_files import HashingWriter, Written
from beam_curate.runs.placed_rows import OF_THE_WAY
from beam_curate.runs.source_samples import in_turn, read_samples
from beam_curate.runs.wids import wids_index
from beam_curate.tars import writing

LOADING: Final = (
    "from datasets import load_dataset",
    "",
    'samples = load_dataset("path/of/this/folder", streaming=True)["train"]',
)
"""Code that reads tars, or the rows beside them, by the card."""


@dataclass(frozen=True)
class CopiedTars:
    """Tars with all members of each sample, under the row's key, in their order; beside each all columns of the rows.

    Attributes: see `output_files.Format`.
    """

    name: str = "webdataset"
    extension: str = "tar"
    beside: Sequence[str] = ()
    columns: None = None
    may_fail: bool = False
    indexed: bool = True
    threads: int = 0
    prepared: bool = False
    table_schema: None = None
    reading: Sequence[str] = LOADING
    described: Sequence[str] = (
        "`00000.parquet` has a row for each sample of the first file, in its order, and so on: its scores, its embedding, and "
        "where it comes from.",
        "",
    )
    images: Sequence[str] = ()

    def index(self, files: Sequence[WrittenShard]) -> Mapping[str, Any]:
        """The index that wids reads."""
        return wids_index(files)

    def write(self, out: HashingWriter, rows: pa.Table) -> Written:
        """Copies the samples."""
        found: set[str] = set()
        alike = True
        samples = in_turn((place, (row, members)) for place, row, members in read_samples(rows))
        for number, (row, members) in enumerate(samples):
            for suffix, data in members:
                writing.write_member(out, f"{row['key']}.{suffix}", data)
            suffixes = {suffix for suffix, _ in members}
            alike = alike and (not number or suffixes == found)
            found |= suffixes
        writing.write_end(out)
        return Written(rows.drop_columns(list(OF_THE_WAY)), sorted(found), alike)
