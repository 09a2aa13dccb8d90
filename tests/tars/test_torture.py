"""Hostile shards and images through the whole pipeline: rows = samples, good neighbours kept, bounds held.

A sample of the reference assets; `tests_faults/test_torture_all.py` takes all of them.
"""

import gzip
import itertools
import resource
import struct
import tarfile
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_curate import reasons
from beam_curate.images import opening
from beam_curate.images.decoding import DECODERS, DecodeOptions, ImageError, decode_image
from beam_curate.tars import samples
from beam_curate.tars.headers import BLOCK
from tests.conftest import encoded, photo, tar_bytes
from tests.support import forked, torture

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest takes back the filter that the module sets
OPTIONS = DecodeOptions(size=torture.SIZE, decoder="pillow")


def sweep_images(paths, folder, decoder):
    """Every image as .jpg and under its own extension, between good ones; returns how many Pillow decodes."""
    (folder / "in").mkdir(parents=True)
    good, expected = {}, []
    for shard in range(0, len(paths), 30):
        members = []
        for place, path in enumerate(paths[shard : shard + 30], shard):
            suffix, data = torture.good(place)
            good[f"{place:04d}-good.{suffix}"] = data
            bad = path.read_bytes()
            members += [(f"{place:04d}-good.{suffix}", data), (f"{place:04d}-jpg.jpg", bad)]
            members += [(f"{place:04d}-own.{path.suffix[1:] or 'none'}", bad)]
        suffix, data = torture.good(shard)
        good[f"{shard:04d}-last.{suffix}"] = data
        members.append((f"{shard:04d}-last.{suffix}", data))
        expected += [name.split(".")[0] for name, _ in members]
        (folder / "in" / f"{shard:05d}.tar").write_bytes(tar_bytes(members))
    summary, rows = torture.run(folder / "in" / "*.tar", folder / "out", decoder)
    torture.check_run(summary, rows)
    assert [row["key"] for row in rows] == expected
    written = torture.written(folder / "out")
    assert {name: written.get(name) for name in good} == good
    by_key = {row["key"]: row for row in rows}
    decodable = 0
    for place, path in enumerate(paths):
        data = path.read_bytes()
        decodes = torture.decodes(path)
        decodable += decodes
        assert (by_key[f"{place:04d}-jpg"]["status"] == "kept") == decodes, path.name
        own = by_key[f"{place:04d}-own"]
        assert own["reason"] == reasons.NO_IMAGE or (own["status"] == "kept") == decodes, path.name
        for name in (f"{place:04d}-jpg.jpg", f"{place:04d}-own{path.suffix or '.none'}"):
            assert written.get(name, data) == data
    return decodable


@pytest.mark.parametrize("decoder", DECODERS)
def test_torture_images(assets, tmp_path, decoder):
    paths = sorted((assets / "torture_images").iterdir())[::10]
    assert 20 < sweep_images(paths, tmp_path, decoder) < len(paths)


def good_shard(number):
    """A shard of four good samples with captions, and its members."""
    members = {}
    for place in range(4):
        suffix, data = torture.good(number + place)
        members[f"s{number:04d}/{place}.{suffix}"] = data
        members[f"s{number:04d}/{place}.txt"] = b"caption"
    return tar_bytes(list(members.items())), members


def sweep_tars(shards, folder):
    """Hostile shards between good ones: all rows there, and the good shards' samples all kept; returns the rows."""
    (folder / "in").mkdir(parents=True)
    good = {}
    for number, data in enumerate(shards):
        sound, members = good_shard(number)
        good |= members
        (folder / "in" / f"{number:04d}-a.tar").write_bytes(sound)
        (folder / "in" / f"{number:04d}-b.tar").write_bytes(data)
    summary, rows = torture.run(folder / "in" / "*.tar", folder / "out", max_shard_bytes=1 << 28)
    torture.check_run(summary, rows)
    assert summary["input_shards"] == 2 * len(shards)
    written = torture.written(folder / "out")
    assert {name: written.get(name) for name in good} == good
    found = [[row for row in rows if row["shard_index"] == 2 * number + 1] for number in range(len(shards))]
    for data, part in zip(shards, found, strict=True):
        alone = torture.check_shard(data, max_shard_bytes=1 << 28)
        assert [row["key"] for row in part] == [sample.ref.key for sample in alone]
    return rows


