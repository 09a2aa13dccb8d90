"""The samples of one exported file: read from a run's shards by span, their images made smaller, in their new order."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from beam_curate.export.fields import Fields
from beam_curate.images.errors import ImageError
from beam_curate.images.reencoding import UNENCODABLE_IMAGE, EncodeError, Reencoding, reencode
from beam_curate.progress import PROGRESS
from beam_curate.reasons import DUPLICATE_MEMBER
from beam_curate.records import ImageFacts
from beam_curate.runs.packing import shard_name
from beam_curate.storage.files import join
from beam_curate.tars.sources import SourceReader, check_sha256

_AHEAD: Final = 2  # samples that each thread has waiting for it

SPANS: Final = "members"
SOURCE: Final = "source"
"""Columns of the rows that are exported: the members' spans in a shard of the run, and the shard's index."""


@dataclass(frozen=True)
class ExportedSample:
    """A sample as it is exported.

    Attributes:
        key: Its key.
        image: The extension of its image.
        members: Extension and bytes of each member, in their order.
        facts: Of the image as it is exported.
        reencoded: Whether the image was encoded again.
    """

    key: str
    image: str
    members: tuple[tuple[str, bytes], ...]
    facts: ImageFacts
    reencoded: bool


@dataclass(frozen=True)
class NotExported:
    """A sample that cannot be exported, and why."""

    reason: str
    message: str


Outcome = ExportedSample | NotExported


def export_samples(
    folder: str, rows: pa.Table, fields: Fields, reencoding: Reencoding, threads: int = 0
) -> Iterator[Outcome]:
    """Reads and prepares the samples of some rows, in the order of the rows.

    A shard is read forward. Where the rows are in another order (a shuffle), what was read waits in memory for its turn: the
    samples of one exported file at most.

    Args:
        folder: The run's folder.
        rows: Who to export: the columns of the run's tables, with SPANS and SOURCE.
        fields: Which members to take.
        reencoding: What becomes of the images.
        threads: That encode images; 0 for one per core.

    Raises:
        SourceChangedError: A shard is no longer what its table says.
        StorageError: A shard cannot be read.
    """
    read = _read_in_order(folder, rows, fields)
    if not reencoding.needed:
        yield from _in_turn((place, _prepare(row, members, reencoding)) for place, row, members in read)
        return
    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(workers, "encode") as pool:
        tasks = ((place, pool.submit(_prepare, row, members, reencoding)) for place, row, members in read)
        yield from _finished(tasks, workers * _AHEAD)


def _in_turn(found: Iterator[tuple[int, Outcome]]) -> Iterator[Outcome]:
    waiting: dict[int, Outcome] = {}
    turn = 0
    for place, outcome in found:
        waiting[place] = outcome
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


def _finished(tasks: Iterator[tuple[int, "Future[Outcome]"]], ahead: int) -> Iterator[Outcome]:
    """As `_in_turn`, of tasks under way: of those whose turn it is, `ahead` may be unfinished."""
    waiting: dict[int, Future[Outcome]] = {}
    turn = 0
    for place, task in tasks:
        waiting[place] = task
        while turn in waiting and (len(waiting) > ahead or waiting[turn].done()):
            yield waiting.pop(turn).result()
            turn += 1
    for turn in sorted(waiting):
        yield waiting.pop(turn).result()


Members = list[tuple[str, bytes]]


def _read_in_order(folder: str, rows: pa.Table, fields: Fields) -> Iterator[tuple[int, Mapping[str, Any], Members]]:
    """Place, row and members of each sample, in the order in which they lie in the run's shards."""
    table = rows.select(["key", "image", "width", "height", "format", "size", "sha256", SPANS, SOURCE]).to_pylist()
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in table:
        row["path"] = join(folder, f"{shard_name(row[SOURCE])}.tar")
        row[SPANS] = [
            span for span in row[SPANS] if span["suffix"] == row["image"] or fields.has_member(span["suffix"])
        ]
        spans[row["path"]] += [(span["offset"], span["size"]) for span in row[SPANS]]
    starts = np.array([row[SPANS][0]["offset"] for row in table])
    order = np.lexsort((starts, rows.column(SOURCE).to_numpy()))
    with SourceReader() as source:
        for path, wanted in spans.items():
            source.expect(path, wanted)
        for place in order.tolist():
            row = table[place]
            members = [
                (span["suffix"], source.read(row["path"], span["offset"], span["size"], span["suffix"], row["key"]))
                for span in row[SPANS]
            ]
            PROGRESS.add(samples=1, input_bytes=sum(len(data) for _, data in members))
            yield place, row, members


def _prepare(row: Mapping[str, Any], members: Members, reencoding: Reencoding) -> Outcome:
    """Encodes the image again if it must be, and names it accordingly."""
    key, image = row["key"], row["image"]
    data = dict(members)[image]
    check_sha256(data, row["sha256"], key, row["path"])
    encoded, suffix = data, image
    facts = ImageFacts(row["width"], row["height"], row["format"], row["sha256"], row["size"])
    if reencoding.needed:
        try:
            encoded, made = reencode(data, reencoding)
        except ImageError as error:
            return NotExported(error.reason, error.message)
        except EncodeError as error:
            return NotExported(UNENCODABLE_IMAGE, str(error))
        changed = encoded is not data
        facts = made if changed else facts
        suffix = reencoding.suffix(image, facts, changed=changed)
    if suffix != image and suffix.lower() in (name.lower() for name, _ in members if name != image):
        return NotExported(DUPLICATE_MEMBER, f"the image would be named .{suffix}, as another member of the sample is")
    renamed = tuple((suffix, encoded) if name == image else (name, body) for name, body in members)
    return ExportedSample(key, suffix, renamed, facts, encoded is not data)
