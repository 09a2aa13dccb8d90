"""Quality scores: what each says of made images, and that it is a number for any image."""

import io
import math
import runpy
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from beam_curate.images.decoding import DecodeOptions, decode_image, image_facts
from beam_curate.records import ImageFacts
from beam_curate.runs.score_table import _FIXED_COLUMNS
from beam_curate.scores.quality import QUALITY, check_quality, quality_scores
from tests.conftest import ROOT, encoded, photo

FACTS = ImageFacts(640, 480, "JPEG", "", 61_440, frames=1)
SIDE = 224


def noise(seed=0, height=SIDE, width=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(*colour, height=SIDE, width=SIDE):
    return np.full((height, width, 3), colour, np.uint8)


def score(name, pixels, facts=FACTS):
    return quality_scores([name], pixels, facts)[name]


def detailed():
    """A photograph-like picture with fine detail."""
    levels = np.asarray(photo(3, SIDE, SIDE), float) * 0.7 + noise(4) * 0.3
    return Image.fromarray(levels.astype(np.uint8))


def test_the_registry_names_its_columns_and_none_of_the_score_tables():
    assert all(name == quality.name for name, quality in QUALITY.items())
    assert not QUALITY.keys() & {name for name, _ in _FIXED_COLUMNS}
    for quality in QUALITY.values():
        assert quality.description
        assert quality.source
        for limit in (quality.suggested_min, quality.suggested_max):
            assert limit is None or quality.low < limit < quality.high


@pytest.mark.parametrize(
    ("width", "height", "ratio"), [(640, 480, 4 / 3), (480, 640, 4 / 3), (7, 7, 1), (1, 5000, 5000)]
)
def test_aspect_ratio_is_longer_by_shorter(width, height, ratio):
    assert score("aspect_ratio", None, ImageFacts(width, height, "PNG", "", 9)) == ratio


def test_bytes_per_pixel_is_of_the_original_image():
    assert score("bytes_per_pixel", noise()) == 0.2


def test_frames_tell_what_moves():
    pictures = [photo(seed, 60, 50) for seed in range(3)]
    still, moving = (encoded(pictures[0], "GIF", save_all=True, append_images=more) for more in ([], pictures[1:]))
    found = [score("frames", None, image_facts(data, DecodeOptions())) for data in (still, moving)]
    assert found == [1.0, 3.0]
    assert found[0] < QUALITY["frames"].suggested_max < 2


def test_what_is_not_known_is_nan():
    unknown = ImageFacts(0, 0, "", "", 0)
    scores = quality_scores(list(QUALITY), None, unknown)
    assert list(scores) == list(QUALITY)
    assert all(map(math.isnan, scores.values()))
    assert math.isnan(score("bytes_per_pixel", None, ImageFacts(5, 5, "PNG", "", 0)))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_a_flat_image_has_neither_detail_nor_information(colour):
    scores = quality_scores(["sharpness", "entropy", "border"], flat(*colour), FACTS)
    assert scores == {"sharpness": 0.0, "entropy": 0.0, "border": 1.0}


def test_sharpness_is_the_variance_of_the_laplacian_of_what_pillow_calls_grey():
    pixels = noise(1, 20, 30)
    grey = np.asarray(Image.fromarray(pixels).convert("L")).astype(float)
    laplacian = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 19)
        for x in range(1, 29)
    ]
    assert score("sharpness", pixels) == pytest.approx(np.var(laplacian), rel=1e-12)


def test_blur_lowers_sharpness_step_by_step():
    radii = (0, 0.5, 1, 2, 4, 8)
    values = [score("sharpness", np.asarray(detailed().filter(ImageFilter.GaussianBlur(radius)))) for radius in radii]
    assert all(more > less for more, less in zip(values[:-1], values[1:], strict=True))


def test_sharpness_is_of_the_scale_of_the_model_not_of_the_file():
    large = Image.fromarray(noise(5, 32, 32)).resize((2048, 2048), Image.Resampling.BICUBIC)
    halves = [large, large.resize((1024, 1024), Image.Resampling.LANCZOS)]
    values = [score("sharpness", decode_image(encoded(image, "PNG"), DecodeOptions())[1]) for image in halves]
    assert values[0] == pytest.approx(values[1], rel=0.02)


