import ast
import dataclasses
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import io
import json
import pathlib
import socket
import tarfile
import urllib.request

import pytest
import webdataset
from PIL import Image, ImageChops, ImageOps, ImageStat

from beam_curate import reasons
from beam_curate.commands import demo as demo_command
from beam_curate.commands import demo_data, demo_pictures

ORIENTATION = 0x0112
IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif", "tiff"}


make_pictures = demo_data._good_samples


@pytest.fixture(scope="module", autouse=True)
def pictures_made_once():
    """All of these data sets are of the same pictures; a test that looks at how they are made takes `make_pictures`."""
    made = functools.cache(lambda photos: list(make_pictures(photos)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_data, "_good_samples", made)
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return demo_data.build_demo_dataset(tmp_path_factory.mktemp("demo") / "data")


def digests(demo):
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in demo.shards]


def members(demo):
    """All files of all shards as (shard, name, bytes), in order, read by the standard library."""
    found = []
    for path in demo.shards:
        with tarfile.open(path) as archive:
            found += [(path.name, info.name, archive.extractfile(info).read()) for info in archive]
    return found


def images(demo):
    """The image bytes of each (key, suffix); of a repeated key the first."""
    found = {}
    for _, name, data in members(demo):
        key, suffix = name.split(".", 1)
        if suffix not in ("txt", "json"):
            found.setdefault((key, suffix), data)
    return found


def decodable(demo):
    for (key, suffix), data in images(demo).items():
        if not key.endswith(("-truncated", "-error-page")):
            yield key, suffix, Image.open(io.BytesIO(data))


def test_webdataset_reads_every_sample_back(demo):
    samples = list(webdataset.WebDataset([str(path) for path in demo.shards], shardshuffle=False))
    assert len(samples) == demo.samples == 83
    keys = [sample["__key__"] for sample in samples]
    assert len(set(keys)) == len(keys) - demo.failures[reasons.DUPLICATE_KEY]
    for sample in samples:
        assert json.loads(sample["json"])["caption"] == sample["txt"].decode()
        images = IMAGE_SUFFIXES & {name.lower() for name in sample}
        assert len(images) == (0 if sample["__key__"].endswith("-no-image") else 1)


def test_pattern_matches_exactly_the_shards(demo):
    folder, glob = pathlib.Path(demo.pattern).parent, pathlib.Path(demo.pattern).name
    assert sorted(folder.glob(glob)) == list(demo.shards)
    assert [path.name for path in demo.shards] == ["00000.tar", "00001.tar", "00002.tar.gz"]
    assert demo.shards[2].read_bytes()[:2] == b"\x1f\x8b"


def test_first_samples_have_the_same_fields(demo):
    suffixes = [name.split(".", 1)[1] for _, name, _ in members(demo)]
    assert suffixes[: 3 * 26] == ["jpg", "txt", "json"] * 26


def test_bad_samples_are_as_counted(demo):
    bad = dict.fromkeys(demo.failures, 0)
    small = 0
    shards_of_keys = {}
    keys_in_order = []
    for shard, name, data in members(demo):
        key, suffix = name.split(".", 1)
        if suffix == "txt":
            keys_in_order.append(key)
            shards_of_keys.setdefault(key, []).append(shard)
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except Image.UnidentifiedImageError:
            bad[reasons.NOT_AN_IMAGE] += 1
        except OSError as error:
            bad[reasons.TRUNCATED_IMAGE] += "truncated" in str(error)
        else:
            small += min(image.size) < demo_data.MIN_SIDE
    repeated = {key: shards for key, shards in shards_of_keys.items() if len(shards) > 1}
    bad[reasons.DUPLICATE_KEY] = sum(len(shards) - 1 for shards in repeated.values())
    bad[reasons.NO_IMAGE] = len(keys_in_order) - len(images(demo)) - bad[reasons.DUPLICATE_KEY]
    assert bad == demo.failures == dict.fromkeys(bad, 1)
    assert small == demo.too_small == 1
    # A reader sees the repeated key only inside one shard, and two adjacent samples of one key would be one sample.
    ((key, shards),) = repeated.items()
    assert len(set(shards)) == 1
    places = [place for place, other in enumerate(keys_in_order) if other == key]
    assert places[1] - places[0] > 1


def test_formats_and_colour_modes(demo):
    seen = {(suffix, image.format, image.mode) for _, suffix, image in decodable(demo)}
    for wanted in [
        ("jpg", "JPEG", "RGB"),
        ("jpg", "JPEG", "L"),
        ("jpg", "JPEG", "CMYK"),
        ("jpeg", "JPEG", "RGB"),
        ("JPG", "JPEG", "RGB"),
        ("png", "PNG", "RGB"),
        ("png", "PNG", "RGBA"),
        ("webp", "WEBP", "RGB"),
        ("gif", "GIF", "P"),
        ("tiff", "TIFF", "RGB"),
    ]:
        assert wanted in seen
    assert any(getattr(image, "n_frames", 1) == 2 for _, suffix, image in decodable(demo) if suffix == "gif")
    assert any(image.info.get("progressive") for _, suffix, image in decodable(demo) if suffix == "jpg")


