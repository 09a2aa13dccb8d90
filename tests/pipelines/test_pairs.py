"""Each pair of what changes how `curate` runs the model, where, or the graph about it: the values stay those of a plain loop.

Code that takes for granted that one model is in one process, or that nothing else looks at the pixels, is right until an option
changes that. The changes, and the pairs of them, come from one list (tests/support/curate_changes.py), which has to name every
option. Several pairs share a run, where no third change hides what two do to each other. What is expected comes from no
pipeline: each image is decoded and embedded alone.
"""

import functools
import json
import shutil
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_curate.clip.handler import ClipModelHandler
from beam_curate.clip.prompts import caption_similarity, parse_prompts, prompt_scores
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from beam_curate.commands import curate
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.options import option_fields
from beam_curate.heads.head import random_head
from beam_curate.images.dali_decoding import DaliDecoder
from beam_curate.images.decoding import decode_image
from beam_curate.scores.quality import quality_scores
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.images.test_dali import INSTALLED
from tests.support import forked, scarce_tower
from tests.support.curate_changes import CHANGES, GPUS, HIDES, NO_CHANGE, REFUSED, options_of, pairs, together
from tests.support.models import LARGER_SMALL, MODEL, SMALL

MOST_PIXELS, FEW_PIXELS = "--max_pixels=200000", "--max_pixels=100000"
TOGETHER = together(10)
_SECOND = LARGER_SMALL.replace("-", "_")
DECODERS = {}
"""DALI's of the plain loop, by the model."""


def picture(number, width, height=50, kind="JPEG"):
    return encoded(photo(number, width, height), kind)


IMAGES = {
    "00": picture(0, 80), "01": b"no image", "02": picture(2, 40, 40), "03": picture(3, 400, 300),
    "04": picture(4, 70, kind="PNG"),
    "10": picture(10, 90), "11": picture(0, 80), "12": picture(12, 44, 44), "13": picture(13, 410, 300), "14": picture(14, 75),
}  # fmt: skip
"""Two shards: one is no image, one a copy, two are small, two large, one is for Pillow where DALI decodes."""


def test_every_option_is_a_change_or_is_said_to_be_none():
    named = {option.name for option in option_fields(CurateOptions)}
    changing = {name for words in (*CHANGES.values(), *GPUS.values()) for name in options_of(words)}
    others = [name for names in NO_CHANGE.values() for name in names]
    assert not named - changing - {*others}, (
        "does it change the graph, or how the model runs? Name it in curate_changes.py"
    )
    assert {*others} - named <= changing - named == set()
    assert not changing & {*others}


