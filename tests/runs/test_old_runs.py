"""Runs of version 0.1.0, whose configuration was flat and by option: read as today's, and continued.

The files in `version_0_1_0` are of that version: a run with --top, --dedup, --quality and --screen; `best`, a selection from
it; `again`, a selection from that with --duplicates; `clean`, a search in `best` against the run; `train`, an export
of `best` as TFRecord with smaller images.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from beam_curate.records import Shard
from beam_curate.runs.claims import RunError
from beam_curate.runs.configuration import (
    DEDUPLICATE,
    EXPORT,
    SCORE,
    SELECT,
    Files,
    read_configuration,
)
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.scores.rules_in_force import duplicates, rules, steps, top_column
from beam_curate.storage.json_records import to_json

OLD = Path(__file__).parent / "version_0_1_0"
NAMES = ("run", "best", "again", "clean", "train")
SHARDS = [Shard(0, "/data/0.tar", 1)]


@pytest.fixture
def old(tmp_path):
    """The folders of these runs, with the files that say what they are."""
    for name in NAMES:
        folder = tmp_path / name
        Run(str(folder)).begin(WantedRun(read_configuration({}), SHARDS))
        for file in ("run.json", "summary.json"):
            shutil.copy(OLD / f"{name}.{file}", folder / file)
    return tmp_path


def configurations(old):
    return {name: Run(str(old / name)).configuration for name in NAMES}


def test_what_was_configured_is_told_by_group(old):
    found = configurations(old)
    steps_done = {name: each.step for name, each in found.items()}
    assert steps_done == {"run": SCORE, "best": SELECT, "again": SELECT, "clean": DEDUPLICATE, "train": EXPORT}
    run = found["run"]
    assert (run.rules.top, run.rules.screen, run.rules.min_aesthetic) == ("aesthetic=18", "side > 2", None)
    assert (run.scores.quality, list(run.scores.heads)) == ("border", ["aesthetic", "nsfw"])
    assert (run.scoring.batch_size, run.scoring.decoder, run.max_pixels) == (32, "fast", 178956970)
    assert (run.model.weights, run.model.embed_dim, run.model.more["quick_gelu"]) == ("random:0", 256, False)
    assert (run.duplicates.methods, run.duplicates.keep_by, run.duplicates.found) == (("exact",), "aesthetic", None)
    assert run.files == Files(5)
    assert not run.more
    assert found["best"].rules.keep == "width < 200"
    assert found["again"].duplicates.methods == ("exact", "perceptual")
    assert found["again"].duplicates.found.groups >= 0
    assert found["clean"].duplicates.against == "/data/run"
    assert found["clean"].duplicates.against_run.configuration == run
    train = found["train"].files
    assert (train.extension, train.beside, train.indexed) == ("tfrecord", (".tfindex",), False)
    assert train.format["resize_shortest"] == 64
    assert all(each.scored.model.weights == "random:0" for each in found.values())
    assert not any(each.more for each in found.values())


def test_the_rules_that_count_are_those_of_all_steps(old):
    found = configurations(old)
    assert [rules(step) for step in steps(found["clean"])] == [
        {"screen": "side > 2"},
        {"keep": "width < 200"},
        {},
    ]
    assert duplicates(steps(found["clean"])[-1])["against_action"] == "drop"
    assert top_column(found["run"]) == "aesthetic"


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_is_read(old, name):
    run = Run(str(old / name))
    said = json.loads((OLD / f"{name}.summary.json").read_text())
    if name == "train":
        assert run.ended_kind == "export"
        assert run.export_summary.export.exported == said["export"]["exported"]
        return
    summary = run.summary
    assert to_json(summary.funnel) == said["funnel"]
    assert (summary.output_shards, summary.table, summary.random) == (
        said["output_shards"],
        said["table"],
        tuple(said["random"]),
    )
    assert summary.configuration == run.configuration
    assert run.source.content == said["table"]
    assert not summary.more


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_that_version_is_continued_and_refused_by_name_of_the_difference(old, name):
    run = Run(str(old / name))
    written = json.loads(json.dumps(to_json(run.configuration)))
    today = read_configuration(written)
    assert written["step"] == today.step
    assert today.flat() == run.configuration.flat()
    scores = json.loads((OLD / f"{name}.run.json").read_text()).get("scores", "")
    assert run.begin(WantedRun(today, SHARDS, resume=True, scores=scores)) is True
    other = replace(today, files=replace(today.files, shuffle_seed=7))
    with pytest.raises(RunError, match=r"`resume`: files\.shuffle_seed was None and is 7 now"):
        run.begin(WantedRun(other, SHARDS, resume=True, scores=scores))


def test_what_another_program_decided_by_is_kept_and_compared(tmp_path):
    run = Run(str(tmp_path / "out"))
    mine = read_configuration({"min_aesthetic": 1.0, "mine": {"a": 1}})
    assert mine.more == {"mine": {"a": 1}}
    run.begin(WantedRun(mine, SHARDS))
    assert run.configuration == mine
    with pytest.raises(RunError, match=r"mine\.a was 1 and is 2 now"):
        run.begin(WantedRun(replace(mine, more={"mine": {"a": 2}}), SHARDS, resume=True))
