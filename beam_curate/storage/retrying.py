"""Which storage errors pass by themselves, and how long they are waited for.

Beam's file systems, and the clients under them, raise what they like: an OSError, a BeamIOError that wraps errors or bare
HTTP codes, an S3ClientError, a GoogleAPICallError. Here they are told apart: a transient one (a lost connection, a busy
server, a stale handle) is tried again, with pauses that double; a permanent one (not found, no permission, quota, disk
full) ends the operation at once. Both end in a StorageError, which names the file.
"""

import errno
import http.client
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

import requests
import urllib3.exceptions
from apache_beam.io.aws.clients.s3.messages import S3ClientError
from apache_beam.io.filesystem import BeamIOError
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

try:
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as BotoConnectionError
except ImportError:  # Only s3:// needs it (the `s3` extra).
    _BOTO: tuple[type[Exception], ...] = ()
    _BOTO_TRANSIENT: tuple[type[Exception], ...] = ()
else:
    _BOTO = (BotoCoreError, ClientError)
    _BOTO_TRANSIENT = (BotoConnectionError, HTTPClientError, IncompleteReadError)

MAX_ATTEMPTS: Final = 10
"""Attempts of one operation without any progress, the first included; the pauses between them add up to two minutes."""
MAX_SECONDS: Final = 300.0
"""No new attempt is made this long after the first one failed; the clients' own retries count as well (GCS: 120 s each)."""
FIRST_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 30.0

STORAGE_ERRORS: Final = (
    OSError,  # with it BeamIOError, and all of requests
    S3ClientError,
    GoogleAPICallError,
    RetryError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    http.client.HTTPException,
    urllib3.exceptions.HTTPError,
    *_BOTO,
)
"""What an operation on a Beam file system may raise when storage fails. Anything else is a bug and is let through."""

# Source: "Retry strategy", Google Cloud Storage documentation, and google.cloud.storage.retry; "Error responses", Amazon S3
# API reference, for the names, which S3 gives in place of numbers when many objects are deleted at once.
_TRANSIENT_CODES: Final = frozenset([408, 429, 500, 502, 503, 504])
_TRANSIENT_NAMES: Final = frozenset(
    ["InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"]
)
_TRANSIENT_ERRNOS: Final = frozenset(
    [
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.ENOLCK,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    ]
)
_TRANSIENT_TYPES: Final = (
    TimeoutError,
    ConnectionError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    http.client.BadStatusLine,
    http.client.IncompleteRead,
    http.client.ResponseNotReady,
    urllib3.exceptions.PoolError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    DataCorruption,
    RetryError,
    *_BOTO_TRANSIENT,
)

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)
# Tests replace these: they neither sleep nor wait.
sleep: Callable[[float], None] = time.sleep
clock: Callable[[], float] = time.monotonic


class StorageError(OSError):
    """An operation on a file failed for good; the message names the operation, the file and the error."""


class InterruptedTransferError(OSError):
    """Fewer bytes came or stayed than there must be: a transient error that the storage itself did not report."""


def is_transient(error: object) -> bool:
    """Whether an error of STORAGE_ERRORS, an HTTP code, or an error's name may pass by itself."""
    if isinstance(error, int):
        return error in _TRANSIENT_CODES
    if isinstance(error, str):
        return error in _TRANSIENT_NAMES
    if isinstance(error, StorageError):
        return False  # tried for long enough
    if isinstance(error, (InterruptedTransferError, *_TRANSIENT_TYPES)):
        return True
    if isinstance(error, BeamIOError):
        details = list((error.exception_details or {}).values())
        return bool(details) and all(is_transient(detail) for detail in details)
    if isinstance(error, GoogleAPICallError):
        return error.code in _TRANSIENT_CODES
    if isinstance(error, InvalidResponse):
        return error.response.status_code in _TRANSIENT_CODES
    if isinstance(error, GoogleAuthError):
        return bool(error.retryable)
    if isinstance(error, S3ClientError):
        # Without a code there was no answer; the error that Beam replaced by this one says why.
        return is_transient(error.code) if error.code is not None else is_transient(error.__context__)
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError):
        if error.errno is None:
            # Beam's local file system wraps: `raise IOError(error)`.
            return bool(error.args) and isinstance(error.args[0], OSError) and is_transient(error.args[0])
        return error.errno in _TRANSIENT_ERRNOS
    return False


class Attempts:
    """The attempts of one operation on one file: counts them, and pauses between them."""

    def __init__(self, operation: str, path: str) -> None:
        """`operation` completes the sentence "… failed", as in `reading`; `path` names the file."""
        self._operation = operation
        self._path = path
        self._failed = 0
        self._since = 0.0

    def progressed(self) -> None:
        """Says that something was achieved: the attempts are counted anew."""
        self._failed = 0

    def failed(self, error: BaseException) -> None:
        """Pauses before the next attempt.

        The pause is cut by up to a half at random, so that workers that failed together do not return together.

        Raises:
            StorageError: The error is permanent, or this was the last attempt.
        """
        now = clock()
        self._since = self._since if self._failed else now
        self._failed += 1
        transient = is_transient(error)
        if not transient or self._failed == MAX_ATTEMPTS or now - self._since > MAX_SECONDS:
            after = f", after {self._failed} attempts" if self._failed > 1 else ""
            raise StorageError(
                f"{self._operation} {self._path} failed{after}: {type(error).__name__}: {error}"
            ) from error
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self._failed - 1), MAX_PAUSE_SECONDS) * random.uniform(0.5, 1.0)
        _LOGGER.warning(
            "%s %s failed (attempt %d of %d), next in %.1f s: %s",
            self._operation, self._path, self._failed, MAX_ATTEMPTS, pause, error,
        )  # fmt: skip
        sleep(pause)


def retried(operation: str, path: str, action: Callable[[], T]) -> T:
    """The result of an action on a file, which is repeated while it fails with a transient error.

    Args:
        operation: For messages, as in `Attempts`.
        path: For messages.
        action: Does it, as often as called.

    Raises:
        StorageError: It failed for good.
    """
    attempts = Attempts(operation, path)
    while True:
        try:
            return action()
        except STORAGE_ERRORS as error:
            attempts.failed(error)
