"""Which URLs can be read and written, and what to do with the others."""

import functools
import importlib
from collections.abc import Mapping
from typing import Any, Final

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options

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
_S3_PACKAGE: Final = "s3:// needs boto3: pip install 'beam-curate[s3]', or in a checkout '.[s3]'"
_S3_CREDENTIALS: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --s3_access_key_id and --s3_secret_access_key (public buckets "
    "need them too)"
)


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
    if FileSystems.get_scheme(url) == "s3":
        try:
            there = _has_s3_credentials(url)
        except ImportError as error:  # of boto3, which Beam misses only when it reads or writes
            raise SchemeError(f"{url}: {_S3_PACKAGE} ({error})") from error
        if not there:
            raise SchemeError(f"{url}: found no credentials for S3; {_S3_CREDENTIALS}")


def _has_s3_credentials(url: str) -> bool:
    """Whether a request to S3 can be signed.

    Beam takes a request that cannot be signed for one that the network lost, and tries it again for ten minutes.

    Raises:
        ImportError: boto3 is not installed, or does not work.
    """
    importlib.import_module("boto3")  # only s3:// needs it (the `s3` extra)
    options = FileSystems.get_filesystem(url)._options  # as in `object_stores`
    if isinstance(options, PipelineOptions) and options.view_as(S3Options).s3_access_key_id:
        return True
    return _session().get_credentials() is not None


@functools.cache
def _session() -> Any:
    """boto3's session, which looks for credentials until it has some, and then keeps them.

    It looks into the environment, into its files, and asks the machine's metadata service, for a second or two.
    """
    import boto3.session

    return boto3.session.Session()