def test_torture_tars(assets, tmp_path):
    paths = sorted((assets / "torture_tars").iterdir())[::4]
    assert len(paths) > 20
    sweep_tars([path.read_bytes() for path in paths], tmp_path)


def _shard(count=6):
    members = []
    for place in range(count):
        suffix, data = torture.good(place)
        members += [(f"{place:03d}.{suffix}", data), (f"{place:03d}.txt", b"text %d" % place)]
    return tar_bytes(members)


def outcomes(found):
    return [(sample.ref.key, sample.data, sample.ref.caption, sample.failure) for sample in found]


def check_truncations(data, cuts):
    """A tar cut anywhere: the samples that lie before the cut are as they were."""
    whole = torture.check_shard(data)
    for cut in cuts:
        found = outcomes(torture.check_shard(data[:cut]))
        before = [s for s in whole if max((m.offset + m.size for m in s.ref.members), default=0) <= cut - BLOCK]
        # The last of them may have lost a member to the cut.
        assert found[: len(before) - 1] == outcomes(before)[:-1], cut


def check_flips(data, flips):
    """A flipped byte in a header: all samples but the one hit and its neighbours are as they were."""
    whole = torture.check_shard(data)
    for offset, place, bit in flips:
        damaged = bytearray(data)
        damaged[offset + place] ^= 1 << bit
        found = outcomes(torture.check_shard(bytes(damaged)))
        near = {n for n, s in enumerate(whole) for m in s.ref.members if m.offset - BLOCK == offset}
        spared = [s for n, s in enumerate(whole) if all(abs(n - hit) > 1 for hit in near)]
        assert [row for row in outcomes(spared) if row not in found] == [], (offset, place, bit)


def check_compressed(data, places):
    """A compressed shard cut or flipped anywhere gives rows; what decompresses before the spot is as it was."""
    for pack, unpack in ((gzip.compress, lambda: zlib.decompressobj(31)),
                         (zstandard.compress, lambda: zstandard.ZstdDecompressor().decompressobj())):  # fmt: skip
        packed = pack(data)
        whole = torture.check_shard(packed)
        for place in places:
            cut = place % len(packed)
            flipped = bytearray(packed)
            flipped[cut] ^= 0x10
            reached = len(unpack().decompress(packed[:cut]))
            before = [s for s in whole if max((m.offset + m.size for m in s.ref.members), default=0) <= reached]
            for damaged in (packed[:cut], bytes(flipped)):
                found = outcomes(torture.check_shard(damaged, max_shard_bytes=1 << 26))
                assert found[: max(0, len(before) - 1)] == outcomes(before)[:-1], cut


