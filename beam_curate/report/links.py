"""Where a reader can go from a sample: to its shard and to its url, by addresses that are not scripts."""

import os
import pathlib
from urllib.parse import quote, urlsplit


def web_link(url: str) -> str:
    """An address on the web; empty if it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme.lower() in ("http", "https") and parts.netloc and url.isprintable() else ""


def shard_link(path: str) -> str:
    """The address of a file on a local disk, on the web or in Google Cloud Storage; empty for what a browser cannot open."""
    scheme, separator, rest = path.partition("://")
    if not separator:
        return pathlib.PurePosixPath(path).as_uri() if os.path.isabs(path) and "\0" not in path else ""
    if scheme == "gs":
        return f"https://storage.cloud.google.com/{quote(rest)}"
    return web_link(path)
