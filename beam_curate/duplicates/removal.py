"""Which samples are removed as duplicates: of each group the best one is kept, of those that the rules keep."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from beam_curate import reasons
from beam_curate.duplicates.candidates import FOREIGN
from beam_curate.duplicates.finding import counts_of, input_digest, is_finished, read_findings
from beam_curate.duplicates.search import DROP
from beam_curate.duplicates.table import DuplicatesError, among, read_part
from beam_curate.records import Removed
from beam_curate.selection.rejudging import Selection, passing, read_rows
from beam_curate.storage.files import absolute

REASONS: Final = {
    "exact": reasons.DUPLICATE_EXACT,
    "pixels": reasons.DUPLICATE_PIXELS,
    "perceptual": reasons.DUPLICATE_PERCEPTUAL,
    "semantic": reasons.DUPLICATE_SEMANTIC,
}
_COLUMNS: Final = ("group", "place", "method", "similarity", "duplicate_of_key", "duplicate_of_shard", "key",
                   "shard")  # fmt: skip


@dataclass(frozen=True)
class Duplicates:
    """A finished duplicates table, and what is done with it.

    Attributes:
        folder: Where it lies.
        action: Of a table made against another dataset: DROP what is there too, or KEEP only that.
        counts: What was found, in numbers; nothing if that is not known yet.
    """

    folder: str
    action: str = DROP
    counts: Mapping[str, Any] = field(default_factory=dict)


def find_table(folder: str, scores: str) -> Duplicates:
    """The finished duplicates table in a folder, which must be of the same input as a score table.

    Args:
        folder: Where it lies.
        scores: Folder of the run that has the score table.

    Raises:
        DuplicatesError: It is not; the message says what to do.
    """
    place = absolute(folder)
    if not is_finished(place):
        raise DuplicatesError(f"{folder} holds no finished duplicates table; give the --output of dedup.py")
    found = read_findings(place)
    if found["input"] != input_digest(scores):
        raise DuplicatesError(f"{folder} tells of duplicates among other input shards than those of the score table")
    return Duplicates(place, found["action"], counts_of(found))


class Left(NamedTuple):
    """A member of a group that the rules keep: its place in the group, where its row is, and what it is a duplicate of."""

    place: int
    shard_index: int
    row: int
    key: str
    shard: str
    method: str | None
    similarity: float
    of_key: str | None
    of_shard: str | None


def members_left(duplicates: Duplicates, selection: Selection, shard_index: int) -> Iterator[tuple[int, Left]]:
    """The members of groups that are left in a part, by the group.

    Args:
        duplicates: The table.
        selection: The rules on each row.
        shard_index: The part.
    """
    table = read_part(duplicates.folder, shard_index)
    if not table.num_rows:
        return
    rows = passing(selection, shard_index)
    members, places = among(table, read_rows(selection, shard_index, ["index"]).column("index").take(rows))
    for member, row in zip(members.select(list(_COLUMNS)).to_pylist(), rows[places].tolist(), strict=True):
        yield member["group"], _left(member, shard_index, row)


def _left(member: dict[str, Any], shard_index: int, row: int) -> Left:
    similarity = 1.0 if member["similarity"] is None else member["similarity"]
    of = member["duplicate_of_key"], member["duplicate_of_shard"]
    return Left(member["place"], shard_index, row, member["key"], member["shard"], member["method"], similarity, *of)


def removed_of_group(group: int, left: Iterable[Left]) -> Iterator[tuple[int, Removed]]:
    """The members of a group that are removed: all but the best one, or all where the best is of the other dataset."""
    ordered = sorted(left)
    best = None if group & int(FOREIGN) else ordered[0]
    for member in ordered[0 if best is None else 1 :]:
        # Every member but the first of a group has an edge, so a method.
        reason = REASONS[member.method or "exact"]
        yield member.shard_index, Removed((member.row,), reason, (_message(member, best),))


def _message(member: Left, best: Left | None) -> str:
    like = {
        "exact": "the same bytes as",
        "pixels": "the same pixels as",
        "perceptual": f"{member.similarity:.4f} of the perceptual hash's bits as in",
        "semantic": f"a cosine similarity of {member.similarity:.4f} to",
    }[member.method or "exact"]
    words = f"{like} {member.of_key!r} of {member.of_shard}"
    if best is None:
        return f"{words}, in the other dataset"
    if (best.key, best.shard) == (member.of_key, member.of_shard):
        return words
    return f"{words}; of this group {best.key!r} of {best.shard} is kept"


def only_shared(duplicates: Duplicates, selection: Selection, shard_index: int) -> Iterator[tuple[int, Removed]]:
    """The rows of a part that are removed where only samples are kept that are in the other dataset too."""
    shared = {left.row for _, left in members_left(duplicates, selection, shard_index)}
    rows = [row for row in passing(selection, shard_index).tolist() if row not in shared]
    if rows:
        message = "no sample of the other dataset is like it"
        yield shard_index, Removed(rows, reasons.NOT_IN_OTHER, [message] * len(rows))
