"""Reads the samples of a shard by WebDataset's rules, and accounts for everything that is wrong with it.

Every sample of the shard gives one row, in the order of the tar, and so does every damaged spot that no sample can be
blamed for (its key is empty), see `grouping`. A shard gives at least one row.
"""

from collections.abc import Iterator
from typing import BinaryIO, Final

from beam_curate.reasons import SHARD_TOO_LARGE
from beam_curate.records import Sample, Shard
from beam_curate.tars.compression import open_decompressed
from beam_curate.tars.compression_kinds import CompressionError
from beam_curate.tars.events import Damage, EndMark
from beam_curate.tars.grouping import Grouping
from beam_curate.tars.links import LinkedReader, LinkTargets, link_words
from beam_curate.tars.reading import TarReader
from beam_curate.tars.skipped import UNRESOLVED_LINKS, SkippedMembers

DEFAULT_MAX_MEMBER_BYTES: Final = 1 << 27
"""128 MiB: more than an uncompressed 16-bit image of 20 megapixels."""

DEFAULT_MAX_SHARD_BYTES: Final = 1 << 38
"""256 GiB: beyond any real shard, and what a gzip bomb of 256 MiB expands to."""

MAX_SAMPLES: Final = 1 << 20
"""The most rows of a shard, which are held in memory until its part of the score table is written; real shards have thousands."""


def read_samples(
    stream: BinaryIO,
    shard: Shard,
    *,
    image_extension: str | None = None,
    max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES,
    max_shard_bytes: int | None = DEFAULT_MAX_SHARD_BYTES,
    seekable: bool = False,
    skipped: SkippedMembers | None = None,
) -> Iterator[Sample]:
    """Reads the samples of a shard, in its order: plain, gzip or zstd, told by the content.

    The image is the first member with a known image extension; one whose extension only ends in such (`v2.jpg`) counts
    if no member has it exactly. No more than two samples' image bytes are held at a time. Samples with links to earlier members
    come after all others, see `links`: their bytes are read in a second pass.

    Args:
        stream: The shard as it is stored, at its start.
        shard: What goes into the rows' references.
        image_extension: The exact extension of the image members, any case, with or without a leading dot; None for any.
        max_member_bytes: Larger images fail and are not read, and so do samples of more than 8 times as much in all.
        max_shard_bytes: How far a compressed shard may expand; None for no limit.
        seekable: Whether the stream has a cheap `seek`, to skip large members by (if the shard is not compressed).
        skipped: Is added to while reading, if given.

    Yields:
        Rows with indexes from 0 without a gap, ascending but for the samples with links. That with the last index, and only it,
        has `shard_rows`, the number of rows, and `skipped`, the members that have no row of their own.

    Raises:
        OSError: The storage cannot be read. Anything wrong with the bytes is a row.
    """
    wanted = None if image_extension is None else image_extension.lower().removeprefix(".")
    counts = SkippedMembers()
    grouping = Grouping(shard, max_member_bytes, wanted, counts)
    start = stream.tell() if stream.seekable() else 0
    targets = LinkTargets(readable=stream.seekable())
    reader: TarReader | None = None
    try:
        tar = open_decompressed(stream, max_bytes=max_shard_bytes)
        reader = TarReader(tar, seekable=seekable and tar is stream)
        for event in reader.events():
            if grouping.rows >= MAX_SAMPLES:
                message = f"the shard has more than {MAX_SAMPLES} samples, and the rest is not read; split it"
                raise CompressionError(SHARD_TOO_LARGE, message)
            if isinstance(event, Damage):
                grouping.damage(event)
                continue
            if isinstance(event, EndMark):
                grouping.end_mark()
                continue
            entry = targets.follow(event)
            split = grouping.split(event)
            if split is None:
                continue
            key, extension = split
            group = grouping.enter(key, event.offset, extension)
            yield from grouping.ready()
            if entry is None:
                counts[UNRESOLVED_LINKS] += 1
                group.add_unresolved(event, extension, link_words(event))
            else:
                group.add(entry, extension, reader.read_body, wanted, max_member_bytes)
        if not reader.end_marker:
            grouping.end_without_marker()
        if reader.zeros_at_end is not None:
            grouping.end_in_zeros(reader.zeros_at_end)
    except CompressionError as error:
        grouping.broken(error.reason, str(error), whole=reader is not None and reader.end_marker)
    grouping.finish()
    yield from grouping.ready()
    if skipped is not None:
        skipped.update(counts)
    if grouping.linked:
        yield from LinkedReader(stream, start, max_shard_bytes).complete(grouping.linked)
