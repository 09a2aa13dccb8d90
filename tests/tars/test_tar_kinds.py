"""What is no tar is named, whatever the file is called and however short it is."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest
import zstandard

from beam_curate import reasons
from beam_curate.records import Shard
from beam_curate.tars.samples import read_samples
from tests.conftest import encoded, photo, tar_bytes
from tests.support.torture import check_failure

TAR = tar_bytes([("a.jpg", b"x" * 700), ("a.txt", b"text")])


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.tar", TAR)  # stored: a tar's blocks lie in it
    return out.getvalue()


def failure(data):
    (row,) = read_samples(io.BytesIO(data), Shard(0, "a.tar", len(data)))
    check_failure(row.failure.step, row.failure.reason, row.failure.message)
    return row.failure.reason, row.failure.message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234567\n"
ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'
KINDS = {
    "a Git LFS pointer; fetch the shard itself: git lfs pull": LFS,
    "an HTML page, '<!DOCTYPE html><html><head><title>Sign in": b"<!DOCTYPE html><html><head><title>Sign in</title>"
    + b" " * 2000,
    "an HTML page, '<html>": b"\xef\xbb\xbf\r\n <html>\n<body>404</body></html>",
    "an HTML page, '<!-- x --><HTML": b"<!-- x --><HTML lang=en>",
    "an XML document, '<?xml version": ERROR,
    "an XML document, '<Error><Code>NoSuchKey": b"<Error><Code>NoSuchKey</Code></Error>",
    'JSON, \'{"error": 403': b'{"error": 403}',
    "a ZIP archive; pack its files as a tar": zipped(),
    "a RAR archive": b"Rar!\x1a\7\1\0" + bytes(600),
    "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100),
    "a Parquet file": b"PAR1" + bytes(600) + b"PAR1",
    "a JPEG image": encoded(photo(1, 64, 48)),
    "a PNG image": encoded(photo(1, 64, 48), "PNG"),
    "a WebP image": encoded(photo(1, 64, 48), "WEBP"),
    "compressed once more, with gzip": gzip.compress(gzip.compress(TAR)),
    "compressed once more, with bzip2": zstandard.compress(bz2.compress(TAR)),
    "text, 'data/00000.tar": b"data/00000.tar\n",
    "text, 'the words é": "the words é ".encode() * 100,
}
COMPRESSED = {
    "bzip2": bz2.compress(TAR),
    "xz": lzma.compress(TAR),
    "lz4": b"\x04\x22\x4d\x18" + b"d" * 60,
    "grzip": b"GRZipII\0\2\4:)" + b"x" * 60,
    "lrzip": b"LRZI\0\6" + b"x" * 60,
    "rzip": b"RZIP\2\1" + b"x" * 60,
    "zpaq": b"7kSt\xa0\x31\x83\xd3" + b"x" * 60,
    "snappy": b"\xff\x06\0\0sNaPpY" + b"x" * 60,
    "zlib": b"x\x9c" + b"\xff" * 60,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_tar_is_named(kind):
    reason, message = failure(KINDS[kind])
    assert reason == reasons.NOT_A_TAR
    assert message.startswith(f"the shard is not a tar but {kind}"), message


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compression_is_named_however_short_the_file_is(name):
    for data in (COMPRESSED[name], COMPRESSED[name] + bytes(600)):
        reason, message = failure(data)
        assert reason == reasons.UNSUPPORTED_COMPRESSION
        assert f"with {name};" in message


@pytest.mark.parametrize("data", [b"\xaa" * 300, b"\xaa" * 3000, bytes(3000) + b"\xaa" * 3000, b"\1\2\3"])
def test_what_nothing_tells_of(data):
    assert failure(data) == (reasons.NOT_A_TAR, "no tar header was found in it")


@pytest.mark.parametrize("cut", [1, 60, 100, 130, 150, 200, 258, 300, 511])
def test_the_start_of_a_tar_is_a_truncated_one(cut):
    assert failure(TAR[:cut])[0] == reasons.TRUNCATED_TAR


def test_a_damaged_first_header_that_looks_like_text_is_skipped():
    """Only a magic number or a tag ends the search for a header."""
    damaged = b"#" * 512 + tar_bytes([("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")])[512:]
    rows = list(read_samples(io.BytesIO(damaged), Shard(0, "a.tar", 1)))
    outcomes = [(row.ref.key, row.failure and row.failure.reason) for row in rows]
    assert sorted(outcomes) == [("", reasons.CORRUPT_TAR), ("b", None), ("c", None)]
