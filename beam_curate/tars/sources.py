"""Reading members back from their source shard by span, and noticing that the shard is no longer what was scored."""

import contextlib
import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple

from beam_curate.storage.files import open_read
from beam_curate.storage.ranged_reading import RangeReader
from beam_curate.tars.compression import open_decompressed
from beam_curate.tars.compression_kinds import CompressionError, compression_of
from beam_curate.tars.events import TarEntry
from beam_curate.tars.headers import BLOCK, Header, parse_header
from beam_curate.tars.member_names import encodable, split_name
from beam_curate.tars.reading import TarReader

MAX_GAP_BYTES: Final = 1 << 18
"""Unwanted bytes between two members that are fetched rather than asked around, 256 KiB. With samples of 100 KB, of which
5, 20 or 50 % are kept, 1.15, 1.42 or 1.46 times the bytes needed come, for 1.2, 2.0 or 7.6 samples a request; at 1 MiB it
would be 2.9, 3.5 or 1.9 times the bytes."""
MAX_REQUEST_BYTES: Final = 1 << 23
"""Members are fetched together up to this size, 8 MiB, which is also what a reader holds in memory. A larger one is alone."""

_COMPRESSED = (".gz", ".tgz", ".zst", ".tzst")  # so named, it is not asked for what a plain shard would have
_FULL_NAME = 99  # bytes from which on a name may fill its field (some writers end it with a NUL)


class SourceChangedError(RuntimeError):
    """A source shard is no longer what was scored."""


class _Range(NamedTuple):
    start: int
    stop: int


