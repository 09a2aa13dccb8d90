"""Text from bytes that do not say how they are encoded: by what they begin with, and never by a guess at a code page."""

import codecs
import json
from typing import Final

_MARKS: Final = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(data: bytes, errors: str = "replace") -> str:
    r"""The text, without the byte order mark.

    A mark at the beginning says UTF-8, UTF-16 or UTF-32. Without one it is UTF-8, unless the NULs among the first four bytes
    are those of UTF-16 or UTF-32, as JSON's readers tell them, and all of the bytes are text in that encoding. What is
    encoded otherwise (Latin-1, Shift JIS) is not known from the bytes: it is read as UTF-8.

    Args:
        data: The bytes.
        errors: What becomes of bytes that are none of the encoding: `replace` gives U+FFFD for each, `strict` raises.

    Raises:
        UnicodeDecodeError: With `strict`.

    Source: Unicode 15, section 23.8, "Byte Order Mark"; RFC 4627, section 3, for texts without one.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors)
    if b"\0" in data[:4]:
        try:
            text = data.decode(json.detect_encoding(data))
        except UnicodeDecodeError:
            pass
        else:
            if "\0" not in text:
                return text
    return data.decode("utf-8", errors)
