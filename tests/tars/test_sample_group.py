"""A sample in the making: the bytes of a member that is too large, or that nobody looks into, are not read."""

import pytest

from beam_curate.records import Shard
from beam_curate.tars.events import TarEntry
from beam_curate.tars.sample_group import MAX_TEXT_BYTES, SampleGroup

MOST = 1000


def read(size, extension, link=""):
    """Whether the bytes of a member are read, and the sample's reason of failure."""
    asked = []
    group = SampleGroup("a")
    entry = TarEntry(f"a.{extension}", 512, size, regular=True, sparse=False, padding=0, link=link)
    group.add(entry, extension, lambda: asked.append(size) or b"x", None, MOST)
    failure = group.finish(Shard(0, "/s.tar", 1), 0, MOST, None).failure
    return bool(asked), failure and failure.reason


@pytest.mark.parametrize(
    ("size", "extension", "asked", "reason"),
    [
        (MOST, "jpg", True, None),
        (MOST + 1, "jpg", False, "member_too_large"),
        (MAX_TEXT_BYTES, "txt", True, "no_image"),
        (MAX_TEXT_BYTES + 1, "txt", False, "no_image"),
        (MAX_TEXT_BYTES + 1, "json", False, "no_image"),
        (10, "npy", False, "no_image"),
    ],
)
def test_only_what_is_looked_into_and_not_too_large_is_read(size, extension, asked, reason):
    assert read(size, extension) == (asked, reason)


@pytest.mark.parametrize("extension", ["jpg", "txt", "json"])
def test_a_link_has_no_bytes_of_its_own(extension):
    assert read(10, extension, link="b.jpg")[0] is False
