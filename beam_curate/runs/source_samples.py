"""Reading the members of samples by their spans, in the order in which they lie, whatever the order of the rows."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.runs.placed_rows import SOURCE_KEY, SOURCE_TAR
from beam_curate.runs.row_sources import LINKS, SOURCE_PART
from beam_curate.tars.sources import SourceReader, check_sha256, name_parts

Members = list[tuple[str, bytes]]
"""Extension and bytes of each member of a sample, in its order."""
_FACTS: Final = ("key", "image", "width", "height", "format", "size", "sha256")
T = TypeVar("T")


def read_samples(
    rows: pa.Table, has_member: Callable[[Mapping[str, object], str], bool] = lambda row, suffix: True
) -> Iterator[tuple[int, Mapping[str, object], Members]]:
    """Reads the samples of some rows: the place of each among the rows, its row, and its members.

    A source is read forward; a sample comes when the last of its members is read. Of a sample whose members are links, which
    lie elsewhere in its source, the others are held meanwhile.

    Args:
        rows: Who to read, see `placed_rows.Meeting`.
        has_member: Whether the member of a row with this extension is read.

    Raises:
        SourceChangedError: A source is no longer what was scored.
        StorageError: A source cannot be read.
    """
    table = rows.select(_FACTS).to_pylist()
    tars, keys = rows.column(SOURCE_TAR).to_pylist(), rows.column(SOURCE_KEY).to_pylist()
    # One entry for each member of all rows; columns, since a list of records for each row takes as long as hashing its image.
    lists = rows.column("members").combine_chunks()
    members = lists.flatten()
    counts = pc.list_value_length(lists).to_numpy()
    owner_places = np.repeat(np.arange(len(table)), counts)
    owners, suffixes = owner_places.tolist(), members.field("suffix").to_pylist()
    offsets, sizes = members.field("offset").to_numpy(), members.field("size").to_numpy()
    span = list(zip(offsets.tolist(), sizes.tolist(), strict=True))
    links = _links(rows, counts)
    wanted = np.array(
        [has_member(table[owner], suffix) for owner, suffix in zip(owners, suffixes, strict=True)], np.bool_
    )
    left = np.bincount(owner_places[wanted], minlength=len(table)).tolist()
    order = np.lexsort((offsets, rows.column(SOURCE_PART).to_numpy()[owner_places]))
    order = order[wanted[order]].tolist()
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for at in order:
        spans[tars[owners[at]]].append(span[at])
    held: dict[int, dict[int, bytes]] = defaultdict(dict)
    with SourceReader() as source:
        for tar, some in spans.items():
            source.expect(tar, some)
        for at in order:
            place = owners[at]
            row, tar = table[place], tars[place]
            suffix, key = name_parts(keys[place], suffixes[at], links[at])
            data = source.read(tar, span[at][0], span[at][1], suffix, key)
            if suffixes[at] == row["image"]:
                check_sha256(data, row["sha256"], row["key"], tar)
            held[place][at] = data
            left[place] -= 1
            if not left[place]:
                yield place, row, [(suffixes[at], body) for at, body in sorted(held.pop(place).items())]


def _links(rows: pa.Table, counts: npt.NDArray[np.int64]) -> Sequence[str | None]:
    """For each member of all rows the name of the one whose bytes it links to."""
    if LINKS not in rows.column_names or rows.column(LINKS).null_count == rows.num_rows:
        return [None] * int(counts.sum())
    both = zip(rows.column(LINKS).to_pylist(), counts.tolist(), strict=True)
    return [link for links, count in both for link in links or [None] * count]


def in_turn(found: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Gives what comes with a place in the order of the places, from 0 on; what comes early waits in memory."""
    waiting: dict[int, T] = {}
    turn = 0
    for place, value in found:
        waiting[place] = value
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1
