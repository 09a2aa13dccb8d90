"""The samples of one exported file: read by span, their images made smaller, in their new order."""

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from beam_curate.export.fields import Fields
from beam_curate.images.errors import ImageError
from beam_curate.images.reencoding import UNENCODABLE_IMAGE, EncodeError, Reencoding, reencode
from beam_curate.progress import PROGRESS
from beam_curate.reasons import DUPLICATE_MEMBER
from beam_curate.records import ImageFacts
from beam_curate.runs.finished_run import written_suffix
from beam_curate.runs.source_samples import Members, in_turn, read_samples
from beam_curate.threads import usable_cores

_AHEAD: Final = 2  # samples that each thread has waiting for it


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
    rows: pa.Table, fields: Fields, reencoding: Reencoding, threads: int = 0
) -> Iterator[tuple[int, Outcome]]:
    """Reads and prepares the samples of some rows; gives each with the rank of its row, in the order of the rows.

    A source is read forward. Where the rows are in another order (a shuffle), what was read waits in memory for its turn: the
    samples of one exported file at most.

    Args:
        rows: Who to export, see `placed_rows.Meeting`.
        fields: Which members to take.
        reencoding: What becomes of the images.
        threads: Of this process that encode images; 0 for one per core.

    Raises:
        SourceChangedError: A source is no longer what its table says.
        StorageError: A source cannot be read.
    """
    read = read_samples(rows, lambda row, suffix: suffix == row["image"] or fields.has_member(suffix))
    if not reencoding.needed:
        yield from enumerate(in_turn((place, _prepare(row, members, reencoding)) for place, row, members in read))
        return
    workers = threads or usable_cores()
    pool = _encoders(workers)
    tasks = ((place, pool.submit(_prepare, row, members, reencoding)) for place, row, members in read)
    yield from enumerate(_finished(tasks, workers * _AHEAD))


@functools.lru_cache
def _encoders(workers: int) -> ThreadPoolExecutor:
    """Threads of the process: several files are written at once."""
    return ThreadPoolExecutor(workers, "encode")


def _finished(tasks: Iterator[tuple[int, "Future[Outcome]"]], ahead: int) -> Iterator[Outcome]:
    """As `in_turn`, of tasks under way: of those whose turn it is, `ahead` may be unfinished."""
    waiting: dict[int, Future[Outcome]] = {}
    turn = 0
    for place, task in tasks:
        waiting[place] = task
        while turn in waiting and (len(waiting) > ahead or waiting[turn].done()):
            yield waiting.pop(turn).result()
            turn += 1
    for turn in sorted(waiting):
        yield waiting.pop(turn).result()


def _prepare(row: Mapping[str, Any], members: Members, reencoding: Reencoding) -> Outcome:
    """Encodes the image again if it must be, and names it accordingly."""
    key, image = row["key"], written_suffix(row["key"], row["image"])
    members = [(written_suffix(key, suffix), body) for suffix, body in members]
    data = dict(members)[image]
    PROGRESS.add(samples=1, input_bytes=sum(len(body) for _, body in members))
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
