"""The pages as a site: every page is in the navigation, and the reference has every public name."""

import importlib
import inspect
import re
import typing

import beam_curate
from tests.conftest import ROOT


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"[\w-]+\.md", nav)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: beam_curate\.(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.M)
    assert sorted(named) == sorted(beam_curate.__all__)


PAGE = (ROOT / "docs" / "reference.md").read_text()


def types_in(annotation):
    """The classes of this package that an annotation names."""
    if inspect.isclass(annotation) and annotation.__module__.startswith("beam_curate."):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from types_in(inner)


def test_the_reference_says_where_each_type_that_public_names_take_is_imported_from():
    said = set()
    for types, modules in re.findall(r"^\| (`\w+`.*?) \| (`beam_curate.*?) \|$", PAGE, re.M):
        homes = [importlib.import_module(place) for place in re.findall(r"`([\w.]+)`", modules)]
        for name in set(re.findall(r"`([A-Z]\w+)`", types)) - set(beam_curate.__all__):
            said.add(next(getattr(home, name) for home in homes if hasattr(home, name)))
    taken = set()
    for each in (getattr(beam_curate, name) for name in beam_curate.__all__):
        hints = typing.get_type_hints(each.__init__ if inspect.isclass(each) else each)
        taken |= {kind for name, annotation in hints.items() if name != "return" for kind in types_in(annotation)}
    assert taken - {getattr(beam_curate, name) for name in beam_curate.__all__} - said == set()
    assert len(said) > 20
