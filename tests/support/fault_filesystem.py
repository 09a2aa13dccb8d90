"""A Beam file system, `faulty:///path`, over local files, in which operations go wrong at seeded points."""

import collections
import errno
import os
import random
import threading

from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.localfilesystem import LocalFileSystem
from google.api_core.exceptions import Forbidden, ServiceUnavailable

SCHEME = "faulty"

# Each kind of fault by the operation in which it happens.
KINDS = {
    "open_error": "open",
    "slow_open": "open",
    "read_error": "read",
    "short_read": "read",
    "early_end": "read",
    "create_error": "create",
    "write_error": "write",  # half of the bytes are stored
    "close_error": "close",  # the last bytes are lost
    "close_loss": "close",  # the same, and nobody says so
    "rename_error": "rename",
    "rename_lost_answer": "rename",  # done, and reported as failed
    "delete_error": "delete",
    "delete_lost_answer": "delete",
    "exists_error": "exists",
    "metadata_error": "metadata",
    "list_error": "list",
    "stale_missing": "list",  # a file is left out
    "stale_ghost": "list",  # a file that is gone is listed
}


def transient(path, rng):
    """One of the errors that Beam's file systems raise when storage fails for a moment."""
    return rng.choice(
        [
            OSError(errno.EIO, "injected: I/O error", path),
            TimeoutError("injected: timed out"),
            ConnectionResetError(errno.ECONNRESET, "injected: reset by peer"),
            OSError(OSError(errno.ESTALE, "injected: stale file handle")),
            BeamIOError("injected", {path: OSError(errno.ETIMEDOUT, "timed out")}),
            BeamIOError("injected", {path: 503}),
            ServiceUnavailable("injected: try again"),
            S3ClientError("injected: reduce your request rate", 503),
        ]
    )


def permanent(path, rng):
    """One of the errors that waiting does not mend."""
    return rng.choice(
        [
            OSError(errno.ENOSPC, "injected: no space left", path),
            OSError(errno.EDQUOT, "injected: quota exceeded", path),
            PermissionError(errno.EACCES, "injected: permission denied", path),
            BeamIOError("injected", {path: PermissionError(errno.EACCES, "permission denied")}),
            BeamIOError("injected", {path: 403}),
            Forbidden("injected: forbidden"),
            S3ClientError("injected: AccessDenied", 403),
        ]
    )


class Faults:
    """What goes wrong: the next operation of an injected kind does so with a probability, or once at a given count."""

    def __init__(self, seed=0, rates=None, error=transient, once_at=None, under=""):
        self.rng = random.Random(seed)
        self.rates = dict(rates or {})
        self.error = error
        self.once_at = dict(once_at or {})
        self.under = under  # listings and deletions elsewhere are left alone
        self.calls = collections.Counter()
        self.injected = collections.Counter()
        self.deleted = []
        self._lock = threading.Lock()

    def strikes(self, kind, path):
        with self._lock:
            if not path.startswith(self.under):
                return False
            self.calls[kind] += 1
            hit = self.rng.random() < self.rates.get(kind, 0) or self.calls[kind] == self.once_at.get(kind)
            self.injected[kind] += hit
            return hit

    def check(self, kind, path):
        if self.strikes(kind, path):
            raise self.error(path, self.rng)


class FaultyFileSystem(FileSystem):
    faults = Faults()

    def __init__(self, pipeline_options=None):
        super().__init__(pipeline_options)
        self._local = LocalFileSystem(pipeline_options)

    @classmethod
    def scheme(cls):
        return SCHEME

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *(path.strip("/") for path in paths)])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        os.makedirs(local(path), exist_ok=True)

    def has_dirs(self):
        return True

    def _list(self, folder):
        self.faults.check("list_error", folder)
        found = [
            FileMetadata(f"{SCHEME}://{meta.path}", meta.size_in_bytes) for meta in self._local._list(local(folder))
        ]
        if found and self.faults.strikes("stale_missing", folder):
            found.pop(self.faults.rng.randrange(len(found)))
        ghosts = [path for path in self.faults.deleted if path.startswith(folder)]
        if ghosts and self.faults.strikes("stale_ghost", folder):
            found.append(FileMetadata(self.faults.rng.choice(ghosts), 100))
        return found

    def create(self, path, mime_type="", compression_type=""):
        self.faults.check("create_error", path)
        os.makedirs(os.path.dirname(local(path)), exist_ok=True)
        return _Writing(path, self.faults)

    def open(self, path, mime_type="", compression_type=""):
        self.faults.check("open_error", path)
        if self.faults.strikes("slow_open", path):
            threading.Event().wait(0.05)
        return _Reading(path, self.faults)

    def copy(self, sources, destinations):
        raise NotImplementedError

    def rename(self, sources, destinations):
        for source, destination in zip(sources, destinations, strict=True):
            self.faults.check("rename_error", destination)
            os.makedirs(os.path.dirname(local(destination)), exist_ok=True)
            self._local.rename([local(source)], [local(destination)])
            self.faults.check("rename_lost_answer", destination)

    def exists(self, path):
        self.faults.check("exists_error", path)
        return os.path.exists(local(path))

    def size(self, path):
        return self.metadata(path).size_in_bytes

    def last_updated(self, path):
        return os.path.getmtime(local(path))

    def checksum(self, path):
        return str(self.size(path))

    def metadata(self, path):
        self.faults.check("metadata_error", path)
        return FileMetadata(path, os.path.getsize(local(path)))

    def delete(self, paths):
        for result in self.match(paths):
            for meta in result.metadata_list:
                self.faults.check("delete_error", meta.path)
                os.remove(local(meta.path))
                self.faults.deleted.append(meta.path)
                self.faults.check("delete_lost_answer", meta.path)
            if not result.metadata_list:
                raise BeamIOError("nothing to delete", {result.pattern: FileNotFoundError(result.pattern)})


def local(path):
    return path.removeprefix(f"{SCHEME}://")


class _Reading:
    """A file being read; it wants to be closed, and seeks like any other."""

    def __init__(self, path, faults):
        self._path, self._faults = path, faults
        self._file = open(local(path), "rb")

    def seek(self, offset, whence=0):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()

    def read(self, size=-1):
        self._faults.check("read_error", self._path)
        if size > 1 and self._faults.strikes("short_read", self._path):
            size = self._faults.rng.randrange(1, size)
        if self._faults.strikes("early_end", self._path):
            return b""
        return self._file.read(size)

    def close(self):
        self._file.close()


class _Writing:
    """A file being written: what was written last is in a buffer, which a failing close loses."""

    def __init__(self, path, faults):
        self._path, self._faults = path, faults
        self._file = open(local(path), "wb")
        self._last = b""
        self.closed = False

    def write(self, data):
        if not data:
            return 0
        self._file.write(self._last)
        self._last = bytes(data)
        if self._faults.strikes("write_error", self._path):
            self._file.write(self._last[: len(self._last) // 2])
            self._last = b""
            raise self._faults.error(self._path, self._faults.rng)
        return len(data)

    def close(self):
        if self.closed:
            return
        self.closed = True
        lost = bool(self._last) and self._faults.strikes("close_loss", self._path)
        failing = self._faults.strikes("close_error", self._path)
        if not lost and not failing:
            self._file.write(self._last)
        self._file.close()
        if failing:
            raise self._faults.error(self._path, self._faults.rng)