class SourceReader:
    """Reads members of source shards, one shard open at a time.

    Members of a plain tar are ranged reads of exactly the header and the body; those announced by `expect` are fetched
    together with their neighbours. Offsets in a compressed tar are those of the uncompressed stream, which is read forward:
    ask for the members of a shard in ascending order (a step back starts it again, but for the member that was read last).

    Attributes:
        requests: How many ranges of plain tars were fetched, and
        fetched: how many bytes.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.fetched = 0
        self._path = ""
        self._open = contextlib.ExitStack()
        self._ranges: RangeReader | None = None
        self._stream: BinaryIO | None = None  # of a compressed shard
        self._told = False  # whether it is known if the shard is compressed
        self._last = (_Range(0, 0), memoryview(b""))  # of a compressed shard
        self._expected: dict[str, list[_Range]] = {}
        self._held = _Range(0, 0)
        self._data = b""
        self._entries: dict[int, TarEntry] | None = None

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def expect(self, path: str, members: Iterable[tuple[int, int]]) -> None:
        """Announces members of a shard that will be read, in any order, so that neighbours can be fetched together.

        Args:
            path: The shard.
            members: Offset and size of each.
        """
        merged: list[_Range] = []
        for offset, size in sorted(members):
            start, stop = offset - BLOCK, offset + size
            if merged:
                last = merged[-1]
                if start - last.stop <= MAX_GAP_BYTES and stop - last.start <= MAX_REQUEST_BYTES:
                    merged[-1] = _Range(last.start, max(stop, last.stop))
                    continue
            merged.append(_Range(start, stop))
        self._expected[path] = merged

    def read(self, path: str, offset: int, size: int, suffix: str = "", key: str = "") -> bytes:
        """The bytes of a member.

        The header before it must still be that of a member of this size and name.

        Args:
            path: The shard.
            offset: Where the member's body begins.
            size: Its length in bytes.
            suffix: The end of its name after the key and a dot, as in records.Member; empty for any. For a link it is that of
                the member whose bytes it links to,
            key: and this what is before it, as in records.SampleRef; empty for any.

        Raises:
            SourceChangedError: The shard ends before the end of the member, or another member is there.
            StorageError: The shard cannot be read.
        """
        if path != self._path:
            self._start(path)
        try:
            if not self._told:
                self._tell(offset, size, suffix, key)
            data = self._from_stream(offset, size) if self._stream is not None else self._from_ranges(offset, size)
        except CompressionError as error:
            raise _changed(path, f"it is damaged now: {error}") from error
        if len(data) != BLOCK + size:
            raise _changed(path, f"it is shorter, and has no {size} bytes at offset {offset}")
        if not _fits(parse_header(bytes(data[:BLOCK])), size, suffix, key):
            self._look_closer(offset, size, suffix, key)
        return bytes(data[BLOCK:])

    def _start(self, path: str) -> None:
        self._open.close()
        self._path, self._stream, self._entries = path, None, None
        self._held, self._data = _Range(0, 0), b""
        self._last = _Range(0, 0), memoryview(b"")
        ranges = RangeReader(path)
        self._open.callback(ranges.close)
        self._ranges = ranges
        self._told = False

    def _tell(self, offset: int, size: int, suffix: str, key: str) -> None:
        """Finds out whether the shard is compressed.

        A plain shard mostly tells by the member that is wanted, without a request more: in compressed bytes there is no header
        of this name and size at the place that it has when uncompressed. Where the member says less, the first block tells.
        """
        if not self._path.endswith(_COMPRESSED):
            data = self._from_ranges(offset, size)
            header = parse_header(bytes(data[:BLOCK])) if key and len(data) == BLOCK + size else None
            if header is not None and header.size == size and encodable(header.name) == f"{key}.{suffix}":
                self._told = True
                return
        if compression_of(self._ask(_Range(0, BLOCK))):
            stream = self._open.enter_context(open_read(self._path))
            self._stream = open_decompressed(stream)
        self._told = True

    def _ask(self, wanted: _Range) -> bytes:
        ranges = self._ranges
        if ranges is None:
            raise RuntimeError("no shard is open")
        before = ranges.requests, ranges.fetched
        data = ranges.read(wanted.start, wanted.stop)
        self.requests += ranges.requests - before[0]
        self.fetched += ranges.fetched - before[1]
        return data

    def _fetch(self, wanted: _Range) -> None:
        self._data = self._ask(wanted)
        self._held = wanted

    def _from_ranges(self, offset: int, size: int) -> memoryview:
        """Header block and body of a member, from what is held or fetched now."""
        start, stop = offset - BLOCK, offset + size
        if not (self._held.start <= start and stop <= self._held.stop):
            expected = self._expected.get(self._path, [])
            place = bisect_right(expected, start, key=lambda known: known.start) - 1
            if place >= 0 and stop <= expected[place].stop:
                self._fetch(expected[place])
            else:
                self._fetch(_Range(start, stop))
        return memoryview(self._data)[start - self._held.start : stop - self._held.start]

    def _from_stream(self, offset: int, size: int) -> memoryview:
        """Header block and body of a member of a compressed shard."""
        stream = self._stream
        if stream is None:
            raise RuntimeError("no shard is open")
        wanted = _Range(offset - BLOCK, offset + size)
        if wanted == self._last[0]:
            return self._last[1]
        self._last = wanted, memoryview(b"")
        stream.seek(wanted.start)
        self._last = wanted, memoryview(stream.read(BLOCK + size))
        return self._last[1]

    def _look_closer(self, offset: int, size: int, suffix: str, key: str) -> None:
        """Reads the shard's headers as scoring did: its own header block alone does not always tell a member's name."""
        if self._entries is None:
            self._entries = {}
            with open_read(self._path) as raw, contextlib.suppress(CompressionError):
                tar = open_decompressed(raw)
                for event in TarReader(tar, seekable=tar is raw).events():
                    if isinstance(event, TarEntry):
                        self._entries[event.offset] = event
        entry = self._entries.get(offset)
        if entry is None or entry.size != size or not _is_named(encodable(entry.name), suffix, key):
            found = f"{encodable(entry.name)!r} of {entry.size} bytes" if entry else "no member"
            name = f" {f'{key}.{suffix}'!r:.200}" if suffix else ""
            raise _changed(
                self._path, f"at offset {offset} was a member{name} of {size} bytes, and is {found:.200} now"
            )


def name_parts(key: str, suffix: str, link: str | None) -> tuple[str, str]:
    """Suffix and key of the member whose bytes a member of a sample has: its own, or those of what it links to.

    Args:
        key: The sample's key.
        suffix: The member's suffix.
        link: The name of the member whose bytes it links to, or none.
    """
    if not link:
        return suffix, key
    target = split_name(link)
    return ("", "") if target is None else (target[1], target[0])


def _fits(header: Header | None, size: int, suffix: str, key: str) -> bool:
    """Whether the header surely is that of the member, or says so little of the name that its size must do."""
    if header is None or header.size != size:
        return False
    name = encodable(header.name)
    # An extended header before this one may hold the name: then this one's may be cut, and other than ASCII be replaced.
    cut = len(header.name.encode("utf-8", "surrogateescape")) >= _FULL_NAME
    return cut or _is_named(name, suffix, key if key.isascii() else "")


def _is_named(name: str, suffix: str, key: str) -> bool:
    if key:
        return name == f"{key}.{suffix}"
    return not suffix or name.endswith(f".{suffix}")


def _changed(path: str, how: str) -> SourceChangedError:
    return SourceChangedError(
        f"{path} changed after it was scored: {how}. Restore the shard, or score it again into a new output folder"
    )


def check_sha256(data: bytes, expected: str, key: str, path: str) -> None:
    """Compares an image's bytes with the digest taken when it was scored.

    Raises:
        SourceChangedError: They differ; it names the sample and its shard.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise _changed(path, f"the image of sample {key!r} has sha256 {found}, {expected} was scored")
