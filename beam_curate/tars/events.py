"""What a reader of a tar meets: members, damaged spots, end marks, and files that are not tars."""

from typing import NamedTuple

from beam_curate.reasons import NOT_A_TAR
from beam_curate.tars.compression_kinds import compression_of
from beam_curate.tars.kinds import Kind, kind_of, text_in


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
    """A damaged spot: where it begins, a reason of reasons.py, a message, and the name of the member hit if it is known.

    `body` is the offset of the member right before the spot if the damage reaches into its body as well.
    """

    offset: int
    reason: str
    message: str
    name: str | None = None
    body: int | None = None


class EndMark(NamedTuple):
    """An end mark at `offset` after which another archive follows: no damage, as far as its bytes tell."""

    offset: int


def not_a_tar(offset: int, block: bytes) -> Damage:
    """What a file is in which no header was found, by its first block that is not zeros."""
    if name := compression_of(block):
        kind: Kind | None = Kind(f"compressed once more, with {name}", "decompress it once")
    else:
        kind = kind_of(block) or text_in(block)
    if kind is None:
        return Damage(offset, NOT_A_TAR, "no tar header was found in it")
    remedy = kind.remedy and f"; {kind.remedy}"
    return Damage(offset, NOT_A_TAR, f"the shard is not a tar but {kind.name}{remedy}")
