"""The program `beam-curate`: its commands, their help, the version, and what the TAB key completes."""

import subprocess
import sys

import pytest

from beam_curate.commands import cli
from beam_curate.commands.option_groups import MORE, ORDER
from beam_curate.version import __version__
from tests.conftest import encoded, photo

OF_OPTIONS = [name for name, command in cli.COMMANDS.items() if command.options.endswith("Options")]


def said(capsys, *words):
    """What the program prints for these words."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["beam-curate"])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_under_its_name(name, capsys):
    text = said(capsys, name, "--help")
    assert text.startswith(f"usage: beam-curate {name} ")
    assert "(default: )" not in text
    assert "None" not in text
    assert "--version" in text


@pytest.mark.parametrize("name", OF_OPTIONS)
def test_the_help_is_in_groups_in_one_order(name, capsys):
    lines = said(capsys, name, "--help").splitlines()
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith((" ", "options"))]
    assert len(titles) >= (2 if name == "report" else 3)
    assert titles == [group for group in ORDER if group in titles]
    assert MORE not in titles, "name the new option in pipelines/option_groups.py"


def test_a_default_is_shown_where_it_tells_something(capsys):
    text = " ".join(said(capsys, "curate", "--help").split())
    assert "(default: 1000)" in text
    assert "decoding threads of a worker process; 0: one per core (default: 0)" in text
    assert "continue the run in --output (default" not in text
    assert "keep if the shorter side in pixels >= this; none: no such rule (default" not in text
    assert "hours of one core (default: 1e14)" in text


def test_the_program_lists_its_commands(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"{name:14}{command.about}" in text
    assert said(capsys, "--version") == said(capsys, "curate", "--version") == f"beam_curate {__version__}\n"


@pytest.mark.parametrize(("word", "hint"), [("currate", "did you mean curate?"), ("x", "there are: curate, select")])
def test_a_wrong_name_is_told(word, hint, capsys):
    assert cli.main([word]) == 2
    assert hint in capsys.readouterr().err


def test_the_options_of_a_command_reach_it(capsys):
    assert cli.main(["select", "--scores=nowhere", "--output=x", "--no_such_option=1"]) == 2
    assert "unknown option --no_such_option" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_wrong_option_of_any_command_is_one_line(name, capsys):
    assert cli.main([name, "--no_such_option=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


COMPLETE = """
{script}
COMP_WORDS=({words}) COMP_CWORD={last} COMP_LINE='{words}' COMP_POINT=${{#COMP_LINE}}
_shtab_beam_curate
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("beam-curate de", {"dedup", "demo"}),
        ("beam-curate dedup --ep", {"--eps"}),
        ("beam-curate curate --precision ", {"auto", "bf16", "fp16", "fp32"}),
        ("beam-curate export --min_aes", set()),
    ],
)
def test_bash_completes_commands_options_and_choices(words, wanted, capsys):
    assert cli.main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    split = words.split(" ")
    given = " ".join(split) if split[-1] else f"{' '.join(split[:-1])} ''"
    code = COMPLETE.format(script=script, words=given.replace("''", '""'), last=len(split) - 1)
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == wanted


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_not_stop_a_command(tmp_path, closed):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(encoded(photo(1)))
    words = ["pack", f"--input={tmp_path}/photos", f"--output={tmp_path}/packed"]
    line = [sys.executable, "-c", "from beam_curate.commands.starting import run; run()", *words]
    closing = " ".join(f"{number}>&-" for number in closed)
    ended = subprocess.run(["sh", "-c", f'"$@" {closing}', "sh", *line], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "packed" / "summary.json").exists()
    assert b"Traceback" not in ended.stderr
