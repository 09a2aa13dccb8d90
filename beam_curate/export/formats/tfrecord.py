"""TFRecord files: a tf.train.Example for each sample, with chosen columns and members as features."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from beam_curate.export.fields import Fields
from beam_curate.export.prepared import PreparedSamples
from beam_curate.export.samples import ExportedSample
from beam_curate.export.tfrecords import TFRecordFile, Value, example
from beam_curate.runs.output_files import HashingWriter, Written

_INDEX = ".tfindex"


@dataclass(frozen=True)
class TFRecordFiles(PreparedSamples):
    """TFRecord files with an index for DALI, which reads no gzip: compressed ones have none."""

    compresses: ClassVar[bool] = True
    mime: ClassVar[str] = "application/octet-stream"

    @property
    def name(self) -> str:
        """As options call it."""
        return "tfrecord"

    @property
    def extension(self) -> str:
        """Of the files."""
        return "tfrecord.gz" if self.compressed else "tfrecord"

    @property
    def beside(self) -> tuple[str, ...]:
        """The index."""
        return () if self.compressed else (_INDEX,)

    @property
    def note(self) -> str:  # type: ignore[override]
        """What gzip costs."""
        return "DALI does not read gzip, so no index files are written for it" if self.compressed else ""

    @property
    def reading(self) -> list[str]:
        """By the package tfrecord: `datasets` has no reader of the files."""
        kind = '"gzip"' if self.compressed else "None"
        call = f'samples = tfrecord_loader("00000.{self.extension}", None, compression_type={kind})'
        return ["from tfrecord import tfrecord_loader", "", call]

    @property
    def described(self) -> list[str]:
        """The columns and the features."""
        features = [f"| `{name}` | {kind} |" for name, kind in self.feature_kinds()]
        return [*super().described, "| feature | kind |", "|---|---|", *features, ""]

    def write(self, out: HashingWriter, rows: pa.Table) -> Written:
        """Writes the samples as records."""
        records = TFRecordFile(out, compressed=self.compressed)
        columns = _feature_rows(self.fields, rows)
        written = self._write(
            rows, lambda place, sample: records.add(example(_features(self.fields, sample, columns(place))))
        )
        records.close()
        lines = "".join(records.index).encode()
        return dataclasses.replace(written, beside=dict.fromkeys(self.beside, lines))

    def feature_kinds(self) -> Iterator[tuple[str, str]]:
        """Name and kind (bytes, int64 or float32) of the features."""
        yield from (("image/encoded", "bytes"), ("image/format", "bytes"), ("image/height", "int64"))
        yield from (("image/width", "int64"), ("image/filename", "bytes"), ("image/source_id", "bytes"))
        yield "image/key/sha256", "bytes"
        for name in self.fields.columns:
            kind = self.schema.field(name).type
            if pa.types.is_floating(kind):
                yield name, "float32"
            elif pa.types.is_integer(kind):
                yield name, "int64"
            elif pa.types.is_fixed_size_list(kind):
                yield name, f"float32 ({kind.list_size})"
            else:
                yield name, "bytes"
        yield from ((f"member/{suffix}", "bytes") for suffix in self.fields.members or ())


def _feature_rows(fields: Fields, rows: pa.Table) -> Callable[[int], dict[str, Value]]:
    """Gives, by place, the columns that become features, with what stands for a missing value."""
    names = fields.columns
    columns = {name: _filled(rows.column(name).to_pylist(), rows.schema.field(name).type) for name in names}
    return lambda place: {name: values[place] for name, values in columns.items()}


def _filled(values: list[Any], kind: pa.DataType) -> list[Any]:
    missing: Any = float("nan") if pa.types.is_floating(kind) else 0 if pa.types.is_integer(kind) else ""
    return [missing if value is None else value for value in values]


def _features(fields: Fields, sample: ExportedSample, columns: Mapping[str, Value]) -> dict[str, Value]:
    data = dict(sample.members)
    others = {suffix.lower(): body for suffix, body in sample.members if suffix != sample.image}
    facts = sample.facts
    return {
        "image/encoded": data[sample.image],
        "image/format": facts.format.lower(),
        "image/height": facts.height,
        "image/width": facts.width,
        "image/filename": f"{sample.key}.{sample.image}",
        "image/source_id": sample.key,
        "image/key/sha256": facts.sha256,
        **columns,
        **({"size": facts.size} if "size" in columns else {}),  # of the image as it is here
        **{f"member/{suffix}": others.get(suffix, b"") for suffix in fields.members or ()},
    }
