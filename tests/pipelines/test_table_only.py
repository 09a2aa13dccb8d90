"""A run that ends with its score table: what packs it later neither scores nor reads more than the samples that are kept."""

import collections
import json

import pytest

from beam_curate import read_score_table
from beam_curate.clip.handler import ClipModelHandler
from beam_curate.commands import curate, dedup, export, select
from beam_curate.runs.run import Run
from beam_curate.storage import ranged_reading
from tests.conftest import encoded, photo, tar_bytes
from tests.support.models import MODEL

OFF = ["--min_aesthetic=none", "--max_nsfw=none"]
RULES = {"rules": ["--min_side=70"], "table": ["--min_side=70", "--dedup=exact", "--top=aesthetic=15"]}
TEXT = b"x" * 200_000  # most of a shard, so that one that is read can be told
ONLY = ["scores", "verdicts", "duplicates", "run.json", "summary.json", "input_shards.parquet", "report.html"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three shards of 8 samples: one small, one bad and one a copy in each."""
    folder = tmp_path_factory.mktemp("table-only")
    (folder / "data").mkdir()
    for shard in range(3):
        members = []
        for n in range(8):
            image = b"no image" if n == 5 else encoded(photo(0 if n == 6 else 10 * shard + n, 60 if n == 3 else 90, 90))
            members += [(f"{shard}{n}.jpg", image), (f"{shard}{n}.txt", TEXT)]
        (folder / "data" / f"{shard}.tar").write_bytes(tar_bytes(members))
    return folder


def scored(folder, name, *flags, status=0):
    output = folder / name
    arguments = [f"--input={folder}/data/*.tar", f"--output={output}", *MODEL, *OFF, "--samples_per_shard=4", *flags]
    assert curate.main(arguments) == status
    return output


class Work:
    """What is done from now on: images that the model gets, models that are loaded, bytes of sources and of the table."""

    def __init__(self, monkeypatch):
        self.counts = collections.Counter()
        infer, load, fetch = (
            ClipModelHandler.run_inference,
            ClipModelHandler.load_model,
            ranged_reading.RangeReader._fetch,
        )

        def inferred(handler, batch, *more):
            self.counts["images"] += len(batch)
            return infer(handler, batch, *more)

        def loaded(handler):
            self.counts["models"] += 1
            return load(handler)

        def fetched(reader, start, stop):
            data = fetch(reader, start, stop)
            self.counts["sources" if "/data/" in reader.path else "table"] += len(data)
            return data

        monkeypatch.setattr(ClipModelHandler, "run_inference", inferred)
        monkeypatch.setattr(ClipModelHandler, "load_model", loaded)
        monkeypatch.setattr(ranged_reading.RangeReader, "_fetch", fetched)


@pytest.fixture(params=RULES)
def runs(request, folder):
    """The flags of a run, the whole run, and one that has ended with its table."""
    flags, name = RULES[request.param], request.param
    made = [folder / f"{name}-whole", folder / f"{name}-table"]
    if not made[0].exists():
        scored(folder, made[0].name, *flags)
        scored(folder, made[1].name, *flags, "--table_only")
    return flags, *made


def shards(output):
    """The files of the output shards and their indexes."""
    names = [*output.glob("0*"), output / "index.json", output / "sizes.json"]
    return {path.name: path.read_bytes() for path in names}


def summary(output):
    return json.loads((output / "summary.json").read_text())


def test_it_ends_with_the_table_and_the_verdicts(runs):
    _, whole, table = runs
    assert {path.name for path in table.iterdir()} <= set(ONLY)
    assert read_score_table(str(table)).equals(read_score_table(str(whole)))
    assert summary(table)["table_only"] is True
    assert "table_only" not in summary(whole)
    assert summary(table)["funnel"] == summary(whole)["funnel"]
    assert summary(table)["output_shards"] == 0


def test_the_same_command_packs_it_without_scoring(runs, folder, monkeypatch, capsys):
    flags, whole, _ = runs
    name = f"{whole.name}-packed"
    table = scored(folder, name, *flags, "--table_only")
    assert "pack it with beam-curate select" in capsys.readouterr().out
    before = Run(str(table)).source
    parts = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in table.glob("*/part-*")}
    scored(folder, name, *flags, "--table_only", "--resume")
    assert "complete already" in capsys.readouterr().out
    work = Work(monkeypatch)
    scored(folder, name, *flags, "--resume")
    kept = read_score_table(str(whole), ["status", "members"]).to_pylist()
    wanted = sum(member["size"] + 1024 for row in kept if row["status"] == "kept" for member in row["members"])
    whole_shards = sum(path.stat().st_size for path in (folder / "data").iterdir())
    assert (work.counts["images"], work.counts["models"]) == (0, 0)
    # What is kept, and what the pictures of the report take at most; scoring would read all once more.
    assert work.counts["sources"] <= 1.2 * wanted + whole_shards < wanted + 2 * whole_shards
    assert shards(table) == shards(whole)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in table.glob("*/part-*")} == parts
    assert "table_only" not in summary(table)
    assert summary(table)["funnel"] == summary(whole)["funnel"]
    # So dedup goes on from it.
    assert Run(str(table)).source == before == Run(str(whole)).source
    capsys.readouterr()
    scored(folder, name, *flags, "--resume")
    assert "complete already" in capsys.readouterr().out


def test_select_and_dedup_take_it(runs, folder, monkeypatch):
    _, whole, table = runs
    work = Work(monkeypatch)
    made = {}
    for source in (whole, table):
        for name, command, flags in (
            ("select", select, ["--min_side=70", "--top=nsfw=9"]),
            ("dedup", dedup, ["--methods=exact"]),
        ):
            output = folder / f"{source.name}-{name}"
            assert command.main([f"--scores={source}", f"--output={output}", "--samples_per_shard=4", *flags]) == 0
            made[source, name] = {file: data for file, data in shards(output).items() if "stats" not in file}
    for name in ("select", "dedup"):
        assert made[whole, name] == made[table, name]
        assert made[table, name]["00000.tar"]
    assert (work.counts["images"], work.counts["models"]) == (0, 0)


def test_export_refuses_it(runs, folder, capsys):
    _, _, table = runs
    assert export.main([f"--input={table}", f"--output={folder}/never", "--format=webdataset"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--input {table}: {table} has a score table and no shards yet" in line
    assert "pack it with beam-curate select" in line
    assert not (folder / "never").exists()


def test_layouts_are_of_shards(folder, capsys):
    scored(folder, "never", "--table_only", "--layout=laion", status=2)
    assert "--layout laion needs shards, which --table_only does not write" in capsys.readouterr().err
    assert not (folder / "never").exists()


def test_a_whole_run_is_complete_for_both(runs, folder, capsys):
    flags, whole, _ = runs
    before = shards(whole)
    scored(folder, whole.name, *flags, "--table_only", "--resume")
    assert "complete already" in capsys.readouterr().out
    assert shards(whole) == before
