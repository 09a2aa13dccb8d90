"""HTML that is safe by construction: templates that escape whatever they are given, and texts that hide nothing.

Every value that a template writes goes through `visible` and is escaped; the script's data is JSON without `<`, `>`, `&`, `'`.
"""

import base64
import functools
import hashlib
import pathlib
import unicodedata
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES: Final = pathlib.Path(__file__).parent / "templates"
_HIDDEN: Final = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_HARMLESS: Final = "\n\t\u200c\u200d"  # layout of our own text, and the joiners that Persian, Hindi and emoji need


def visible(text: str) -> str:
    """The text with what a reader could not see, or what would reorder it, spelled out: ⟨U+202E⟩."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in _HARMLESS or unicodedata.category(character) not in _HIDDEN
        else f"⟨U+{ord(character):04X}⟩"
        for character in text
    )


def shorten(text: str, limit: int) -> str:
    """A text of the data on one line of at most `limit` characters, also of those that `visible` adds."""
    line = visible(text[: limit + 1].strip().replace("\r\n", "\n").replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩"))
    return line if len(line) <= limit and len(text) <= limit else f"{line[: limit - 1]}…"


def count(number: int) -> str:
    """12,345."""
    return f"{number:,}"


def number(value: float) -> str:
    """A score in four digits, larger numbers whole."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """A part of a whole in percent, without a rounding that turns few into none or nearly all into all."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def policy(script: str) -> str:
    """The page's Content-Security-Policy: the one script, and nothing from elsewhere; no text can become markup in it."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    made.filters |= {"shorten": shorten, "count": count, "number": number}
    made.globals |= {"share": share}
    return made


def document(name: str, **values: Any) -> bytes:
    """A page by the template of this name, as UTF-8, with its style, its script and its policy."""
    style, script = ((_TEMPLATES / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    text = (
        _environment()
        .get_template(name)
        .render(style=Markup(style), script=Markup(script), policy=policy(script), **values)
    )
    return text.encode()
