"""The command itself, with a real (random) model, on gs:// and s3:// emulators, against a run on the local disk."""

import pytest

from beam_curate.commands import curate
from tests.support.object_stores import gcs as gcs
from tests.support.object_stores import s3 as s3
from tests.support.object_stores import store as store
from tests.support.storage_jobs import pathless, put, shard_bytes, stored

MODEL = "--clip_model ViT-S-32-alt --pretrained random --aesthetic_head random --nsfw_head random --min_aesthetic none "
LIMITS = "--max_nsfw none --samples_per_shard 6 --precision fp32"
FLAGS = (MODEL + LIMITS).split()


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    put(str(folder / "data"), shard_bytes())
    assert curate.main(["--input", f"{folder}/data/*.tar*", "--output", f"{folder}/out", *FLAGS]) == 0
    return pathless(stored(str(folder / "out")))


def test_run_resume_and_overwrite(store, local_run, capsys):
    put(f"{store.root}/command/data", shard_bytes())
    command = ["--input", f"{store.root}/command/data/*.tar*", "--output", f"{store.root}/command/out", *FLAGS]
    command += store.options
    assert curate.main(command) == 0
    assert pathless(stored(f"{store.root}/command/out")) == local_run
    assert curate.main(command) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert curate.main([*command, "--resume"]) == 0
    assert curate.main([*command, "--overwrite"]) == 0
    assert pathless(stored(f"{store.root}/command/out")) == local_run
