import gzip
import hashlib
import io
import random
import tarfile

import pytest
import zstandard

from beam_curate.storage import retrying
from beam_curate.tars import sources
from beam_curate.tars.events import TarEntry
from beam_curate.tars.member_names import encodable
from beam_curate.tars.reading import TarReader
from beam_curate.tars.sources import SourceChangedError, SourceReader, check_sha256
from tests.conftest import tar_bytes
from tests.support.fault_filesystem import Faults, FaultyFileSystem

LONG = "folder/" * 20 + "k"
NAMES = ["000.jpg", "a/b/001.seg.png", "ключ/ü.txt", "x" * 95 + ".jpg", f"{LONG}.jpg", f"{LONG}2.json", "s p.TXT"]


def entries(data):
    return [event for event in TarReader(io.BytesIO(data)).events() if isinstance(event, TarEntry)]


def member(entry):
    """Offset, size, suffix and key, as the score table has them."""
    key, _, suffix = entry.name.rpartition("/")[2].partition(".")
    folder = entry.name[: entry.name.rfind("/") + 1]
    return entry.offset, entry.size, encodable(suffix), encodable(folder + key)


@pytest.fixture
def bodies():
    return [(name, bytes([number]) * (700 * number)) for number, name in enumerate(NAMES)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("expected", [False, True])
def test_members_come_back_and_need_no_closer_look(format, pack, expected, bodies, tmp_path, monkeypatch):
    data = tar_bytes(bodies, format)
    (tmp_path / "a.tar").write_bytes(pack(data))
    monkeypatch.setattr(SourceReader, "_look_closer", None)  # it would read the whole shard
    path = str(tmp_path / "a.tar")
    with SourceReader() as reader:
        if expected:
            reader.expect(path, [(entry.offset, entry.size) for entry in entries(data)])
        for entry, (_, body) in zip(entries(data), bodies, strict=True):
            assert reader.read(path, *member(entry)) == body
            assert reader.read(path, entry.offset, entry.size) == body
        first = entries(data)[0]
        assert reader.read(path, *member(first)) == bodies[0][1]  # a step back


def test_two_shards_in_turn(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(gzip.compress(tar_bytes([("1.jpg", name.encode() * 9)])))
    with SourceReader() as reader:
        for name in "abab":
            assert reader.read(f"{tmp_path}/{name}.tar", 512, 9, "jpg", "1") == name.encode() * 9


@pytest.mark.parametrize(
    ("share", "most_bytes", "least_samples_a_request"), [(0.05, 1.4, 1.1), (0.2, 1.5, 1.8), (0.5, 1.6, 5)]
)
def test_only_what_is_kept_is_fetched(share, most_bytes, least_samples_a_request, tmp_path):
    rng = random.Random(0)
    members = []
    for number in range(300):
        members.append((f"{number:04d}.jpg", bytes(int(rng.lognormvariate(11.4, 0.5)))))
        members += [(f"{number:04d}.json", b"{}" * 150), (f"{number:04d}.txt", b"caption")]
    data = tar_bytes(members)
    path = str(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(data)
    samples = [number for number in range(300) if rng.random() < share]
    found = entries(data)
    wanted = [found[3 * number + place] for number in samples for place in range(3)]
    needed = sum(entry.size for entry in wanted)
    with SourceReader() as reader:
        reader.expect(path, [(entry.offset, entry.size) for entry in wanted])
        for entry in wanted:
            assert reader.read(path, *member(entry)) == members[found.index(entry)][1]
        print(f"{share:.0%} kept: {reader.fetched} bytes in {reader.requests} requests for {needed} of {len(data)}")
        assert needed < reader.fetched < most_bytes * needed
        assert len(samples) / reader.requests > least_samples_a_request
    with SourceReader() as reader:
        for entry in wanted:
            reader.read(path, entry.offset, entry.size)
        assert reader.fetched == needed + 512 * (
            len(wanted) + 1
        )  # without a plan exactly that, but three times the requests


def test_requests_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_REQUEST_BYTES", 5000)
    data = tar_bytes([(f"{number}.jpg", bytes([number]) * 1000) for number in range(20)] + [("big.jpg", bytes(9000))])
    (tmp_path / "a.tar").write_bytes(data)
    found = entries(data)
    with SourceReader() as reader:
        reader.expect(str(tmp_path / "a.tar"), [(entry.offset, entry.size) for entry in found])
        for number, entry in enumerate(found[:-1]):
            assert reader.read(str(tmp_path / "a.tar"), entry.offset, entry.size) == bytes([number]) * 1000
        assert reader.read(str(tmp_path / "a.tar"), found[-1].offset, 9000) == bytes(9000)
        assert reader.requests == 1 + 7 + 1  # the first block, three members at a time, and the large one


def read_all(path, before):
    with SourceReader() as reader:
        for entry in entries(before):
            reader.read(path, *member(entry))


BEFORE = [("1.jpg", b"a" * 600), ("1.txt", b"one"), ("2.jpg", b"b" * 700), ("2.txt", b"two"), ("3.txt", b"123456")]
CHANGES = {
    "shorter": (BEFORE[:3], "is shorter|no member"),
    "renamed": ([*BEFORE[:3], ("5.txt", b"two"), BEFORE[4]], r"was a member '2\.txt' of 3 bytes, and is '5\.txt'"),
    "other size": (
        [*BEFORE[:3], ("2.txt", b"other"), BEFORE[4]],
        r"was a member '2\.txt' of 3 bytes, and is '2\.txt' of 5",
    ),
    "swapped": ([BEFORE[0], BEFORE[3], BEFORE[2], BEFORE[1], BEFORE[4]], r"was a member '1\.txt'"),
    "shifted": ([("0.txt", b""), *BEFORE], r"was a member '1\.jpg' of 600 bytes, and is .0\.txt. of 0"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_shard_is_noticed_and_named(how, pack, tmp_path):
    after, message = CHANGES[how]
    before = tar_bytes(BEFORE)
    path = tmp_path / "a.tar"
    path.write_bytes(pack(before))
    read_all(str(path), before)
    path.write_bytes(pack(tar_bytes(after)))
    with pytest.raises(SourceChangedError, match=rf"a\.tar changed after it was scored: .*({message})"):
        read_all(str(path), before)


def test_a_shard_that_is_no_tar_any_more(tmp_path):
    before = tar_bytes(BEFORE)
    path = tmp_path / "a.tar"
    for data in (b"", b"x" * len(before), gzip.compress(before)[:-200], b"\x1f\x8b" + b"x" * 5000, bytes(len(before))):
        path.write_bytes(data)
        with pytest.raises(SourceChangedError, match=r"a\.tar changed after it was scored"):
            read_all(str(path), before)


def test_a_shard_that_is_gone(tmp_path):
    with pytest.raises(retrying.StorageError, match=r"opening \S+a\.tar failed: FileNotFoundError"):
        read_all(str(tmp_path / "a.tar"), tar_bytes(BEFORE))


def test_without_a_name_the_size_is_checked(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(BEFORE))
    with SourceReader() as reader:
        assert reader.read(str(path), 512, 600) == b"a" * 600
        assert reader.read(str(path), 512, 600, "jpg") == b"a" * 600
        with pytest.raises(SourceChangedError):
            reader.read(str(path), 512, 600, "txt")
        with pytest.raises(SourceChangedError):
            reader.read(str(path), 512, 599)


def test_headers_that_hide_the_name_or_the_size_are_no_change(tmp_path):
    """What a member is called may lie in an extended header alone: then all headers are read, once."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(3):
            info = tarfile.TarInfo("placeholder")
            info.size = 5
            info.pax_headers = {"path": f"real/{number}.txt", "comment": "x"}
            archive.addfile(info, io.BytesIO(b"%05d" % number))
    data = buffer.getvalue()
    assert [entry.name for entry in entries(data)] == [f"real/{number}.txt" for number in range(3)]
    path = str(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(data)
    with SourceReader() as reader:
        for number, entry in enumerate(entries(data)):
            assert reader.read(path, *member(entry)) == b"%05d" % number
        with pytest.raises(SourceChangedError, match=r"is 'real/2\.txt' of 5 bytes now"):
            reader.read(path, entry.offset, 5, "txt", "other")


def test_flaky_storage_gives_the_same_members(bodies, tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "sleep", lambda seconds: None)
    for name, pack in (("a.tar", bytes), ("a.tar.gz", gzip.compress)):
        data = tar_bytes(bodies)
        (tmp_path / name).write_bytes(pack(data))
        faults = Faults(2, {"read_error": 0.3, "short_read": 0.3, "early_end": 0.2, "open_error": 0.3})
        monkeypatch.setattr(FaultyFileSystem, "faults", faults)
        with SourceReader() as reader:
            for entry, (_, body) in zip(entries(data), bodies, strict=True):
                assert reader.read(f"faulty://{tmp_path}/{name}", *member(entry)) == body
        assert faults.injected.total() > 1


def test_sha256_names_sample_and_shard():
    check_sha256(b"abc", hashlib.sha256(b"abc").hexdigest(), "1", "a.tar")
    with pytest.raises(SourceChangedError, match=r"a\.tar changed after it was scored: the image of sample '1'"):
        check_sha256(b"abd", hashlib.sha256(b"abc").hexdigest(), "1", "a.tar")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_one_request_reads_a_member_of_a_plain_shard(pack, tmp_path):
    """A shuffled selection reads one sample of each shard: whether the shard is compressed is told by the member itself."""
    data = tar_bytes([(f"{number}.jpg", bytes([number]) * 1000) for number in range(20)])
    (tmp_path / "a.tar").write_bytes(pack(data))
    entry = entries(data)[7]
    with SourceReader() as reader:
        assert reader.read(str(tmp_path / "a.tar"), *member(entry)) == bytes([7]) * 1000
        assert pack is not bytes or (reader.requests, reader.fetched) == (1, 512 + 1000)


def test_a_header_in_compressed_bytes_is_not_taken_for_that_of_the_shard(tmp_path):
    """Stored blocks of gzip hold a tar within the tar as it is: a header of the same size and at the same place, by its looks."""
    inner = tar_bytes([("1.jpg", b"a" * 600)])
    outer = tar_bytes([("0.jpg", bytes(100)), ("1.jpg", b"b" * 600), ("2.tar", inner * 3)])
    (tmp_path / "a.tar").write_bytes(gzip.compress(outer, 0))
    with SourceReader() as reader:
        for entry in entries(outer):
            assert (
                reader.read(str(tmp_path / "a.tar"), *member(entry)) == outer[entry.offset : entry.offset + entry.size]
            )
