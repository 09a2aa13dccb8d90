"""ListImages and ReadTables: image files, or the rows of tables, as entries to be packed."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from beam_curate.intake.entries import Entry, failed
from beam_curate.intake.files import ALONE, FoundFile, Place, alone, base_of, class_of, joined, look
from beam_curate.intake.naming import key_of
from beam_curate.intake.tables import TablePart, TableReading, parts_of
from beam_curate.reasons import DUPLICATE_KEY
from beam_curate.transforms.group_rows import GroupRows

BESIDE = ("txt", "json")
"""Extensions of what may lie beside an image."""


@dataclass(eq=False)
class ListImages(beam.PTransform):
    """Lists the images of folders and globs, with the captions and metadata beside them.

    In: the pipeline. Out: Entries. Each place is listed by one worker, page by page; files of one sample meet through the engine.

    Attributes:
        places: Where to look.
        beside: Extensions of captions and metadata.
        class_folders: Whether the first folder below the one place is an image's class, as in torchvision's ImageFolder.
    """

    places: Sequence[Place]
    beside: Sequence[str] = BESIDE
    class_folders: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        if self.class_folders and len(self.places) != 1:
            raise ValueError(f"class folders lie in one folder, and there are {len(self.places)} places; give one")

    def expand(self, root: beam.pvalue.PBegin) -> "Entries":
        """Lists, joins what has one key, and finds the classes."""
        base, beside, class_folders = base_of(self.places), [each.lower() for each in self.beside], self.class_folders
        found = (
            root
            | "Places" >> beam.Create(list(self.places), reshuffle=False)
            | "SpreadPlaces" >> beam.Reshuffle()
            | "Look" >> beam.FlatMap(look, base, beside).with_output_types(FoundFile)
        )
        grouped = (
            found
            | "Files" >> beam.Filter(lambda file: not file.skipped)
            | "KeyByStem" >> beam.Map(lambda file: (_number(key_of(file.stem)), file))
            | "ByStem" >> GroupRows(FoundFile)
            | "OneKey" >> beam.FlatMap(lambda numbered: _by_key(numbered[1]))
        )
        entries = grouped | "Join" >> beam.FlatMap(joined, class_folders).with_output_types(Entry)
        others = found | "Skipped" >> beam.FlatMap(lambda file: [(file.skipped, file.size)] if file.skipped else [])
        lonely = grouped | "Alone" >> beam.Map(lambda files: (ALONE, alone(files)))
        skipped = (others, lonely) | "AllSkipped" >> beam.Flatten()
        classes = entries | "Classes" >> beam.FlatMap(lambda entry: [entry.folder] if entry.folder else [])
        distinct = classes | "Distinct" >> beam.Distinct()
        if class_folders:
            entries = entries | "Number" >> beam.Map(
                lambda entry, names: class_of(entry, sorted(names)), beam.pvalue.AsList(distinct)
            ).with_output_types(Entry)
        return Entries(entries, skipped, distinct)


@dataclass(eq=False)
class ReadTables(beam.PTransform):
    """Reads the rows of tables: CSV, TSV, JSON lines, lists of paths, and Parquet, by row groups.

    In: the pipeline. Out: Entries. Bytes of images are not read.

    Attributes:
        tables: Their paths, in order.
        reading: What their columns are for.
    """

    tables: Sequence[str]
    reading: TableReading

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, root: beam.pvalue.PBegin) -> "Entries":
        """Reads them, and finds keys that are there twice, if a column gives the keys."""
        read = (
            root
            | "Tables" >> beam.Create(list(enumerate(self.tables)), reshuffle=False)
            | "Parts" >> beam.FlatMapTuple(parts_of).with_output_types(TablePart)
            | "SpreadParts" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(self.reading.entries).with_output_types(Entry)
        )
        if self.reading.columns.key:
            read = (
                read
                | "KeyByKey" >> beam.Map(lambda entry: (_number(entry.key or entry.order), entry))
                | "ByKey" >> GroupRows(Entry)
                | "Once" >> beam.FlatMap(lambda numbered: _once(numbered[1])).with_output_types(Entry)
            )
        nothing = root | "NothingSkipped" >> beam.Create([]).with_output_types(tuple[str, int])
        none = root | "NoClasses" >> beam.Create([]).with_output_types(str)
        return Entries(read, nothing, none)


class Entries(NamedTuple):
    """What `PackImages` packs.

    Attributes:
        entries: PCollection[Entry], one for each image or row of the input.
        skipped: PCollection[tuple[str, int]], files that are not rows, by kind.
        classes: PCollection[str], the class folders, each once.
    """

    entries: beam.PCollection[Entry]
    skipped: beam.PCollection[tuple[str, int]]
    classes: beam.PCollection[str]


def _number(text: str) -> int:
    """A number for a text, to group by; texts that share one are told apart afterwards."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=7).digest(), "big")


def _by_key(files: Iterable[FoundFile]) -> Iterator[list[FoundFile]]:
    by_key: dict[str, list[FoundFile]] = {}
    for file in files:
        by_key.setdefault(key_of(file.stem), []).append(file)
    yield from by_key.values()


def _once(entries: Iterable[Entry]) -> Iterator[Entry]:
    first: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.order):
        if not entry.key or entry.failure is not None:
            yield entry
        elif entry.key in first:
            message = f"{first[entry.key].source} has this key too"
            yield failed(entry.order, entry.source, DUPLICATE_KEY, message, entry.key)
        else:
            first[entry.key] = entry
            yield entry
