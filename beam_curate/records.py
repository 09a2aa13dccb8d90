"""The elements that flow between the transforms: frozen, and encoded with Beam's row coder.

Every sample is one record at every step, from ReadTarShards to the score table: a step maps it one to one to the
next record, and what goes wrong with it travels in its `failure`. So rows = samples holds by construction. Image
bytes live in `Sample` only, pixels in `DecodedImage` only; everything later is a reference of about 2 KB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import apache_beam as beam
from typing_extensions import dataclass_transform

KEPT: Final = "kept"
REJECTED: Final = "rejected"
FAILED: Final = "failed"
STATUSES: Final = (KEPT, REJECTED, FAILED)

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass that Beam encodes with its row coder.

    Raises:
        TypeError: It has a method or a property. In a worker process that did not define it Beam decodes a record as a named
            tuple of its own with the same fields, and with nothing else (2.77, `typehints.schemas`).
    """
    if more := [
        name for name, value in vars(cls).items() if name[:2] != "__" and (callable(value) or hasattr(value, "__get__"))
    ]:
        raise TypeError(
            f"the record {cls.__name__} may have only fields, because workers get nothing else of it; remove {more[0]}"
        )
    frozen = dataclass(frozen=True)(cls)
    beam.coders.registry.register_row(frozen)
    return frozen


@record
class Shard:
    """A tar of the input: its place in the sorted listing, its path, and its size in bytes.

    `rows` are the indexes of the samples to read again (ascending), of a shard whose other rows are in the score table
    already; empty means all of them.
    """

    index: int
    path: str
    size: int
    rows: Sequence[int] = ()


@record
class Member:
    """A file of a sample in its source tar.

    `suffix` is the part of its name after the key and a dot, as it stands in the tar (case kept); `offset` and `size`
    are the span of its bytes in the tar, uncompressed. Where it is a link, the bytes are another member's, and `link` is the
    name of that one; else it is empty.
    """

    suffix: str
    offset: int
    size: int
    link: str = ""


@record
class Failure:
    """Why a sample failed: at which step, a stable reason (see reasons.py), and a message for a person."""

    step: str
    reason: str
    message: str


@record
class SampleRef:
    """Who a sample is and where its bytes lie.

    `index` counts the rows of its shard from 0, failures included. `image` is the suffix of the image member, empty
    if there is none. `shard_rows` is the number of the shard's rows on its last row and 0 on all others: by it a later
    step knows that the shard is complete. `again` says that the shard's other rows are in the score table already and this
    one takes the place of a failed one there: `shard_rows` then counts only the rows that are read again. `skipped` is on the
    last row too: how many members of the shard have no row of their own, by kind (`tars.skipped`). `caption` comes from a
    `.txt` member, or else from the field `caption` of a `.json` one, `url` and `uid` (32 hex digits, as DataComp's) from its
    fields of these names.
    """

    shard_index: int
    shard: str
    index: int
    key: str
    members: Sequence[Member] = ()
    image: str = ""
    shard_rows: int = 0
    caption: str | None = None
    url: str | None = None
    uid: str | None = None
    again: bool = False
    skipped: Mapping[str, int] = field(default_factory=dict)


@record
class Sample:
    """A sample as read: the bytes of its image member as they lie in the tar (empty if it failed)."""

    ref: SampleRef
    data: bytes = b""
    failure: Failure | None = None


@record
class ImageFacts:
    """What is known of the original image.

    `width` and `height` are pixels as a person sees it (after EXIF orientation, where that is applied), `format` is
    Pillow's name (JPEG, PNG, …), `sha256` the hex digest of the image member, `size` its length in bytes, `exif` a JSON
    object of EXIF tag name to text, empty if there is none, `frames` the number of frames that the file says it has: 1 for a
    still image, 0 if not known.
    """

    width: int
    height: int
    format: str
    sha256: str
    size: int
    exif: str = ""
    frames: int = 0


