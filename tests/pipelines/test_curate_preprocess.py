"""Weights in a bare file from the command line: the embeddings are open_clip's, and the run says how images were prepared."""

import io
import json

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from beam_curate.commands import curate, select
from beam_curate.yaml_transforms import curate_images
from tests.conftest import encoded, photo, tar_bytes

OFF = ["--aesthetic_head=none", "--nsfw_head=none", "--min_aesthetic=none", "--max_nsfw=none"]
FIRST, SECOND = "ViT-S-32-alt", "ViT-M-32-alt"
SIGLIP = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
OWN = {"mean": (0.1, 0.2, 0.3), "std": (0.4,) * 3, "interpolation": "bilinear", "resize_mode": "shortest"}
OWN_TEXT = "mean=0.1/0.2/0.3,std=0.4,interpolation=bilinear,resize_mode=shortest"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    images = [encoded(photo(seed, 300 + 40 * seed, 260), "PNG") for seed in range(4)]
    (folder / "a.tar").write_bytes(tar_bytes([(f"{n}.png", image) for n, image in enumerate(images)]))
    models = {}
    for name in (FIRST, SECOND):
        torch.manual_seed(1)
        models[name] = open_clip.create_model(name).eval()
        save_file(
            {f"module.{key}": t.contiguous() for key, t in models[name].state_dict().items()},
            folder / f"{name}.safetensors",
        )
    return folder, images, models


def wanted(model, images, quick_gelu=False, **preprocess):
    """The embeddings as open_clip computes them, images prepared by its own transform."""
    transform = image_transform_v2(PreprocessCfg(size=224, **preprocess), is_train=False)
    with torch.inference_mode():
        batch = torch.stack([transform(Image.open(io.BytesIO(image))) for image in images])
        return model.encode_image(batch, normalize=True).numpy()


def rows(table, column):
    return np.array(table.column(column).to_pylist(), np.float64)


@pytest.fixture(scope="module")
def finished(data):
    folder, _, _ = data
    flags = [f"--input={folder}/a.tar", f"--output={folder}/out", f"--clip_model={FIRST}", *OFF, "--precision=fp32"]
    flags += [f"--pretrained={folder}/{FIRST}.safetensors", "--decoder=pillow", "--batch_size=4"]
    second = f"--second_model={SECOND}={folder}/{SECOND}.safetensors,quick_gelu=no,preprocess={OWN_TEXT}"
    assert curate.main([*flags, second, "--preprocess=webli"]) == 0
    return folder / "out", flags, second


def test_the_embeddings_are_open_clips(data, finished):
    _, images, models = data
    table = pq.read_table(finished[0] / "scores")
    for column, model, prepared in (("embedding", FIRST, SIGLIP), ("embedding_vit_m_32_alt", SECOND, OWN)):
        got = rows(table, column)
        right = wanted(models[model], images, **prepared)
        assert np.linalg.norm(got - right, axis=1).max() < 5e-3
        assert np.linalg.norm(got - wanted(models[model], images), axis=1).min() > 2e-2  # OpenAI's would be told apart


def test_the_run_records_it_and_resume_compares_it(finished, capsys):
    output, flags, second = finished
    configuration = json.loads((output / "summary.json").read_text())["configuration"]
    assert "preprocess" not in configuration
    for model, prepared in ((configuration["model"], SIGLIP), (configuration["second_models"]["vit_m_32_alt"], OWN)):
        assert {key: tuple(model[key]) if key in ("mean", "std") else model[key] for key in prepared} == prepared
    assert curate.main([*flags, second, "--preprocess=openai", "--resume"]) == 2
    assert "--resume: model.mean" in capsys.readouterr().err
    other = second.replace("0.1/0.2", "0.2/0.2")
    assert curate.main([*flags, other, "--preprocess=webli", "--resume"]) == 2
    assert "--resume: second_models.vit_m_32_alt.mean" in capsys.readouterr().err
    assert curate.main([*flags, second, "--resume"]) == 2
    assert "give --preprocess" in capsys.readouterr().err
    (output / "summary.json").unlink()
    same = "--preprocess=mean=0.5,std=0.5,interpolation=bicubic,resize_mode=squash"
    assert curate.main([*flags, second, same, "--resume"]) == 0


def test_a_selection_asks_nothing_that_the_run_knows(data, finished):
    folder, _, _ = data
    flags = ["--dry_run", "--prompt=cat=a photo of a cat", f"--pretrained={folder}/{FIRST}.safetensors"]
    assert select.main([f"--scores={finished[0]}", *flags]) == 0


def test_yaml_takes_it_as_a_map_too(data, tmp_path):
    folder, _, _ = data
    heads = {"aesthetic_head": "none", "nsfw_head": "none"}
    for said in ("webli", dict(OWN, mean=[0.1, 0.2, 0.3])):
        embed = {"clip_model": FIRST, "pretrained": f"{folder}/{FIRST}.safetensors", "preprocess": said}
        curate_images(f"{folder}/a.tar", str(tmp_path / "out"), embed=embed, score=heads)
    with pytest.raises(ValueError, match="give `preprocess`"):
        curate_images(f"{folder}/a.tar", str(tmp_path / "out"), embed={**embed, "preprocess": "auto"}, score=heads)
