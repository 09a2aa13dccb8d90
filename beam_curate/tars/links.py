"""Links in a tar: a link to a file before it in the same shard is that file's bytes under another name.

tar(1) writes a hard link where a file has been stored already, so its target stands before it. A symbolic link is taken for
one in the same way if its target, relative to its own folder, stands before it. Nothing is copied: a linked member is the span
of its target. All other links (to what comes later, to another shard, out of the archive) are not resolved.

What a link points to has gone by when the link comes, and it may be wanted by many. So the bytes are read again when the shard
has been read, in the order in which they lie in it: in two passes at most, and with one member's bytes held.
"""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, Final, NamedTuple

from beam_curate.records import Sample
from beam_curate.tars import headers
from beam_curate.tars.compression import open_decompressed
from beam_curate.tars.compression_kinds import CompressionError
from beam_curate.tars.events import TarEntry
from beam_curate.tars.member_names import extracted_path
from beam_curate.tars.sample_group import IMAGE, SampleGroup

LINKS: Final = (headers.HARD_LINK, headers.SYMBOLIC_LINK)

MAX_TARGETS: Final = 1 << 20
"""Links are resolved to the first members of a shard, this many, and only while their names together have no more than"""
MAX_TARGET_CHARACTERS: Final = 1 << 26
"""these characters: about 300 bytes a member are held, and real shards have thousands."""


class LinkTargets:
    """The files of a shard so far, by the path to which tar(1) would extract them."""

    def __init__(self, *, readable: bool) -> None:
        """Knows no file yet.

        Args:
            readable: Whether the shard can be read again; else no link is resolved.
        """
        self._readable = readable
        self._known: dict[str, tuple[str, int, int, bool]] = {}
        self._characters = 0

    def follow(self, entry: TarEntry) -> TarEntry | None:
        """The next member of the shard; a link with the span of its target, and the name under which this is stored as `link`.

        None for a link to something that is not known.
        """
        if entry.type not in LINKS:
            if entry.regular:
                self._add(entry.name, entry.name, entry)
            return entry
        found = self._resolve(entry)
        if found is not None:
            self._add(entry.name, found.link, found)
        return found

    def _add(self, name: str, stored: str, entry: TarEntry) -> None:
        path = extracted_path(name)
        if not path or not self._readable:
            return
        if path not in self._known:
            if len(self._known) >= MAX_TARGETS or self._characters > MAX_TARGET_CHARACTERS:
                return
            self._characters += len(path)
        # A later file of the same name takes the place of an earlier one, as it does on the disk.
        self._known[path] = (stored, entry.offset, entry.size, entry.sparse)

    def _resolve(self, entry: TarEntry) -> TarEntry | None:
        path = entry.link
        if entry.type == headers.SYMBOLIC_LINK:
            if path.startswith("/"):
                return None
            path = posixpath.join(posixpath.dirname(entry.name), path)
        known = extracted_path(path)
        found = None if known is None else self._known.get(known)
        if found is None:
            return None
        name, offset, size, sparse = found
        return entry._replace(offset=offset, size=size, sparse=sparse, link=name)


def link_words(entry: TarEntry) -> str:
    """What a link is, for a message."""
    kind = "a hard link" if entry.type == headers.HARD_LINK else "a symbolic link"
    return f"{entry.name!r:.200} is {kind} to {entry.link!r:.200}"


class LinkedSample(NamedTuple):
    """A sample of which bytes are still to be read: its row, and its members."""

    sample: Sample
    group: SampleGroup


class LinkedReader:
    """Reads the bytes that links point to, from a shard that has been read once."""

    def __init__(self, stream: BinaryIO, start: int, max_bytes: int | None) -> None:
        """Takes a stream that can seek.

        Args:
            stream: The shard as it is stored.
            start: Where it begins in the stream.
            max_bytes: How far it may expand, if it is compressed.
        """
        self._raw = stream
        self._start = start
        self._max_bytes = max_bytes
        self._tar: BinaryIO | None = None
        self._last = (-1, 0)
        self._data = b""

    def complete(self, linked: Sequence[LinkedSample]) -> Iterator[Sample]:
        """The samples with the bytes of their images and their texts, in the order in which the images lie in the shard.

        Raises:
            OSError: The shard cannot be read, or has changed since it was read first.
        """
        texts = sorted(
            (member.offset, member.size, place, role)
            for place, (_, group) in enumerate(linked)
            for role, member in group.looked_into.items()
            if member.link and role != IMAGE
        )
        for offset, size, place, role in texts:
            linked[place].group.take_text(role, self._read(offset, size))
        images = [(group.looked_into[IMAGE], place) for place, (_, group) in enumerate(linked)]
        for offset, size, place in sorted((image.offset, image.size, place) for image, place in images):
            sample, group = linked[place]
            ref = replace(sample.ref, caption=group.caption, url=group.url, uid=group.uid)
            yield replace(sample, ref=ref, data=self._read(offset, size))

    def _read(self, offset: int, size: int) -> bytes:
        """The bytes of a span: ask in ascending order, for the same one several times if need be."""
        if (offset, size) == self._last:
            return self._data
        self._data = b""
        try:
            data = self._take(offset, size)
        except CompressionError as error:
            raise OSError(f"it changed while it was read: {error}") from error
        if len(data) != size:
            raise OSError(f"it changed while it was read: it has no {size} bytes at offset {offset} any more")
        self._last, self._data = (offset, size), data
        return data

    def _take(self, offset: int, size: int) -> bytes:
        if self._tar is None:
            self._raw.seek(self._start)
            self._tar = open_decompressed(self._raw, max_bytes=self._max_bytes)
        self._tar.seek(offset + (self._start if self._tar is self._raw else 0))
        return self._tar.read(size)
