"""Every command and code block of the README, executed in order in one folder as a user would have it."""

import os
import re
import subprocess
import sys

import open_clip
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from tests.conftest import ROOT, encoded, photo
from tests.support.made_heads import mlp_state, nsfw_state

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", README, re.M | re.S)
DEAD_PROXY = "http://127.0.0.1:9"
LAYERS = 2
# The commands run as they stand in the README, with a ViT-L-14 of two layers instead of 24: python reads this file at its
# start, and it changes open_clip's table of models when that is imported.
SITECUSTOMIZE = f"""
import importlib.machinery
import sys

class ShallowModel:
    def find_spec(self, name, path, target=None):
        if name != "open_clip.factory":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module._MODEL_CONFIGS["ViT-L-14"]["vision_cfg"]["layers"] = {LAYERS}

        spec.loader.exec_module = exec_module
        return spec

class WithTable:
    def find_spec(self, name, path, target=None):
        if name == "beam_curate.clip.open_clip_parts":
            import open_clip.factory  # else it reads the model's own file
        return None

sys.meta_path[:0] = [ShallowModel(), WithTable()]
"""


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
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (folder / "photos").mkdir()
    for number in range(12):
        (folder / "photos" / f"{number}.jpg").write_bytes(encoded(photo(number)))
        (folder / "photos" / f"{number}.txt").write_text(f"caption {number}")
    return folder


@pytest.fixture(scope="module")
def models(checkout):
    """Random weights of the published shapes, where fetch-models puts the real ones."""
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
    return folder


def run(kind, code, folder):
    """Runs a block with this environment's python, and with no network."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    command = ["bash", "-ec", code] if kind == "sh" else [sys.executable, "-c", code]
    settings = {
        "PATH": path,
        "PYTHONPATH": str(folder / "site"),
        "HTTPS_PROXY": DEAD_PROXY,
        "HTTP_PROXY": DEAD_PROXY,
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=500
    )


def test_it_is_short():
    assert len(README.splitlines()) <= 120


def test_the_first_screen_is_runnable():
    assert "```sh\nmake demo\n```" in "\n".join(README.splitlines()[:12])


def test_make_demo(checkout):
    done = run("sh", "make demo", checkout)
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
