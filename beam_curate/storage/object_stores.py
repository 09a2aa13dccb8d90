"""What Beam's file systems for object stores can do but their common interface cannot say.

They open every file with a read buffer of 16 MiB, so that a few bytes from the middle of a shard cost 16 MiB of traffic, and
delete one file with three requests. Their own clients read exact ranges and delete a hundred files with one. The clients
are reached through the file system that Beam has made, hence with the options and credentials of the pipeline.
"""

from collections.abc import Sequence
from typing import Any, BinaryIO, Final, Protocol

from apache_beam.io.aws import s3io
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_curate.storage.retrying import STORAGE_ERRORS

GCS: Final = "gs"
S3: Final = "s3"

# Of Beam's reader for GCS: it fetches at least so much. Whoever reads through this module asks for what it needs.
_NO_BUFFER = 1


class Source(Protocol):
    """An open file of which any range can be read."""

    @property
    def size(self) -> int:
        """Its length in bytes when it was opened."""

    def read_at(self, start: int, stop: int) -> bytes:
        """Bytes of the range, in one request; fewer if the connection or the file ends."""

    def close(self) -> None:
        """Gives the connection back."""


def scheme(path: str) -> str:
    """The scheme of a URL, as in `gs`; empty for a local path."""
    return FileSystems.get_scheme(path) or ""


def open_source(path: str) -> Source:
    """Opens a file for reading ranges of it, as they are stored.

    Raises:
        Exception: One of STORAGE_ERRORS.
    """
    if scheme(path) == S3:
        return _S3Source(path)
    if scheme(path) != GCS:
        return StreamSource(FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))
    try:
        return StreamSource(gcs_io(path).open(path, "rb", read_buffer_size=_NO_BUFFER))
    except NotImplementedError as error:
        raise OSError(f"{error} Store it without content-encoding") from error


def gcs_io(path: str) -> Any:
    """Beam's client of Google Cloud Storage; its `client` is Google's own."""
    # Private to Beam's file system, for want of a public way to the options that it was made with; a test guards it.
    return FileSystems.get_filesystem(path)._gcsIO()


def delete_gcs(paths: Sequence[str]) -> None:
    """Deletes objects, a hundred with one request; those that are already gone are fine.

    Raises:
        BeamIOError: Some could not be deleted; their errors are HTTP codes.
    """
    failed = {path: code for path, code in gcs_io(paths[0]).delete_batch(list(paths)) if code}
    if failed:
        raise BeamIOError("Delete operation failed", failed)


class StreamSource:
    """A file that Beam has opened, and that can seek."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, 2)
        self._position = self.size

    def read_at(self, start: int, stop: int) -> bytes:
        """See Source."""
        if start != self._position:
            self._stream.seek(start)
        data = self._stream.read(stop - start)
        self._position = start + len(data)
        return data

    def close(self) -> None:
        """See Source."""
        self._stream.close()


def s3_client(path: str) -> Any:
    """boto3's client of S3."""
    # Private to Beam's file system, as in `gcs_io`. The inner client is boto3's own.
    return s3io.S3IO(options=FileSystems.get_filesystem(path)._options).client.client


class _S3Source:
    """An S3 object as it was when opened: once it is replaced, every read fails.

    Beam's own reader asks for everything from a position on, and hangs up when it has what it wants; what the server has
    sent by then is paid for.
    """

    def __init__(self, path: str) -> None:
        bucket, key = s3io.parse_s3_path(path)
        self._client = s3_client(path)
        self._object = {"Bucket": bucket, "Key": key}
        head = self._call(self._client.head_object, **self._object)
        self.size: int = head["ContentLength"]
        self._etag = head["ETag"]

    def read_at(self, start: int, stop: int) -> bytes:
        """See Source."""
        if start >= self.size:
            return b""
        wanted = {"Range": f"bytes={start}-{stop - 1}", "IfMatch": self._etag}
        with self._call(self._client.get_object, **self._object, **wanted)["Body"] as body:
            data: bytes = body.read()
        return data

    def close(self) -> None:
        """See Source."""
        self._client.close()

    def _call(self, request: Any, **arguments: Any) -> Any:
        try:
            return request(**arguments)
        except STORAGE_ERRORS as error:
            answer = getattr(error, "response", None)
            if answer is None:
                raise
            # What S3 answered with; Beam's own client makes the same of it.
            raise S3ClientError(str(error), answer.get("ResponseMetadata", {}).get("HTTPStatusCode")) from error
