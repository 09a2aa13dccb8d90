"""Files on local disks, listed without leaving any out.

Beam's own listing of local disks passes over what it cannot look at (a folder without the right, a file that a disk failed to
tell the size of), and does not look behind links to folders: what lies there would be missing from a dataset without a word.
"""

import errno
import functools
import os
import stat
from collections.abc import Iterator
from typing import Final

from beam_curate.storage.patterns import pattern_regex, plain
from beam_curate.storage.retrying import retried

_NOTHING: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What the system says of a path at which nothing is."""


def local_files(folder: str, *, must_list: bool) -> Iterator[str]:
    """The paths of all files below a folder, at any depth; empty if there is no such folder.

    Folders behind links are looked into, each folder once, under its own name if it has one below `folder`. A link that leads
    nowhere is a file.

    Args:
        folder: Where to look.
        must_list: Whether a folder that may not be listed is an error; else it is passed over.

    Raises:
        StorageError: A folder cannot be listed.
    """
    own, linked, seen = [folder], list[str](), set[tuple[int, int]]()
    while own or linked:
        here = own.pop() if own else linked.pop()
        found = _status(here)
        if found is None or (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        folders = list[os.DirEntry[str]]()
        for entry in _entries(here, must_list=must_list):
            if _is_folder_here(entry):
                folders.append(entry)
            else:
                yield entry.path
        folders.reverse()
        own += [entry.path for entry in folders if not entry.is_symlink()]
        linked += [entry.path for entry in folders if entry.is_symlink()]


def files_in(folder: str, name: str) -> dict[str, int]:
    """Paths and sizes of the files in a folder whose names match a pattern, ascending; empty if there is no such folder.

    Args:
        folder: Where to look; a bracket in it is a bracket.
        name: A name with wildcards.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if not _is_folder(folder):
        return {}
    regex = pattern_regex(name)
    entries = (entry for entry in _entries(folder, must_list=True) if regex.fullmatch(entry.name))
    sizes = {entry.path: local_size(entry.path) for entry in entries if not entry.is_dir(follow_symlinks=False)}
    return {path: size for path, size in sizes.items() if size is not None}


def local_matches(pattern: str) -> dict[str, int | None]:
    """The paths that match a pattern, folders left out, ascending, with the sizes of files.

    None is the size of links that lead nowhere, pipes and devices.

    `*`, `?` and `[…]` also match links to folders, and `**` looks behind them as `local_files` does. A link that leads nowhere
    and matches a folder of the pattern is among them, since nobody knows what lay behind it.

    Args:
        pattern: An absolute path with wildcards.

    Raises:
        StorageError: A folder cannot be listed.
    """
    regex = pattern_regex(pattern)
    _, *folders, last = pattern.split("/")
    found, nowhere = [""], list[str]()
    for part in folders:
        if "**" in part:
            break
        named = [path for here in found for path in _named(here, part)]
        found, nowhere = list(filter(_is_folder, named)), [*nowhere, *filter(leads_nowhere, named)]
    if "**" in pattern:
        paths = [path for here in found for path in local_files(here or "/", must_list=True)]
    else:
        paths = [path for here in found for path in _named(here, last)]
    sizes: dict[str, int | None] = dict.fromkeys(nowhere)
    for path in filter(regex.fullmatch, paths):
        status = _status(path)
        if not _of_folder(status):
            sizes[path] = _size(status)
    return {path: sizes[path] for path in sorted(sizes)}


def local_size(path: str) -> int | None:
    """The length of a file; None if there is none: nothing, a link that leads nowhere, a folder, a pipe or a device.

    Raises:
        StorageError: It cannot be told.
    """
    return _size(_status(path))


def leads_nowhere(path: str) -> bool:
    """Whether there is a link with nothing at its end: that is gone, or the link leads to itself."""
    return os.path.islink(path) and _status(path) is None


def _is_folder(path: str) -> bool:
    """Whether there is a folder at a path, or behind a link there."""
    return _of_folder(_status(path))


def _of_folder(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _size(status: os.stat_result | None) -> int | None:
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None


def _status(path: str) -> os.stat_result | None:
    """What is at a path, behind links; None if nothing is. Others than `os.path.isdir`, it does not take an error for nothing."""

    def look() -> os.stat_result | None:
        try:
            return os.stat(path)
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            raise
        except ValueError:  # no path has a NUL
            return None

    return retried("looking at", path, look)


def _named(folder: str, part: str) -> list[str]:
    """The paths in a folder whose names match a part of a pattern."""
    name = plain(part)
    if name is not None:
        path = f"{folder}/{name}"
        return [path] if os.path.lexists(path) else []
    regex = pattern_regex(part)
    return [
        f"{folder}/{entry.name}" for entry in _entries(folder or "/", must_list=True) if regex.fullmatch(entry.name)
    ]


def _entries(folder: str, *, must_list: bool) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing if it is none."""
    return retried("listing", folder, functools.partial(_listed, folder, must_list))


def _listed(folder: str, must_list: bool) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        if must_list:
            raise
        return []


def _is_folder_here(entry: os.DirEntry[str]) -> bool:
    """As `_is_folder`; what a folder's listing tells already is not asked for."""
    return _is_folder(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)
