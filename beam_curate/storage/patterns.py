"""What the patterns of names mean, on local disks and in buckets."""

import re
from typing import Final

GLOB: Final = re.compile(r"[*?\[]")
"""What makes a pattern of a name."""
_PIECES: Final = re.compile(r"\*+|\?|\[!?\]?[^]]*\]|.", re.DOTALL)


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """What `match` takes a pattern for, to be matched with whole paths."""
    return re.compile(_PIECES.sub(_translated, pattern), re.DOTALL)


def _translated(piece: re.Match[str]) -> str:
    text = piece[0]
    if text[0] == "*":
        return ".*" if len(text) > 1 else "[^/]*"
    if text == "?":
        return "[^/]"
    if len(text) > 2 and text[0] == "[":
        inside = text[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        inside = f"^{inside[1:]}" if inside[0] == "!" else inside.replace("^", r"\^")
        return f"(?!/)[{inside}]"
    return re.escape(text)


def literal(path: str) -> str:
    """A path as a pattern that matches nothing else."""
    return GLOB.sub(lambda found: f"[{found[0]}]", path)


def plain(part: str) -> str | None:
    """The one name that a part of a pattern between slashes means; None if there may be several."""
    pieces = [piece[0] for piece in _PIECES.finditer(part)]
    if any((len(piece) > 1 and not _is_literal(piece)) or piece in "*?" for piece in pieces):
        return None
    return "".join(piece[1] if len(piece) > 1 else piece for piece in pieces)


def _is_literal(piece: str) -> bool:
    return len(piece) == 3 and piece[0] == "[" and piece[1] != "!"
