"""Reading the members of samples by their spans, in the order in which they lie, whatever the order of the rows."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from beam_curate.runs.placed_rows import SOURCE_KEY, SOURCE_TAR
from beam_curate.runs.row_sources import LINKS, SOURCE_PART
from beam_curate.tars.sources import SourceReader, check_sha256, name_parts

Members = list[tuple[str, bytes]]
"""Extension and bytes of each member of a sample, in its order."""
T = TypeVar("T")


def read_samples(
    rows: pa.Table, has_member: Callable[[Mapping[str, Any], str], bool] = lambda row, suffix: True
) -> Iterator[tuple[int, Mapping[str, Any], Members]]:
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
    facts = ("key", "image", "width", "height", "format", "size", "sha256", "members")
    links = [LINKS] if LINKS in rows.column_names else []
    table = rows.select([*facts, SOURCE_KEY, SOURCE_PART, SOURCE_TAR, *links]).to_pylist()
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    # Where a member lies, and whose it is: the row's place, the member's number.
    order: list[tuple[int, int, int, int]] = []
    wanted = [0] * len(table)
    for place, row in enumerate(table):
        for number, member in enumerate(row["members"]):
            if has_member(row, member["suffix"]):
                spans[row[SOURCE_TAR]].append((member["offset"], member["size"]))
                order.append((row[SOURCE_PART], member["offset"], place, number))
                wanted[place] += 1
    held: dict[int, dict[int, bytes]] = defaultdict(dict)
    with SourceReader() as source:
        for tar, members in spans.items():
            source.expect(tar, members)
        for _, _, place, number in sorted(order):
            row = table[place]
            held[place][number] = _read_member(source, row, number)
            if len(held[place]) == wanted[place]:
                bodies = sorted(held.pop(place).items())
                yield place, row, [(row["members"][at]["suffix"], body) for at, body in bodies]


def _read_member(source: SourceReader, row: Mapping[str, Any], number: int) -> bytes:
    member = row["members"][number]
    links = row.get(LINKS)
    suffix, key = name_parts(row[SOURCE_KEY], member["suffix"], links and links[number])
    data = source.read(row[SOURCE_TAR], member["offset"], member["size"], suffix, key)
    if member["suffix"] == row["image"]:
        check_sha256(data, row["sha256"], row["key"], row[SOURCE_TAR])
    return data


def in_turn(found: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Gives what comes with a place in the order of the places, from 0 on; what comes early waits in memory."""
    waiting: dict[int, T] = {}
    turn = 0
    for place, value in found:
        waiting[place] = value
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1