def test_every_kind_of_damage_costs_what_it_touches():
    data = _shard()
    check_truncations(data, range(0, len(data), 397))
    headers = torture.header_offsets(data)
    check_flips(data, itertools.product(headers[::3], (0, 100, 124, 130, 148, 156, 257, 400), (0, 6)))
    check_compressed(data, range(0, len(data) // 2, 997))


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_shards_are_read_and_decoded_to_rows(decoder, data):
    """Bytes of a shard changed, removed and doubled, headers, images and all."""
    shard = bytearray(_shard(3))
    for _ in range(data.draw(st.integers(1, 6))):
        if not shard:
            break
        place, size = data.draw(st.integers(0, len(shard) - 1)), data.draw(st.sampled_from([1, 2, 16, 511, 512, 700]))
        how = data.draw(st.sampled_from(["flip", "cut", "double", "fill", "end"]))
        piece = shard[place : place + size]
        shard[place : place + size] = {
            "flip": bytes(byte ^ 0x41 for byte in piece),
            "cut": b"",
            "double": piece + piece,
            "fill": data.draw(st.sampled_from([b"\0", b"\xff", b"7"])) * len(piece),
            "end": piece,
        }[how]
        if how == "end":
            del shard[max(place, 1) :]
    pack = data.draw(st.sampled_from([bytes, gzip.compress, zstandard.compress]))
    torture.check_shard(pack(bytes(shard)), options=DecodeOptions(size=torture.SIZE, decoder=decoder))


# --- bounds


def lossless():
    """A lossless JPEG (start of frame 3), 256 x 256 grey, all of one value, from the tables of the standard's kind."""
    frame = b"\xff\xc3" + struct.pack(">HBHHB3B", 11, 8, 256, 256, 1, 1, 0x11, 0)
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0) + bytes([1] + [0] * 15) + b"\0"
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + frame + table + scan + bytes(256 * 256 // 8) + b"\xff\xd9"


def decode_lossless_jpegs():
    for _ in range(50):
        decode_image(lossless(), DecodeOptions(size=8, decoder="scaled"))


def test_lossless_jpegs_are_not_decoded_at_a_fraction(limited):
    """libjpeg-turbo has no fractions for them: it writes the whole image where simplejpeg made room for a part."""
    data = lossless()
    assert torture.pillow_decodes(data)
    _, reference = decode_image(data, DecodeOptions(size=8, decoder="pillow"))
    for decoder in ("fast", "scaled"):
        assert (decode_image(data, DecodeOptions(size=8, decoder=decoder))[1] == reference).all()
    # What was written beyond the room is not seen at once, but ends the process sooner or later.
    limited("decode_lossless_jpegs", 1000, 120)


def test_colours_at_a_quarter_of_the_height_are_left_to_pillow():
    """4:4:1, which simplejpeg has no name for."""
    data = bytearray(encoded(photo(3, 96, 96), "JPEG", subsampling=0, quality=90))
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x11
    data[frame + 11] = 0x14
    results = []
    for decoder in ("pillow", "fast", "scaled"):
        try:
            results.append(decode_image(bytes(data), DecodeOptions(size=8, decoder=decoder))[1].astype(int))
        except ImageError as error:
            results.append((error.reason, error.message))
    if isinstance(results[0], tuple):
        assert results[1:] == results[:1] * 2
    else:  # torch's kernel resizes what Pillow decoded
        assert max(abs(other - results[0]).max() for other in results[1:]) <= 2


def packed_zeros(count):
    """What zlib makes of so many millions of zeros, made of one million: each is packed as if none were before."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    further = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (count * 10**6 % 65521) << 16 | 1
    return first + further * (count - 1) + b"\3\0" + struct.pack(">I", checksum)


def test_packed_zeros():
    assert zlib.decompress(packed_zeros(3)) == bytes(3 * 10**6)


def directory_bomb(tags=60_000, size=1_000_000):
    """A TIFF whose entries all name the same bytes: 60 GB of values in 1.7 MB."""
    place = 8 + 2 + 12 * tags + 4
    entries = b"".join(struct.pack("<HHLL", 1000 + tag, 2, size, place) for tag in range(tags))
    return b"II*\0" + struct.pack("<LH", 8, tags) + entries + bytes(4) + b"A" * size


def number_bomb(count=2_000_000):
    """A TIFF directory with an array of fractions, each of which becomes an object."""
    return b"II*\0" + struct.pack("<LHHHLLL", 8, 1, 33000, 5, count, 26, 0) + b"\1\0\0\0\2\0\0\0" * count


def png(width, height, data=b"", extra=()):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def image_bombs():
    """Name, bytes, and the reason expected (empty: it is decoded)."""
    side = 40_000
    gif = (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;"
    )
    webp_header = b"VP8L" + struct.pack("<IBI", 5, 0x2F, 16383 | 16383 << 14)
    webp = b"RIFF" + struct.pack("<I", 4 + len(webp_header) + 1) + b"WEBP" + webp_header + b"\0"
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (273, 8), (277, 1), (278, side), (279, 10)]
    tiff = b"II*\0" + struct.pack("<LH", 8, len(tags)) + b"".join(struct.pack("<HHLL", t, 4, 1, v) for t, v in tags)
    good = photo(1, 64, 48)
    return [
        ("png", png(side, side, zlib.compress(bytes(10**6))), reasons.TOO_MANY_PIXELS),
        ("gif", gif, reasons.TOO_MANY_PIXELS),
        ("webp", webp, reasons.TOO_MANY_PIXELS),
        ("tiff", tiff + bytes(4), reasons.TOO_MANY_PIXELS),
        ("qoi", b"qoif" + struct.pack(">IIBB", 13_000, 13_000, 4, 0) + b"\xfd" * 2_800_000, reasons.TOO_MANY_PIXELS),
        ("text", png(8, 8, zlib.compress(bytes(72)), [(b"zTXt", b"a\0\0" + packed_zeros(1000))]), None),
        ("directory", directory_bomb(), None),
        ("numbers", number_bomb(), None),
        ("exif", png(8, 8, zlib.compress(bytes(72)), [(b"eXIf", directory_bomb())]), ""),
        ("exif numbers", png(8, 8, zlib.compress(bytes(72)), [(b"eXIf", number_bomb())]), ""),
        ("webp exif", encoded(good, "WEBP", exif=directory_bomb()), ""),
        ("avif exif", encoded(good, "AVIF", exif=directory_bomb()), ""),
    ]


_FORKING = """
import os, resource, sys, traceback
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), 2)
from tests.tars import test_torture

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

