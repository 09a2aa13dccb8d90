"""Hashes of decoded images."""

import numpy as np
from PIL import Image

from beam_curate.duplicates.image_hashes import hash_image, perceptual_hashes


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
