"""Second models: their embeddings are those that a run of their own gives, whatever happens to a sample."""

import json

import apache_beam as beam
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
from apache_beam.ml.inference.base import RunInference
from safetensors.torch import save_file

from beam_curate import (
    ClipModelHandler,
    DecodeImages,
    DecodeOptions,
    ReadTarShards,
    ScoreAndFilter,
    WriteWebDatasetShards,
    read_score_table,
)
from beam_curate.clip.second_models import SecondModelError, embedding_name, find_second_models
from beam_curate.commands import curate, select
from beam_curate.images.resizing import Target
from beam_curate.reasons import INFER, INFERENCE_ERROR
from beam_curate.records import DecodedImage, EmbeddedSample, Failure, ImageFacts, SampleRef
from tests.conftest import encoded, photo, tar_bytes
from tests.support.models import LARGER_SMALL, SECOND_SMALL, SMALL

HEADS = ["--pretrained=random", "--aesthetic_head=none", "--nsfw_head=none", "--min_aesthetic=none", "--max_nsfw=none"]
FIRST, SAME_SIZE, LARGER = SMALL, SECOND_SMALL, LARGER_SMALL
SAME_SIZE_NAME, LARGER_NAME = "second_small_vit_of_the_tests", "larger_vit_of_the_tests"
SECOND = [f"--second_model={name}=random" for name in (SAME_SIZE, LARGER)]
WIDTHS = {"embedding": 256, f"embedding_{SAME_SIZE_NAME}": 384, f"embedding_{LARGER_NAME}": 512}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two shards of 9 samples: one is no image, one too small for the screen, one a PNG, one smaller than a model's size."""
    folder = tmp_path_factory.mktemp("second")
    (folder / "data").mkdir()
    for shard in range(2):
        members = []
        for n in range(9):
            side = {3: 40, 4: 240}.get(n, 300)
            image = encoded(photo(20 * shard + n, side, side + 30), "PNG" if n == 5 else "JPEG")
            members.append((f"{n:03d}.{'png' if n == 5 else 'jpg'}", b"no image" if n == 2 else image))
        (folder / "data" / f"{shard}.tar").write_bytes(tar_bytes(members))
    return folder


def run(data, name, model, *flags):
    output = data / name
    fixed = ["--samples_per_shard=5", "--batch_size=4", "--precision=fp32", "--screen=side >= 50"]
    assert (
        curate.main(
            [f"--input={data}/data/*.tar", f"--output={output}", f"--clip_model={model}", *HEADS, *fixed, *flags]
        )
        == 0
    )
    return output


@pytest.fixture(scope="module")
def with_second(data):
    return run(data, "both", FIRST, *SECOND)


def matrix(table, column):
    return np.array(table.column(column).to_pylist(), np.float16)


@pytest.mark.parametrize("model", [FIRST, SAME_SIZE, LARGER])
def test_each_embedding_is_that_of_a_run_of_its_model_alone(data, with_second, model):
    alone = pq.read_table(run(data, f"alone-{model}", model) / "scores")
    both = pq.read_table(with_second / "scores")
    column = "embedding" if model == FIRST else f"embedding_{embedding_name(model)}"
    assert both.schema.field(column).type == alone.schema.field("embedding").type
    assert matrix(both, column).tobytes() == matrix(alone, "embedding").tobytes()
    others = [name for name in alone.column_names if name != "embedding"]
    assert both.select(others).equals(alone.select(others))


def test_the_columns_and_the_rows_without_an_embedding(with_second):
    table = pq.read_table(with_second / "scores")
    assert table.column_names[-3:] == list(WIDTHS)
    assert table.column("status").to_pylist().count("failed") == 2
    embedded = [step is None for step in table.column("step").to_pylist()]
    assert embedded.count(False) == 4
    for column, width in WIDTHS.items():
        vectors = matrix(table, column).astype(np.float64)
        assert vectors.shape == (18, width)
        lengths = np.linalg.norm(vectors, axis=1)
        assert lengths[embedded] == pytest.approx(1, abs=1e-3)
        assert (lengths[np.logical_not(embedded)] == 0).all()


def test_the_shards_and_a_selection_carry_them(data, with_second):
    scores = pq.read_table(with_second / "scores")
    kept = scores.filter(np.array(scores.column("status").to_pylist()) == "kept")
    written = pq.read_table(sorted(with_second.glob("0*.parquet")))
    output = data / "selected"
    assert (
        select.main([f"--scores={with_second}", f"--output={output}", "--keep=side >= 290", "--samples_per_shard=5"])
        == 0
    )
    again = read_score_table(str(output))
    few = pq.read_table(sorted(output.glob("0*.parquet")))
    assert 0 < few.num_rows < kept.num_rows == written.num_rows
    for column in WIDTHS:
        assert matrix(written, column).tobytes() == matrix(kept, column).tobytes()
        assert matrix(again, column).tobytes() == matrix(scores, column).tobytes()
        wide = [row[column] for row in kept.to_pylist() if min(row["width"], row["height"]) >= 290]
        assert matrix(few, column).tobytes() == np.array(wide, np.float16).tobytes()
    assert select.main([f"--scores={output}", "--dry_run", f"--prompt=embedding_{SAME_SIZE_NAME}=a"]) == 2


