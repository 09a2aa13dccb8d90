"""What the formats have in common that write chosen fields of samples, with images made smaller where that is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import pyarrow as pa

from beam_curate.export.fields import FIXED, Fields
from beam_curate.export.samples import ExportedSample, NotExported, export_samples
from beam_curate.images.reencoding import Reencoding
from beam_curate.records import LeftOut, WrittenShard
from beam_curate.runs.configuration import Files
from beam_curate.runs.division import Division
from beam_curate.runs.output_files import HashingWriter, Written
from beam_curate.runs.placed_rows import SOURCE_RANK
from beam_curate.runs.row_sources import LINKS, SOURCE_PART
from beam_curate.runs.wids import wids_index


@dataclass(frozen=True)
class PreparedSamples(ABC):
    """The base of formats whose samples are prepared: fields are chosen, images may be encoded again.

    Attributes:
        fields: What is written beside the images.
        schema: Columns of the rows that there are.
        reencoding: What becomes of the images.
        compressed: Whether the files are gzip.
        encode_threads: Threads of a process that encode images; 0 for one per core.
    """

    fields: Fields
    schema: pa.Schema
    reencoding: Reencoding = Reencoding()
    compressed: bool = False
    encode_threads: int = 0

    compresses: ClassVar[bool] = False
    """Whether there is a compressed kind of the format."""
    all_members: ClassVar[bool] = False
    """Whether the fields `*` are all members too."""
    note: ClassVar[str] = ""
    """What a user should know of the files, for the terminal."""
    indexed: ClassVar[bool] = False
    lists: ClassVar[Sequence[str]] = ()
    """The names of lists of all files, beside those that wids reads."""
    max_file_bytes: ClassVar[int | None] = None
    """How large a file may be."""
    prepared: ClassVar[bool] = True
    mime: ClassVar[str] = ""
    """Of the files."""

    @property
    def columns(self) -> Sequence[str]:
        """What is needed of a row."""
        return list(dict.fromkeys([*FIXED, *self.fields.columns, "members", LINKS]))

    @property
    def may_fail(self) -> bool:
        """An image may be one that cannot be encoded as asked."""
        return self.reencoding.needed

    @property
    def threads(self) -> int:
        """Two files where images are encoded, so that one is read while the other's are encoded."""
        return 2 if self.reencoding.needed else 0

    @property
    def table_schema(self) -> pa.Schema:
        """The columns of the tables beside the files."""
        return self.fields.schema(self.schema, reencodes=self.reencoding.needed)

    @property
    def description(self) -> dict[str, object]:
        """What decides the files: a run or export is continued only with the same."""
        done = self.reencoding
        return {
            "format": self.name,
            "compression": "gzip" if self.compressed else "none",
            "resize_shortest": done.shortest,
            "image_format": done.image_format,
            "quality": done.quality if done.needed else None,
            # Another version of the encoder may give other bytes.
            "pillow": version("pillow") if done.needed else None,
            "columns": list(self.fields.columns),
            "members": "all" if self.fields.members is None else list(self.fields.members),
        }

    def files(self, division: Division) -> Files:
        """The part of a run's configuration that tells of the files."""
        return Files.of(
            division,
            format=self.description,
            extension=self.extension,
            beside=tuple(self.beside),
            indexed=self.indexed,
            lists=tuple(self.lists),
        )

    @property
    def described(self) -> list[str]:
        """The columns of the tables, and what the images are."""
        names = ", ".join(f"`{name}`" for name in self.table_schema.names)
        lines = [f"`00000.parquet` has a row for each sample of the first file, in its order, and so on: {names}.", ""]
        if self.reencoding.needed:
            lines += [
                "Where `reencoded` is true the image was made smaller or converted; `original_width`, `original_height` and "
                "`original_sha256` describe the image before. The others are byte for byte as they were.",
                "",
            ]
        return lines

    @property
    def images(self) -> list[str]:
        """What is asked of images."""
        done = self.reencoding
        if not done.needed:
            return []
        size = f"shorter side at most {done.shortest or 'as it was'}"
        return [f"Images: {size}, format {done.image_format}, quality {done.quality};"]

    @property
    @abstractmethod
    def name(self) -> str:
        """As options call it."""

    @property
    @abstractmethod
    def extension(self) -> str:
        """Of the files."""

    @property
    @abstractmethod
    def beside(self) -> Sequence[str]:
        """The ends of the names of further files."""

    @property
    @abstractmethod
    def reading(self) -> Sequence[str]:
        """Lines of Python that read the files."""

    def index(self, files: Sequence[WrittenShard]) -> Mapping[str, Any] | None:
        """What index.json says of all files; None: there is none."""
        return wids_index(files) if self.indexed else None

    @abstractmethod
    def write(self, out: HashingWriter, rows: pa.Table) -> Written:
        """Writes the samples of a file."""

    def _write(self, rows: pa.Table, add: Callable[[int, ExportedSample], None]) -> Written:
        """Prepares the samples of a file.

        Args:
            rows: See `placed_rows.Meeting`.
            add: Writes a sample; called with the rank of its row.
        """
        samples: list[ExportedSample] = []  # without their bytes
        failures: list[LeftOut] = []
        kept: list[int] = []
        found: set[str] = set()
        alike = True
        for place, outcome in export_samples(rows, self.fields, self.reencoding, self.encode_threads):
            if isinstance(outcome, NotExported):
                row = rows.slice(place, 1).select([SOURCE_PART, SOURCE_RANK, "key"]).to_pylist()[0]
                failures.append(
                    LeftOut(row[SOURCE_PART], row[SOURCE_RANK], row["key"], outcome.reason, outcome.message)
                )
                continue
            add(place, outcome)
            suffixes = {suffix for suffix, _ in outcome.members}
            alike = alike and (not kept or suffixes == found)
            found |= suffixes
            kept.append(place)
            samples.append(ExportedSample(outcome.key, outcome.image, (), outcome.facts, outcome.reencoded))
        table = self._table(rows.take(pa.array(kept, pa.int64())), samples)
        return Written(table, sorted(found), alike, sum(sample.reencoded for sample in samples), failures)

    def _table(self, rows: pa.Table, samples: Sequence[ExportedSample]) -> pa.Table:
        """The rows of the samples that were written, with the images as they are now."""
        made: dict[str, list[Any]] = {
            "image": [sample.image for sample in samples],
            "reencoded": [sample.reencoded for sample in samples],
            **{
                name: [getattr(sample.facts, name) for sample in samples]
                for name in ("width", "height", "format", "size", "sha256")
            },
        }
        schema = self.table_schema
        columns = []
        for column in schema:
            if column.name in made:
                columns.append(pa.chunked_array([pa.array(made[column.name], column.type)]))
            else:
                columns.append(rows.column(column.name.removeprefix("original_")))
        return pa.Table.from_arrays(columns, schema=schema)
