"""A sample in the making: which of its members is the image, and what else is read of it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from beam_curate.reasons import (
    CORRUPT_TAR,
    DUPLICATE_KEY,
    DUPLICATE_MEMBER,
    MEMBER_TOO_LARGE,
    NO_IMAGE,
    READ,
    TOO_MANY_MEMBERS,
    UNRESOLVED_LINK,
    UNSUPPORTED_MEMBER,
)
from beam_curate.records import Failure, Member, Sample, SampleRef, Shard
from beam_curate.tars.events import TarEntry
from beam_curate.tars.headers import swallowed_header
from beam_curate.tars.member_names import encodable
from beam_curate.tars.writing import safe_key
from beam_curate.texts import decode_text

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
IMAGE: Final = "image"
TEXTS: Final = ("txt", "json")
"""Of a sample the image and the members with these extensions are looked into."""
_UID: Final = re.compile(r"[0-9a-fA-F]{32}")

_SHOWN: Final = 8  # extensions in a message

RESERVED: Final = frozenset(("__key__", "__url__", "__bad__", "__local_path__"))
"""Names that webdataset's readers use in a sample themselves: members so called collide with them."""


@dataclass
class SampleGroup:
    """The members of one key, as far as they are read.

    Attributes:
        key: The key as it stands in the tar, with surrogate escapes.
        again: Whether an earlier sample of the shard has this key: the sample fails.
        nameless: Whether the last file before the sample that is part of none is named just as the key, without an extension.
        extensions: The lower-cased extensions so far.
        looked_into: The image, and the texts, by IMAGE and TEXTS: members of which the bytes are read.
        url: The URL so far, and
        uid: the UID.
    """

    key: str
    again: bool = False
    nameless: bool = False
    extensions: set[str] = field(default_factory=set)
    looked_into: dict[str, Member] = field(default_factory=dict)
    url: str | None = None
    uid: str | None = None
    _images: int = 0  # members with an image extension, be they the sample's image or not
    _written: set[str] = field(default_factory=set)
    _members: list[Member] = field(default_factory=list)
    _image_rank: int = 0
    _data: bytes = b""
    _txt_caption: str | None = None
    _json_caption: str | None = None
    _failure: Failure | None = None

    def __post_init__(self) -> None:
        if self.again:
            self.fail(DUPLICATE_KEY, "")  # the message follows when all members are known

    @property
    def caption(self) -> str | None:
        """The caption so far: of the text, or else of the JSON."""
        return self._txt_caption or self._json_caption or self._txt_caption

    @property
    def is_linked(self) -> bool:
        """Whether bytes are still to be read, which a link points to."""
        return self._failure is None and any(member.link for member in self.looked_into.values())

    @property
    def further_images(self) -> int:
        """How many members with an image extension there are beside the image."""
        image = self.looked_into.get(IMAGE)
        return 0 if image is None else self._images - (_image_rank(image.suffix.lower(), None) > 0)

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
        """Takes a member up; its bytes are read only if it is the image, the caption or the JSON, and no link.

        Args:
            entry: The member; for a link with the span of its target.
            extension: Its extension as it stands in the tar.
            read_body: Gives the member's bytes.
            image_extension: The extension of the image, lower case, or None for any known one.
            max_member_bytes: The limit on the image's size.
        """
        if not self._admit(entry, extension):
            return
        lower = extension.lower()
        suffix = encodable(extension)
        if entry.sparse:
            self.fail(UNSUPPORTED_MEMBER, f"the member {suffix!r:.200} is stored sparse; store it whole")
        member = Member(suffix, entry.offset, entry.size, encodable(entry.link))
        self._members.append(member)
        rank = _image_rank(lower, image_extension)
        if rank > self._image_rank:
            self._image_rank, self._data = rank, b""
            self.looked_into[IMAGE] = member
            if self._failure is None and entry.size <= max_member_bytes and not entry.link:
                self._data = self._whole(read_body(), suffix)
        elif self._failure is None and entry.size <= MAX_TEXT_BYTES and lower in TEXTS:
            self.looked_into[lower] = member
            if not entry.link:
                self.take_text(lower, self._whole(read_body(), suffix))

    def _whole(self, body: bytes, suffix: str) -> bytes:
        """Gives a body back; the sample fails if a part of the shard was cut out of it, up to another header."""
        if header := swallowed_header(body):
            message = f"the member {suffix!r:.200} holds the header of {encodable(header.name)!r:.200}: bytes before it are gone"
            self.fail(CORRUPT_TAR, message)
        return body if self._failure is None else b""

    def add_unresolved(self, entry: TarEntry, extension: str, words: str) -> None:
        """Takes up a link to something that is not known: the sample fails.

        Args:
            entry: The link.
            extension: Its extension as it stands in the tar.
            words: What it is.
        """
        self._admit(entry, extension)
        self.fail(
            UNRESOLVED_LINK,
            f"{words}, which is not a file before it in this shard; store the files themselves (tar --dereference "
            "--hard-dereference)",
        )

    def _admit(self, entry: TarEntry, extension: str) -> bool:
        """Notes the extension of a member, and fails the sample if it cannot be one of its members; false if it is left out."""
        if len(entry.name) > MAX_NAME_CHARACTERS:
            self.fail(
                UNSUPPORTED_MEMBER, f"a member name of {len(entry.name)} characters, more than {MAX_NAME_CHARACTERS}"
            )
            return False
        if len(self._members) == MAX_MEMBERS or len(self._written) == MAX_MEMBERS:
            self.fail(TOO_MANY_MEMBERS, f"the sample has more than {MAX_MEMBERS} members")
            return False
        lower = extension.lower()
        # Readers of the output compare what is written there, where two hostile extensions may become one.
        written = safe_key(f".{encodable(extension)}").lower()
        if written in self._written:
            self.fail(
                DUPLICATE_MEMBER,
                f"two members have the extension {encodable(lower)!r:.200} (upper and lower case are the same); was a file "
                "added to the tar twice?",
            )
        elif lower in RESERVED:
            self.fail(DUPLICATE_MEMBER, f"the extension {lower} collides with webdataset's own name")
        self._images += _image_rank(lower, None) > 0
        self.extensions.add(lower)
        self._written.add(written)
        return True

    def take_text(self, extension: str, data: bytes) -> None:
        """Takes up the bytes of a text, one of TEXTS."""
        if extension == "txt":
            self._txt_caption = _caption(decode_text(data))
        else:
            self.url, self._json_caption, self.uid = _json_texts(data)

    def finish(self, shard: Shard, index: int, max_member_bytes: int, image_extension: str | None) -> Sample:
        """The sample, all of whose members are known; without its bytes if it `is_linked`."""
        image = self.looked_into.get(IMAGE)
        if self._failure is not None and self._failure.reason == DUPLICATE_KEY:
            self._failure = Failure(READ, DUPLICATE_KEY, self._why_twice())
        elif image is None:
            self.fail(NO_IMAGE, self._why_no_image(image_extension))
        elif image.size > max_member_bytes:
            self.fail(MEMBER_TOO_LARGE, f"the image has {image.size} bytes, more than {max_member_bytes}")
        elif (total := sum(member.size for member in self._members)) > MAX_SAMPLE_SHARE * max_member_bytes:
            most = MAX_SAMPLE_SHARE * max_member_bytes
            self.fail(MEMBER_TOO_LARGE, f"the members of the sample have {total} bytes, more than {most}")
        ref = SampleRef(
            shard_index=shard.index,
            shard=shard.path,
            index=index,
            key=encodable(self.key[:MAX_NAME_CHARACTERS]),
            members=tuple(self._members),
            image="" if image is None else image.suffix,
            caption=self.caption,
            url=self.url,
            uid=self.uid,
        )
        return Sample(ref, b"" if self.is_linked else self._data, self._failure)

    def _why_twice(self) -> str:
        """The message of a sample whose key an earlier one has, with the likely cause."""
        here = self._extensions_words()
        if not self._images:
            return (
                f"members of this key are apart from earlier ones (here: {here}), so they are not one sample; sort the tar "
                "by name (tar --sort=name)"
            )
        dotted = next((name for name in sorted(self.extensions) if _image_rank(name, None) == 1), None)
        if dotted is not None:
            why = f"a key ends at the first dot of the name, and here {encodable(dotted)!r:.100} follows it"
        else:
            why = "the tar is not sorted by name (tar --sort=name), a file was added twice, or two files have one name"
        return f"an earlier sample of the shard has this key (here: {here}): {why}; make the keys of a shard unique"

    def _why_no_image(self, image_extension: str | None) -> str:
        """The message of a sample without an image, with the likely cause."""
        here = self._extensions_words()
        if image_extension is not None:
            return f"no member has the extension {image_extension!r} that `image_extension` asks for (here: {here})"
        if self.nameless:
            name = encodable(self.key).rpartition("/")[2]
            return (
                f"no member has a known image extension (here: {here}); the member {name!r:.200} has no extension, so it is not "
                "part of a sample: give it one, such as .jpg"
            )
        return (
            f"no member has a known image extension (here: {here}); name that of the images with `image_extension` or, if they "
            "stand elsewhere in the tar, sort it by name (tar --sort=name)"
        )

    def _extensions_words(self) -> str:
        names = sorted(encodable(name) for name in self.extensions)
        words = ", ".join(f"{f'.{name}'!r:.40}" for name in names[:_SHOWN])
        return f"{words} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else words


def _image_rank(extension: str, wanted: str | None) -> int:
    """2 for an image extension, 1 if only its last part is one (`v2.jpg`), 0 for another; higher ranks win."""
    if wanted is not None:
        return 2 if extension == wanted else 0
    if extension in IMAGE_EXTENSIONS:
        return 2
    return 1 if extension.rpartition(".")[2] in IMAGE_EXTENSIONS else 0


def _caption(text: str) -> str:
    """The text without white space around it, nor a byte order mark and NULs that tell its length."""
    return text.removeprefix("\ufeff").strip("\0").strip()[:MAX_CAPTION_CHARACTERS]


def _json_texts(data: bytes) -> tuple[str | None, str | None, str | None]:
    """The texts under "url", "caption" and "uid" in a JSON object, or None.

    JSON that is broken or too deep costs only these. A uid is 32 hex digits; anything else is none.
    """
    try:
        value = json.loads(data)  # UTF-8, -16 or -32, with a byte order mark or without
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
        None if caption is None else _caption(caption.decode()),
        uid if isinstance(uid, str) and _UID.fullmatch(uid) else None,
    )
