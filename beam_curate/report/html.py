"""HTML that is safe by construction: elements rather than text, so that nothing from the data can become markup.

Every text and attribute goes through `visible` and is escaped when the tree is written. There is no way to put raw markup in.
"""

import unicodedata
from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | None

POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page's Content-Security-Policy: no script, no font, no frame, nothing from elsewhere."""

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


def tag(name: str, *children: Child, **attributes: str) -> Element:
    """An element; None is left out of the children.

    Attributes are named as in HTML, with `_` for `-`; a `_` at the end is for words that Python keeps (`class_`).
    """
    named = {key.rstrip("_").replace("_", "-"): visible(value) for key, value in attributes.items()}
    element = Element(name, named)
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            element.append(child)
            last = child
        elif child is not None and last is None:
            element.text = (element.text or "") + visible(child)
        elif child is not None and last is not None:
            last.tail = (last.tail or "") + visible(child)
    return element


def shorten(text: str, limit: int) -> str:
    """A text of the data on one line of at most `limit` characters, also of those that `visible` adds."""
    line = visible(text[: limit + 1].strip().replace("\r\n", "\n").replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩"))
    return line if len(line) <= limit and len(text) <= limit else f"{line[: limit - 1]}…"


def foreign(text: str, limit: int, name: str = "bdi", **attributes: str) -> Element:
    """An element for a text of the data: shortened, and its writing direction kept to itself."""
    return tag(name, shorten(text, limit), dir="auto", **attributes)


def table(head: Iterable[str], rows: Iterable[Iterable[Child]], caption: str, numbers: Iterable[int] = ()) -> Element:
    """A table that scrolls within itself on a narrow screen; the columns `numbers` are set flush right."""
    right = set(numbers)

    def classes(place: int) -> dict[str, str]:
        return {"class": "number"} if place in right else {}

    titles = [tag("th", title, scope="col", **classes(place)) for place, title in enumerate(head)]
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, **classes(place)) if place else tag("th", cell, scope="row", **classes(place))
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", *titles)), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def count(number: int) -> str:
    """12,345."""
    return f"{number:,}"


def share(part: float, whole: float) -> str:
    """A part of a whole in percent, without a rounding that turns few into none or nearly all into all."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def page(title: str, style: str, body: Element) -> bytes:
    """The whole document as UTF-8."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", **{"http-equiv": "Content-Security-Policy", "content": POLICY}),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", style),
    )
    document = tag("html", head, "\n", body, lang="en")
    return b"<!DOCTYPE html>\n" + ElementTree.tostring(document, encoding="utf-8", method="html") + b"\n"