def test_sizes_in_json_are_those_that_a_person_sees(demo):
    facts = {name.split(".")[0]: json.loads(data) for _, name, data in members(demo)[::-1] if name.endswith(".json")}
    turned = 0
    for key, _, image in decodable(demo):
        turned += image.getexif().get(ORIENTATION) == 6
        assert ImageOps.exif_transpose(image).size == (facts[key]["width"], facts[key]["height"])
    assert turned >= 2


def test_exif_orientation_turns_the_picture_upright(demo):
    turned = [(key, image) for key, _, image in decodable(demo) if image.getexif().get(ORIENTATION) == 6]
    key, image = next((key, image) for key, image in turned if image.width != image.height)
    name, view = key.split("-", 1)
    (photo,) = (photo for photo in demo_pictures.PHOTOS if photo.file.startswith(name + "."))
    with Image.open(demo_data._photo_folder() / photo.file) as original:
        expected = demo_pictures.view_of(original, view)
    difference = ImageChops.difference(ImageOps.exif_transpose(image).convert("L"), expected.convert("L"))
    assert ImageStat.Stat(difference).mean[0] < 4  # a JPEG of quality 88, in grey levels of 255


def test_twice_gives_the_same_bytes(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_data, "_good_samples", make_pictures)
    again = demo_data.build_demo_dataset(tmp_path / "other")
    assert digests(again) == digests(demo)
    assert dataclasses.replace(again, pattern="", shards=()) == dataclasses.replace(demo, pattern="", shards=())
    assert digests(demo_data.build_demo_dataset(tmp_path / "other")) == digests(demo)


def test_data_of_the_users_own_are_not_replaced(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    mine = tmp_path / "data" / "00000.tar"
    mine.write_bytes(b"mine")
    with pytest.raises(demo_data.DemoDataError, match=r"00000\.tar is there, with other data than the demo's"):
        demo_data.build_demo_dataset(tmp_path / "data")
    assert demo_command.main(["--folder", str(tmp_path)]) == 2
    assert "00000.tar is there" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["00000.tar"]
    assert mine.read_bytes() == b"mine"


def test_needs_no_network_and_never_imports_scikit_image(demo, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch.Pooch, "fetch", refuse)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.setattr(demo_data, "_good_samples", make_pictures)
    assert digests(demo_data.build_demo_dataset(tmp_path / "offline")) == digests(demo)


def test_photographs_are_files_of_the_wheel():
    shipped = {str(path) for path in importlib.metadata.files("scikit-image")}
    assert {f"skimage/data/{photo.file}" for photo in demo_pictures.PHOTOS} <= shipped


@pytest.mark.parametrize(("samples_per_shard", "shards"), [(2, 41), (1000, 1)])
def test_other_shard_sizes(tmp_path, samples_per_shard, shards):
    demo = demo_data.build_demo_dataset(tmp_path, samples_per_shard=samples_per_shard)
    assert len(demo.shards) == shards
    assert len([name for _, name, _ in members(demo) if name.endswith(".txt")]) == demo.samples == 83
    assert demo.shards[-1].name.endswith(".tar.gz")


def test_refuses_one_sample_per_shard(tmp_path):
    with pytest.raises(demo_data.DemoDataError, match="samples_per_shard must be at least 2, not 1"):
        demo_data.build_demo_dataset(tmp_path, samples_per_shard=1)


def test_refuses_a_folder_with_other_tars(tmp_path, capsys):
    (tmp_path / "mine.tar").write_bytes(b"")
    assert demo_data.main(["--output", str(tmp_path)]) == 2
    assert "mine.tar" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tar"]


@pytest.mark.parametrize("found", [None, "empty"])
def test_missing_photographs_are_named_with_the_remedy(tmp_path, capsys, monkeypatch, found):
    spec = None
    if found:
        spec = importlib.machinery.ModuleSpec("skimage", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / "skimage")]
    monkeypatch.setattr(demo_data, "find_spec", lambda name: spec)
    assert demo_data.main(["--output", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert "pip install" in message
    assert "scikit-image" in message
    assert ("astronaut.png" in message) is bool(found)
    assert not (tmp_path / "data").exists()


def test_main_says_what_was_built(tmp_path, capsys):
    assert demo_data.main(["--output", str(tmp_path / "a" / "b")]) == 0
    said = capsys.readouterr().out
    assert "83 samples in 3 shards" in said
    assert str(tmp_path / "a" / "b" / "*.tar*") in said
    assert all(f"1 {reason}" in said for reason in (reasons.TRUNCATED_IMAGE, reasons.NO_IMAGE))


@pytest.mark.parametrize("module", [demo_data, demo_pictures])
def test_modules_import_only_the_standard_library_at_the_top(module):
    tree = ast.parse(pathlib.Path(module.__file__).read_text())
    tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tops if isinstance(node, ast.ImportFrom)} - {demo_pictures.__name__}
    assert not {name for name in names if name.split(".")[0] in {"PIL", "skimage", "beam_curate", "apache_beam"}}
