"""WebDataset's rules for member names, and names as text that can always be encoded.

Source: webdataset 1.0, `tariterators.base_plus_ext` and `tar_file_iterator`.
"""

import re
from typing import Final

METADATA: Final = "metadata"
APPLE_DOUBLE: Final = "apple_double"
NO_EXTENSION: Final = "no_extension"

_METADATA_NAME = re.compile(r"__[^/]*__($|/)")
_ESCAPE_LIKE = re.compile(r"\\(?=x[0-9a-f]{2})")
_BAD_BYTE = re.compile("[\udc80-\udcff]")


def split_name(name: str) -> tuple[str, str] | None:
    r"""Key and extension of a member name, as webdataset splits it; None for a name without an extension.

    The key is the path up to the first dot of the last component, the extension the rest: `a/b.seg.png` is `a/b` and
    `seg.png`. For a last component that begins with a dot the key ends in a slash (`a/.x` is `a/` and `x`).

    webdataset matches `^((?:.*/|)[^.]+)[.]([^/]*)$`, which takes quadratic time on hostile names; this does the same in
    linear time, oddities included: the dotless part before the dot may reach over slashes, and a path with a newline may
    have no dot in it from its first line on.
    """
    dot = name.find(".", name.rfind("/") + 1)
    if dot <= 0:
        return None
    newline = name.find("\n")
    path_end = dot - 1 if newline < 0 else min(newline + 1, dot - 1)
    dotless = name.rfind("/", 0, path_end) + 1
    if "." in name[dotless:dot]:
        return None
    return name[:dot], name[dot + 1 :]


def skipped_as(name: str) -> str | None:
    """Why a member does not count as part of a sample: one of this module's constants, or None if it counts.

    webdataset itself skips `._x.jpg` at the root but takes `d/._x.jpg` for a member of a sample `d/`; both are the
    resource forks that macOS writes, and are skipped here.
    """
    if _METADATA_NAME.match(name) or ("/" not in name and name.startswith("__") and name.endswith("__")):
        return METADATA
    if name.startswith("._", name.rfind("/") + 1):
        return APPLE_DOUBLE
    if split_name(name) is None:
        return NO_EXTENSION
    return None


def extracted_path(name: str) -> str | None:
    """The path to which tar(1) extracts a member, relative to the folder: without leading slashes, empty components and `.`.

    Two names with one path are one file when they are extracted. `..` takes a component back; None if the path leaves the
    folder. Systems that take upper and lower case, or two Unicode forms, for the same see more names as one; this does not.
    """
    if "//" not in name and "./" not in name and not name.startswith("/") and not name.endswith("/.."):
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def encodable(name: str) -> str:
    r"""A name as text that UTF-8 can encode, and from which the original bytes can be told.

    A byte that is not UTF-8 (a surrogate escape) becomes `\xff`, its value in lower-case hex. So that no two names
    become one, a backslash that is already followed by `x` and two hex digits becomes `\x5c`. All other names, that is
    nearly all, stay as they are. To get the bytes back, replace each `\x` and two hex digits by the byte.
    """
    if name.isascii() and "\\x" not in name:
        return name
    return _BAD_BYTE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", _ESCAPE_LIKE.sub(r"\\x5c", name))
