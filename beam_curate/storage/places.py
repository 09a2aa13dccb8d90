"""Whether two paths are the same place: what a run deletes or writes must not be what it reads.

Local files are told by what they are. Links are followed, and folders and files compared by device and inode, which two names
of one have in common: a bind mount, a hard link, another spelling on a file system that does not tell cases apart. A symbolic
link counts as well where it lies itself, since deleting it takes the file from whoever reads through it.

Names in buckets are literal, as Beam's file systems for `gs://` and `s3://` take them: `b//a` and `b/x/../a` are objects of
their own beside `b/a`. Only slashes at the end of a folder make no difference (Beam's `join` drops them). On other file
systems, such as `hdfs://`, a path is one as POSIX reads it.
"""

import os
import posixpath
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from beam_curate.storage.object_stores import GCS, S3, scheme

Identity = tuple[int, int]

_LITERAL: Final = (GCS, S3, "azfs")
_LINKS: Final = 40  # as many as Linux follows


def same_place(first: str, second: str) -> bool:
    """Whether two paths name the same file or folder; neither need exist."""
    if scheme(first) or scheme(second):
        return _spelled(first) == _spelled(second)
    there = identity(first)
    return there == identity(second) if there else os.path.realpath(first) == os.path.realpath(second)


class Folders:
    """Some folders, to ask what lies in them; links are looked up once, so make it anew when they may have changed."""

    def __init__(self, folders: Iterable[str]) -> None:
        """Looks at the folders; those that do not exist count by their names."""
        folders = list(folders)
        self._names = {_spelled(folder) for folder in folders}
        self._identities = {found for folder in folders if not scheme(folder) and (found := identity(folder))}
        self._real = lru_cache(None)(os.path.realpath)
        self._known = lru_cache(None)(self._is_one)

    def hold(self, path: str) -> bool:
        """Whether a path is one of the folders, or lies in one, at any depth; a link also where it lies and leads to."""
        if scheme(path):
            return any(name in self._names for name in _above(_spelled(path)))
        return any(self._known(place) for here in self._hops(path) for place in _upwards(here))

    def _is_one(self, place: str) -> bool:
        return place in self._names or (bool(self._identities) and identity(place) in self._identities)

    def _hops(self, path: str) -> Iterator[str]:
        """The path, and what it links to, one link after the other, each with its folder resolved."""
        for _ in range(_LINKS):
            folder, name = os.path.split(os.path.abspath(path))
            here = os.path.join(self._real(folder), name)
            yield here
            if not os.path.islink(here):
                return
            path = os.path.join(os.path.dirname(here), os.readlink(here))
            # `..` after a link to a folder leads up from where that link leads to.
            path = os.path.join(self._real(os.path.dirname(path)), os.path.basename(path))


def identity(path: str) -> Identity | None:
    """Device and inode of a local file or folder, the same for all of its names; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _spelled(path: str) -> str:
    """The one spelling of a path."""
    kind = scheme(path)
    if not kind:
        return os.path.realpath(path)
    if kind in _LITERAL:
        return path.rstrip("/")
    head, rest = path.split("://", 1)
    return f"{head}://{posixpath.normpath(rest)}"


def _upwards(path: str) -> Iterator[str]:
    """A local path and the folders that it lies in, up to the root."""
    yield path
    while (above := os.path.dirname(path)) != path:
        yield above
        path = above


def _above(url: str) -> Iterator[str]:
    """A URL and the folders that it lies in, up to the bucket."""
    while not url.endswith(":"):
        yield url
        url = url.rpartition("/")[0].rstrip("/")