def test_every_pair_is_run_or_refused():
    covered = {pair for pair in pairs() for names in TOGETHER if {*pair} <= {*names}}
    assert covered | {*REFUSED} == {*pairs()}
    assert not covered & {*REFUSED}
    for names in TOGETHER:
        assert len(names) == 2 or not any({*names} & HIDES.get(name, set()) for name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shards; the copies of the model are forked, and know the small models."""
    folder = tmp_path_factory.mktemp("pairs")
    for shard in "01":
        members = []
        for key, image in IMAGES.items():
            if key[0] == shard:
                members.append((f"{key}.jpg", image))
                members += [] if key[1] == "3" else [(f"{key}.txt", caption(key).encode())]
        (folder / f"{shard}.tar").write_bytes(tar_bytes(members))
    with pytest.MonkeyPatch.context() as patch:
        forked.in_place_of_new_processes(patch)
        patch.syspath_prepend(str(ROOT / "examples"))
        yield folder
    while DECODERS:
        DECODERS.popitem()[1].close()


def caption(key):
    return f"picture {key}"


@pytest.fixture
def embedded(monkeypatch):
    """How many images the first model has got."""
    images, embed = [], ClipModelHandler.embed_pixels

    def counting(self, batch, pixels, model):
        images.extend([] if self.embedding_name else pixels)
        return embed(self, batch, pixels, model)

    monkeypatch.setattr(ClipModelHandler, "embed_pixels", counting)
    return images


def run(folder, output, words):
    given = [f"--input={folder}/?.tar", f"--output={output}", *MODEL, "--min_aesthetic=none", "--max_nsfw=none",
             "--samples_per_shard=3", "--batch_size=4"]  # fmt: skip
    names = options_of(words)
    return curate.main([*(word for word in given if not options_of([word]) & names), *words])


@pytest.mark.parametrize("names", TOGETHER, ids=" + ".join)
def test_together_they_give_what_a_plain_loop_gives(folder, names, tmp_path, monkeypatch, embedded):
    if not INSTALLED and {"DALI", "DALI on the host"} & {*names}:
        pytest.skip("NVIDIA DALI is not installed")
    scarce_tower.put_in(monkeypatch, scarce="little memory" in names)
    again = {"resumed", "failed samples again"} & {*names}
    words = [word for name in names if name not in again for word in CHANGES[name]]
    output = tmp_path / "out"
    scored = [key for key in IMAGES if expected(key, names) is not None]
    if again:
        first = FEW_PIXELS if "failed samples again" in names else MOST_PIXELS
        assert run(folder, output, [*words, first]) == 0
        if "resumed" in names:  # the second shard was not scored, and the run has not ended
            (output / "scores" / "part-00001.parquet").unlink()
            (output / "summary.json").unlink()
            shutil.rmtree(output / "verdicts", ignore_errors=True)
        left = [key for key in scored if "resumed" in names and key[0] == "1"]
        left += [key for key in scored if "failed samples again" in names and key[1] == "3" and key not in left]
        embedded.clear()
        words += [word for name in again for word in CHANGES[name]]
        scored = left
    assert run(folder, output, [*words, MOST_PIXELS]) == 0
    assert len(embedded) == len(scored)
    rows = pq.read_table(output / "scores").to_pylist()
    assert [row["key"] for row in rows] == [*IMAGES]
    for row in rows:
        assert_as_expected(row, names)
    verdicts = statuses(names)
    if (output / "verdicts").is_dir():
        rows = pq.read_table(output / "verdicts").to_pylist()
    assert dict(zip(IMAGES, (row["status"] for row in rows), strict=True)) == verdicts
    kept = sorted(key for key, status in verdicts.items() if status == "kept")
    funnel = json.loads((output / "summary.json").read_text())["funnel"]
    assert (funnel["input"], funnel["kept"], funnel["failed"]) == (len(IMAGES), len(kept), 1)
    packed = [name for tar in sorted(output.glob("*.tar")) for name in tarfile.open(tar).getnames()]
    packed = [name.partition(".")[0] for name in packed if name.endswith(".jpg")]
    assert sorted(packed) == ([] if "a table alone" in names else kept)
    assert packed == sorted(packed) or "shuffled" in names
    assert (output / "layouts" / "laion").is_dir() == ("layouts" in names)


@pytest.mark.parametrize("pair", REFUSED, ids=" + ".join)
def test_what_cannot_be_together_is_refused_before_any_work(folder, pair, tmp_path, monkeypatch, capsys, embedded):
    monkeypatch.setattr(ClipModelHandler, "load_model", None)
    assert run(folder, tmp_path / "out", [word for name in pair for word in CHANGES[name]]) == 2
    assert REFUSED[pair] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def statuses(names):
    """What becomes of each sample, by the rules in force."""
    found = dict.fromkeys(IMAGES, "kept") | {"01": "failed"}
    if "a screen" in names:
        found |= {"02": "rejected", "12": "rejected"}
    if "duplicates" in names:
        found["11"] = "rejected"
    kept = [key for key, status in found.items() if status == "kept"]
    if "the best" in names:
        widths = {key: decoded(key, "pillow", None)[0].width for key in kept}
        found |= dict.fromkeys(sorted(kept, key=widths.__getitem__)[:-5], "rejected")
    return found


@functools.cache
def target(model, decoder):
    return ClipModelHandler(model, "random").decode_options(decoder=decoder)


def dali(model):
    if model not in DECODERS:
        DECODERS[model] = DaliDecoder(target(model, "dali"), "cpu", 1)
    return DECODERS[model]


@functools.cache
def decoded(key, decoder, model):
    """The facts of an image, and its pixels as a model sees them."""
    options = target(model or SMALL, decoder)
    if decoder != "dali":
        return decode_image(IMAGES[key], options)
    ((facts, (pixels,)),) = dali(model or SMALL).decode([IMAGES[key]]).images
    return facts, pixels


@functools.cache
def tower(model, precision):
    return build_visual_tower(find_weights(model, "random"), precision=precision, device="cpu")


@functools.cache
def vector(key, decoder, model, precision, places):
    return tower(model, precision).embed(decoded(key, decoder, model)[1][None], places)[0]


@functools.cache
def text_tower(precision):
    return build_text_tower(find_weights(SMALL, "random"), precision=precision, device="cpu")


@functools.cache
def text_vector(text, precision, places):
    return text_tower(precision).embed([text], places)[0]


@functools.cache
def cat():
    return prompt_scores(parse_prompts("cat=a photo of a cat"), SMALL, "random")[0]


def expected(key, names):
    """The values of a sample by column; None for one that the model does not see."""
    if key == "01" or ("a screen" in names and key[1] == "2"):
        return None
    decoder = "dali" if any("DALI" in name for name in names) else "fast"
    precision = "bf16" if "precision" in names else "auto"
    places = 3 if "batches" in names else 4
    while "little memory" in names and places > scarce_tower.MOST:
        places //= 2
    first = vector(key, decoder, SMALL, precision, places)
    row = {"embedding": first, **{name: random_head(name, 256).score(first[None])[0] for name in ("aesthetic", "nsfw")}}
    if "a second model" in names:
        row[f"embedding_{_SECOND}"] = vector(key, decoder, LARGER_SMALL, precision, places)
    facts, pixels = decoded(key, decoder, SMALL)
    if "scores of images" in names:
        row |= quality_scores(["sharpness", "brightness"], pixels, facts)
    if "a scorer of images" in names:
        light = pixels.astype(float).sum(axis=(0, 1))
        row["redness"] = light[0] / light.sum()
    if "words" in names:
        row["cat"] = cat().score(first[None])[0]
    if "captions" in names:
        text = text_vector(caption(key), "bf16" if "precision" in names else "fp32", places)[None]
        row["caption_similarity"] = None if key[1] == "3" else caption_similarity(first[None], text)[0]
    return row


def assert_as_expected(row, names):
    wanted = expected(row["key"], names)
    vectors = [name for name in row if name.startswith("embedding")]
    assert len(vectors) == 1 + ("a second model" in names)
    if wanted is None:
        assert not any(any(row[name]) for name in vectors)
        return
    for name, value in wanted.items():
        if name.startswith("embedding"):
            assert np.array_equal(np.array(row[name], np.float16), value), (row["key"], name)
        elif value is None:
            assert row[name] is None, (row["key"], name)
        else:
            assert row[name] == pytest.approx(float(value), rel=1e-6, abs=1e-7), (row["key"], name)
