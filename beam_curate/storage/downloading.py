"""Downloads a file over HTTP: goes on where an earlier attempt stopped, and checks the result."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, Final

_BLOCK: Final = 1 << 20
# A transfer that breaks is taken up again while it makes progress, at most so often.
_ATTEMPTS: Final = 5


class DownloadError(RuntimeError):
    """A file that could not be had; the message names its URL."""


class UnreachableError(DownloadError):
    """The server did not answer at all: there is no network, or no way to it."""


def file_sha256(path: Path) -> str:
    """Gives the hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def download(url: str, target: Path, sha256: str, timeout: float = 10.0) -> bool:
    """Downloads a file, unless it is there and has the right checksum.

    What arrives is kept in `<target>.part` until it is whole and right, so that a second call goes on where the first
    one stopped, and `target` is never half a file.

    Args:
        url: Where from (http or https).
        target: Where to; its folder is made.
        sha256: The hex digest that the file must have.
        timeout: Seconds without an answer, or without a byte, that count as a failure.

    Returns:
        False if the file was there already.

    Raises:
        UnreachableError: No connection.
        DownloadError: The server refuses, the transfer keeps breaking, or the checksum is another one (then nothing
            is kept).
    """
    if target.exists() and file_sha256(target) == sha256:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for _ in range(_ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        if _transfer(url, part, before, timeout):
            break
        if part.stat().st_size <= before:
            raise DownloadError(f"{url}: the transfer breaks off at byte {before}; run again to go on from there")
    else:
        raise DownloadError(f"{url}: the transfer broke off {_ATTEMPTS} times; run again to go on")
    found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise DownloadError(f"{url} is not the file that was expected: its sha256 is {found}, not {sha256}")
    os.replace(part, target)
    return True


def _transfer(url: str, part: Path, start: int, timeout: float) -> bool:
    """Appends the rest of the file to `part`; tells whether that is all of it."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            # A server that knows no ranges sends the whole file (200): begin again.
            offset = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            with part.open("r+b" if part.exists() else "wb") as file:
                file.truncate(offset)
                file.seek(offset)
                return _copy(response, file, int(length) if length else None)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return True  # nothing is left to send; the checksum tells whether what is there is right
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise UnreachableError(f"{url}: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url}: {error or type(error).__name__}") from error


def _copy(response: http.client.HTTPResponse, file: BinaryIO, length: int | None) -> bool:
    """Copies what the server sends; False if it ends before `length` bytes."""
    copied = 0
    try:
        while block := response.read1(_BLOCK):
            file.write(block)
            copied += len(block)
    except (OSError, http.client.HTTPException):
        return False  # what came is kept, and the rest asked for again
    return length is None or copied == length
