"""Dataclasses as JSON: there and back, and what does not fit is told by name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from beam_curate.storage.json_files import DamagedFileError, misfit
from beam_curate.storage.json_records import of_json, read_record, shape_of, to_json


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: int | float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    many: Sequence[Inner] = ()
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    words: Sequence[str] | None = None
    maybe: "Inner | None" = None
    on: bool = False
    anything: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


FULL = Outer(
    "a", Inner(1, 0.5), (Inner(2), Inner(3, 4)), {"x": Inner(5)}, ("b",), Inner(6), True, {"k": [1, {}]}, {"z": [1]}
)


@pytest.mark.parametrize("record", [FULL, Outer("a", Inner(1))])
def test_there_and_back(record):
    written = json.loads(json.dumps(to_json(record)))
    assert "more" not in written
    assert misfit(written, shape_of(Outer)) == ""
    assert of_json(Outer, written) == record


def test_what_a_file_does_not_say_has_the_default_and_what_nobody_asks_for_is_kept():
    found = of_json(Outer, {"name": "a", "inner": {"size": 1, "unknown": 2}, "new": {"b": 1}})
    assert found == Outer("a", Inner(1), more={"new": {"b": 1}})
    assert to_json(found)["new"] == {"b": 1}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"name": "a"}, "it has no inner"),
        ({"name": 1, "inner": {"size": 1}}, "name is '1', and no text"),
        ({"name": "a", "inner": {"size": True}}, "inner.size is 'True', and no whole number"),
        ({"name": "a", "inner": {"size": 1, "ratio": "x"}}, "inner.ratio is 'x', and no"),
        ({"name": "a", "inner": {"size": 1}, "many": [{}]}, "it has no many[0].size"),
        ({"name": "a", "inner": {"size": 1}, "by_name": {"x": 3}}, "by_name.x is '3', and no object"),
        ({"name": "a", "inner": {"size": 1}, "words": [1]}, "words"),
        ({"name": "a", "inner": {"size": 1}, "maybe": {}}, "maybe: it has no size"),
        ([], "and no object"),
    ],
)
def test_what_does_not_fit_is_named(value, words, tmp_path):
    assert words in misfit(value, shape_of(Outer))
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(DamagedFileError, match=r"x\.json is damaged: .*; mend it"):
        read_record(Outer, str(tmp_path / "x.json"), "mend it")
