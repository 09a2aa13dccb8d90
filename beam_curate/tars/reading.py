"""A streaming tar reader that knows where each member lies, and that goes on after damage.

It reads forward, holds one member's body at most, and reports damage as events among the members instead of raising,
so that one bad block costs what it touches and nothing more.

The end of a tar is not believed on sight: what follows an end mark is read as `tar --ignore-zeros` does, for zeros are also
what a part of a download that never came leaves. Zeros are an end mark without a doubt only where a writer would have
put one: the two blocks and the padding to a whole record that tar and Python's tarfile write. Nor is a size believed
that leads to no header: then the reader goes back, if the stream can, and looks for headers in what it took for a body.
"""

from collections.abc import Iterator
from typing import BinaryIO, Final

from beam_curate.reasons import CORRUPT_TAR, TRUNCATED_TAR
from beam_curate.tars import headers
from beam_curate.tars.blocks import BlockStream
from beam_curate.tars.events import Damage, EndMark, TarEntry, not_a_tar
from beam_curate.tars.extensions import EXTENSIONS, Extension
from beam_curate.tars.headers import BLOCK, ZEROS, Header, padded, parse_header
from beam_curate.tars.kinds import kind_of

RECORD: Final = 20 * BLOCK
"""Writers fill up a tar to a multiple of this, 10,240 bytes. Source: POSIX.1-2017, pax, option -b; GNU tar manual, "Blocking"."""
MAX_END_BYTES: Final = RECORD + BLOCK
"""The longest end of a tar: one block to the end of a record, the second block of the mark, and the rest of its record. A
larger blocking factor (`tar -b`) puts more, but that looks as a shard does of which the last part never came."""

_NAME_FIELDS = 500  # a header's first bytes, in which the name and its prefix lie
_SPARSE_MAP_MORE = 504  # in a block of a sparse map: whether another one follows
_TRACE = 16  # so many zeros at the end of a body before a hole come from the hole


