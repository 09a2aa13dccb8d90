"""Caption scores: from `.txt` or `.json`, missing ones, and what they are."""

import json

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_curate.clip import tower_copies
from beam_curate.clip.caption_handler import CaptionHandler
from beam_curate.clip.text_tower import build_text_tower
from beam_curate.clip.weights import find_weights
from beam_curate.commands import curate, select
from beam_curate.records import EmbeddedSample, Failure, ImageFacts, SampleRef
from tests.conftest import encoded, photo, tar_bytes
from tests.support.models import MODEL, SMALL


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    texts = [
        ("txt", b"a photo of a cat"),
        ("json", b'{"caption": "a photo of a dog", "url": "u"}'),
        ("txt", b"  "),
        ("json", b'{"caption": 5}'),
        ("cls", b"1"),
    ]
    members = []
    for number, (extension, data) in enumerate(texts):
        members += [(f"{number}.jpg", encoded(photo(number))), (f"{number}.{extension}", data)]
    members += [("5.jpg", b"no image"), ("5.txt", b"a caption")]
    (folder / "a.tar").write_bytes(tar_bytes(members))
    flags = ["--min_aesthetic=none", "--max_nsfw=none", "--caption_score", "--keep=caption_similarity > -1"]
    assert curate.main([f"--input={folder}/a.tar", f"--output={folder}/out", *MODEL, *flags]) == 0
    return folder / "out"


def test_scores_and_what_is_missing(run):
    rows = pq.read_table(run / "scores").to_pylist()
    assert [row["caption"] for row in rows] == ["a photo of a cat", "a photo of a dog", "", None, None, "a caption"]
    assert [row["status"] for row in rows] == ["kept", "kept", "rejected", "rejected", "rejected", "failed"]
    assert rows[3]["error_message"] == "caption_similarity is missing; kept if caption_similarity > -1"
    tower = build_text_tower(find_weights(SMALL, "random"))
    for row in rows[:2]:
        image = np.array(row["embedding"], np.float64)  # of length 1 but for the rounding to float16
        expected = float(image @ tower.embed([row["caption"]])[0] / np.linalg.norm(image))
        assert row["caption_similarity"] == pytest.approx(expected, abs=1e-6)
    assert {row["caption_similarity"] for row in rows[2:]} == {None}


def test_a_later_selection_uses_them(run):
    rows = pq.read_table(run / "scores").to_pylist()
    low = min(row["caption_similarity"] for row in rows[:2])
    output = run.parent / "better"
    assert select.main([f"--scores={run}", f"--output={output}", f"--keep=caption_similarity > {low!r}"]) == 0
    assert json.loads((output / "summary.json").read_text())["funnel"]["kept"] == 1


def sample(number, caption, failure=None):
    vector = np.random.default_rng(number).normal(size=256)
    data = b"" if failure else (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
    return EmbeddedSample(
        SampleRef(0, "s.tar", number, f"k{number}", caption=caption), ImageFacts(1, 1, "", "", 1), data, failure
    )


def test_the_text_tower_has_the_precision_that_is_asked_for_and_fp32_by_itself_on_a_cpu():
    towers = {
        precision: CaptionHandler(SMALL, "random", device="cpu", precision=precision).load_model()
        for precision in ("auto", "bf16")
    }
    assert {name: tower.runtime() for name, tower in towers.items()} == {
        "auto": ("cpu", "fp32"),
        "bf16": ("cpu", "bf16"),
    }
    texts = ["a photo of a cat", "a", ""]
    exact, near = (towers[name].embed(texts, 8) for name in ("auto", "bf16"))
    assert (exact * near).sum(axis=1).min() > 0.999


def test_copies_of_the_text_tower_are_those_of_the_model(monkeypatch):
    monkeypatch.setattr(tower_copies, "TowerCopies", lambda build, name, copies: (name, copies))
    first, second = (CaptionHandler(SMALL, "random", device="cpu", model_copies=3) for _ in range(2))
    assert (first.load_model()[1], second.load_model()[1]) == (3, 3)
    assert first.load_model()[0] != second.load_model()[0]


class Texts:
    """A text tower that fails on one word, and runs out of memory with more than so many texts."""

    def __init__(self):
        self.places = []

    def one(self):
        return self

    def embed(self, texts, places):
        self.places.append(places)
        if places > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if "bad" in texts:
            raise ValueError("cannot read bad")
        return np.ones((len(texts), 256), np.float32) / 16

    def recover(self, error):
        return False


def test_a_caption_that_the_model_fails_on_fails_its_sample_alone_and_memory_is_halved():
    tower = Texts()
    given = [sample(0, "good"), sample(1, "bad"), sample(2, "good"), sample(3, None)]
    out = CaptionHandler(SMALL, "random", batch_size=8).run_inference(given, tower)
    assert tower.places[:3] == [8, 4, 2]
    assert [row.failure for row in out] == [
        None, Failure("infer", "inference_error", "caption: ValueError: cannot read bad"), None, None]  # fmt: skip
    assert out[1].embedding == b""
    assert out[0].scores["caption_similarity"] == pytest.approx(
        float(np.frombuffer(given[0].embedding, "<f2").sum() / 16), abs=1e-3
    )
    assert np.isnan(out[3].scores["caption_similarity"])


@pytest.mark.usefixtures("two_threads")
def test_the_score_does_not_depend_on_the_batch():
    samples = [sample(number, f"text {number}") for number in range(5)]
    samples += [sample(5, None), sample(6, "failed", Failure("decode", "not_an_image", "no"))]
    handler = CaptionHandler(SMALL, "random", batch_size=3)
    tower = handler.load_model()
    together = handler.run_inference(samples, tower)
    alone = [handler.run_inference([one], tower)[0] for one in samples]
    assert str(together) == str(alone)  # NaN equals itself here
    assert together[6] == samples[6]
    assert "caption_similarity" in together[5].scores

    with TestPipeline(runner="FnApiRunner") as root:
        out = root | beam.Create(samples) | RunInference(handler).with_output_types(EmbeddedSample)
        assert_that(out | beam.Map(lambda row: row.ref.index), equal_to(list(range(7))))


def test_a_worker_with_copies_does_not_look_at_the_device_itself(monkeypatch):
    """It would be one more process that uses the GPU, for nothing."""
    builds = []
    monkeypatch.setattr(tower_copies, "TowerCopies", lambda build, name, copies: builds.append(build))
    CaptionHandler(SMALL, "random", device="cuda:99", model_copies=2).load_model()
    with pytest.raises(RuntimeError, match=r"device=.cuda:99."):
        builds[0]()
