"""All files below a folder with their sizes, one after the other: a folder of any number of files is no list in memory."""

import os
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from beam_curate.storage.object_stores import scheme
from beam_curate.storage.operations import all_files
from beam_curate.storage.retrying import STORAGE_ERRORS, Attempts


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Paths and sizes of all files below a folder, at any depth, in no order; nothing if there is no such folder.

    Objects that stand for a folder are none. Local folders behind links are looked into, each once.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if not scheme(folder):
        for path in all_files(folder):
            if os.path.isfile(path):  # no pipe, and no link that leads nowhere
                yield path, os.path.getsize(path)
        return
    prefix = folder.rstrip("/") + "/"
    attempts = Attempts("listing", prefix)
    last = ""
    while True:
        try:
            # Beam's file systems list page by page; `match` would gather all pages. Stores list in the order of names.
            for file in FileSystems.get_filesystem(prefix)._list(prefix):
                if file.path > last:
                    attempts.progressed()
                    last = file.path
                    if not (file.path.endswith(("/", "_$folder$")) and not file.size_in_bytes):
                        yield file.path, file.size_in_bytes
            return
        except STORAGE_ERRORS as error:
            attempts.failed(error)