class TarReader:
    """Reads a tar from a stream.

    Iterate over `events()`; between an entry and the next event `read_body()` gives its bytes, else they are skipped.
    Global pax headers are skipped: a name or a size for all members alike means nothing.

    Attributes:
        end_marker: Whether the archive ended with an end marker. False while reading, and after an end without one, which
            is not damage in itself (tarfile accepts it too).
        zeros_at_end: The offset of the last member's body if that, too, ends in a block of zeros (or has nothing else), and
            the shard ends after it.
    """

    def __init__(self, stream: BinaryIO, *, seekable: bool = False) -> None:
        """Starts at the stream's position, which is offset 0 of all spans.

        Args:
            stream: The uncompressed tar.
            seekable: Whether the stream has a cheap `seek`, by which large bodies are then skipped.
        """
        self.end_marker = False
        self.zeros_at_end: int | None = None
        self._blocks = BlockStream(stream, seekable=seekable)
        self._left = 0  # what is unread of the current body
        self._any_header = False
        self._any_magic = False
        self._stand_ins = False  # whether a name that would have fitted into its header stands in an extended header
        self._doubtful = False  # whether the next member may have lost its extended header to damage
        self._any_entry = False
        self._before: TarEntry | None = None  # the member right before the next header, if it has a body
        self._tail = b""  # the last block of its body, without the padding
        self._padding = b""
        self._odd_size = False  # whether its size has no reason to stand where it does

    def read_body(self) -> bytes:
        """The body of the last entry, whole; shorter than its size if the stream ends in it, empty at a second call.

        The caller looks at the entry's size first: this is how large the result gets.
        """
        body = self._blocks.take(self._left)
        self._left -= len(body)
        self._tail = body[-BLOCK:] or self._tail
        return body

    def events(self) -> Iterator[TarEntry | Damage | EndMark]:
        """Members, damaged spots and end marks, in the order of the stream; it ends whatever the input.

        Raises:
            OSError: The stream cannot be read.
            CompressionError: The stream is a compressed one, and damaged.
        """
        extension = Extension()
        block = self._blocks.take(BLOCK)
        while len(block) == BLOCK:
            offset = self._blocks.position - BLOCK
            header = parse_header(block)
            if header is None:
                event, block = self._recover(block, offset, extension)
                if event is not None:
                    yield event
                self._forget()
                extension = Extension()
                continue
            self._any_header = True
            self._any_magic = self._any_magic or headers.looks_like_header(block)
            if header.type in EXTENSIONS:
                self._forget()
                problem = extension.read(header, self._blocks)
                reason = CORRUPT_TAR if extension.lost else TRUNCATED_TAR
                damage, block = Damage(offset, reason, problem, extension.name) if problem else None, b""
            else:
                entry, damage = self._enter(header, block, offset, extension)
                if not extension.lost:
                    yield entry
                if damage is not None:
                    yield damage
                damage, block = self._leave(entry)
                extension = Extension()
            if damage is not None:
                yield damage
                if damage.reason == TRUNCATED_TAR:
                    return
            block = block or self._blocks.take(BLOCK)
        if block.strip(b"\0") or extension.present:
            yield self._short(block, extension)
        elif self._before is not None and self._ends_in_zeros():
            self.zeros_at_end = self._before.offset

    def _enter(self, header: Header, block: bytes, offset: int, extension: Extension) -> tuple[TarEntry, Damage | None]:
        """Goes to the start of a member's body."""
        old_sparse = header.type == headers.GNU_SPARSE
        more = old_sparse and headers.sparse_map_follows(block)
        while more:
            sparse_map = self._blocks.take(BLOCK)
            more = len(sparse_map) == BLOCK and sparse_map[_SPARSE_MAP_MORE] != 0
        if not extension.present:
            extension.lost = self._doubtful and (
                self._stand_ins if self._any_entry and not headers.fills_field(block) else _stands_in(header, block)
            )
            name, size, problem, self._odd_size = header.name, header.size, "", False
        else:
            name, size, problem = extension.settle(header)
            self._odd_size = extension.size is not None and 0 == header.size < size <= headers.MAX_OCTAL_SIZE
            self._stand_ins = self._stand_ins or (name != header.name and not headers.fills_field(block))
        self._doubtful, self._any_entry = False, True
        self._left = 0 if header.type in headers.BODILESS else size
        self._tail = b""
        entry = TarEntry(
            name=name,
            offset=self._blocks.position,
            size=size,
            regular=old_sparse or header.type in headers.REGULAR,
            sparse=old_sparse or extension.sparse,
            padding=padded(self._left) - self._left,
            type=header.type,
            link=header.link if extension.link is None else extension.link,
        )
        self._before = entry if self._left else None
        return entry, Damage(offset, CORRUPT_TAR, problem, name) if problem else None

    def _leave(self, entry: TarEntry) -> tuple[Damage | None, bytes]:
        """Goes to the next header; damage if there cannot be one, and the header to go on with after all."""
        self._padding = b""
        last = self._left if self._left < BLOCK else BLOCK
        if (self._left == last or self._blocks.skip(self._left - last)) and (rest := last + entry.padding):
            data = self._blocks.take(rest)
            if last:
                self._left = max(0, last - len(data))
                self._tail, data = data[:last] or self._tail, data[last:]
            self._padding = data
        cut = self._left or len(self._padding) < entry.padding
        if (cut or self._odd_size) and (found := self._swallowed()):
            return self._lie(), found
        if not cut:
            return None, b""
        where, name = ("in", entry.name) if self._left else ("right after", None)
        message = f"the shard ends {where} the body of {entry.name!r:.200}"
        return Damage(self._blocks.position, TRUNCATED_TAR, message, name), b""

    def _forget(self) -> None:
        """Takes up that the last member does not lie right before the next header."""
        self._before, self._tail, self._padding = None, b"", b""

    def _swallowed(self) -> bytes:
        """The first header in what was taken for the body of the last member, if its size is wrong; empty if there is none.

        A body that begins with a header is a tar of its own, whose members are none of this one's.
        """
        entry, here = self._before, self._blocks.position
        if entry is None or not self._blocks.step_back(entry.offset):
            return b""
        end = min(entry.offset + entry.size + entry.padding, here)
        first = self._blocks.take(min(BLOCK, end - entry.offset)).ljust(BLOCK, b"\1")
        if parse_header(first) is None and (found := self._blocks.next_header(magic=self._any_magic, end=end)):
            return found
        self._blocks.skip(here - self._blocks.position)
        return b""

    def _lie(self) -> Damage:
        """The damage that a member is whose body swallowed a header; the stream is right after that."""
        entry = self._before
        if entry is None:
            raise RuntimeError("no member lies before the header")
        found = self._blocks.position - BLOCK
        message = f"the size of {entry.name!r:.200}, {entry.size} bytes, reaches over the header at byte {found}"
        return Damage(entry.offset, CORRUPT_TAR, message, entry.name, entry.offset)

    def _recover(self, block: bytes, offset: int, extension: Extension) -> tuple[Damage | EndMark | None, bytes]:
        """What a block that is not a header means, and the block to go on with (empty: the end)."""
        zeros = block == ZEROS
        if (not zeros or self._tail.endswith(b"\0")) and (found := self._swallowed()):
            return self._lie(), found
        if zeros:
            return self._recover_zeros(offset, extension)
        kind = None if self._any_header else kind_of(block)
        found = b"" if kind else self._blocks.next_header(magic=self._any_magic)
        if not found and not self._any_header:
            return not_a_tar(offset, block), b""
        # What is left in a damaged header of its name is a hint whom the damage hit.
        magic = headers.looks_like_header(block)
        name = headers.block_name(block) if magic and extension.name is None else extension.name
        # Padding is zeros: noise in its first byte began before it.
        stained = self._padding[:1].strip(b"\0") != b""
        return self._spot(f"a damaged header at byte {offset}", offset, found, name, stained), found

    def _recover_zeros(self, offset: int, extension: Extension) -> tuple[Damage | EndMark | None, bytes]:
        """The same for a block of zeros."""
        block = self._blocks.take(BLOCK)
        if block == ZEROS:
            self.end_marker = True  # even if a damaged stream does not let the next block be read
            block = self._blocks.after_zeros()
        elif not block.strip(b"\0"):
            block = b""
        length = self._blocks.position - len(block) - offset
        stained = self._tail[-_TRACE:] == ZEROS[: min(_TRACE, len(self._tail))]
        if not block:
            self.end_marker = True
            if length > MAX_END_BYTES:
                message = (
                    f"the shard has {length} bytes of zeros from byte {offset} to its end, more than the "
                    f"{MAX_END_BYTES} that end a tar; its last part may be missing"
                )
                return Damage(offset, CORRUPT_TAR, message, extension.name, self._stain(stained)), b""
            if not extension.present:
                if self._before is not None and self._ends_in_zeros():
                    self.zeros_at_end = self._before.offset
                return None, b""
        self.end_marker = False
        next_offset = self._blocks.position - BLOCK
        header = parse_header(block) if len(block) == BLOCK else None
        mark = 2 * BLOCK <= length <= MAX_END_BYTES and next_offset % RECORD == 0 and self._any_header
        if header and mark and not (extension.present or self._tail.endswith(b"\0") or _stands_in(header, block)):
            return EndMark(offset), block
        found = block if header else self._blocks.next_header(magic=self._any_magic)
        if not found and not self._any_header:
            return not_a_tar(offset, block), b""
        message = f"{length} bytes of zeros at byte {offset}, where a header should be"
        return self._spot(message, offset, found, extension.name, stained), found

    def _spot(self, what: str, offset: int, found: bytes, name: str | None, stained: bool) -> Damage:
        """The damage between the last member and the header found after it."""
        self._doubtful = True
        self.end_marker = not found
        rest = f"the next good header is at {self._blocks.position - BLOCK}" if found else "no good header follows"
        return Damage(offset, CORRUPT_TAR, f"{what}; {rest}", name, self._stain(stained))

    def _stain(self, stained: bool) -> int | None:
        """The offset of the member before a spot if the spot has left its trace on it."""
        return self._before.offset if stained and self._before is not None else None

    def _ends_in_zeros(self) -> bool:
        return bool(self._tail) and not self._tail.strip(b"\0")

    def _short(self, block: bytes, extension: Extension) -> Damage:
        """What a block is that is cut by the end."""
        offset = self._blocks.position - len(block)
        if not self._any_header and (kind_of(block) or not headers.may_begin_header(block)):
            return not_a_tar(offset, block)
        name = extension.name
        if name is None and len(block) >= _NAME_FIELDS and headers.looks_like_header(block):
            name = headers.block_name(block)
        return Damage(offset, TRUNCATED_TAR, "the shard ends in a member's header", name)


def _stands_in(header: Header, block: bytes) -> bool:
    """Whether a name may be cut or made up, its extended header being gone: tarfile puts `?` for what is not ASCII."""
    return headers.fills_field(block) or "?" in header.name
