import hashlib
import json
import pickle
import subprocess
import sys

import apache_beam as beam
import numpy as np
import open_clip
import pytest
import torch
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from safetensors.torch import save_file

from beam_curate import ScoreAndFilter
from beam_curate.clip import text_tower
from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.prompts import (
    PromptScore,
    PromptSpec,
    caption_similarity,
    parse_prompts,
    prompt_scores,
)
from beam_curate.clip.visual_tower import build_visual_tower
from beam_curate.clip.weights import find_weights
from beam_curate.records import EmbeddedSample, ImageFacts, SampleRef
from beam_curate.scores.rules import Rule

DIM = 24
SPECS = parse_prompts("watermark=a photo with a watermark,a clean photo;dog=a dog")


@pytest.fixture(autouse=True, scope="module")
def _tiny_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": text}
    (folder / "prompts-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def unit(rows, dim=DIM, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def made(prompts=2, dim=DIM, scale=20.0, name="p", **options):
    matrix = unit(prompts, dim, seed=7).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return PromptScore(name, tuple(f"prompt {n}" for n in range(prompts)), matrix, scale, **options)


def test_prompts_are_parsed():
    assert parse_prompts("watermark=a photo with a watermark,a clean photo") == (
        PromptSpec("watermark", ("a photo with a watermark", "a clean photo")),
    )
    assert parse_prompts(r" a = one\, two ,x=1 ;b_2=semi\; colon\n") == (
        PromptSpec("a", ("one, two", "x=1")),
        PromptSpec("b_2", (r"semi; colon\n",)),
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "'' has no '='"),
        ("a photo", "'a photo' has no '='.*name=prompt"),
        ("a=x;", "'' has no '='"),
        ("a b=x", "name 'a b' cannot name a column"),
        ("=x", "name '' cannot"),
        ("2d=x", "name '2d' cannot"),
        ("a=x;a=y", "'a' is given twice"),
        ("a=", "'a' has an empty prompt"),
        ("a=x,,y", r"'a' has an empty prompt \('x,,y'\); a literal comma is \\,"),
        ("a=x,y, x", "'a' has the same prompt twice"),
    ],
)
def test_what_is_wrong_with_prompts_is_named(text, match):
    with pytest.raises(ValueError, match=match):
        parse_prompts(text)


def test_contrasting_prompts_give_the_softmax_of_the_scaled_cosines():
    score, rows = made(3), unit(50)
    cosines = rows.astype(np.float64) @ score.matrix.T.astype(np.float64)
    cosines /= np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    want = torch.softmax(torch.from_numpy(20 * cosines), dim=1)[:, 0].numpy()
    got = score.score(rows)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got.std() > 0.1


def test_the_probabilities_of_the_prompts_sum_to_one():
    score, rows = made(3), unit(50)
    turned = [PromptScore("p", score.prompts, np.roll(score.matrix, turn, axis=0), 20.0) for turn in range(3)]
    np.testing.assert_allclose(sum(one.score(rows) for one in turned), 1, atol=1e-6)


def test_a_prompt_alone_gives_its_cosine():
    score = made(1)
    assert score.score(3 * score.matrix)[0] == pytest.approx(1)
    assert score.score(-score.matrix)[0] == pytest.approx(-1)
    rows = unit(20)
    want = [np.dot(row, score.matrix[0]) / np.linalg.norm(row) for row in rows.astype(np.float64)]
    np.testing.assert_allclose(score.score(rows), want, rtol=1e-6)


def test_a_large_scale_does_not_overflow():
    score = made(2, scale=100.0)
    assert score.score(score.matrix).tolist() == [pytest.approx(1), pytest.approx(0)]


@pytest.mark.parametrize("dim", [23, 512, 768])
@pytest.mark.parametrize("prompts", [1, 2, 5])
def test_a_row_is_scored_as_if_it_were_alone(dim, prompts):
    score, rows = made(prompts, dim), unit(67, dim)
    together = score.score(rows)
    assert np.array_equal(np.concatenate([score.score(rows[n : n + 1]) for n in range(67)]), together)
    for start in (1, 32):
        assert np.array_equal(score.score(rows[start:]), together[start:])
    assert np.array_equal(score.score(rows.astype(np.float32)), together)
    assert np.array_equal(score.score(rows[::-1])[::-1], together)


@pytest.mark.parametrize("prompts", [1, 2])
def test_rows_without_a_direction_are_nan_alone(prompts):
    score, rows = made(prompts), unit(5)
    good = score.score(rows)
    rows[1, 3], rows[2, 4], rows[3] = np.nan, np.inf, 0
    bad = score.score(rows)
    assert np.isnan(bad).tolist() == [False, True, True, True, False]
    assert (bad[0], bad[4]) == (good[0], good[4])
    assert score.score(np.zeros((0, DIM), np.float16)).shape == (0,)


@pytest.mark.parametrize("shape", [(3, DIM + 1), (DIM,), (2, 3, DIM)])
def test_embeddings_of_another_width_are_an_error(shape):
    with pytest.raises(ValueError, match=rf"prompt score p takes embeddings \(N, {DIM}\)"):
        made().score(np.ones(shape, np.float32))


