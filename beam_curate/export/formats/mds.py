"""MDS files: a sample of named fields for each image, with chosen columns and members as fields."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from beam_curate.export.mds import MAX_FILE_BYTES, MDSFile, Value, describe_file, index_of
from beam_curate.export.prepared import PreparedSamples
from beam_curate.export.samples import ExportedSample
from beam_curate.records import WrittenShard
from beam_curate.runs.output_files import LIST_OF_FILES, HashingWriter, Written

_OF_THE_IMAGE: Final[Mapping[str, str]] = {
    "key": "str",
    "image": "bytes",
    "format": "str",
    "width": "int32",
    "height": "int32",
    "sha256": "str",
}

_IN_MEMORY: Final = 64 << 20
"""Of the samples of a file that wait; more of them wait on the disk."""


@dataclass(frozen=True)
class MDSFiles(PreparedSamples):
    """MDS files, and the index.json by which `streaming` finds them.

    Each sample has all fields: a missing text or member is empty, and a missing number NaN or 0.
    """

    mime: ClassVar[str] = "application/octet-stream"
    max_file_bytes: ClassVar[int | None] = MAX_FILE_BYTES
    lists: ClassVar[tuple[str, ...]] = (LIST_OF_FILES,)
    extension: ClassVar[str] = "mds"
    beside: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[Sequence[str]] = (
        "from streaming import StreamingDataset  # pip install mosaicml-streaming",
        "",
        'samples = StreamingDataset(local="path/of/this/folder", batch_size=1)',
    )

    @property
    def name(self) -> str:
        """As options call it."""
        return "mds"

    @property
    def described(self) -> list[str]:
        """The columns of the tables, and the fields."""
        fields = [f"| `{name}` | {encoding} |" for name, encoding in self.encodings.items()]
        return [*super().described, "| field | encoding |", "|---|---|", *fields, ""]

    @property
    def encodings(self) -> dict[str, str]:
        """The fields of a sample, with the encodings that `streaming` gives names to."""
        columns = {name: _encoding(self.schema.field(name).type) for name in self.fields.columns}
        members = {f"member/{suffix}": "bytes" for suffix in self.fields.members or ()}
        return {**_OF_THE_IMAGE, **columns, **members}

    def write(self, out: HashingWriter, rows: pa.Table) -> Written:
        """Writes the samples."""
        columns = {name: _values(rows.column(name), rows.schema.field(name).type) for name in self.fields.columns}

        def fields(place: int, sample: ExportedSample) -> Mapping[str, Value]:
            of_row = {name: value(place) for name, value in columns.items()}
            data = {suffix.lower(): body for suffix, body in sample.members if suffix != sample.image}
            members = {f"member/{suffix}": data.get(suffix, b"") for suffix in self.fields.members or ()}
            if "size" in of_row:  # of the image as it is here
                of_row["size"] = sample.facts.size
            return {**_image_fields(sample), **of_row, **members}

        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as waiting:
            file = MDSFile(out, waiting, self.encodings)
            written = self._write(rows, lambda place, sample: file.add(fields(place, sample)))
            file.close()
        return written

    def index(self, files: Sequence[WrittenShard]) -> dict[str, object]:
        """What `streaming` reads first."""
        return index_of([describe_file(self.encodings, file.name, file.samples, file.size, file.md5) for file in files])


def _encoding(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"ndarray:{kind.value_type.to_pandas_dtype().__name__}:{kind.list_size}"
    if pa.types.is_floating(kind):
        return str(kind.to_pandas_dtype().__name__)
    return "int64" if pa.types.is_integer(kind) else "str"


def _values(column: pa.ChunkedArray, kind: pa.DataType) -> Callable[[int], Value]:
    """Gives the value of a row by its place, with what stands for a missing one."""
    if pa.types.is_fixed_size_list(kind):
        vectors: np.ndarray = column.combine_chunks().flatten().to_numpy().reshape(-1, kind.list_size)
        return lambda place: vectors[place]
    missing: Any = float("nan") if pa.types.is_floating(kind) else 0 if pa.types.is_integer(kind) else ""
    values = [missing if value is None else value for value in column.to_pylist()]
    return lambda place: values[place]


def _image_fields(sample: ExportedSample) -> dict[str, Value]:
    facts = sample.facts
    return {
        "key": sample.key,
        "image": dict(sample.members)[sample.image],
        "format": facts.format.lower(),
        "width": facts.width,
        "height": facts.height,
        "sha256": facts.sha256,
    }
