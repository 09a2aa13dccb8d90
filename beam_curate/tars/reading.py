"""A streaming tar reader that knows where each member lies, and that goes on after damage.

It reads forward only, holds one member's body at most, and reports damage as events among the members instead of raising,
so that one bad block costs what it touches and nothing more.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from beam_curate.reasons import CORRUPT_TAR, NOT_A_TAR, TRUNCATED_TAR
from beam_curate.tars import headers
from beam_curate.tars.headers import BLOCK, ZEROS, Header, padded, parse_header

MAX_EXTENSION_BYTES: Final = 1 << 20
"""The largest extended header (long name or pax) that is read; real ones are below a few KiB."""

_READ_BLOCK = 1 << 20
_SEEK_FROM = 1 << 16  # skipping less than this is faster by reading on
_NAME_FIELDS = 500  # a header's first bytes, in which the name and its prefix lie
_SPARSE_MORE = 482  # in a GNU sparse header and in the blocks of its map: whether another map block follows
_SPARSE_MAP_MORE = 504
_EXTENSIONS = (headers.GNU_LONG_NAME, headers.GNU_LONG_LINK, headers.PAX_GLOBAL, *headers.PAX)


class TarEntry(NamedTuple):
    """A member: `offset` and `size` are the span of its stored body in the uncompressed stream.

    `name` has surrogate escapes for bytes that are not UTF-8. `regular` is false for directories, links, devices and
    the like. A `sparse` member is regular, but its stored bytes are not its content. `padding` bytes follow the body. `type` is
    the header's, and `link` the name that a link points to.
    """

    name: str
    offset: int
    size: int
    regular: bool
    sparse: bool
    padding: int
    type: bytes = b"0"
    link: str = ""


class Damage(NamedTuple):
    """A damaged spot: where it begins, a reason of reasons.py, a message, and the name of the member hit if it is known."""

    offset: int
    reason: str
    message: str
    name: str | None = None


@dataclass
class _Extension:
    """What extended headers said of the next member; of several that say the same, the first counts, as in tarfile."""

    present: bool = False
    lost: bool = False
    name: str | None = None
    size: int | None = None
    sparse: bool = False
    link: str | None = None


class TarReader:
    """Reads a tar from a stream.

    Iterate over `events()`; between an entry and the next event `read_body()` gives its bytes, else they are skipped. The
    archive ends at its first end marker, as in tarfile's default mode: what follows is not looked at. A single block of
    zeros with a good header somewhere after it is no end marker but damage. Global pax headers are skipped: a name or a
    size for all members alike means nothing.

    Attributes:
        end_marker: Whether the archive ended with an end marker. False while reading, and after an end without one, which
            is no damage in itself (tarfile accepts it too).
    """

    def __init__(self, stream: BinaryIO, *, seekable: bool = False) -> None:
        """Starts at the stream's position, which is offset 0 of all spans.

        Args:
            stream: The uncompressed tar.
            seekable: Whether the stream has a cheap `seek`, by which large bodies are then skipped.
        """
        self.end_marker = False
        self._stream = stream
        self._position = 0
        self._left = 0  # what is unread of the current body
        self._any_header = False
        self._any_magic = False
        self._extended = False  # whether the last member had an extended header
        self._doubtful = False  # whether the next member may have lost one to damage
        self._size: int | None = None
        if seekable:
            start = stream.tell()
            self._size = stream.seek(0, io.SEEK_END) - start
            stream.seek(start)

    def read_body(self) -> bytes:
        """The body of the last entry, whole; shorter than its size if the stream ends in it, empty at a second call.

        The caller looks at the entry's size first: this is how large the result gets.
        """
        body = self._take(self._left)
        self._left -= len(body)
        return body

    def events(self) -> Iterator[TarEntry | Damage]:
        """Members and damaged spots, in the order of the stream; it ends whatever the input.

        Raises:
            OSError: The stream cannot be read.
            CompressionError: The stream is a compressed one, and damaged.
        """
        extension = _Extension()
        block = self._take(BLOCK)
        while len(block) == BLOCK:
            offset = self._position - BLOCK
            header = parse_header(block)
            if header is None:
                damage, block = self._recover(block, offset, extension)
                if damage is not None:
                    yield damage
                extension = _Extension()
                continue
            self._any_header = True
            self._any_magic = self._any_magic or headers.looks_like_header(block)
            if header.type in _EXTENSIONS:
                damage = self._extend(header, offset, extension)
            else:
                entry = self._enter(header, block, extension)
                if not extension.lost:
                    yield entry
                damage = self._leave(entry)
                extension = _Extension()
            if damage is not None:
                yield damage
                if damage.reason == TRUNCATED_TAR:
                    return
            block = self._take(BLOCK)
        if block.strip(b"\0") or extension.present:
            name = extension.name
            if name is None and len(block) >= _NAME_FIELDS and headers.looks_like_header(block):
                name = headers.block_name(block)
            yield Damage(self._position - len(block), TRUNCATED_TAR, "the shard ends in a member's header", name)

    def _extend(self, header: Header, offset: int, extension: _Extension) -> Damage | None:
        """Reads the body of an extended header."""
        wanted = header.type in (headers.GNU_LONG_NAME, headers.GNU_LONG_LINK, *headers.PAX)
        too_large = header.size > MAX_EXTENSION_BYTES
        payload = b""
        if wanted and not too_large:
            payload = self._take(header.size)
        if not self._skip(padded(header.size) - len(payload)):
            return Damage(offset, TRUNCATED_TAR, "the shard ends in an extended header", extension.name)
        if not wanted:
            return None
        if header.type == headers.GNU_LONG_LINK:  # says nothing of its member's name or body
            extension.link = headers.text(payload) if extension.link is None else extension.link
            return None
        extension.present = True
        if too_large:
            extension.lost = True
            message = (
                f"an extended header of {header.size} bytes, more than {MAX_EXTENSION_BYTES}; its member is left out"
            )
            return Damage(offset, CORRUPT_TAR, message, extension.name)
        if header.type == headers.GNU_LONG_NAME:
            extension.name = headers.text(payload) if extension.name is None else extension.name
            return None
        fields = headers.parse_pax(payload)
        if fields is None:
            extension.lost = True
            return Damage(offset, CORRUPT_TAR, "a malformed pax header; its member is left out", extension.name)
        extension.name = fields.path if extension.name is None else extension.name
        extension.size = fields.size if extension.size is None else extension.size
        extension.sparse = extension.sparse or fields.sparse
        extension.link = fields.link if extension.link is None else extension.link
        return None

    def _enter(self, header: Header, block: bytes, extension: _Extension) -> TarEntry:
        """Goes to the start of a member's body."""
        old_sparse = header.type == headers.GNU_SPARSE
        more = old_sparse and block[_SPARSE_MORE] != 0
        while more:  # further blocks of the sparse map
            sparse_map = self._take(BLOCK)
            more = len(sparse_map) == BLOCK and sparse_map[_SPARSE_MAP_MORE] != 0
        if self._doubtful and self._extended and not extension.present:
            # The others have extended headers: this one's was in the damaged spot, and the name here is cut or garbled.
            extension.lost = True
        self._doubtful = False
        self._extended = extension.present
        size = header.size if extension.size is None else extension.size
        self._left = 0 if header.type in headers.BODILESS else size
        return TarEntry(
            name=header.name if extension.name is None else extension.name,
            offset=self._position,
            size=size,
            regular=old_sparse or header.type in headers.REGULAR,
            sparse=old_sparse or extension.sparse,
            padding=padded(self._left) - self._left,
            type=header.type,
            link=header.link if extension.link is None else extension.link,
        )

    def _leave(self, entry: TarEntry) -> Damage | None:
        """Goes to the next header."""
        if not self._skip(self._left):
            name = entry.name
            return Damage(self._position, TRUNCATED_TAR, f"the shard ends in the body of {name!r:.200}", name)
        if not self._skip(entry.padding):
            return Damage(self._position, TRUNCATED_TAR, f"the shard ends right after the body of {entry.name!r:.200}")
        return None

    def _recover(self, block: bytes, offset: int, extension: _Extension) -> tuple[Damage | None, bytes]:
        """What a block that is no header means, and the block to go on with (empty: the end)."""
        if block == ZEROS:
            block = self._take(BLOCK)
            found = b""
            if len(block) == BLOCK and block != ZEROS:
                found = block if parse_header(block) is not None else self._scan(self._any_magic)
            if not found:
                self.end_marker = True
                if not extension.present:
                    return None, b""
            message = "a block of zeros where a header should be"
            name = extension.name
        else:
            magic = headers.looks_like_header(block)
            may_be_tar = self._any_header or headers.resembles_header(block)
            found = self._scan(self._any_magic or not self._any_header) if may_be_tar else b""
            if not found and not self._any_header:
                return Damage(offset, NOT_A_TAR, "the first block is no tar header"), b""
            if magic and block[156:157] in _EXTENSIONS:
                self._extended = True
            message = "a damaged header"
            name = headers.block_name(block) if magic and extension.name is None else extension.name
        self._doubtful = True
        rest = f"the next good header is at {self._position - BLOCK}" if found else "no good header follows"
        return Damage(offset, CORRUPT_TAR, f"{message} at byte {offset}; {rest}", name), found

    def _scan(self, magic: bool) -> bytes:
        """The next block that is a good header, with the magic if this dialect has it; empty if there is none."""
        while len(block := self._take(BLOCK)) == BLOCK:
            if (headers.looks_like_header(block) or not magic) and parse_header(block) is not None:
                return block
        self.end_marker = True
        return b""

    def _take(self, size: int) -> bytes:
        """Reads that many bytes, fewer only at the end. A size that lies costs no memory: it is read in pieces."""
        data = self._stream.read(min(size, _READ_BLOCK))
        self._position += len(data)
        if len(data) == size:
            return data
        pieces = [data]
        left = size - len(data)
        while left and (data := self._stream.read(min(left, _READ_BLOCK))):
            self._position += len(data)
            left -= len(data)
            pieces.append(data)
        return b"".join(pieces)

    def _skip(self, size: int) -> bool:
        """Goes forward; false if the stream ends before."""
        if self._size is not None and size >= _SEEK_FROM:
            fits = self._position + size <= self._size
            ahead = size if fits else self._size - self._position
            self._stream.seek(ahead, io.SEEK_CUR)
            self._position += ahead
            return fits
        while size and (data := self._stream.read(min(size, _READ_BLOCK))):
            self._position += len(data)
            size -= len(data)
        return size == 0