@pytest.mark.parametrize(("level", "brightness"), [(0, 0.0), (51, 0.2), (255, 1.0)])
def test_brightness_and_its_percentiles_of_one_grey(level, brightness):
    names = ["brightness", "brightness_p5", "brightness_p99"]
    assert list(quality_scores(names, flat(level, level, level), FACTS).values()) == [brightness] * 3


def test_brightness_weighs_colours_as_the_eye():
    red, green, blue = (score("brightness", flat(*colour)) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert (red, green, blue) == pytest.approx((0.299, 0.587, 0.114), abs=0.002)


def test_percentiles_are_levels_that_so_many_pixels_do_not_exceed():
    pixels = flat(0, 0, 0, height=10, width=10)
    pixels.reshape(100, 3)[5:] = 102  # 5 of 100 are black
    assert score("brightness_p5", pixels) == 0.0
    assert score("brightness_p99", pixels) == 0.4
    pixels[0, 4] = 102  # now 4
    assert score("brightness_p5", pixels) == 0.4
    pixels[9, 9] = 255  # 1 of 100 is white, 2 are more than the rest
    assert score("brightness_p99", pixels) == 0.4
    pixels[9, 8] = 255
    assert score("brightness_p99", pixels) == 1.0


def test_entropy_counts_bits():
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    assert score("entropy", ramp) == 8.0
    assert score("entropy", ramp // 128 * 255) == 1.0


@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"), [(0, 0, 0, 0), (20, 30, 0, 0), (0, 0, 50, 0), (10, 10, 10, 10), (0, 7, 3, 99)]
)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 130, 250)])
def test_border_is_the_share_of_the_frame(top, bottom, left, right, colour):
    pixels = flat(*colour)
    inside = noise(2, SIDE - top - bottom, SIDE - left - right)
    pixels[top : SIDE - bottom, left : SIDE - right] = inside
    assert score("border", pixels) == pytest.approx(1 - inside.size / pixels.size)


def test_border_stands_compression_and_resizing_and_specks():
    page = Image.new("RGB", (800, 800), (20, 180, 60))
    page.paste(detailed().resize((800, 600)), (0, 100))
    pixels = decode_image(encoded(page, quality=60), DecodeOptions())[1].copy()
    pixels[3, 40:43] = 255
    assert score("border", pixels) == pytest.approx(0.25, abs=0.02)


def test_border_is_of_one_colour():
    stripes = noise(6)
    stripes[::2, :], stripes[1::2, :] = 0, 255  # lines of one colour each, of which only the outermost are a border
    assert score("border", stripes) == pytest.approx(2 / SIDE)
    same_luma = noise(6)
    same_luma[:20] = np.where(np.arange(SIDE)[:, None] % 2, (255, 0, 0), (0, 130, 0))
    assert score("border", same_luma) == 0.0
    two = noise(6)
    two[:56], two[-56:] = (0, 0, 0), (255, 255, 255)
    assert score("border", two) == 0.5


def test_grey_has_no_colour_and_colourfulness_is_that_of_the_paper():
    grey = np.repeat(noise()[..., :1], 3, axis=2)
    assert quality_scores(["colourfulness", "chroma_p99"], grey, FACTS) == {"colourfulness": 0.0, "chroma_p99": 0.0}
    red, green, blue = np.moveaxis(noise(7).astype(float), 2, 0)
    rg, yb = red - green, 0.5 * (red + green) - blue
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert score("colourfulness", noise(7)) == pytest.approx(expected, rel=1e-12)


