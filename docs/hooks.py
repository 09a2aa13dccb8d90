"""What the site needs beside the pages: the README as its first page, and links to files of the repository."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/beam-curate/beam-curate/blob/main/"
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links that leave docs/ into links to the repository; in the README, links into docs/ into ones to pages."""
    if page.file.src_uri == "index.md":
        markdown = (ROOT / "README.md").read_text()

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if page.file.src_uri == "index.md":
            path = target
        else:
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        if not (ROOT / path).exists():
            raise ValueError(f"{page.file.src_uri}: there is no {target}")
        return f"]({path})"

    return _LINK.sub(link, markdown)