def test_resume_compares_the_second_models(with_second, data, capsys):
    configuration = json.loads((with_second / "summary.json").read_text())["configuration"]
    assert set(configuration["second_models"]) == {SAME_SIZE_NAME, LARGER_NAME}
    model = configuration["second_models"][LARGER_NAME]
    assert (model["clip_model"], model["image_size"], model["embed_dim"]) == (LARGER, 256, 512)
    assert model["weights"].startswith("random")
    (with_second / "summary.json").rename(data / "summary.json")
    flags = [f"--input={data}/data/*.tar", f"--output={with_second}", f"--clip_model={FIRST}", *HEADS, "--resume"]
    flags += ["--samples_per_shard=5", "--batch_size=4", "--precision=fp32", "--screen=side >= 50"]
    assert curate.main([*flags, SECOND[0]]) == 2
    assert f"--resume: second_models.{LARGER_NAME}." in capsys.readouterr().err
    assert curate.main([*flags, *SECOND, "--second_model=ViT-S-32=random"]) == 2
    assert "--resume: second_models.vit_s_32." in capsys.readouterr().err
    (with_second / "scores" / "part-00001.parquet").rename(data / "part.parquet")
    assert curate.main([*flags, *SECOND]) == 0
    assert (with_second / "scores" / "part-00001.parquet").read_bytes() == (data / "part.parquet").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--second_model=ViT-B-16"],
            "--second_model 'ViT-B-16' is not a model with weights; give MODEL=WEIGHTS, such as",
        ),
        (["--second_model==random"], "--second_model '=random' is not a model with weights"),
        (
            ["--second_model=ViT-B-61=random"],
            "--second_model ViT-B-61=random: clip_model='ViT-B-61' is not an open_clip model",
        ),
        ([f"{SECOND[0]},quick_gelu=maybe"], "quick_gelu='maybe'; give auto, yes, no"),
        ([f"{SECOND[0]},quick_gelu=no,quick_gelu=no"], "has quick_gelu twice; give it once"),
        ([f"{SECOND[0]},preprocess=opena"], "preprocess='opena' is neither a pretrained tag (did you mean 'openai'?)"),
        ([SECOND[0], SECOND[0]], f"there is a second model {SAME_SIZE} already; give each model once"),
        (
            [SECOND[0], f"--prompt=embedding_{SAME_SIZE_NAME}=a"],
            f"a score cannot be named 'embedding_{SAME_SIZE_NAME}'",
        ),
    ],
)
def test_wrong_second_models_are_refused(data, capsys, flags, message):
    fixed = [f"--input={data}/data/*.tar", f"--output={data}/never", f"--clip_model={FIRST}", *HEADS]
    assert curate.main([*fixed, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (data / "never").exists()


class Model:
    """Sees 2 x 2 pixels, and raises on those that begin with 9."""

    def describe(self):
        return type("Description", (), {"target": Target(2), "clip_model": "stub"})()

    def one(self):
        return self

    def embed(self, images, places):
        pixels = np.array([np.frombuffer(image, np.uint8) for image in images], np.uint8).reshape(len(images), 12)
        if (pixels[:, 0] == 9).any():
            raise ValueError("cannot see 9")
        rows = pixels[:, :3].astype(np.float32) + 1
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


class Second(ClipModelHandler):
    def load_model(self):
        return Model()


def image(number, failure=None, **more):
    ref, facts = SampleRef(0, "a.tar", number, f"{number}"), ImageFacts(4, 4, "JPEG", "", 9)
    pixels = b"" if failure else bytes([number]) * 12
    prepared = "" if failure else str(Target(2))
    return DecodedImage(ref, facts, pixels, failure, {"border": 0.5}, prepared=prepared, **more)


def test_a_sample_that_a_second_model_fails_on_fails_once():
    earlier = Failure("decode", "not_an_image", "no")
    samples = [image(1), image(2, earlier), image(3, other_pixels={"b": bytes([9]) * 12, "c": b"rest"}), image(9)]
    samples += [image(5, other_pixels={"b": bytes([6]) * 12, "c": b"rest"})]
    out = Second(batch_size=4, embedding_name="b").run_inference(samples, Model())
    assert [type(sample) for sample in out] == [DecodedImage] * 5
    assert [sample.ref for sample in out] == [sample.ref for sample in samples]
    assert out[1] == samples[1]
    for place in (2, 3):
        assert out[place].failure == Failure(INFER, INFERENCE_ERROR, "ValueError: cannot see 9")
        assert (out[place].pixels, out[place].other_pixels, out[place].embeddings) == (b"", {}, {})
        assert (out[place].facts, out[place].scores) == (samples[place].facts, {"border": 0.5})
    assert out[4].other_pixels == {"c": b"rest"}
    assert out[4].pixels == samples[4].pixels
    assert len(out[4].embeddings["b"]) == 6
    assert out[0].embeddings["b"] == Model().embed([bytes([1]) * 12], 4)[0].tobytes()

    final = Second(batch_size=4).run_inference(out, Model())
    assert [type(sample) for sample in final] == [EmbeddedSample] * 5
    assert [bool(sample.failure) for sample in final] == [False, True, True, True, False]
    assert [list(sample.embeddings) for sample in final] == [["b"], [], [], [], ["b"]]
    (failed,) = Second(batch_size=4).run_inference([image(9, embeddings={"b": b"123456"})], Model())
    assert (failed.failure.reason, failed.embedding, failed.embeddings) == (INFERENCE_ERROR, b"", {})


def test_names_and_metrics_of_second_models():
    assert [embedding_name(name) for name in ("ViT-B/16", "ViT-B-16-SigLIP2", "convnext_base_w")] == [
        "vit_b_16",
        "vit_b_16_siglip2",
        "convnext_base_w",
    ]
    handlers = [ClipModelHandler(), ClipModelHandler(embedding_name="vit_b_16")]
    namespaces = [handler.get_metrics_namespace() for handler in handlers]
    assert namespaces == ["beam_curate.infer", "beam_curate.infer.vit_b_16"]
    with pytest.raises(ValueError, match="embedding_name='vit-b': give letters, digits and _"):
        ClipModelHandler(embedding_name="vit-b")


def own_pipeline(data, output, second, **columns):
    first = ClipModelHandler(FIRST, "random", batch_size=4, precision="fp32")
    further = ClipModelHandler(LARGER, "random", batch_size=4, precision="fp32", embedding_name="large")
    score = ScoreAndFilter()
    with beam.Pipeline(runner="FnApiRunner") as root:
        _ = (
            root
            | ReadTarShards(f"{data}/data/0.tar")
            | DecodeImages(DecodeOptions(), second=second)
            | "Large" >> RunInference(further).with_output_types(DecodedImage)
            | RunInference(first).with_output_types(EmbeddedSample)
            | score
            | WriteWebDatasetShards(str(output), score.score_names, embedding_dim=256, **columns)
        )


def test_in_a_pipeline_of_ones_own(data, with_second, tmp_path):
    own_pipeline(data, tmp_path / "own", {"large": Target(256)}, second_embeddings={"large": 512})
    table = pq.read_table(tmp_path / "own" / "scores")
    both = pq.read_table(with_second / "scores" / "part-00000.parquet")
    assert table.column_names[-2:] == ["embedding", "embedding_large"]
    same = [step != "screen" for step in both.column("step").to_pylist()]
    for mine, theirs in (("embedding", "embedding"), ("embedding_large", f"embedding_{LARGER_NAME}")):
        assert matrix(table, mine)[same].tobytes() == matrix(both, theirs)[same].tobytes()


def test_what_does_not_fit_together_stops_the_job(data, tmp_path):
    with pytest.raises(ValueError, match=rf"{LARGER} sees size=256, .*second={{'large': Target\(size=256, "):
        own_pipeline(data, tmp_path / "1", {}, second_embeddings={"large": 512})
    with pytest.raises(ValueError, match=r"has the second embeddings \['large'\], and the score table's are \[\]"):
        own_pipeline(data, tmp_path / "2", {"large": Target(256)})
    with pytest.raises(
        ValueError, match=r"512 values and the score table's column 9; give second_embeddings\['large'\]=512"
    ):
        own_pipeline(data, tmp_path / "3", {"large": Target(256)}, second_embeddings={"large": 9})


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A whole tower in a file of which nothing tells how it was trained."""
    name = "ViT-S-32-alt"
    tower = open_clip.create_model(name, pretrained_text=False)
    path = tmp_path_factory.mktemp("bare") / "mine.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tower.state_dict().items()}, path)
    return path


def test_a_bare_file_is_asked_about_and_the_answer_stands_behind_it(bare):
    with pytest.raises(SecondModelError, match=r"ViT-S-32-alt=\S+,preprocess=TAG$"):
        find_second_models([f"ViT-S-32-alt={bare}"])
    with pytest.raises(SecondModelError, match=r"ViT-L-14=\S+,quick_gelu=yes \(or no\),preprocess=TAG$"):
        find_second_models([f"ViT-L-14={bare}"])
    for answer, gelu, mode in (
        ("preprocess=webli", False, "squash"),
        ("quick_gelu=yes,preprocess=mean=0.5,std=0.5,interpolation=bilinear,resize_mode=squash", True, "squash"),
        ("preprocess=openai, quick_gelu=no", False, "shortest"),
    ):
        (model,) = find_second_models([f"ViT-S-32-alt={bare},{answer}"]).values()
        assert (model.description.quick_gelu, model.description.resize_mode) == (gelu, mode)
        assert model.pretrained == str(bare)
