"""Which shards an input names: globs, braces, comma lists, and text files of paths, on any Beam file system."""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from braceexpand import braceexpand

from beam_curate.records import Shard
from beam_curate.storage.files import absolute, absolute_pattern, match, open_read
from beam_curate.storage.local_files import leads_nowhere, local_matches
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.patterns import GLOB, literal
from beam_curate.storage.schemes import SchemeError
from beam_curate.texts import decode_text

# `\` is a character of object names; only before what braces are made of it says that this is one.
_BACKSLASH = re.compile(r"\\(?![{},])")
_MARKS = re.compile(r"\\[{},]|[{},]")
# From this many named paths in one folder, one listing of the folder is cheaper than a look at each.
_LIST_FOLDER_FROM = 16


class InputError(ValueError):
    """The input names no shards, or names one that is not there."""


def split_patterns(spec: str) -> list[str]:
    r"""The patterns of a comma list with its braces expanded (`a{0..1}.tar,b.tar` → a0.tar, a1.tar, b.tar).

    `\,`, `\{` and `\}` are these characters themselves.

    Raises:
        InputError: A brace is not closed.
    """
    patterns: list[str] = []
    for part in filter(None, map(str.strip, _split(spec))):
        try:
            patterns += braceexpand(_BACKSLASH.sub(r"\\\\", part))
        except ValueError as error:
            raise InputError(f"`input` {part!r}: {error}; close the brace") from error
    return patterns


def _split(spec: str) -> list[str]:
    """The parts of a comma list: a comma in braces divides what these hold, and one after a backslash nothing."""
    ends, depth = [-1], 0
    for mark in _MARKS.finditer(spec):
        if mark[0] == "," and not depth:
            ends.append(mark.start())
        depth = max(0, depth + {"{": 1, "}": -1}.get(mark[0], 0))
    return [spec[last + 1 : end] for last, end in pairwise([*ends, len(spec)])]


def spelled(path: str) -> str:
    """A path as an input names it and nothing else: the opposite of `split_patterns` and of patterns."""
    return re.sub(r"[{},]", r"\\\g<0>", literal(path))


def list_files(spec: str) -> list[str]:
    """The text files of paths that an input names, which are read beside the shards."""
    return [absolute(pattern) for pattern in split_patterns(spec) if pattern.endswith(".txt")]


def list_shards(spec: str) -> list[Shard]:
    """The shards that an input names, sorted by path, each once, with their sizes.

    A text file of paths (its name ends in `.txt`) gives a pattern a line; empty lines and `#` lines are skipped.

    Raises:
        InputError: Nothing matched, or a shard named without a wildcard does not exist: a missing shard is a loss,
            not an empty match.
    """
    patterns = split_patterns(spec)
    shards = list_named([path for each in patterns for path in (_lines(each) if each.endswith(".txt") else [each])])
    if not shards:
        raise InputError(f"`input` {spec!r} names no shard; give a pattern such as 'data/{{00000..00099}}.tar'")
    return shards


def list_named(patterns: Sequence[str]) -> list[Shard]:
    """The files that patterns name, sorted by path, each once, with their sizes.

    Args:
        patterns: Paths and globs, without braces.

    Raises:
        InputError: One matches nothing, or a link that leads nowhere, or a file named without a wildcard does not exist.
    """
    globs: dict[str, str] = {}  # each with the path that it is without a wildcard
    named: list[str] = []
    for pattern in patterns:
        try:
            path = absolute(pattern)
        except SchemeError as error:
            raise InputError(f"`input` {error}") from error
        if GLOB.search(pattern):
            globs[absolute_pattern(pattern)] = path
        else:
            named.append(path)
    found: dict[str, int] = {}
    for pattern, path in globs.items():
        # The second is a name that has a bracket in it.
        shards = _matching(pattern) or _matching(literal(path))
        if not shards:
            raise InputError(f"`input` {path!r} matches no file; check the path and the wildcard")
        found.update(shards)
    found.update(_sizes(named))
    _refuse_no_text(found)
    return [Shard(index, path, found[path]) for index, path in enumerate(sorted(found))]


def _matching(pattern: str) -> dict[str, int]:
    """The files that a pattern matches, with their sizes; what matches and is no file would be a loss."""
    if scheme(pattern):
        return match([pattern])[0]
    found: dict[str, int] = {}
    for path, size in local_matches(pattern).items():
        if size is not None:
            found[path] = size
        elif os.path.lexists(path):  # not gone since it was listed
            what = "a link that leads nowhere" if leads_nowhere(path) else "a pipe or a device"
            raise InputError(
                f"`input` {pattern!r} matches {path}, which is {what}; put the file there, remove the name, or give a pattern "
                "without it"
            )
    return found


def _lines(path: str) -> list[str]:
    try:
        with open_read(absolute(path)) as stream:
            text = decode_text(stream.read(), "strict")
    except SchemeError as error:
        raise InputError(f"`input` {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`input` {path!r}: the list of shards cannot be read: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    return [pattern for line in lines if line and not line.startswith("#") for pattern in split_patterns(line)]


def _sizes(paths: list[str]) -> dict[str, int]:
    """Sizes of paths that must exist; many in one folder are looked up with one listing."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[posixpath.dirname(path)].append(path)
    sizes: dict[str, int] = {}
    _refuse_folder(path for path in paths if scheme(path) and path.endswith("/"))
    for folder, members in by_folder.items():
        several = len(members) >= _LIST_FOLDER_FROM
        patterns = [f"{literal(folder)}/*"] if several else [literal(path) for path in members]
        for files in match(patterns):
            sizes.update(files)
    missing = [path for path in paths if path not in sizes]
    _refuse_folder(path for path in missing if not scheme(path) and os.path.isdir(path))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"`input` names files that do not exist: {', '.join(missing[:3])}{more}")
    return {path: sizes[path] for path in paths}


def _refuse_no_text(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"`input` names {path!r}, which is not UTF-8, so no table can hold it; rename it"
            ) from error


def _refuse_folder(folders: Iterable[str]) -> None:
    for path in folders:
        raise InputError(f"`input` {path!r} is a folder; give the shards in it: {posixpath.join(path, '*.tar')!r}")