for line in sys.stdin:
    action, seconds = line.split()
    if not (child := os.fork()):
        try:
            start = peak()
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
            getattr(test_torture, action)()
            print("used", peak() - start, flush=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Runs an action of this module in a process of its own, which ends if it takes more time or memory.

    Each is forked from one that has loaded this module: an action alone counts, and the module is loaded once.
    """
    log = tmp_path_factory.mktemp("limited") / "log"
    log.touch()
    process = forked.Forked(_FORKING, str(log))

    def run(action, megabytes, seconds):
        process.stdin.write(f"{action} {seconds}\n")
        process.stdin.flush()
        words = process.stdout.readline().split()
        if words[:1] == ["used"]:
            used, words = int(words[1]), process.stdout.readline().split()
        assert words == ["ended", "0"], log.read_text()[-3000:]
        assert used < megabytes, f"{action} took {used} MB"

    yield run
    assert process.close() == 0


def hold_300_megabytes():
    held = b"a" * (300 << 20)
    assert len(held) == 300 << 20


def take_time():
    for number in itertools.count():
        assert number >= 0


def test_what_takes_too_much_is_found(limited):
    with pytest.raises(AssertionError, match=r"hold_300_megabytes took 3\d\d MB"):
        limited("hold_300_megabytes", 200, 120)
    with pytest.raises(AssertionError):
        limited("take_time", 200, 1)
    with pytest.raises(AssertionError, match="no_such_action"):
        limited("no_such_action", 200, 120)
    limited("hold_300_megabytes", 400, 120)


def decode_bombs():
    # Memory above what the bombs themselves need: a limit on the address space would stop torch, so the peak is asked.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    for name, data, reason in image_bombs():
        try:
            decode_image(data, OPTIONS)
            found = ""
        except ImageError as error:
            torture.check_failure("decode", error.reason, error.message)
            found = error.reason
        assert reason is None or found == reason, (name, found)


def test_image_bombs_are_bounded(limited):
    limited("decode_bombs", 600, 120)


def member(size, kind=b"0", name="bomb.bin"):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def bomb_stream(gigabytes):
    """The pieces of a tar with a member of zeros, for a compressor."""
    image = torture.GOOD[0]
    yield tar_bytes([("a.jpg", image)])[:-1024].rstrip(b"\0").ljust(BLOCK * (1 + -(-len(image) // BLOCK)), b"\0")
    yield member(gigabytes << 30)
    zeros = bytes(1 << 24)
    for _ in range(gigabytes << 6):
        yield zeros


def gzip_bomb(gigabytes):
    """It lacks its end: no reader may come so far. What packs zeros once packs them again, as if none were before."""
    packer = zlib.compressobj(9, wbits=31)
    pieces = itertools.islice(bomb_stream(gigabytes), 4)
    first = [packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH) for piece in pieces]
    return b"".join(first) + first[-1] * ((gigabytes << 6) - 2)


def zstd_bomb(gigabytes):
    """Its blocks are alike too; it has its end."""
    packer = zstandard.ZstdCompressor().compressobj()
    pieces = itertools.islice(bomb_stream(gigabytes), 4)
    first = [packer.compress(piece) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces]
    return b"".join(first) + first[-1] * ((gigabytes << 6) - 2) + packer.flush()


def read_compressed_bombs():
    for bomb in (gzip_bomb(1), zstd_bomb(10)):
        found = torture.check_shard(bomb, max_shard_bytes=1 << 28)
        assert [(s.ref.key, s.failure and s.failure.reason) for s in found] == [
            ("a", None),
            ("bomb", reasons.SHARD_TOO_LARGE),
            ("", reasons.SHARD_TOO_LARGE),
        ]


def read_lying_tars():
    good = tar_bytes([("z.jpg", torture.GOOD[0])])
    first = tar_bytes([("a.jpg", torture.GOOD[0])])
    first = first[: BLOCK * (1 + -(-len(torture.GOOD[0]) // BLOCK))]
    for size in (1 << 40, 1 << 60, (1 << 88) - 1):
        lies = first + member(size) + good
        assert torture.check_shard(lies)[0].ref.key == "a"
        torture.check_shard(lies, seekable=True)
    for kind in (b"x", b"g", b"L", b"K", b"X"):
        found = torture.check_shard(first + member(1 << 30, kind) + good)
        assert found[0].ref.key == "a"
        torture.check_shard(gzip.compress(first + member(1 << 26, kind) + bytes(1 << 26) + good))
    chain = (member(512, b"L") + b"n" * 512) * 30_000
    assert torture.check_shard(first + chain + good)[0].ref.key == "a"
    record = b"511 path=" + b"p" * 501 + b"\n\0"
    torture.check_shard(first + (member(511, b"x") + record) * 30_000 + good)
    sparse = bytearray(member(1 << 40, b"S", "s.jpg"))
    sparse[482] = 1  # more blocks of the sparse map follow, all of which say the same
    torture.check_shard(first + bytes(sparse) + (bytes(504) + b"\1" + bytes(7)) * 20_000)


def empty_members(names):
    """A header each, as `member` gives them: of one, with other names and their checksums."""
    first = member(0, b"0", "")
    rest = sum(first[:148]) + 8 * ord(" ") + sum(first[156:])
    for name in map(str.encode, names):
        yield name.ljust(100, b"\0") + first[100:148] + b"%06o\0 " % (rest + sum(name)) + first[156:]


def test_empty_members():
    assert list(empty_members(["a.jpg", "b.1"])) == [member(0, b"0", "a.jpg"), member(0, b"0", "b.1")]


def read_many_members():
    one = empty_members(f"{number:06d}.jpg" for number in range(100_000))
    found = torture.check_shard(b"".join(one) + bytes(1024))
    assert len(found) == 100_000
    many = empty_members(f"a.{number}" for number in range(100_000))
    (sample, last) = torture.check_shard(b"".join(many) + tar_bytes([("z.jpg", torture.GOOD[0])]))
    assert sample.failure.reason == reasons.TOO_MANY_MEMBERS
    assert last.failure is None


@pytest.mark.parametrize(
    ("action", "megabytes", "seconds"),
    [("read_compressed_bombs", 200, 120), ("read_lying_tars", 200, 120), ("read_many_members", 600, 120)],
)
def test_shard_bombs_are_bounded(limited, action, megabytes, seconds):
    limited(action, megabytes, seconds)


def test_a_shard_of_too_many_samples_ends(monkeypatch):
    monkeypatch.setattr(samples, "MAX_SAMPLES", 3)
    found = torture.check_shard(_shard())
    assert [s.failure and s.failure.reason for s in found] == [None] * 3 + [reasons.SHARD_TOO_LARGE] * 2


def test_slow_encodings_have_a_lower_limit(monkeypatch):
    data = b"P2 64 64 255\n" + b"7 " * 64 * 64
    assert decode_image(data, OPTIONS)[0].width == 64
    monkeypatch.setattr(opening, "MAX_SLOW_PIXELS", 64 * 64 - 1)
    with pytest.raises(ImageError, match="4096 pixels, the limit for this slow encoding is 4095"):
        decode_image(data, OPTIONS)
    decode_image(encoded(photo(1, 64, 65)), OPTIONS)


def test_all_members_of_a_sample_are_bounded():
    """They are held in memory together when the sample is written."""
    small = torture.GOOD[0]
    limit = len(small)
    for rest in ([("a.npy", bytes(7 * limit + 1))], [(f"a.{number}", small) for number in range(8)]):
        found = torture.check_shard(tar_bytes([("a.jpg", small), *rest, ("b.jpg", small)]), max_member_bytes=limit)
        assert [s.failure and s.failure.reason for s in found] == [reasons.MEMBER_TOO_LARGE, None]
    found = torture.check_shard(tar_bytes([("a.jpg", small), ("a.npy", bytes(7 * limit))]), max_member_bytes=limit)
    assert found[0].failure is None


def test_a_shard_limit_holds_in_the_pipeline(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar.gz").write_bytes(gzip.compress(_shard()))
    (tmp_path / "in" / "b.tar").write_bytes(_shard())
    summary, rows = torture.run(tmp_path / "in" / "*", tmp_path / "out", max_shard_bytes=4000)
    torture.check_run(summary, rows)
    assert summary["funnel"]["reasons"][reasons.SHARD_TOO_LARGE] >= 1
    assert sum(row["status"] == "kept" for row in rows if row["shard_index"] == 1) == 6
