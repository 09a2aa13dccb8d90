"""What an input names, images or tables, told before any work; and the command that packs it."""

import os
import posixpath
import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

from beam_curate.intake.columns import TABLES, is_table
from beam_curate.intake.files import Place, first_image
from beam_curate.intake.naming import UNREAD_EXTENSIONS, is_image, split_name
from beam_curate.records import Shard
from beam_curate.storage.listing import InputError, list_named, list_shards, split_patterns
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.operations import absolute
from beam_curate.storage.patterns import literal
from beam_curate.storage.schemes import SchemeError
from beam_curate.storage.walking import files_below

_LISTS: Final = ".txt"
_SHARDS: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst")


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
    tables = [pattern for pattern in patterns if is_table(pattern) and not _is_folder(pattern)]
    if tables and len(tables) < len(patterns):
        other = next(pattern for pattern in patterns if pattern not in tables)
        raise InputError(f"`input` names tables and {other!r}, which is not a table; pack them one after the other")
    if tables:
        return Request((), list_named(tables))
    if any(pattern.lower().endswith(_SHARDS) for pattern in patterns):
        raise InputError(f"`input` {spec!r} names shards; they need no packing: give them to beam-curate curate")
    if len(patterns) > 1 and _is_folder(spec):
        raise InputError(f"`input` {spec!r}: a comma separates several names; write it as \\, in a name")
    places = [_place(pattern) for pattern in patterns]
    if not places:
        raise InputError("`input` names nothing; give a folder of images, a glob, or a table")
    if not first_image(places):
        raise InputError(f"`input` {spec!r}: there is no image (.jpg, .png, .webp, …); {_instead(places)}")
    return Request(places, ())


def _is_folder(pattern: str) -> bool:
    """Whether a name is that of a local folder, whatever its characters and its end would say."""
    return not scheme(pattern) and os.path.isdir(pattern)


def _place(pattern: str) -> Place:
    try:
        path = absolute(pattern)
    except SchemeError as error:
        raise InputError(f"`input` {error}") from error
    if _is_folder(path):
        return Place(path.rstrip("/") or "/")
    place = Place.of(path)
    if is_image(split_name(path)) and (not place.pattern or os.path.isfile(path)):
        return Place(posixpath.dirname(path), literal(path))
    if not scheme(path) and os.path.exists(path) and not place.pattern:
        raise InputError(
            f"`input` {pattern!r} is neither an image nor a table ({', '.join(TABLES)}); unpack it if it is compressed"
        )
    if not scheme(path) and not os.path.isdir(place.folder):
        raise InputError(f"`input` {pattern!r}: there is no folder {place.folder}; check the path")
    return place


def _instead(places: Sequence[Place]) -> str:
    """What to give where there is no image: the tables or the shards that are there."""
    for place in places:
        for path, _ in files_below(place.folder):
            folder, end = posixpath.dirname(path), posixpath.splitext(path)[1]
            if is_table(path) and end.lower() != _LISTS:
                return f"give the tables that are there: '{folder}/*{end}'"
            if path.lower().endswith(_SHARDS):
                return f"shards need no packing: give beam-curate curate --input '{folder}/*{end}'"
            if split_name(path).extension in UNREAD_EXTENSIONS:
                return f"make JPEGs of the pictures that are there, such as {path}: their format is not read"
    return "check the path, or give a table of paths"


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
