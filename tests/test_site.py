"""The pages as a site: every page is in the navigation, and the reference has every public name."""

import re

import beam_curate
from tests.conftest import ROOT


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"[\w-]+\.md", nav)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: beam_curate\.(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.M)
    assert sorted(named) == sorted(beam_curate.__all__)