def test_a_score_is_described_in_json():
    score = made(2)
    said = score.description
    assert json.loads(json.dumps(said)) == said
    assert (said["name"], said["prompts"], said["width"]) == ("p", ["prompt 0", "prompt 1"], DIM)
    assert (said["kind"], said["logit_scale"]) == ("zero-shot probability of the first prompt", 20.0)
    assert said["id"] == hashlib.sha256(score.matrix.tobytes()).hexdigest()
    assert "meaningless" not in said
    alone = made(1, random=True).description
    assert (alone["kind"], alone["meaningless"]) == ("cosine similarity with the prompt", True)
    assert "logit_scale" not in alone


def test_a_score_travels_by_value():
    score, rows = made(3, 768), unit(9, 768)
    data = pickle.dumps(score)
    assert len(data) < 3 * 768 * 4 + 2000
    copy = pickle.loads(data)
    assert copy.description == score.description
    assert np.array_equal(copy.score(rows), score.score(rows))


def test_scoring_needs_no_torch():
    code = "import sys, beam_curate.clip.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_prompts_are_embedded_at_once_by_the_models_text_tower(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = open_clip.create_model("prompts-tiny").eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "a.safetensors")
    calls = []
    real = text_tower.TextTower.embed
    monkeypatch.setattr(
        text_tower.TextTower, "embed", lambda tower, texts: calls.append(list(texts)) or real(tower, texts)
    )
    watermark, dog = prompt_scores(SPECS, "prompts-tiny", str(tmp_path / "a.safetensors"))
    assert calls == [["a photo with a watermark", "a clean photo", "a dog"]]
    assert (watermark.name, watermark.width, dog.name, dog.prompts) == ("watermark", DIM, "dog", ("a dog",))
    with torch.inference_mode():
        want = model.encode_text(open_clip.get_tokenizer("prompts-tiny")(calls[0]), normalize=True).numpy()
        np.testing.assert_allclose(watermark.matrix, want[:2], atol=1e-5)
        np.testing.assert_allclose(dog.matrix, want[2:], atol=1e-5)
        image = model.encode_image(torch.randn(4, 3, 32, 32), normalize=True)
        logits = model.logit_scale.exp() * image @ torch.from_numpy(want[:2]).T
    np.testing.assert_allclose(watermark.score(image.numpy()), logits.softmax(1)[:, 0].numpy(), rtol=0, atol=1e-5)
    assert "meaningless" not in watermark.description


def test_no_prompts_need_no_model():
    assert prompt_scores((), "no-such-model", "nowhere") == ()


def test_weights_that_are_not_finite_are_an_error(tmp_path):
    state = {key: tensor.contiguous() for key, tensor in open_clip.create_model("prompts-tiny").state_dict().items()}
    state["text_projection"] = torch.full_like(state["text_projection"], torch.nan)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"prompts-tiny.*not finite"):
        prompt_scores(SPECS, "prompts-tiny", str(tmp_path / "a.safetensors"))


def test_a_random_model_from_pixels_to_verdicts():
    heads = prompt_scores(SPECS, "prompts-tiny", "random", seed=4)
    assert [head.description["meaningless"] for head in heads] == [True, True]
    again = prompt_scores(SPECS, "prompts-tiny", "random", seed=4)
    assert [head.id for head in again] == [head.id for head in heads]
    tower = build_visual_tower(find_weights("prompts-tiny", "random", seed=4), precision="fp32", device="cpu")
    rows = tower.embed(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
    facts = ImageFacts(100, 80, "JPEG", "ab", 9)
    samples = [
        EmbeddedSample(SampleRef(0, "s.tar", n, f"k{n}"), facts, row.astype("<f2").tobytes())
        for n, row in enumerate(rows)
    ]
    expected = {f"k{n}": {head.name: float(head.score(rows)[n]) for head in heads} for n in range(8)}
    cut = float(np.median([scores["watermark"] for scores in expected.values()]))

    def check(found):
        assert {row.ref.key: dict(row.scores) for row in found} == expected
        for row in found:
            assert row.status == ("kept" if row.scores["watermark"] < cut else "rejected")
        assert {row.status for row in found} == {"kept", "rejected"}

    with TestPipeline(runner="FnApiRunner") as root:
        rule = Rule("watermark_above_max", "watermark", maximum=cut)
        assert_that(root | beam.Create(samples) | ScoreAndFilter(heads, rules=[rule]), check)


def test_caption_similarity_is_the_cosine_of_each_pair():
    images, texts = unit(30, 511), unit(30, 511, seed=3).astype(np.float32)
    got = caption_similarity(images, texts)
    assert got.dtype == np.float32
    want = torch.cosine_similarity(
        torch.from_numpy(images.astype(np.float64)), torch.from_numpy(texts.astype(np.float64))
    )
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-7)
    assert np.array_equal([caption_similarity(images[n : n + 1], texts[n : n + 1])[0] for n in range(30)], got)
    images[3], texts[5, 0] = 0, np.inf
    assert np.flatnonzero(np.isnan(caption_similarity(images, texts))).tolist() == [3, 5]
    assert caption_similarity(images[:0], texts[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (4,)])
def test_captions_need_an_embedding_each(shape):
    with pytest.raises(ValueError, match="one shape"):
        caption_similarity(np.ones((3, 4)), np.ones(shape))
