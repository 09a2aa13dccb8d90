"""WebDataset shards of chosen fields, with images made smaller where that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from beam_curate.export.copied_tars import LOADING
from beam_curate.export.prepared import PreparedSamples
from beam_curate.export.samples import ExportedSample
from beam_curate.runs.output_files import HashingWriter, Written
from beam_curate.tars import writing


@dataclass(frozen=True)
class ResizedTars(PreparedSamples):
    """Tars of the image and the chosen members of each sample; what is not encoded again is copied byte for byte."""

    all_members: ClassVar[bool] = True
    indexed: ClassVar[bool] = True
    mime: ClassVar[str] = "application/x-tar"
    extension: ClassVar[str] = "tar"
    beside: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[Sequence[str]] = LOADING

    @property
    def name(self) -> str:
        """As options call it."""
        return "webdataset"

    def write(self, out: HashingWriter, rows: pa.Table) -> Written:
        """Writes the samples as members."""

        def add(place: int, sample: ExportedSample) -> None:
            for suffix, data in sample.members:
                writing.write_member(out, f"{sample.key}.{suffix}", data)

        written = self._write(rows, add)
        writing.write_end(out)
        return written
