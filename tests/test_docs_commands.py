"""Each command of the pages is one that can be given: its options are known, and their values are taken."""

import ast
import dataclasses
import importlib
import re
import shlex

import pytest

import beam_curate
from beam_curate.commands.cli import COMMANDS
from beam_curate.commands.curate_options import CurateOptions
from tests.conftest import ROOT
from tests.test_docs import PAGES, flags_of_beam

BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`(beam-curate [a-z][^`]*)`")
SCRIPT = re.compile(r"(?:\./)?pipelines/(\w+)\.py")


def of_shell(text):
    """The commands of a block, as words without comments and without a prompt; a quoted text may have several lines."""
    begun = ""
    for line in text.replace("\\\n", " ").splitlines():
        begun = f"{begun}\n{line}" if begun else line.removeprefix("$ ")
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # the quote is still open
            continue
        begun = ""
        if words:
            yield words


def given(words):
    """The command of ours that the words call, and its options; None for another program's. Options alone are of `curate`."""
    if words[0].startswith("--"):
        return "curate", words
    if words[0] == "beam-curate":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"] and words[2].startswith("pipelines."):
        return words[2].removeprefix("pipelines.").replace("_", "-"), words[3:]
    script = SCRIPT.fullmatch(words[1]) if words[0] == "python" and len(words) > 1 else None
    return (script[1].replace("_", "-"), words[2:]) if script else None


def commands():
    for page, text in PAGES.items():
        if page == "CHANGELOG.md":
            continue
        inline = [each.replace("…", "...") for each in INLINE.findall(text)]
        for block in [*BLOCK.findall(text), *inline]:
            for words in of_shell(block):
                if (found := given(words)) is not None:
                    yield page, *found


FOUND = list(commands())


def test_there_are_commands():
    assert len(FOUND) > 25
    assert {name for _, name, _ in FOUND} >= {"curate", "select", "dedup", "export", "pack", "report", "fetch-models"}


@pytest.mark.parametrize(("page", "name", "options"), FOUND, ids=lambda each: each if isinstance(each, str) else "")
def test_its_options_are_known_and_taken(page, name, options):
    options = [word for word in options if word != "..."]  # options that the reader knows by then
    if options == ["--help"] or name == "COMMAND":
        return
    parser = COMMANDS[name].parser()
    for action in parser._actions:
        action.required = False
    known, left = parser.parse_known_args(options)
    assert known
    beam = flags_of_beam()
    assert [word for word in left if not word.startswith("--")] == []
    assert [word for word in left if word[2:].partition("=")[0] not in beam] == []


def test_all_options_of_the_comparison_but_the_first_three_have_their_default():
    page = PAGES["docs/from-nemo-curator.md"]
    assert "All options but the first three have these values by default:" in page
    first = next(options for at, name, options in FOUND if at == "docs/from-nemo-curator.md" and len(options) > 6)
    names, values = [word[2:] for word in first[::2]], first[1::2]
    assert names[:3] == ["input", "output", "model_dir"]
    defaults = {field.name: str(field.default) for field in dataclasses.fields(CurateOptions)}
    assert dict(zip(names[3:], values[3:], strict=True)) == {name: defaults[name] for name in names[3:]}
    assert len(names) > 6


def test_no_command_is_in_an_indented_block():
    """These tests do not look there."""
    of_ours = re.compile(r"^ {4}(?:beam-curate|python) .*$", re.M)
    assert {page: found for page, text in PAGES.items() if (found := of_ours.findall(text))} == {}


PYTHON = [(page, number, code) for page, text in PAGES.items()
          for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))]  # fmt: skip


@pytest.mark.parametrize(("page", "number", "code"), PYTHON, ids=[f"{page} {number}" for page, number, _ in PYTHON])
def test_a_program_of_a_page_is_one_and_imports_what_is_there(page, number, code):
    lines = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = [(line.module, name.name) for line in lines if line.module.startswith("beam_curate") for name in line.names]
    assert [each for each in names if not hasattr(importlib.import_module(each[0]), each[1])] == []
    public = set(beam_curate.__all__)
    assert [each for each in names if each[0] != "beam_curate" and each[1] in public] == []  # a shorter way is there


def test_make_has_the_targets_that_pages_name():
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([\w-]+):", makefile, re.M))
    named = {word for text in PAGES.values() for word in re.findall(r"`make ([\w-]+)", text)}
    named |= {words[1] for text in PAGES.values() for block in BLOCK.findall(text) for words in of_shell(block)
              if words[0] == "make"}  # fmt: skip
    assert named - known == set()
    assert len(named) > 6
