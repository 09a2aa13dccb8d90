"""Images as files: which files of a folder or a pattern are images, and which lie beside them.

Files with one path but for the extension are one sample: the image, and the captions and metadata beside it.
"""

import dataclasses
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from beam_curate.intake.columns import is_table
from beam_curate.intake.entries import Entry, failed
from beam_curate.intake.naming import UNREAD_EXTENSIONS, is_image, is_text, key_of, split_name
from beam_curate.intake.reasons import NO_CLASS
from beam_curate.reasons import DUPLICATE_KEY, DUPLICATE_MEMBER
from beam_curate.records import record
from beam_curate.storage.patterns import pattern_regex
from beam_curate.storage.walking import NO_FILE, files_below

HIDDEN: Final = "hidden files"
UNREAD: Final = "pictures in formats that are not read, such as HEIC or raw (make JPEGs of them to pack them)"
OTHER: Final = "files of other kinds"
ALONE: Final = "captions and metadata without an image"
TABLE: Final = "tables (give one as --input to pack what it says)"
NO_TEXT: Final = "files with names that are not UTF-8"
SPECIAL: Final = "pipes and devices"
SKIPPED: Final = (UNREAD, HIDDEN, OTHER, TABLE, NO_TEXT, SPECIAL, ALONE)
"""What of a folder is not a row, as the summary counts it."""

_WILDCARD: Final = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder to look for images in.

    Attributes:
        folder: All files below it are looked at, and
        pattern: those that match are images if their extension says so; empty: all.
    """

    folder: str
    pattern: str = ""

    @classmethod
    def of(cls, pattern: str) -> "Place":
        """The place that a folder or a glob names."""
        wildcard = _WILDCARD.search(pattern)
        if wildcard is None:
            return cls(pattern.rstrip("/") or "/")
        return cls(posixpath.dirname(pattern[: wildcard.start()]) or "/", pattern)


@record
class FoundFile:
    """A file below the base folder: an image, or of what may lie beside one; or, without a path, skipped ones of a kind."""

    path: str
    stem: str
    suffix: str
    size: int
    is_image: bool
    skipped: str = ""


def base_of(places: Iterable[Place]) -> str:
    """The folder below which keys are paths: the one place, or the folder that all have in common."""
    levels = zip(*(place.folder.split("/") for place in places), strict=False)
    common = takewhile(lambda names: len(set(names)) == 1, levels)
    return "/".join(names[0] for names in common) or "/"


def look(place: Place, base: str, beside: Sequence[str]) -> Iterator[FoundFile]:
    """The images of a place, and all files that may lie beside them, in no order.

    Args:
        place: Where to look.
        base: Its folder, or one above.
        beside: Extensions of captions and metadata, lower case.

    Raises:
        StorageError: It cannot be listed.
    """
    wanted = pattern_regex(place.pattern) if place.pattern else None
    counts: Counter[str] = Counter()
    for path, size in files_below(place.folder):
        below = path[len(base.rstrip("/")) + 1 :]
        name = split_name(below)
        if not is_text(path):
            counts[NO_TEXT] += 1
        elif posixpath.basename(below).startswith("."):
            counts[HIDDEN] += wanted is None
        elif size == NO_FILE:
            counts[SPECIAL] += wanted is None or wanted.fullmatch(path) is not None
        elif name.extension in beside:
            yield FoundFile(path, name.stem, name.suffix, size, is_image=False)
        elif is_image(name):
            if wanted is None or wanted.fullmatch(path):
                yield FoundFile(path, name.stem, name.suffix, size, is_image=True)
        else:
            kind = TABLE if is_table(below) else UNREAD if name.extension in UNREAD_EXTENSIONS else OTHER
            counts[kind] += wanted is None
    for kind, number in counts.items():
        if number:
            yield FoundFile("", "", "", number, is_image=False, skipped=kind)


def first_image(places: Iterable[Place]) -> str:
    """The path of some image there; empty if there is none."""
    for place in places:
        for found in look(place, place.folder, ()):
            if found.is_image:
                return found.path
    return ""


def joined(files: Iterable[FoundFile], class_folders: bool = False) -> Iterator[Entry]:
    """The entries of files with one key: an image with what lies beside it, and failed ones of further images.

    Args:
        files: All files with a key, in any order; one that two patterns match may come twice.
        class_folders: Whether the first folder of a key is its class.
    """
    ordered = sorted({file.path: file for file in files}.values(), key=lambda file: file.path)
    images = [file for file in ordered if file.is_image]
    for image in images:
        key = key_of(image.stem)
        if image is not images[0]:
            message = f"{images[0].path} has this key too; rename one of them"
            yield failed(image.path, image.path, DUPLICATE_KEY, message, key)
            continue
        folder = image.stem.split("/")[0] if class_folders else ""
        if class_folders and "/" not in image.stem:
            yield failed(image.path, image.path, NO_CLASS, "it lies beside the class folders, not in one", key)
            continue
        beside = {file.suffix: file.path for file in ordered if not file.is_image and file.stem == image.stem}
        last = {suffix.lower(): path for suffix, path in beside.items()}
        hidden = next((path for suffix, path in beside.items() if last[suffix.lower()] != path), "")
        if hidden:  # WebDataset's readers take both for one member, and stop there
            message = f"{hidden} and {last[split_name(hidden).extension]} have one extension to them; rename one"
            yield failed(image.path, image.path, DUPLICATE_MEMBER, message, key)
            continue
        yield Entry(
            image.path, image.path, key, image.path, image.suffix, size=image.size, beside=beside, folder=folder
        )


def alone(files: Iterable[FoundFile]) -> int:
    """How many of the files with one key lie beside no image."""
    files = list(files)
    stems = {file.stem for file in files if file.is_image}
    return len({file.path for file in files if file.stem not in stems})


def class_of(entry: Entry, classes: Sequence[str]) -> Entry:
    """The entry with its class: the index in `.cls`, and name and index in `.json` where there is none beside it.

    Args:
        entry: Of a dataset of class folders.
        classes: The names of all folders, sorted: torchvision's ImageFolder numbers them so.
    """
    if entry.failure is not None:
        return entry
    index = classes.index(entry.folder)
    texts = {"cls": str(index)}
    if "json" not in {suffix.lower() for suffix in entry.beside}:
        texts["json"] = json.dumps({"class": entry.folder, "class_index": index}, ensure_ascii=False)
    return dataclasses.replace(entry, texts=texts)
