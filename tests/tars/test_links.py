"""Links in a tar: the bytes of the file that they point to, or a failed row that names them."""

import gzip
import io
import pathlib
import random
import shutil
import subprocess
import tarfile

import pyarrow.parquet as pq
import pytest
import zstandard

from beam_curate.duplicates import image_hashes
from beam_curate.export.copied_tars import CopiedTars
from beam_curate.reasons import UNRESOLVED_LINK, UNSUPPORTED_MEMBER
from beam_curate.records import PlacedRows, Shard
from beam_curate.report.writing import write_report
from beam_curate.runs.output_files import held_bytes, write_file
from beam_curate.runs.parts import read_part_counts
from beam_curate.runs.placed_rows import Meeting
from beam_curate.runs.row_sources import TableRows
from beam_curate.tars import links
from beam_curate.tars.samples import read_samples
from beam_curate.tars.sources import SourceChangedError, SourceReader
from tests.conftest import encoded, photo
from tests.support import torture

FOLDER = "folder/" * 16
HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE
FILES = {
    "./a.jpg": b"image a" * 300,
    "./a.json": b'{"url": "http://a", "uid": "' + b"0" * 32 + b'"}',
    "./a.txt": b"caption a",
    "./noextension": b"nameless" * 99,
    f"{FOLDER}b.jpg": b"image b" * 90,
    f"{FOLDER}b.txt": b"caption b",
}
LINKS = [
    ("d/c.jpg", HARD, "./a.jpg"),
    ("d/c.txt", HARD, f"{FOLDER}b.txt"),
    ("d/e.jpg", SYMBOLIC, f"../{FOLDER}b.jpg"),
    ("d/e.json", HARD, "a.json"),
    ("d/f.jpg", HARD, "d/c.jpg"),  # a link to a link
    ("d/f.txt", SYMBOLIC, "c.txt"),
    ("g.jpg", SYMBOLIC, "./d/../noextension"),
    ("h.txt", HARD, "./a.txt"),
]


