"""What stands in a shard without a row of its own: the kinds of it, and how many there are of each."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from beam_curate.tars.member_names import APPLE_DOUBLE, METADATA, NO_EXTENSION

DIRECTORIES: Final = "directories"
UNRESOLVED_LINKS: Final = "unresolved_links"
SPECIAL_FILES: Final = "special_files"
FURTHER_IMAGES: Final = "further_images"

KINDS: Final[Mapping[str, str]] = {
    NO_EXTENSION: "members whose names have no extension, or begin with a dot at the root of the tar: by WebDataset's rule "
    "they are not part of any sample, and are not copied",
    FURTHER_IMAGES: "images beside the one of their sample: copied with it, neither decoded nor scored; a key ends at the first "
    "dot of the name, so photo.1.jpg and photo.2.jpg are one sample",
    UNRESOLVED_LINKS: "links whose target is not a file before them in their shard: their samples failed",
    SPECIAL_FILES: "devices, pipes and other members that are not files: not copied",
    METADATA: "members with names such as __meta__: by WebDataset's rule they are not part of any sample, and are not copied",
    APPLE_DOUBLE: "files ._* in which macOS keeps attributes: not copied",
    DIRECTORIES: "directories, which hold nothing themselves",
}
"""What each kind is, for a person, in the order in which they are told."""


class SkippedMembers(Counter[str]):
    """How many members have no row of their own, by kind; names of kinds are never renamed or reused."""


def in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not zero, in the order of KINDS."""
    known = {kind: counts[kind] for kind in KINDS if counts.get(kind)}
    return known | {kind: number for kind, number in counts.items() if number and kind not in known}


def lost(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that a person must know of: all that are not zero, but for directories."""
    return {kind: number for kind, number in in_order(counts).items() if kind != DIRECTORIES}
