"""Extended headers: what stands before a member's own header and says more of it, in GNU's way or by pax."""

from dataclasses import dataclass
from typing import Final

from beam_curate.tars import headers
from beam_curate.tars.blocks import BlockStream
from beam_curate.tars.headers import Header, padded

MAX_EXTENSION_BYTES: Final = 1 << 20
"""The largest extended header (long name or pax) that is read; real ones are below a few KiB."""

EXTENSIONS: Final = (headers.GNU_LONG_NAME, headers.GNU_LONG_LINK, headers.PAX_GLOBAL, *headers.PAX)


@dataclass
class Extension:
    """What extended headers said of the next member; of several that say the same, the first counts, as in tarfile.

    Attributes:
        present: Whether there was any.
        lost: Whether what they said cannot be told, so that the member has to be left out.
        name: The member's name, if they gave one.
        size: Its size in bytes likewise.
        sparse: Whether they say that it is stored sparse.
        link: What it points to, if it is a link and they said it.
    """

    present: bool = False
    lost: bool = False
    name: str | None = None
    size: int | None = None
    sparse: bool = False
    link: str | None = None
    _without_end: bool = False  # whether the name has no NUL at its end

    def read(self, header: Header, blocks: BlockStream) -> str:
        """Reads the body of an extended header.

        Returns:
            What is wrong with it, or with the shard that ends in it (then `lost` is not set); empty if nothing.
        """
        wanted = header.type in (headers.GNU_LONG_NAME, headers.GNU_LONG_LINK, *headers.PAX)
        too_large = header.size > MAX_EXTENSION_BYTES
        payload = b""
        if wanted and not too_large:
            payload = blocks.take(header.size)
        if not blocks.skip(padded(header.size) - len(payload)):
            self.lost = False
            return "the shard ends in an extended header"
        if not wanted:
            return ""
        if header.type == headers.GNU_LONG_LINK:  # says nothing of its member's name or body
            self.link = headers.text(payload) if self.link is None else self.link
            return ""
        self.present = True
        problem = ""
        if too_large:
            problem = f"an extended header of {header.size} bytes, more than {MAX_EXTENSION_BYTES}"
        elif header.type == headers.GNU_LONG_NAME:
            name = headers.parse_long_name(payload)
            if name is None:
                problem = "a damaged long name"
            if self.name is None:
                self.name, self._without_end = name, not payload.endswith(b"\0")
        elif (fields := headers.parse_pax(payload)) is None:
            problem = "a malformed pax header"
        else:
            self.name = fields.path if self.name is None else self.name
            self.size = fields.size if self.size is None else self.size
            self.sparse = self.sparse or fields.sparse
            self.link = fields.link if self.link is None else self.link
        if not problem:
            return ""
        self.lost = True
        return f"{problem}; its member is left out"

    def settle(self, header: Header) -> tuple[str, int, str]:
        """Name and size of the member with this header, and what is wrong if the two contradict each other.

        A writer says a size in a pax header if the member's own header has no room for it; another one that is not the
        same is damage. The beginning of a long name stands in the member's own header.
        """
        name = header.name if self.name is None else self.name
        size = header.size if self.size is None else self.size
        problem = ""
        if size != header.size and size <= headers.MAX_OCTAL_SIZE and header.size not in (0, headers.MAX_OCTAL_SIZE):
            problem = f"{name!r:.200} has {size} bytes by its pax header, {header.size} by its own; it is left out"
            size = header.size
        elif self._without_end and not name.startswith(header.name):
            problem = f"a member is named {name!r:.200} by its long name, {header.name!r} by its own; it is left out"
        if problem and not self.lost:
            self.lost = True
            return name, size, problem
        return name, size, ""
