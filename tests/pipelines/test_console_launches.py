"""Launches of the templates as from Google's console, which fills in every default that a template has and sends it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.dataflow_stub import BUCKET, PROJECT, REGION, dataflow, run_commands
from tests.support.made_heads import mlp_state, nsfw_state

IMAGE = "us-docker.pkg.dev/stub-project/images/beam-curate:1"
NEEDED = {
    "curate": {"input": f"gs://{BUCKET}/in/*.tar"},
    "select": {"scores": f"gs://{BUCKET}/scored"},
    "dedup": {"scores": f"gs://{BUCKET}/scored"},
    "export": {"input": f"gs://{BUCKET}/scored", "format": "tfrecord"},
}
SCORED = [
    f"--input=gs://{BUCKET}/in/*.tar", f"--output=gs://{BUCKET}/scored", "--clip_model=ViT-S-32-alt", "--pretrained=random",
    "--aesthetic_head=random", "--nsfw_head=random", "--min_aesthetic=none", "--max_nsfw=none",
]  # fmt: skip


def console(name, template, endpoint, **filled):
    """The words that the launcher gives to a command: all defaults, what is required, what the user filled in."""
    metadata = json.loads((ROOT / "templates" / f"{template}.json").read_text())
    defaults = {each["name"]: each["defaultValue"] for each in metadata["parameters"] if "defaultValue" in each}
    values = {**defaults, **NEEDED[template], "output": f"gs://{BUCKET}/{name}", "sdk_container_image": IMAGE, **filled}
    assert values.keys() >= {each["name"] for each in metadata["parameters"] if not each["isOptional"]}
    launcher = {
        "runner": "DataflowRunner", "project": PROJECT, "region": REGION, "temp_location": f"gs://{BUCKET}/tmp",
        "staging_location": f"gs://{BUCKET}/staging/{name}", "dataflow_endpoint": endpoint, "job_name": name,
        "template_location": f"gs://{BUCKET}/launch/{name}",
    }  # fmt: skip
    return [f"--{key}={value}" for key, value in {**values, **launcher}.items()]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of the default models; a launch reads the names of their weights, and workers the weights."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "ViT-L-14" / "openai").mkdir(parents=True)
    (folder / "heads").mkdir()
    weights = {"visual.proj": np.zeros((1024, 768), np.float16)}
    save_file(weights, folder / "ViT-L-14" / "openai" / "open_clip_model.safetensors")
    save_file(mlp_state(768), folder / "heads" / "sac_logos_ava1-l14-linearMSE.safetensors")
    save_file(nsfw_state(768, (64, 512, 256)), folder / "heads" / "nsfw_vit_l_14.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def launched(models, tmp_path_factory):
    """The statuses of all launches, the jobs and runs that they described, and what they printed."""
    folder = tmp_path_factory.mktemp("console")
    with dataflow(folder) as service:
        service.bucket.write("in/00000.tar", tar_bytes([(f"{n}.jpg", encoded(photo(n))) for n in range(3)]))
        launches = {
            "curate": ("curate", {"model_dir": models}),
            "headless": ("curate", {"model_dir": models, "aesthetic_head": "none", "nsfw_head": "none"}),
            "gpu": ("curate", {"model_dir": models, "accelerator": "l4"}),
            "select": ("select", {}),
            "dedup": ("dedup", {}),
            "export": ("export", {}),
        }
        cases = [("curate", SCORED)] + [
            (template, console(name, template, service.endpoint, **filled))
            for name, (template, filled) in launches.items()
        ]
        statuses, log = run_commands(service, folder, cases)
        assert statuses[:1] == [0], log
        described = {name for name in launches if f"launch/{name}" in service.bucket.names()}
        jobs = {name: json.loads(service.bucket.read(f"launch/{name}")) for name in described}
        for name in described:
            jobs[name]["run"] = json.loads(service.bucket.read(f"{name}/run.json"))
        yield dict(zip(launches, statuses[1:], strict=True)), jobs, log


@pytest.mark.parametrize("name", ["curate", "headless", "gpu", "select", "dedup", "export"])
def test_a_launch_with_every_default_is_taken(launched, name):
    statuses, jobs, log = launched
    assert statuses[name] == 0, log
    (pool,) = jobs[name]["environment"]["workerPools"]
    assert pool["workerHarnessContainerImage"] == IMAGE


def test_the_accelerator_still_chooses(launched):
    _, jobs, _ = launched
    (pool,) = jobs["gpu"]["environment"]["workerPools"]
    assert (pool["machineType"], pool["numThreadsPerWorker"]) == ("g2-standard-8", 4)
    configuration = jobs["gpu"]["run"]["configuration"]
    scoring = configuration["scoring"]
    assert (scoring["batch_size"], scoring["precision"]) == (128, "bf16")


def test_a_default_threshold_on_a_score_that_is_off_is_no_rule(launched):
    _, jobs, _ = launched
    rules = {name: jobs[name]["run"]["configuration"]["rules"]["min_aesthetic"] for name in ("curate", "headless")}
    assert rules == {"curate": 0.5, "headless": None}
