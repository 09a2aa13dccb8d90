"""One exported file: its samples as a tar or as TFRecords, their rows as Parquet, and its statistics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Final

import pyarrow as pa

from beam_curate.export.fields import FIXED, Fields
from beam_curate.export.samples import SOURCE, SPANS, ExportedSample, NotExported, export_samples
from beam_curate.export.tfrecords import TFRecordFile, Value, example
from beam_curate.images.reencoding import Reencoding
from beam_curate.records import WrittenShard, record
from beam_curate.runs import score_table
from beam_curate.runs.packing import shard_name
from beam_curate.runs.shard_writing import HashingWriter
from beam_curate.storage.files import atomic_output, join, match, write_atomic, write_json
from beam_curate.storage.json_files import DamagedFileError, read_object
from beam_curate.tars import writing

WEBDATASET: Final = "webdataset"
TFRECORD: Final = "tfrecord"
ROW: Final = "row"
"""Column of the rows that are exported: the rank of the sample in its shard."""


_STATS: Final = {
    **{"name": str, "samples": int, "size": int, "md5": str, "reencoded": int, "members": [str], "plan": str},
    "failures": [{"shard_index": int, "row": int, "key": str, "reason": str, "message": str}],
}


@record
class ExportFailure:
    """A sample of the run that is not in the export: its shard, its rank in it, its key, and why."""

    shard_index: int
    row: int
    key: str
    reason: str
    message: str


@record
class ExportedFile:
    """A finished file: how many of its images were encoded again, and the extensions that its samples' members have."""

    shard: WrittenShard
    reencoded: int
    members: Sequence[str]


@dataclass(frozen=True)
class Export:
    """What is exported, how, and where to.

    Attributes:
        source: Folder of the run.
        output: Folder of the export.
        format: WEBDATASET or TFRECORD.
        fields: What is exported beside the images.
        schema: Columns of the run's tables.
        samples: How many the run has.
        samples_per_file: N; every file holds N samples, the last one the rest.
        seed: Shuffles all samples; None keeps the order of the run.
        compressed: Whether TFRECORD files are gzip.
        reencoding: What becomes of the images.
        threads: That encode images; 0 for one per core.
        name: Of the data set, for its card.
        license: Of the images, for the card.
        card: Whether to write README.md.
        croissant: Whether to write croissant.json.
        about: What to add to the summary.
    """

    source: str
    output: str
    format: str
    fields: Fields
    schema: pa.Schema
    samples: int
    samples_per_file: int = 1000
    seed: int | None = None
    compressed: bool = False
    reencoding: Reencoding = Reencoding()
    threads: int = 0
    name: str = ""
    license: str = "unknown"
    card: bool = True
    croissant: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def extension(self) -> str:
        """Of the files."""
        if self.format == WEBDATASET:
            return "tar"
        return "tfrecord.gz" if self.compressed else "tfrecord"

    @property
    def indexed(self) -> bool:
        """Whether files have an index for DALI, which reads no gzip."""
        return self.format == TFRECORD and not self.compressed

    @property
    def columns(self) -> list[str]:
        """What is read of the run's tables."""
        return [*FIXED, *self.fields.columns, SPANS]

    @property
    def table_schema(self) -> pa.Schema:
        """The columns of the exported tables."""
        return self.fields.schema(self.schema, reencodes=self.reencoding.needed)


def write_file(export: Export, index: int, rows: pa.Table, plan: str) -> tuple[ExportedFile, Sequence[ExportFailure]]:
    """Writes one file with its index, its table and, last, its `_stats.json`; one that an earlier try finished stays.

    All bytes depend on the rows and the run alone. A sample that cannot be exported leaves the file shorter: the caller plans
    again without it.

    Args:
        export: What and how.
        index: Of the file.
        rows: Of the samples, in their order: `export.columns`, SOURCE and ROW.
        plan: Names what decides the files' contents beside the export: a file of another plan is written again.

    Raises:
        SourceChangedError: A shard of the run is no longer what its table says.
        StorageError: A file cannot be read or written.
    """
    name = shard_name(index)
    data_name = f"{name}.{export.extension}"
    finished = _finished_file(export, index, data_name, plan)
    if finished is not None:
        return finished
    written = write_atomic(export.output, data_name, lambda stream: _write_data(export, stream, rows))
    if export.indexed:
        lines = "".join(written.lines).encode()
        write_atomic(export.output, f"{name}.tfindex", lambda stream: stream.write(lines))
    with atomic_output(export.output, f"{name}.parquet") as stream:
        score_table.write_table(stream, written.table)
    shard = WrittenShard(index, data_name, written.table.num_rows, written.size, written.md5)
    stats = {
        **asdict(shard),
        "reencoded": written.reencoded,
        "members": written.members,
        "plan": plan,
        "failures": [asdict(failure) for failure in written.failures],
    }
    write_json(export.output, f"{name}_stats.json", stats)
    return ExportedFile(shard, written.reencoded, written.members), written.failures


