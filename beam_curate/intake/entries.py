"""What is packed, as references: an Entry for each image or row of the input, and what became of a shard of them."""

from collections.abc import Mapping, Sequence
from dataclasses import field

from beam_curate.intake.reasons import PACK
from beam_curate.records import Failure, record

NO_GROUP = -1


@record
class Entry:
    """One row of the input: an image file with what lies beside it, or a row of a table.

    Attributes:
        order: Its place among all rows: they are packed in the order of these texts, by code points.
        source: What a person finds it by: the path of the file, or table and row.
        key: Of the sample; empty if it has none.
        image: The file with the image's bytes; of a table that holds them itself the table.
        suffix: Extension of the image's member; empty: as the bytes tell.
        row_group: Of the table with the bytes; NO_GROUP for a file of its own.
        row: In the row group.
        size: Of the file, if it is known; else 0.
        beside: Files that are members too, by extension.
        texts: Members that a table gives, by extension.
        folder: The class folder, of such a dataset.
        failure: Why it cannot be packed, if that is known.
    """

    order: str
    source: str
    key: str = ""
    image: str = ""
    suffix: str = ""
    row_group: int = NO_GROUP
    row: int = 0
    size: int = 0
    beside: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    failure: Failure | None = None


@record
class ShardEntries:
    """The entries of one shard, in their order."""

    index: int
    entries: Sequence[Entry]


@record
class PackedShard:
    """What became of the entries of a shard: `name` is that of its tar, empty if none could be packed."""

    index: int
    name: str
    packed: int
    failed: int
    size: int
    md5: str
    reasons: Mapping[str, int]


def failed(order: str, source: str, reason: str, message: str, key: str = "") -> Entry:
    """An entry that cannot be packed."""
    return Entry(order, source, key, failure=Failure(PACK, reason, message))