@record
class DecodedImage:
    """A decoded sample: `pixels` are the bytes of a (S, S, 3) uint8 RGB array (empty if it failed).

    `prepared` says how they were made, in the words of `str(Target)`, so that no model takes another one's for its own.
    `scores` are those that the image gives, without the model. A sample that is rejected before inference has a `failure` of
    the step `screen`. `other_pixels` has, by the name of a second embedding, the pixels that its model sees, where these are
    other ones, and `other_prepared` how these were made; `embeddings` the second embeddings that are there already.
    """

    ref: SampleRef
    facts: ImageFacts | None = None
    pixels: bytes = b""
    failure: Failure | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    other_pixels: Mapping[str, bytes] = field(default_factory=dict)
    embeddings: Mapping[str, bytes] = field(default_factory=dict)
    prepared: str = ""
    other_prepared: Mapping[str, str] = field(default_factory=dict)


@record
class EmbeddedSample:
    """A sample with its embedding: the bytes of a (D,) float16 little-endian array, L2-normalised.

    `scores` and `embeddings`, which are of second models, are those of DecodedImage.
    """

    ref: SampleRef
    facts: ImageFacts | None = None
    embedding: bytes = b""
    failure: Failure | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    embeddings: Mapping[str, bytes] = field(default_factory=dict)


@record
class ScoredSample:
    """A row of the score table: scores by name, and the verdict.

    `status` is `kept`, `rejected` (then `step` is `filter`, `screen` if that was before inference, or `dedup`, and `reason` the
    first rule that failed) or `failed` (then `step`, `reason` and `message` are the failure's). `embeddings` are those of second
    models.
    """

    ref: SampleRef
    facts: ImageFacts | None
    embedding: bytes
    scores: Mapping[str, float]
    status: str
    step: str = ""
    reason: str = ""
    message: str = ""
    embeddings: Mapping[str, bytes] = field(default_factory=dict)


@record
class Removed:
    """Rows of a part of the score table that are rejected by more than what they hold themselves, such as duplicates.

    `rows` are their places in the part, from 0, and `messages` says for each why; `reason` is the stable name of it.
    """

    rows: Sequence[int]
    reason: str
    messages: Sequence[str]


@record
class ScorePart:
    """A finished part of the score table: all rows of one input shard, and how many of them came out which way.

    `path` is relative to the output folder; `reasons` counts the rows that were not kept by reason, `skipped` the members of
    the shard that have no row of their own by kind (`tars.skipped`). `footprint` tells the part from another one that is written
    in its place, see `part_files.footprint`; `scored` is that of the part with the scores, if this one has verdicts on it.
    """

    shard_index: int
    shard: str
    path: str
    rows: int
    kept: int
    rejected: int
    failed: int
    reasons: Mapping[str, int]
    # Parts that were written without these have the same footprint, which is taken of the text.
    skipped: Mapping[str, int] = field(default_factory=dict, repr=False)
    footprint: str = field(default="", repr=False)
    scored: str = field(default="", repr=False)


@record
class PlacedRows:
    """Kept rows of a part of the score table on their way to the output file that they go to.

    They travel by themselves (`rows` is an Arrow record batch without its schema, compressed with zstd, with a column more: the
    place of each in the file), or, where they lie together in the part, as a reference: the `count` rows from `first` on among
    the part's kept rows, which take the places from `start` on. `renamed` has the new keys of rows of a reference, by rank.
    """

    shard_index: int
    path: str
    rows: bytes = b""
    first: int = 0
    count: int = 0
    start: int = 0
    renamed: Mapping[int, str] = field(default_factory=dict)


@record
class LeftOut:
    """A kept sample that its format cannot take: its part, its rank among the part's kept rows, its key, and why."""

    shard_index: int
    row: int
    key: str
    reason: str
    message: str


@record
class WrittenShard:
    """A finished output shard: the name of its file, number of samples, size in bytes, and md5 of its bytes.

    `reencoded` counts the images that were encoded again, `members` are the extensions that its samples' members have, and
    `alike` says that each sample has all of them. `failures` are samples that it should have held.
    """

    index: int
    name: str
    samples: int
    size: int
    md5: str
    reencoded: int = 0
    members: Sequence[str] = ()
    alike: bool = True
    failures: Sequence[LeftOut] = ()


@record
class BucketRows:
    """Rows that are compared with others of their bucket, see `duplicates.method`: packed records of one method."""

    rows: bytes


@record
class BlockRows:
    """Rows of a pair of blocks of a large bucket: the numbers of both blocks, and of which they are, see `duplicates.blocks`."""

    bucket: int
    asking: int
    answering: int
    answers: bool
    rows: bytes
