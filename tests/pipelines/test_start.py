"""What each command has not loaded at each moment: it costs seconds before the first image, or before an error is said."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, encoded, photo, tar_bytes

COMMANDS = ("curate", "select", "dedup", "export", "fetch_models")
# All that is not of the standard library and takes a tenth of a second or more.
ANYTHING = {"apache_beam", "google.protobuf", "grpc", "huggingface_hub", "numpy", "open_clip", "pandas", "PIL", "pyarrow",
            "scipy", "tfrecord", "torch", "torchvision", "tqdm", "transformers"}  # fmt: skip
# What only training, compiling, other kinds of towers and text need.
OF_OTHER_MODELS = {"ftfy", "open_clip.factory", "open_clip.model", "sympy", "timm", "torch._dynamo", "torch._inductor",
                   "torchvision.models", "transformers", "triton"}  # fmt: skip
OF_THE_MODEL = {
    "apache_beam.ml.inference.base",
    "open_clip",
    "scipy",
    "skimage",
    "torch",
    "torchvision",
} | OF_OTHER_MODELS
# What Beam loads for others.
OF_OTHER_JOBS = {"google.cloud.bigquery", "google.cloud.pubsub_v1", "pymongo", "scipy.linalg"}

# Runs commands one after the other, and prints what is loaded at the end of each, and when curate has embedded its first images.
WATCHED = """
import importlib, json, sys
for quick in sys.argv[2:]:
    from beam_curate.commands.beam_parts import load_beam
    load_beam()  # as a command does, and before anything else loads Beam
    importlib.import_module(f"tests.support.{quick}").quicken()
def tell(moment, status):
    print(json.dumps([moment, status, sorted(sys.modules)]))
def watch_the_model():
    from beam_curate.commands.beam_parts import load_beam
    load_beam()
    import beam_curate.clip.handler as handler
    real = handler.ClipModelHandler.run_inference
    def run_inference(self, *arguments):
        result = real(self, *arguments)
        tell("first images", 0)
        return result
    handler.ClipModelHandler.run_inference = run_inference
for name, *argv in json.loads(sys.argv[1]):
    if argv[0].startswith("--input") and name == "curate":
        watch_the_model()
    try:
        status = importlib.import_module(f"beam_curate.commands.{name}").main(argv)
    except SystemExit as end:
        status = end.code
    tell(name, status)
"""


QUICK = ("quick_beam", "quick_bundles")
"""For commands whose pipelines run: these load Beam, and nothing of the model or of other models."""


def watched(*commands, quick=()):
    """Moments, exit statuses, and the names of what is loaded, one triple for each moment."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(commands), *quick],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    return [(moment, status, set(modules)) for moment, status, modules in told]


@pytest.mark.parametrize(("option", "expected"), [("--help", 0), ("--samples_per_shard=x", 2)])
def test_help_and_a_wrong_option_load_nothing(option, expected):
    found = watched(*([command, option] for command in COMMANDS))
    assert [(moment, status) for moment, status, _ in found] == [(command, expected) for command in COMMANDS]
    for command, _, modules in found:
        assert sorted(ANYTHING & modules) == [], command


def test_a_run_and_selections_from_it(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"{n}.jpg", encoded(photo(n, 300, 200))) for n in range(3)]))
    random = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
    rules = ["--min_aesthetic=none", "--max_nsfw=none", "--batch_size=3"]
    run = watched(["curate", f"--input={tmp_path}/a.tar", f"--output={tmp_path}/out", *random, *rules], quick=QUICK)
    assert [(moment, status) for moment, status, _ in run] == [("first images", 0), ("curate", 0)]
    for moment, _, modules in run:
        assert "torch" in modules
        assert sorted((OF_OTHER_MODELS | OF_OTHER_JOBS) & modules) == [], moment
    later = watched(
        ["select", f"--scores={tmp_path}/out", "--dry_run"],
        ["select", f"--scores={tmp_path}/out", f"--output={tmp_path}/selected"],
        ["dedup", f"--scores={tmp_path}/out", f"--output={tmp_path}/unique", "--methods=exact"],
        ["export", f"--input={tmp_path}/out", f"--output={tmp_path}/records", "--format=tfrecord"],
        quick=QUICK,
    )
    assert [(moment, status) for moment, status, _ in later] == [
        (name, 0) for name in ("select", "select", "dedup", "export")
    ]
    for moment, _, modules in later:
        assert sorted((OF_THE_MODEL | OF_OTHER_JOBS) & modules) == [], moment
