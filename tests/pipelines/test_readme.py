"""Every command and code block of the README, executed in order in one folder as a user would have it."""

import os
import re
import subprocess
import sys
from unittest.mock import patch

import open_clip
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from tests.conftest import ROOT, encoded, photo
from tests.support.blocks import SETTINGS, run
from tests.support.made_heads import mlp_state, nsfw_state

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, re.M | re.S)
PHOTOS = {f"{number}.{kind}": kind for number, kind in enumerate(3 * ("jpg", "png", "webp", "jpg"))}
"""Of several formats, for what reads them must not count on one."""
LAYERS = 1
"""Of the ViT-L-14 that the commands run, instead of 24."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with the project's files, twelve photographs, and models in the places that the README names."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("pipelines", "beam_curate", "Makefile", "setup.py", "pyproject.toml", "dev.lock"):
        os.symlink(ROOT / name, folder / name)
    # The virtual environment that runs the tests stands in for the one that make would build.
    (folder / ".venv").mkdir()
    for name in os.listdir(sys.prefix):
        if name != ".installed":
            os.symlink(os.path.join(sys.prefix, name), folder / ".venv" / name)
    (folder / ".venv" / ".installed").touch()
    (folder / "photos").mkdir()
    for number, (name, kind) in enumerate(PHOTOS.items()):
        (folder / "photos" / name).write_bytes(encoded(photo(number), {"jpg": "JPEG"}.get(kind, kind)))
        (folder / "photos" / f"{number}.txt").write_text(f"caption {number}")
    return folder


@pytest.fixture(scope="module")
def models(checkout):
    """Random weights of the published shapes, where fetch-models puts the real ones; open_clip knows the shallow model."""
    folder = checkout / "models"
    (folder / "heads").mkdir(parents=True)
    (folder / "ViT-L-14" / "openai").mkdir(parents=True)
    config = open_clip.get_model_config("ViT-L-14")
    torch.manual_seed(0)
    vision = {**config["vision_cfg"], "layers": LAYERS}
    tower = open_clip.model._build_vision_tower(config["embed_dim"], vision).bfloat16()
    save_file(
        {f"visual.{name}": value for name, value in tower.state_dict().items()},
        folder / "ViT-L-14" / "openai" / "open_clip_model.safetensors",
    )
    # So that some samples pass the thresholds of the README, and there is something to select and to export.
    aesthetic, nsfw = mlp_state(768), nsfw_state(768, (64, 512, 256))
    aesthetic["layers.7.bias"] += 10
    nsfw["linear_4.bias"] -= 10
    save_arrays(aesthetic, folder / "heads" / "sac_logos_ava1-l14-linearMSE.safetensors")
    save_arrays(nsfw, folder / "heads" / "nsfw_vit_l_14.safetensors")
    with patch.dict(open_clip.factory._MODEL_CONFIGS["ViT-L-14"]["vision_cfg"], layers=LAYERS):
        yield folder


def test_it_is_short():
    assert len(README.splitlines()) <= 120


def test_the_first_screen_is_runnable():
    assert "```sh\nmake demo\n```" in "\n".join(README.splitlines()[:12])


def test_make_demo(checkout):
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    settings = {**os.environ, **SETTINGS, "PATH": path}
    done = subprocess.run(
        ["make", "demo"], cwd=checkout, env=settings, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^input +83 samples in 3 shards$", done.stdout, re.M)
    assert "MEANINGLESS" in done.stdout
    (shown,) = re.findall(r"^```text\n(.*?)^```$", README, re.M | re.S)
    lines = [line for line in shown.splitlines() if not line.endswith(("…", "..."))]
    assert lines
    assert set(lines) <= set(done.stdout.splitlines())


def test_every_other_block(checkout, models):
    blocks = [(kind, code) for kind, code in BLOCKS if code != "make demo\n"]
    assert len(blocks) == len(BLOCKS) - 1 >= 5
    for kind, code in blocks:
        done = run(kind, code, checkout)
        if "fetch-models" in code:
            # Without a network it says what to get and where to put it.
            assert done.returncode == 1, done.stderr
            assert "nsfw" in done.stderr + done.stdout
            continue
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        assert done.stdout or "import apache_beam" in code
    assert (checkout / "out" / "summary.json").exists()
    assert (checkout / "curated" / "summary.json").exists()
    for name in ("train/00000.tar", "train/README.md", "packed/00000.tar"):
        assert (checkout / name).exists(), name