def test_chroma_tells_a_compressed_grey_image_from_one_with_a_little_colour():
    buffer = io.BytesIO()
    detailed().convert("L").convert("RGB").save(buffer, "JPEG", quality=50)
    grey = decode_image(buffer.getvalue(), DecodeOptions())[1].copy()
    limit = QUALITY["chroma_p99"].suggested_min
    grey[0, 0] = (255, 0, 0)  # a hot pixel
    assert score("chroma_p99", grey) < limit
    grey[:40, :40] = (200, 150, 150)
    assert score("chroma_p99", grey) == 50


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_every_score_of_any_image_is_within_its_bounds(pixels):
    for name, value in quality_scores(list(QUALITY), pixels, FACTS).items():
        assert type(value) is float
        assert QUALITY[name].low <= value <= QUALITY[name].high


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (2, 3)])
def test_images_of_extreme_sizes_have_scores(size):
    scores = quality_scores(list(QUALITY), decode_image(encoded(photo(1, *size), "PNG"), DecodeOptions())[1], FACTS)
    assert all(map(math.isfinite, scores.values()))
    assert all(map(math.isfinite, quality_scores(list(QUALITY), noise(1, *size), FACTS).values()))


def test_bounds_are_reached():
    red_and_green = np.zeros((10, 100, 3), np.uint8)
    red_and_green[:, :65, 0] = red_and_green[:, 65:, 1] = 255
    red_and_green[::2, :, 2] = 255
    assert 0.99 * QUALITY["colourfulness"].high < score("colourfulness", red_and_green) <= QUALITY["colourfulness"].high
    rows, columns = np.indices((101, 101))
    board = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert 0.99 * QUALITY["sharpness"].high < score("sharpness", board) <= QUALITY["sharpness"].high


def test_scores_asked_alone_together_and_of_read_only_views_are_the_same_bits():
    pixels = np.asarray(detailed())
    together = quality_scores(list(QUALITY), pixels, FACTS)
    read_only = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)
    strided = np.stack([pixels, noise()], axis=3)[..., 0]
    for same in (read_only, strided):
        assert {name: score(name, same) for name in reversed(QUALITY)} == together


def test_unknown_names_are_refused_with_the_nearest_and_all():
    check_quality(QUALITY)
    with pytest.raises(
        ValueError, match=r"'sharpnes' is not a quality score; did you mean sharpness\? there are aspect_ratio, "
    ):
        check_quality(["entropy", "sharpnes"])
    with pytest.raises(ValueError, match=r"'zzz' is not a quality score; there are .*chroma_p99"):
        quality_scores(["zzz"], None, FACTS)


@pytest.mark.parametrize(
    "pixels",
    [noise().astype(np.float32), noise()[..., 0], noise()[..., :2], np.zeros((0, 4, 3), np.uint8), noise()[None]],
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match=r"pixels are \w+ \(.*\): give uint8 \(height, width, 3\)"):
        quality_scores(["entropy"], pixels, FACTS)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")
    return runpy.run_path(f"{ROOT}/benchmarks/quality.py")


def test_the_benchmark_compares_ranks(benchmark):
    assert benchmark["ranks"](np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert benchmark["correlation"](np.array([1, 2, 3]), np.array([9, 99, 999])) == pytest.approx(1)
    assert math.isnan(benchmark["correlation"](np.array([1, 1]), np.array([1, 2])))
    assert benchmark["auc"](np.array([5, 6]), np.array([1, 2])) == 1.0
    assert benchmark["auc"](np.array([1, 2]), np.array([1, 2])) == 0.5


def test_the_benchmark_degrades_what_it_says_and_the_scores_see_it(benchmark):
    sets = benchmark["degraded_sets"](2, 0)
    assert sets == benchmark["degraded_sets"](2, 0) != benchmark["degraded_sets"](2, 1)
    for pair in benchmark["PAIRS"]:
        original, degraded = (benchmark["our_verdict"](sets[name], pair.ours).scores for name in ("", pair.degraded))
        assert (degraded < original).all(), pair


def test_the_benchmark_says_how_to_get_cleanvision(benchmark, monkeypatch):
    monkeypatch.setitem(benchmark["main"].__globals__, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install cleanvision"):
        benchmark["main"](["--photos", "2"])
    with pytest.raises(SystemExit, match="2"):
        benchmark["main"](["--photos", "1"])
    assert "quality" not in sys.modules
