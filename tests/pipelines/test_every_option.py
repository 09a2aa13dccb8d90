"""Each option of each command with a value that few of them take: it is named in one line, before anything is written."""

import dataclasses
import importlib

import pytest

from beam_curate.commands.options import option_fields
from beam_curate.runs.run import Run
from tests.conftest import encoded, photo, tar_bytes
from tests.support.models import MODEL

COMMANDS = {"curate": "CurateOptions", "select": "SelectOptions", "dedup": "DedupOptions", "export": "ExportOptions",
            "pack": "PackOptions"}  # fmt: skip
VALUES = ("nan", "-1", "none://x", " ")


class AcceptedError(Exception):
    """All options were taken: the run would begin now."""


def module(name, ending=""):
    return importlib.import_module(f"beam_curate.commands.{name}{ending}")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    (folder / "a.tar").write_bytes(tar_bytes([(f"{n}.jpg", encoded(photo(n, 64, 48))) for n in range(3)]))
    (folder / "photos").mkdir()
    (folder / "photos" / "1.jpg").write_bytes(encoded(photo(1, 64, 48)))
    argv = [f"--input={folder}/a.tar", *MODEL, "--min_aesthetic=none", "--max_nsfw=none"]
    assert module("curate").main([*argv, f"--output={folder}/run"]) == 0
    return folder, {
        "curate": argv,
        "select": [f"--scores={folder}/run"],
        "dedup": [f"--scores={folder}/run"],
        "export": [f"--input={folder}/run", "--format=tfrecord"],
        "pack": [f"--input={folder}/photos"],
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_value_is_named_before_the_first_write(name, places, monkeypatch, capsys):
    folder, usual = places

    def begin(*_):
        raise AcceptedError

    monkeypatch.setattr(Run, "begin", begin)
    there = sorted(folder.rglob("*"))
    refused = 0
    for field in option_fields(getattr(module(name, "_options"), COMMANDS[name])):
        for value in VALUES:
            others = [
                word for word in (*usual[name], f"--output={folder}/new") if not word.startswith(f"--{field.name}=")
            ]
            try:
                status = module(name).main([*others, f"--{field.name}={value}"])
            except SystemExit as end:
                status = end.code
            except AcceptedError:
                status = None
            said = capsys.readouterr().err
            assert sorted(folder.rglob("*")) == there, field.name
            if status is not None:
                refused += 1
                assert status == 2, (field.name, value)
                assert f"--{field.name}" in said, (field.name, value, said)
                assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1, said
    assert refused > 2 * len(dataclasses.fields(getattr(module(name, "_options"), COMMANDS[name])))
