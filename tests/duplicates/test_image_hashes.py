"""Hashes of decoded images."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_curate.duplicates import image_hashes
from beam_curate.duplicates.image_hashes import hash_image, make_hashes, perceptual_hashes
from tests.conftest import encoded, photo, tar_bytes


def rows_of(path, seeds):
    """A shard of photographs, and the columns of their rows that hashing reads."""
    images = [encoded(photo(seed)) for seed in seeds]
    path.write_bytes(tar_bytes([(f"{place}.jpg", image) for place, image in enumerate(images)]))
    rows, offset = [], 512
    for place, image in enumerate(images):
        member = {"suffix": "jpg", "offset": offset, "size": len(image)}
        rows.append({"key": str(place), "shard": str(path), "image": "jpg", "members": [member]})
        rows[-1]["sha256"] = hashlib.sha256(image).hexdigest()
        offset += 512 + -(-len(image) // 512) * 512
    return pa.Table.from_pylist(rows)


def test_hashes_that_are_there_are_taken_for_the_same_images_alone(tmp_path, monkeypatch):
    """Other images of as many rows, fewer rows, and a file of another version are hashed again."""
    rows, others = rows_of(tmp_path / "a.tar", range(3)), rows_of(tmp_path / "b.tar", range(10, 13))
    hashed = []
    monkeypatch.setattr(image_hashes, "hash_image", lambda data, most: hashed.append(data) or hash_image(data, most))

    def made(some):
        before = len(hashed)
        found = make_hashes(str(tmp_path), "hashes.parquet", some, 1 << 20, 1)
        return found["perceptual"].to_pylist(), len(hashed) - before

    first, number = made(rows)
    assert number == 3
    assert made(rows) == (first, 0)
    second, number = made(others)
    assert number == 3
    assert not set(second) & set(first)
    assert made(rows.slice(0, 2)) == (first[:2], 2)
    old = pq.read_table(tmp_path / "hashes.parquet").drop_columns(["sha256"])
    pq.write_table(old, tmp_path / "hashes.parquet")
    assert made(rows.slice(0, 2)) == (first[:2], 2)


class TestImageHashes:
    def test_equal_pixels_in_other_files(self):
        from io import BytesIO

        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))

        def encoded(form, **options):
            stream = BytesIO()
            image.save(stream, form, **options)
            return stream.getvalue()

        hashes = [hash_image(encoded("PNG"), 10**6), hash_image(encoded("PNG", compress_level=1), 10**6),
                  hash_image(encoded("WEBP", lossless=True), 10**6), hash_image(encoded("JPEG"), 10**6)]  # fmt: skip
        assert hashes[0] == hashes[1] == hashes[2]
        assert hashes[3].pixels != hashes[0].pixels

    def test_a_photo_and_its_copies(self):
        from skimage import data

        photo = Image.fromarray(data.astronaut())
        value, mirror = perceptual_hashes(photo)
        smaller, _ = perceptual_hashes(photo.resize((200, 200), Image.Resampling.LANCZOS))
        mirrored, twice = perceptual_hashes(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert (value ^ smaller).bit_count() <= 4
        assert (value ^ mirrored).bit_count() > 16
        assert (mirror ^ mirrored).bit_count() <= 2
        assert (twice ^ value).bit_count() <= 2

    def test_the_hash_is_that_of_the_package(self):
        import imagehash

        photo = Image.fromarray(np.random.default_rng(3).integers(0, 255, (90, 70, 3), np.uint8))
        assert f"{perceptual_hashes(photo)[0]:016x}" == str(imagehash.phash(photo))
