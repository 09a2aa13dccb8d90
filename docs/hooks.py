"""What the site needs beside the pages: the README as its first page, and the files of the repository that pages link to.

The pages link as they lie in the repository, so that they read well there too. Here such links are turned into those of the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parent.parent
FIRST: Final = "README.md"
_FOLDER: Final = "files"
"""Where the site has files that do not lie in docs/."""
_LINK: Final = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
_CODE: Final = re.compile(r"^```.*?^```$", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Adds the files that are linked to, and those that these link to."""
    left = [FIRST, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen = set(left)
    while left:
        here = left.pop()
        if not here.endswith(".md"):
            continue
        for match in _LINK.finditer(_CODE.sub("", (ROOT / here).read_text())):
            path = _resolved(here, match[1])
            if path not in seen:
                seen.add(path)
                left.append(path)
    for path in sorted(seen):
        if not path.startswith("docs/") and path != FIRST:
            files.append(File.generated(config, f"{_FOLDER}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links of the repository into those of the site."""
    uri = page.file.src_uri
    here = FIRST if uri == "index.md" else _origin(uri)
    markdown = (ROOT / FIRST).read_text() if here == FIRST else markdown

    def link(match: re.Match[str]) -> str:
        path = _resolved(here, match[1])
        there = path.removeprefix("docs/") if path.startswith("docs/") else f"{_FOLDER}/{path}"
        there = "index.md" if path == FIRST else there
        return f"]({posixpath.relpath(there, posixpath.dirname(uri) or '.')}{match[2] or ''})"

    return _LINK.sub(link, markdown)


def _origin(uri: str) -> str:
    """The path in the repository of a page of the site."""
    return uri.removeprefix(f"{_FOLDER}/") if uri.startswith(f"{_FOLDER}/") else f"docs/{uri}"


def _resolved(here: str, target: str) -> str:
    """The path in the repository that a link names.

    Raises:
        ValueError: There is no such file.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if not (ROOT / path).is_file():
        raise ValueError(f"{here} links to {target}, and there is no such file")
    return path
