"""What a run keeps has the library's names: those of the command line may change, and no run notices."""

import json

import pytest

from beam_curate.commands import curate, dedup, export, outcome, pack, parsing, select
from beam_curate.runs.configuration import read_configuration
from tests.conftest import encoded, photo, tar_bytes
from tests.support.exporting_runs import OFF, curated
from tests.support.models import MODEL

FILES = [
    "files.beside",
    "files.extension",
    "files.format",
    "files.indexed",
    "files.lists",
    "files.samples_per_file",
    "files.shuffle_seed",
]
DUPLICATES = [f"duplicates.{name}" for name in (
    "action", "against", "against_run", "between_datasets", "border", "candidates", "eps", "found", "keep_by",
    "max_distance", "methods", "mirrored", "n_clusters")]  # fmt: skip
RULES = [f"rules.{name}" for name in ("keep", "max_nsfw", "min_aesthetic", "min_side", "screen", "top", "top_fraction")]
SCORES = ["scores.caption_score", "scores.prompt", "scores.quality", "scores.scorers"]
SCORING = [f"scoring.{name}" for name in (
    "batch_size", "clip_model", "decoder", "exif_orientation", "image_extension", "max_member_bytes", "max_pixels",
    "max_shard_bytes", "precision")]  # fmt: skip
OF_PACKING = ["base", "beside", "class_folders", "columns", "input", "max_member_bytes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures in a shard and as files, and a run over them."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "photos").mkdir()
    members = [(f"{n}.png", encoded(photo(n, 40, 30), "PNG")) for n in range(3)]
    for name, data in members:
        (folder / "photos" / name).write_bytes(data)
    (folder / "0.tar").write_bytes(tar_bytes(members))
    curated(f"{folder}/0.tar", folder / "run")
    return folder


@pytest.fixture
def begun(folder, monkeypatch):
    """Begins a run by each command, and gives what it keeps: what run.json holds is settled before any work."""
    monkeypatch.setattr(outcome, "finish_run", lambda *_, **__: False)

    def begin(name, seed="--shuffle_seed", side="--min_side", packed_by="--samples_per_shard"):
        run, written = folder / "run", {}
        for kind, command, words in (
            ("score", curate, [f"--input={folder}/0.tar", *MODEL, *OFF, f"{side}=2", "--dedup=exact", f"{seed}=4"]),
            ("select", select, [f"--scores={run}", "--keep=width > 3", f"{side}=3", f"{packed_by}=2", f"{seed}=5"]),
            ("deduplicate", dedup, [f"--scores={run}", "--methods=exact", f"{seed}=6"]),
            ("export", export, [f"--input={run}", "--format=webdataset", f"{seed}=7"]),
            ("pack", pack, [f"--input={folder}/photos", f"{packed_by}=2"]),
        ):
            assert command.main([*words, f"--output={folder / name / kind}"]) == 0
            written[kind] = (folder / name / kind / "run.json").read_bytes()
        return written

    return begin


def test_an_option_of_another_name_leaves_what_is_kept_as_it_is(folder, begun, monkeypatch, capsys):
    before = begun("before")
    names = {"shuffle_seed": "--order", "samples_per_shard": "--packed_by", "min_side": "--at_least"}
    monkeypatch.setattr(parsing, "flag_of", lambda name: names.get(name, f"--{name}"))
    assert select.main([f"--scores={folder}/run", f"--output={folder}/x", "--shuffle_seed=5"]) == 2
    assert "unknown option --shuffle_seed" in capsys.readouterr().err
    assert begun("after", "--order", "--at_least", "--packed_by") == before
    seeds = {kind: json.loads(text)["configuration"]["files"]["shuffle_seed"] for kind, text in before.items()}
    assert seeds == {"score": 4, "select": 5, "deduplicate": 6, "export": 7, "pack": None}


def leaves(written):
    names = read_configuration(json.loads(written)["configuration"]).flat()
    return {
        name
        for name in names
        if not name.startswith(("model.", "source.", "scores.heads", "files.format.", "columns."))
    }


def test_the_names_that_are_kept_are_these(begun):
    """Runs are continued and started from by these names for years: `old_configuration` must read what another one had."""
    found = {kind: leaves(text) for kind, text in begun("kept").items()}
    always = {*FILES, *RULES, *SCORES, "step"}
    assert found["score"] == {*always, *DUPLICATES, *SCORING, "source"}
    assert found["select"] == {*always, "duplicates", "model", "scoring"}
    assert found["deduplicate"] == {*always, *DUPLICATES, "model", "scoring"}
    assert found["export"] == {*always, "duplicates", "model", "scoring"} - {"files.format"}
    assert found["pack"] == {*always, *OF_PACKING, "duplicates", "model", "scoring", "source"} - {"columns"}
