"""What an input names, images or tables, told before any work; and the command that packs it."""

import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

from beam_curate.intake.columns import is_table
from beam_curate.intake.files import Place, first_image
from beam_curate.intake.naming import is_image, split_name
from beam_curate.records import Shard
from beam_curate.storage.listing import InputError, list_named, list_shards, split_patterns
from beam_curate.storage.operations import absolute
from beam_curate.storage.schemes import SchemeError

_LISTS: Final = ".txt"


class Request(NamedTuple):
    """An input: places with images, or tables with their sizes; one of the two is empty."""

    places: Sequence[Place]
    tables: Sequence[Shard]


def read_request(spec: str) -> Request:
    """What an input names.

    Args:
        spec: Folders and globs of images, or tables; with braces, several with commas.

    Raises:
        InputError: There is nothing, both are mixed, or a file is neither.
        StorageError: It cannot be looked at.
    """
    patterns = split_patterns(spec)
    tables = [pattern for pattern in patterns if is_table(pattern)]
    if tables and len(tables) < len(patterns):
        other = next(pattern for pattern in patterns if pattern not in tables)
        raise InputError(f"`input` names tables and {other!r}, which is no table; pack them one after the other")
    if tables:
        return Request((), list_named(tables))
    try:
        places = [Place.of(absolute(pattern)) for pattern in patterns]
    except SchemeError as error:
        raise InputError(f"`input` {error}") from error
    if not places:
        raise InputError("`input` names nothing; give a folder of images, a glob, or a table")
    if any(pattern.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.zst")) for pattern in patterns):
        raise InputError(f"`input` {spec!r} names shards; they need no packing: give them to beam-curate curate")
    if not first_image(places):
        raise InputError(
            f"`input` {spec!r}: there is no image (.jpg, .png, .webp, …); check the path, or give a table of paths"
        )
    return Request(places, ())


def list_input(spec: str) -> list[Shard]:
    """The shards of an input, as `list_shards` gives them; of what is to be packed first it says so.

    Raises:
        InputError: As `list_shards`; or it names images, a folder of images, or a table, and the message has the command.
    """
    patterns = split_patterns(spec)
    folders = [pattern for pattern in patterns if not is_table(pattern) and "." not in pattern.rpartition("/")[2]]
    try:
        shards = list_shards(spec)
    except InputError as error:
        places = [Place.of(absolute(pattern)) for pattern in folders if not Place.of(pattern).pattern]
        if len(folders) == len(patterns) and places and first_image(places):
            raise InputError(f"`input` {spec!r} is a folder of images, not shards; {_remedy(spec)}") from error
        raise
    for shard in shards:
        what = "an image" if is_image(split_name(shard.path)) else "a table" if is_table(shard.path) else ""
        if what:
            raise InputError(f"`input`: {shard.path} is {what}, not a shard; {_remedy(spec)}")
    return shards


def _remedy(spec: str) -> str:
    return f"pack it first: beam-curate pack --input {shlex.quote(spec)} --output packed/, and then give --input 'packed/*.tar'"