def linked_tar(members, format=tarfile.GNU_FORMAT):
    """A tar of files (name, bytes) and links (name, type, target), in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if len(rest) == 2:
                info.type, info.linkname = rest
                archive.addfile(info)
            else:
                info.size = len(rest[0])
                archive.addfile(info, io.BytesIO(rest[0]))
    return buffer.getvalue()


MEMBERS = [*FILES.items(), *LINKS, ("h.jpg", b"own image"), ("z.jpg", b"last")]


def read(data, **options):
    return {row.ref.key: row for row in read_samples(io.BytesIO(data), Shard(0, "s.tar", len(data)), **options)}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_links_are_read_as_what_they_point_to(format, pack, tmp_path):
    data = linked_tar(MEMBERS, format)
    rows = read(pack(data))
    # Those with links come last, in the order of their images' bytes.
    assert list(rows) == ["./a", f"{FOLDER}b", "z", "d/c", "d/f", "g", "d/e", "h"]
    assert [rows[key].ref.index for key in ("./a", f"{FOLDER}b", "d/c", "d/e", "d/f", "g", "h", "z")] == list(range(8))
    assert all(row.failure is None for row in rows.values())
    assert [key for key, row in rows.items() if row.ref.shard_rows] == ["z"]
    assert rows["z"].ref.shard_rows == 8
    (tmp_path / "a.tar").write_bytes(data)
    if shutil.which("tar"):  # the reference
        subprocess.run(["tar", "-xf", "a.tar"], cwd=tmp_path, check=True)
    else:
        with tarfile.open(tmp_path / "a.tar") as archive:
            archive.extractall(tmp_path, filter="data")
    for key, row in rows.items():
        assert row.data == (tmp_path / f"{key}.{row.ref.image}").read_bytes()
        for member in row.ref.members:
            assert data[member.offset :][: member.size] == (tmp_path / f"{key}.{member.suffix}").read_bytes()
    captions = {key: row.ref.caption for key, row in rows.items()}
    assert captions == {
        "./a": "caption a",
        f"{FOLDER}b": "caption b",
        "d/c": "caption b",
        "d/e": None,
        "d/f": "caption b",
        "g": None,
        "h": "caption a",
        "z": None,
    }
    assert (rows["d/e"].ref.url, rows["d/e"].ref.uid) == ("http://a", "0" * 32)
    assert [member.link for member in rows["d/f"].ref.members] == ["./a.jpg", f"{FOLDER}b.txt"]
    assert [member.link for member in rows["h"].ref.members] == ["./a.txt", ""]
    assert rows["z"].ref.skipped == {"no_extension": 1}


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (
            ("b.jpg", HARD, "gone.jpg"),
            "'b.jpg' is a hard link to 'gone.jpg', which is not a file before it in this shard",
        ),
        (("b.jpg", SYMBOLIC, "z.jpg"), "'b.jpg' is a symbolic link to 'z.jpg'"),  # it comes later
        (("b.jpg", SYMBOLIC, "/data/a.jpg"), "'/data/a.jpg'"),
        (("b.jpg", SYMBOLIC, "../a.jpg"), "'../a.jpg'"),
        (("b.jpg", SYMBOLIC, "d"), "'d'"),
        (("b.jpg", HARD, ""), "''"),
        (("b.jpg", HARD, "b.jpg"), "'b.jpg' is a hard link to 'b.jpg'"),
        (("b.txt", HARD, "gone.txt"), "'gone.txt'"),
    ],
)
def test_a_link_to_something_else_is_a_failed_row_that_names_it(link, words):
    data = linked_tar([("d/a.jpg", b"1"), ("a.jpg", b"2"), link, ("c.jpg", b"3"), ("z.jpg", b"4")])
    rows = read(data)
    assert [key for key, row in rows.items() if row.failure] == ["b"]
    assert rows["b"].failure.reason == UNRESOLVED_LINK
    assert words in rows["b"].failure.message
    assert "tar --dereference" in rows["b"].failure.message
    assert rows["z"].ref.skipped == {"unresolved_links": 1}


def test_a_good_image_with_a_caption_that_is_lost_is_no_whole_sample():
    rows = read(linked_tar([("a.jpg", b"1"), ("a.txt", HARD, "gone.txt"), ("b.jpg", b"2")]))
    assert (rows["a"].failure.reason, rows["a"].data) == (UNRESOLVED_LINK, b"")


def test_many_unresolved_links_of_one_sample_are_bounded():
    rows = read(linked_tar([*((f"a.{number}", HARD, "gone") for number in range(5000)), ("b.jpg", b"2")]))
    assert rows["a"].failure.reason == UNRESOLVED_LINK
    assert rows["b"].ref.skipped == {"unresolved_links": 5000}


def test_a_link_to_a_sparse_file_fails_as_the_file_does():
    data = bytearray(linked_tar([("a.jpg", b"1"), ("b.jpg", HARD, "a.jpg"), ("c.jpg", b"2")]))
    data[156:157] = b"S"
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    reasons = {key: row.failure and row.failure.reason for key, row in read(bytes(data)).items()}
    assert reasons == {"a": UNSUPPORTED_MEMBER, "b": UNSUPPORTED_MEMBER, "c": None}


def test_the_latest_file_of_a_name_is_meant():
    data = linked_tar([("a.jpg", b"old"), ("b.jpg", b"0"), ("a.jpg", b"new"), ("c.jpg", HARD, "a.jpg")])
    assert read(data)["c"].data == b"new"


def test_links_have_the_limits_of_files():
    data = linked_tar([("x", b"1" * 200), ("a.jpg", HARD, "x"), ("b.jpg", b"2"), ("b.txt", HARD, "a.jpg")])
    rows = read(data, max_member_bytes=199)
    assert rows["a"].failure.reason == "member_too_large"
    assert (rows["b"].failure, rows["b"].ref.caption) == (None, "1" * 200)


@pytest.mark.parametrize("bound", ["MAX_TARGETS", "MAX_TARGET_CHARACTERS"])
def test_what_is_held_of_targets_is_bounded(monkeypatch, bound):
    monkeypatch.setattr(links, bound, 2)
    rows = read(
        linked_tar([(f"{n}.jpg", b"1") for n in range(5)] + [("a.jpg", HARD, "0.jpg"), ("b.jpg", HARD, "4.jpg")])
    )
    assert {key for key, row in rows.items() if row.failure} == {"b"}


class Counting(io.BytesIO):
    """Counts the bytes that are read of it."""

    total = 0

    def read(self, size=-1):
        data = super().read(size)
        self.total += len(data)
        return data


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_shard_is_read_three_times_at_most(pack):
    """In whatever order the links point: their bytes are wanted in the order of the shard."""
    files = [(f"{n:03d}.{name}", bytes([n]) * 2000) for n in range(60) for name in ("jpg", "txt")]
    more = [(f"x{n:03d}.{name}", HARD, f"{59 - n:03d}.{name}") for n in range(60) for name in ("jpg", "txt")]
    data = pack(linked_tar(files + more))
    stream = Counting(data)
    rows = {row.ref.key: row for row in read_samples(stream, Shard(0, "s.tar", len(data)))}
    assert all(rows[f"x{n:03d}"].data == bytes([59 - n]) * 2000 for n in range(60))
    # Each time it is opened, its first block is looked at to tell how it is compressed.
    assert stream.total <= 3 * (len(data) + 512)


def test_a_shard_that_cannot_be_read_again_has_no_links():
    class Once(io.BytesIO):
        def seekable(self):
            return False

    data = linked_tar([("a.jpg", b"1"), ("b.jpg", HARD, "a.jpg")])
    first, second = read_samples(Once(data), Shard(0, "s.tar", len(data)))
    assert (first.failure, second.failure.reason) == (None, UNRESOLVED_LINK)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_shard_that_changes_while_it_is_read_is_an_error(pack):
    class Changing(io.BytesIO):
        def seek(self, offset, whence=0):
            if self.tell() > 512 and offset <= 512 and whence == 0:
                self.truncate(600)
            return super().seek(offset, whence)

    data = pack(linked_tar([("a.jpg", random.Random(1).randbytes(9000)), ("b.jpg", HARD, "a.jpg")]))
    with pytest.raises(OSError, match="it changed while it was read"):
        list(read_samples(Changing(data), Shard(0, "s.tar", len(data))))


# --- from the shard to the output


@pytest.fixture(params=[bytes, gzip.compress], ids=["plain", "gzip"], scope="module")
def curated(request, tmp_path_factory):
    """A run over a shard of ten pictures, five of which are links to earlier ones, in no order; their captions likewise."""
    folder = tmp_path_factory.mktemp("links")
    pictures = [encoded(photo(number)) for number in range(5)]
    members = []
    for number in range(10):
        if number < 5:
            members += [(f"{number}.jpg", pictures[number]), (f"{number}.txt", b"caption %d" % number)]
        else:
            members += [(f"{number}.jpg", HARD, f"{9 - number}.jpg"), (f"{number}.txt", SYMBOLIC, "3.txt")]
    (folder / "a.tar").write_bytes(request.param(linked_tar(members)))
    summary, rows = torture.run(folder / "a.tar", folder / "out")
    return folder, pictures, summary, rows


def contents(path):
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isreg()}


def test_linked_samples_are_written_as_files(curated):
    folder, pictures, summary, rows = curated
    assert summary["funnel"]["kept"] == 10
    assert [row["key"] for row in rows] == [str(number) for number in range(10)]
    expected = {f"{number}.jpg": pictures[number if number < 5 else 9 - number] for number in range(10)}
    expected |= {f"{number}.txt": b"caption %d" % (number if number < 5 else 3) for number in range(10)}
    found = contents(folder / "out" / "00000.tar")
    assert found == expected
    assert list(found) == [f"{number}.{suffix}" for number in range(10) for suffix in ("jpg", "txt")]
    assert [row["caption"] for row in rows] == [f"caption {number if number < 5 else 3}" for number in range(10)]
    table = pq.read_table(folder / "out" / "scores")
    assert table["links"].to_pylist() == [None] * 5 + [[f"{number}.jpg", "3.txt"] for number in (4, 3, 2, 1, 0)]


def packed(folder, order, output):
    """Writes an output shard of the rows in this order."""
    part = read_part_counts(str(folder / "out"), "scores/part-00000.parquet")
    placed = [PlacedRows(0, part.path, first=rank, count=1, start=place) for place, rank in enumerate(order)]
    rows = Meeting(TableRows(str(folder / "out"))).rows(placed)
    write_file(CopiedTars(), str(output), 0, rows)
    return rows


@pytest.mark.parametrize("order", [list(range(10)), [7, 1, 9, 0, 3, 8, 2, 5, 4, 6]], ids=["in_order", "shuffled"])
def test_the_source_is_read_forward_once(curated, order, tmp_path, monkeypatch):
    folder, _, _, _ = curated
    starts = []
    start = SourceReader._start
    monkeypatch.setattr(SourceReader, "_start", lambda reader, path: (starts.append(path), start(reader, path)))
    monkeypatch.setattr(SourceReader, "_look_closer", None)  # it would read the whole shard
    rows = packed(folder, order, tmp_path)
    assert contents(tmp_path / "00000.tar") == contents(folder / "out" / "00000.tar")
    assert len(starts) == 1
    whole = sum(member["size"] for row in rows["members"].to_pylist() for member in row)
    linked = sum(member["size"] for row in rows.to_pylist() if row["links"] for member in row["members"])
    assert held_bytes(rows) == (linked if order == sorted(order) else whole)


def test_a_caption_that_is_another_file_now_is_noticed(curated, tmp_path):
    folder, _, _, _ = curated
    before = (folder / "a.tar").read_bytes()
    plain = before if before[257:262] == b"ustar" else gzip.decompress(before)
    at = plain.index(b"3.txt")
    renamed = bytearray(plain)
    renamed[at : at + 1] = b"8"
    renamed[at + 148 : at + 156] = b"%06o\0 " % (
        sum(renamed[at : at + 148]) + sum(renamed[at + 156 : at + 512]) + 8 * 32
    )
    (folder / "a.tar").write_bytes(bytes(renamed) if before is plain else gzip.compress(renamed))
    try:
        with pytest.raises(SourceChangedError, match=r"was a member '3.txt' of 9 bytes, and is '8.txt'"):
            packed(folder, list(range(5, 10)), tmp_path)
    finally:
        (folder / "a.tar").write_bytes(before)


def test_linked_pictures_are_hashed_and_shown(curated, tmp_path, monkeypatch):
    folder, _, _, _ = curated
    starts = []
    start = SourceReader._start
    monkeypatch.setattr(SourceReader, "_start", lambda reader, path: (starts.append(path), start(reader, path)))
    rows = pq.read_table(folder / "out" / "scores").select(image_hashes.COLUMNS)
    made = image_hashes.make_hashes(str(tmp_path), "hashes.parquet", rows, 1 << 20, 1)
    assert made["pixels"].null_count == 0
    hashes = image_hashes.read_hashes(str(tmp_path), "hashes.parquet")["pixels"].to_pylist()
    assert hashes[5:] == hashes[4::-1]
    assert len(set(hashes)) == 5
    page = pathlib.Path(write_report(str(folder / "out"))).read_text()
    assert page.count("data:image/jpeg") >= 10
    assert "No picture" not in page
    assert len(starts) == 2
