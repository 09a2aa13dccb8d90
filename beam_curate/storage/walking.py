"""All files below a folder with their sizes, one after the other: a folder of any number of files is no list in memory."""

from collections.abc import Iterator
from typing import Final

from apache_beam.io.filesystems import FileSystems

from beam_curate.storage.local_files import leads_nowhere, local_size
from beam_curate.storage.object_stores import scheme
from beam_curate.storage.operations import all_files
from beam_curate.storage.retrying import STORAGE_ERRORS, Attempts

NO_FILE: Final = -1
"""The size of a pipe or a device: to open it is to wait for whoever writes."""


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Paths and sizes of all files below a folder, at any depth, in no order; nothing if there is no such folder.

    Objects that stand for a folder are none. Local folders behind links are looked into, each once. A link that leads nowhere
    comes with the size 0: whoever reads it is told that nothing is there. A pipe or a device comes with NO_FILE.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if not scheme(folder):
        for path in all_files(folder, must_list=True):
            size = local_size(path)
            yield path, size if size is not None else 0 if leads_nowhere(path) else NO_FILE
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
