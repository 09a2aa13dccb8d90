"""Which URLs can be read and written, and what to do with the others."""

from collections.abc import Mapping
from typing import Final

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

_DOWNLOAD: Final = "download the files first"
_COPY: Final = "copy the files to a local folder, gs:// or s3:// first"
_HTTP: Final = f"{_DOWNLOAD}, with curl -O or wget, and give their local path"
_AZURE: Final = f"Azure is not supported; {_COPY}"
_REMEDIES: Final[Mapping[str, str]] = {
    "hf": f"{_DOWNLOAD}, with hf download NAME --repo-type dataset --local-dir FOLDER, and give FOLDER",
    "http": _HTTP,
    "https": _HTTP,
    "ftp": _HTTP,
    "file": "give only the path, without file://",
    "s3a": "write s3:// in place of s3a://",
    "s3n": "write s3:// in place of s3n://",
    "gcs": "write gs:// in place of gcs://",
    "r2": "give s3:// with --s3_endpoint_url=https://ACCOUNT.r2.cloudflarestorage.com",
    **dict.fromkeys(("abfs", "abfss", "az", "azfs", "azure", "wasb", "wasbs"), _AZURE),
}


class SchemeError(ValueError):
    """A URL of which nothing can be read or written; the message names it and the remedy."""


def check_scheme(url: str) -> None:
    """Refuses a URL that no file system is for.

    Raises:
        SchemeError: It names the URL and the remedy.
    """
    found = url.split("://", 1)[0]
    try:
        FileSystems.get_filesystem(url)
    except ValueError as error:
        if found != found.lower():
            remedy = f"write {found.lower()}:// in lower case"
        else:
            remedy = _REMEDIES.get(found, f"local paths, gs:// and s3:// are; {_COPY}")
        raise SchemeError(f"{url}: {found}:// is not supported; {remedy}") from error
    except (BeamIOError, ImportError) as error:
        raise SchemeError(f"{url}: {found}:// needs a package that is not installed ({error}); or {_COPY}") from error
