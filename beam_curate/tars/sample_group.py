"""A sample in the making: which of its members is the image, and what else is read of it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from beam_curate.reasons import (
    DUPLICATE_MEMBER,
    MEMBER_TOO_LARGE,
    NO_IMAGE,
    READ,
    TOO_MANY_MEMBERS,
    UNSUPPORTED_MEMBER,
)
from beam_curate.records import Failure, Member, Sample, SampleRef, Shard
from beam_curate.tars.member_names import encodable
from beam_curate.tars.reading import TarEntry
from beam_curate.tars.writing import safe_key

IMAGE_EXTENSIONS: Final = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "jp2")
)
"""Extensions that Pillow surely decodes, lower case."""

MAX_NAME_CHARACTERS: Final = 4096
MAX_MEMBERS: Final = 4096
MAX_SAMPLE_SHARE: Final = 8
"""All members of a sample together may have this many times the bytes of an image: they are held at once when they are copied."""
MAX_TEXT_BYTES: Final = 1 << 20
"""The largest .txt or .json member that is looked into."""
MAX_CAPTION_CHARACTERS: Final = 16384
MAX_URL_CHARACTERS: Final = 8192
_UID: Final = re.compile(r"[0-9a-fA-F]{32}")

RESERVED: Final = frozenset(("__key__", "__url__", "__bad__", "__local_path__"))
"""Names that webdataset's readers use in a sample themselves: members so called collide with them."""


@dataclass
class SampleGroup:
    """The members of one key, as far as they are read.

    Attributes:
        key: The key as it stands in the tar, with surrogate escapes.
        extensions: The lower-cased extensions so far.
    """

    key: str
    extensions: set[str] = field(default_factory=set)
    _written: set[str] = field(default_factory=set)
    _members: list[Member] = field(default_factory=list)
    _image: str = ""
    _image_rank: int = 0
    _image_size: int = 0
    _data: bytes = b""
    _caption: str | None = None
    _url: str | None = None
    _uid: str | None = None
    _json_caption: str | None = None
    _failure: Failure | None = None

    def fail(self, reason: str, message: str) -> None:
        """Marks the sample as failed and drops its bytes; the first failure stays."""
        if self._failure is None:
            self._failure = Failure(READ, reason, message)
        self._data = b""

    @property
    def shape(self) -> frozenset[str]:
        """The extensions with all image extensions as one: what tells whether a sample has its usual members."""
        return frozenset("image" if _image_rank(extension, None) else extension for extension in self.extensions)

    def add(
        self,
        entry: TarEntry,
        extension: str,
        read_body: Callable[[], bytes],
        image_extension: str | None,
        max_member_bytes: int,
    ) -> None:
        """Takes a member up; its bytes are read only if it is the image, the caption or the JSON.

        Args:
            entry: The member.
            extension: Its extension as it stands in the tar.
            read_body: Gives the member's bytes.
            image_extension: The extension of the image, lower case, or None for any known one.
            max_member_bytes: The limit on the image's size.
        """
        if len(entry.name) > MAX_NAME_CHARACTERS:
            self.fail(
                UNSUPPORTED_MEMBER, f"a member name of {len(entry.name)} characters, more than {MAX_NAME_CHARACTERS}"
            )
            return
        if len(self._members) == MAX_MEMBERS:
            self.fail(TOO_MANY_MEMBERS, f"the sample has more than {MAX_MEMBERS} members")
            return
        lower = extension.lower()
        suffix = encodable(extension)
        # Readers of the output compare what is written there, where two hostile extensions may become one.
        written = safe_key(f".{suffix}").lower()
        if written in self._written:
            self.fail(DUPLICATE_MEMBER, f"two members have the extension {encodable(lower)!r:.200}")
        elif lower in RESERVED:
            self.fail(DUPLICATE_MEMBER, f"the extension {lower} collides with webdataset's own name")
        if entry.sparse:
            self.fail(UNSUPPORTED_MEMBER, f"the member {suffix!r:.200} is stored sparse; store it whole")
        self.extensions.add(lower)
        self._written.add(written)
        self._members.append(Member(suffix, entry.offset, entry.size))
        rank = _image_rank(lower, image_extension)
        if rank > self._image_rank:
            self._image, self._image_rank, self._image_size, self._data = suffix, rank, entry.size, b""
            if self._failure is None and entry.size <= max_member_bytes:
                self._data = read_body()
        elif self._failure is None and entry.size <= MAX_TEXT_BYTES:
            if lower == "txt":
                self._caption = _caption(read_body())
            elif lower == "json":
                self._url, self._json_caption, self._uid = _json_texts(read_body())

    def finish(self, shard: Shard, index: int, max_member_bytes: int) -> Sample:
        """The sample, all of whose members are known."""
        if not self._image_rank:
            self.fail(NO_IMAGE, "no member has a known image extension")
        elif self._image_size > max_member_bytes:
            self.fail(MEMBER_TOO_LARGE, f"the image has {self._image_size} bytes, more than {max_member_bytes}")
        elif (total := sum(member.size for member in self._members)) > MAX_SAMPLE_SHARE * max_member_bytes:
            most = MAX_SAMPLE_SHARE * max_member_bytes
            self.fail(MEMBER_TOO_LARGE, f"the members of the sample have {total} bytes, more than {most}")
        ref = SampleRef(
            shard_index=shard.index,
            shard=shard.path,
            index=index,
            key=encodable(self.key[:MAX_NAME_CHARACTERS]),
            members=tuple(self._members),
            image=self._image,
            caption=self._caption or self._json_caption or self._caption,
            url=self._url,
            uid=self._uid,
        )
        return Sample(ref, self._data, self._failure)


def _image_rank(extension: str, wanted: str | None) -> int:
    """2 for an image extension, 1 if only its last part is one (`v2.jpg`), 0 for another; higher ranks win."""
    if wanted is not None:
        return 2 if extension == wanted else 0
    if extension in IMAGE_EXTENSIONS:
        return 2
    return 1 if extension.rpartition(".")[2] in IMAGE_EXTENSIONS else 0


def _caption(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()[:MAX_CAPTION_CHARACTERS]


def _json_texts(data: bytes) -> tuple[str | None, str | None, str | None]:
    """The texts under "url", "caption" and "uid" in a JSON object, or None.

    JSON that is broken or too deep costs only these. A uid is 32 hex digits; anything else is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None, None, None
    if not isinstance(value, dict):
        return None, None, None
    # JSON can spell halves of surrogate pairs, which UTF-8 cannot.
    url, caption = (
        text.encode("utf-8", "replace") if isinstance(text := value.get(name), str) else None
        for name in ("url", "caption")
    )
    uid = value.get("uid")
    return (
        url.decode() if url is not None and len(url.decode()) <= MAX_URL_CHARACTERS else None,
        None if caption is None else _caption(caption),
        uid if isinstance(uid, str) and _UID.fullmatch(uid) else None,
    )
