"""Creating a small file only if there is none of its name, so that of two who try at once one is told no."""

import contextlib
import os
from typing import Any, Final

from apache_beam.io.aws import s3io
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import PreconditionFailed

from beam_curate.storage.files import read_bytes
from beam_curate.storage.object_stores import GCS, S3, gcs_io, s3_client, scheme
from beam_curate.storage.operations import delete, exists, make_parent
from beam_curate.storage.retrying import STORAGE_ERRORS, InterruptedTransferError, retried

_CONFLICTS: Final = (409, 412)
"""Of S3: another one is being made at this moment, or is there. Source: PutObject, Amazon S3 API reference."""
_NOT_KNOWN: Final = (400, 501)
"""What stores answer that speak S3's protocol but do not know the condition."""


def create_new(path: str, data: bytes) -> bool:
    """Creates a file with these bytes; returns whether it did: False if there was one already.

    Of several callers at once exactly one gets True on local disks (`O_EXCL`), on Google Cloud Storage (a generation of 0 is
    asked for) and on S3 (`If-None-Match: *`). Other file systems have no such operation: there it is a look and a write, and two
    callers at the same moment may both get True.

    Args:
        path: The file; on local disks its folder is made.
        data: Its bytes. They must tell this caller from others: a write whose answer was lost is known by them.

    Raises:
        StorageError: It cannot be created.
    """
    kind = scheme(path)
    create = {"": _create_local, GCS: _create_gcs, S3: _create_s3}.get(kind, _create_anywhere)
    return retried("creating", path, lambda: create(path, data))


def _create_local(path: str, data: bytes) -> bool:
    make_parent(path)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
    return True


def _create_gcs(path: str, data: bytes) -> bool:
    bucket, _, name = path.removeprefix(f"{GCS}://").partition("/")
    try:
        gcs_io(path).client.bucket(bucket).blob(name).upload_from_string(data, if_generation_match=0)
    except PreconditionFailed:
        return _is_mine(path, data)
    return True


def _create_s3(path: str, data: bytes) -> bool:
    bucket, key = s3io.parse_s3_path(path)
    with contextlib.closing(s3_client(path)) as client:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except STORAGE_ERRORS as error:
            answer: Any = getattr(error, "response", {})
            code = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code in _CONFLICTS:
                return _is_mine(path, data)
            if code in _NOT_KNOWN:
                return _create_anywhere(path, data)
            raise
    return True


def _is_mine(path: str, data: bytes) -> bool:
    """Whether what is there was written by this very call: its answer was lost, and the client tried again."""
    return exists(path) and read_bytes(path) == data


def _create_anywhere(path: str, data: bytes) -> bool:
    if exists(path):
        return False
    try:
        with contextlib.closing(FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)) as stream:
            stream.write(data)
    except STORAGE_ERRORS:
        delete([path])  # a piece of it would be taken for another's
        raise
    found = read_bytes(path)
    if found != data and data.startswith(found):
        delete([path])
        raise InterruptedTransferError(f"{len(found)} bytes of {len(data)} were stored")
    return found == data