def _finished_file(
    export: Export, index: int, data_name: str, plan: str
) -> tuple[ExportedFile, Sequence[ExportFailure]] | None:
    """What an earlier try finished, if it is of this plan and all of it is still there."""
    name = shard_name(index)
    (found,) = match([join(export.output, f"{name}*")])
    beside = [f"{name}_stats.json", f"{name}.parquet", *([f"{name}.tfindex"] if export.indexed else [])]
    if not all(join(export.output, file) in found for file in beside):
        return None
    try:
        stats = read_object(join(export.output, f"{name}_stats.json"), _STATS, "")
    except DamagedFileError:
        return None  # it is written again, as all that is not surely finished
    if stats["plan"] != plan or found.get(join(export.output, data_name)) != stats["size"]:
        return None
    shard = WrittenShard(index, *(stats[key] for key in ("name", "samples", "size", "md5")))
    return ExportedFile(shard, stats["reencoded"], stats["members"]), [
        ExportFailure(**one) for one in stats["failures"]
    ]


@dataclass(frozen=True)
class _Written:
    """What was written of a file."""

    table: pa.Table
    failures: Sequence[ExportFailure]
    size: int
    md5: str
    lines: Sequence[str]  # of its index
    reencoded: int
    members: Sequence[str]


def _write_data(export: Export, stream: BinaryIO, rows: pa.Table) -> _Written:
    out = HashingWriter(stream)
    samples: list[ExportedSample] = []  # without their bytes
    failures: list[ExportFailure] = []
    kept: list[int] = []
    suffixes: set[str] = set()
    features = _feature_rows(export, rows)
    records = TFRecordFile(out, compressed=export.compressed) if export.format == TFRECORD else None
    outcomes = export_samples(export.source, rows, export.fields, export.reencoding, export.threads)
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, NotExported):
            row = rows.slice(place, 1).select([SOURCE, ROW, "key"]).to_pylist()[0]
            failures.append(ExportFailure(row[SOURCE], row[ROW], row["key"], outcome.reason, outcome.message))
            continue
        if records is not None:
            records.add(example(_features(export, outcome, features(place))))
        else:
            for suffix, data in outcome.members:
                writing.write_member(out, f"{outcome.key}.{suffix}", data)
        kept.append(place)
        suffixes.update(suffix.lower() for suffix, _ in outcome.members)
        samples.append(ExportedSample(outcome.key, outcome.image, (), outcome.facts, outcome.reencoded))
    if records is not None:
        records.close()
    else:
        writing.write_end(out)
    table = _table(export, rows.take(pa.array(kept, pa.int64())), samples)
    reencoded = sum(sample.reencoded for sample in samples)
    lines = records.index if records else []
    return _Written(table, failures, out.size, out.finish(), lines, reencoded, sorted(suffixes))


def _table(export: Export, rows: pa.Table, samples: Sequence[ExportedSample]) -> pa.Table:
    """The rows of the samples that were written, with the images as they are now."""
    made: dict[str, list[Any]] = {
        "image": [sample.image for sample in samples],
        "reencoded": [sample.reencoded for sample in samples],
        **{
            name: [getattr(sample.facts, name) for sample in samples]
            for name in ("width", "height", "format", "size", "sha256")
        },
    }
    schema = export.table_schema
    columns = []
    for column in schema:
        if column.name in made:
            columns.append(pa.chunked_array([pa.array(made[column.name], column.type)]))
        else:
            columns.append(rows.column(column.name.removeprefix("original_")))
    return pa.Table.from_arrays(columns, schema=schema)


def _feature_rows(export: Export, rows: pa.Table) -> Callable[[int], dict[str, Value]]:
    """Gives, by place, the columns that become features, with what stands for a missing value."""
    names = export.fields.columns
    columns = {name: _filled(rows.column(name).to_pylist(), rows.schema.field(name).type) for name in names}
    return lambda place: {name: values[place] for name, values in columns.items()}


def _filled(values: list[Any], kind: pa.DataType) -> list[Any]:
    missing: Any = float("nan") if pa.types.is_floating(kind) else 0 if pa.types.is_integer(kind) else ""
    return [missing if value is None else value for value in values]


def _features(export: Export, sample: ExportedSample, columns: Mapping[str, Value]) -> dict[str, Value]:
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
        **{f"member/{suffix}": others.get(suffix, b"") for suffix in export.fields.members or ()},
    }


def feature_kinds(export: Export) -> Iterator[tuple[str, str]]:
    """Name and kind (bytes, int64 or float32) of the features of a TFRECORD export."""
    yield from (("image/encoded", "bytes"), ("image/format", "bytes"), ("image/height", "int64"))
    yield from (("image/width", "int64"), ("image/filename", "bytes"), ("image/source_id", "bytes"))
    yield "image/key/sha256", "bytes"
    for name in export.fields.columns:
        kind = export.schema.field(name).type
        if pa.types.is_floating(kind):
            yield name, "float32"
        elif pa.types.is_integer(kind):
            yield name, "int64"
        elif pa.types.is_fixed_size_list(kind):
            yield name, f"float32 ({kind.list_size})"
        else:
            yield name, "bytes"
    yield from ((f"member/{suffix}", "bytes") for suffix in export.fields.members or ())
