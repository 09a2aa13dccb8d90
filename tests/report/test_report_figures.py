"""The figures of parts add up to those of the table, in whatever order; each part is read once, with few requests."""

import collections
import dataclasses
import random
import types
import typing

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.commands import select_preview
from beam_curate.commands.options import OptionError
from beam_curate.report.data import Figures
from beam_curate.report.plan import ReportPlan, plan_report
from beam_curate.report.spread import BINS, Spread
from beam_curate.report.table import Group
from beam_curate.report.writing import plan_of_run, write_report
from beam_curate.runs.division import Division
from beam_curate.runs.state_files import read_summary
from beam_curate.runs.table_parts import TablePlace
from beam_curate.scores.rules import standard_rules
from beam_curate.scores.top import TopRule
from beam_curate.selection.rejudging import Selection
from beam_curate.storage import ranged_reading
from beam_curate.transforms import collect_figures
from beam_curate.transforms.preview_selection import PreviewSelection, read_preview, read_preview_page
from beam_curate.transforms.write_report import WriteReport
from tests.report.test_report import made_run, row


def group(values, statuses):
    values, statuses = np.array(values, np.float64), np.array(statuses, object)
    flags = {name: statuses == name for name in ("kept", "rejected", "failed")}
    reason = np.full(len(values), None, object)
    rest = np.ones(len(values), bool)
    return Group(0, np.arange(len(values)), statuses, reason, flags, {"x": values}, ~flags["failed"], rest)


VALUES = {
    "scores": lambda draw: np.float32(draw.random()),
    "few": lambda draw: draw.choice([0.1, 0.2, 0.3, 0.7]),
    "pixels": lambda draw: draw.randrange(1, 5000),
    "one": lambda draw: 0.3,
    "tiny": lambda draw: 1e-9 * draw.random(),
    "far": lambda draw: 1e6 + draw.random(),
    "wider": lambda draw: draw.choice([1.0, 1e-9, 1e-25]) * draw.random(),
    "neighbours": lambda draw: draw.choice([5.4, 0.3]) + draw.choice([0, 1e-16, 1e-15]),
    "wide": lambda draw: (-1) ** draw.randrange(2) * 10.0 ** draw.randrange(-8, 9),
    "gone": lambda draw: draw.choice([float("nan"), float("inf"), 2.5]),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("bounds", [(), (("x ≥", 0.3),), (("x <", 5.4), ("x ≥", -1.0))])
def test_spreads_add_up_to_the_histogram_in_any_order(kind, bounds):
    draw = random.Random(kind)
    values = [VALUES[kind](draw) for _ in range(300)]
    statuses = [draw.choice(["kept", "rejected", "failed"]) for _ in values]
    whole = Spread.of("x", bounds, group(values, statuses)).distribution()
    cuts = [0, *sorted(draw.sample(range(300), 9)), 300]
    parts = [slice(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]
    means = set()
    for _ in range(5):
        spreads = [Spread.of("x", bounds, group(values[some], statuses[some])) for some in draw.sample(parts, 10)]
        while len(spreads) > 1:
            spreads.append(spreads.pop(draw.randrange(len(spreads))) + spreads.pop(draw.randrange(len(spreads))))
        found = spreads[0].distribution()
        means.add(found.mean)
        assert repr(dataclasses.replace(found, mean=whole.mean)) == repr(whole)
        assert found.edges.tobytes() == whole.edges.tobytes()
    assert len(means) == 1
    assert found.mean == pytest.approx(whole.mean, rel=1e-9)
    good = [value for value, status in zip(values, statuses, strict=True) if status != "failed" and np.isfinite(value)]
    for counts, name in ((whole.kept, "kept"), (whole.rejected, "rejected")):
        some = [value for value, status in zip(values, statuses, strict=True) if status == name and np.isfinite(value)]
        assert counts.tolist() == np.histogram(some, whole.edges)[0].tolist()
    assert len(whole.kept) <= BINS + 2
    assert (whole.lowest, whole.highest, whole.count) == (min(good), max(good), len(good))
    assert whole.below == [sum(value < bound for value in good) for _, bound in bounds]
    assert not bounds or bounds[0][1] in whole.edges


@pytest.mark.parametrize("values", [[1e-25, 2e-25], [1.0, 1.0 + 2**-52], [-1e-25, 1e-25]])
def test_a_part_with_values_close_together_is_added_to_others(values):
    others = [0.5, 0.7]
    one, other = (Spread.of("x", (), group(some, ["kept"] * 2)) for some in (values, others))
    found = (one + other).distribution()
    assert found.kept.tolist() == np.histogram([*values, *others], found.edges)[0].tolist()
    assert found.count == 4


@pytest.mark.parametrize("value", [7.7, 1e-9, 5e-324])
def test_neighbouring_numbers_have_a_histogram(value):
    values, bounds = [value, float(np.nextafter(value, 9))], (("x ≥", value), ("x <", 5.4))
    found = Spread.of("x", bounds, group(values, ["kept", "kept"])).distribution()
    assert found.kept.tolist() == np.histogram(values, found.edges)[0].tolist()
    assert (found.count, found.below) == (2, [0, sum(each < 5.4 for each in values)])


@pytest.mark.parametrize("threshold", [sum([0.1] * 27), float(np.float32(5.6)), 2.7, 0.1 + 0.2])
def test_an_edge_that_only_rounding_keeps_from_0_is_0(threshold):
    values = [0.0, 0.4, 2.0, threshold, threshold + 0.3]
    found = Spread.of("x", (("x ≥", threshold),), group(values, ["kept"] * 5)).distribution()
    words = [found.edge(at) for at in range(len(found.edges))]
    assert "0" in words
    assert not [each for each in words if "e" in each]


def test_a_threshold_near_0_is_shown_as_it_is():
    found = Spread.of("x", (("x ≥", 1e-3),), group([0.0, 1e6], ["kept"] * 2)).distribution()
    assert "0.001" in [found.edge(at) for at in range(len(found.edges))]


def table(folder, parts, rows=30):
    values = np.random.default_rng(5).integers(0, 40, (parts, rows)) / 40  # with ties
    made = [[row(shard, index, float(value)) for index, value in enumerate(of)] for shard, of in enumerate(values)]
    return made_run(folder, made, {"min_aesthetic": 0.3, "top": "aesthetic=50"})


MANY = [
    ["--direct_num_workers=2", "--direct_running_mode=multi_threading"],
    ["--direct_runner_bundle_repeat=2"],
]


def reported(output, flags):
    summary = read_summary(str(output))
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *flags])) as root:
        _ = root | beam.Create([summary]) | WriteReport(str(output))
    return (output / "report.html").read_bytes()


def test_the_same_page_with_any_workers_and_bundles(tmp_path):
    output = table(tmp_path / "run", 7)
    write_report(str(output))
    expected = (output / "report.html").read_bytes()
    assert b"aesthetic \xe2\x89\xa5 0.5" in expected
    for flags in ([], *MANY):
        (output / "report.html").unlink()
        assert reported(output, flags) == expected


@pytest.fixture
def requests(monkeypatch):
    """Counts the requests and the bytes that are read of each file."""
    found = collections.defaultdict(lambda: [0, 0])
    fetch = ranged_reading.RangeReader._fetch

    def counted(self, start, stop):
        data = fetch(self, start, stop)
        found[self.path][0] += 1
        found[self.path][1] += len(data)
        return data

    monkeypatch.setattr(ranged_reading.RangeReader, "_fetch", counted)
    return found


def test_the_report_asks_for_each_part_a_few_times(tmp_path, requests):
    """The embeddings are not read; the parts with a row that is shown are opened once more, and these are bounded."""
    seen = []
    for parts in (20, 60):
        output = table(tmp_path / str(parts), parts, rows=300)
        plan, numbers = plan_of_run(read_summary(str(output)), str(output))
        assert (plan.top, len(numbers)) == ("aesthetic", parts)
        requests.clear()
        reported(output, [])
        of_parts = [count for path, (count, _) in requests.items() if "/scores/" in path]
        assert len(of_parts) == parts
        seen.append((sum(of_parts), max(of_parts)))
    (few, _), (many, _) = seen
    # Three looks, for the last of the best, for all the rest and for what is shown, of a footer and the columns each.
    assert (many - few) / 40 <= 6
    assert few <= 6 * 20 + 10


def test_the_figures_of_single_parts_are_added_up_where_they_are_found(tmp_path, monkeypatch):
    """What a runner holds of them, in its memory or in its shuffle, does not grow with the parts."""
    held = []

    def counted(self):
        held.append(self.parts)
        return vars(self)

    monkeypatch.setattr(Figures, "__getstate__", counted, raising=False)
    seen = []
    for parts in (40, 160):
        held.clear()
        reported(table(tmp_path / str(parts), parts, rows=3), [])
        seen.append(len(held))
        assert max(held) == parts
    # Beam pickles the first ones of each step, and then fewer and fewer, to know their size.
    assert seen[1] - seen[0] < 0.75 * 120


def test_beam_is_told_of_no_class_or_none():
    """Whether it makes a schema of such a union, and fails, depends on the hash seed of the process: one of four did."""
    for function in (collect_figures._report, collect_figures._by_kind, ReportPlan.cut_at):
        told = typing.get_type_hints(function).values()
        assert not [kind for kind in told if isinstance(kind, types.UnionType)], function


def selection(output, **rules):
    top = TopRule("aesthetic", count=25)
    return Selection(TablePlace(str(output)), standard_rules(min_aesthetic=0.3), **{"top": top, **rules})


ABOUT = {"configuration": {"min_aesthetic": 0.3, "top": "aesthetic=25"}, "input": {}, "skipped": {}}


def previewed(output, folder, flags, chosen):
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *flags])) as root:
        _ = root | PreviewSelection(chosen, str(folder), page=True, about=ABOUT)
    return read_preview(str(folder)), read_preview_page(str(folder))


@pytest.fixture
def listed(tmp_path, monkeypatch):
    for module in ("transforms.preview_selection", "commands.select_preview"):
        monkeypatch.setattr(f"beam_curate.{module}.check_parts", lambda place: list(range(7)))
    return table(tmp_path / "run", 7)


def test_a_preview_is_the_same_with_any_workers_and_bundles(listed, tmp_path):
    found, page = previewed(listed, tmp_path / "one", [], selection(listed))
    assert [line.rule for line in found.lines] == ["aesthetic >= 0.3", "among the top 25 by aesthetic"]
    assert [line.together.samples for line in found.lines][1] == 25
    assert found.lines[0].alone == found.lines[0].together
    assert found.everything.samples == 7 * 30
    assert b"A preview: nothing was selected." in page
    for number, flags in enumerate(MANY):
        assert previewed(listed, tmp_path / str(number), flags, selection(listed)) == (found, page)


def test_a_preview_of_rules_reads_a_part_once(listed, tmp_path, requests):
    chosen = selection(listed, top=None)
    with beam.Pipeline(runner="FnApiRunner") as root:
        _ = root | PreviewSelection(chosen, str(tmp_path / "out"))
    of_parts = [count for path, (count, _) in requests.items() if "/scores/" in path]
    assert len(of_parts) == 7
    assert max(of_parts) <= 3  # a footer, and columns that lie apart
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_file()) == ["preview.json"]


def test_a_dry_run_leaves_its_result_where_the_workers_reach_it(tmp_path, listed):
    def options(*flags):
        return PipelineOptions([*flags])

    for flags, option in (
        (["--runner=PrismRunner"], "needs --temp_location"),
        (["--runner=FnApiRunner", "--no_wait_until_finish"], "--no_wait_until_finish and --dry_run exclude"),
    ):
        with pytest.raises(OptionError, match=option):
            select_preview.dry_run(selection(listed), None, Division(10), "", ABOUT, options(*flags), {})
    before = sorted(path.name for path in tmp_path.iterdir())
    there = options("--runner=BundleBasedDirectRunner", f"--temp_location={tmp_path}/temp")
    page = tmp_path / "page.html"
    printed = select_preview.dry_run(selection(listed), None, Division(10), str(page), ABOUT, there, {})
    assert f"nothing was written but {page}" in printed
    assert b"A preview" in page.read_bytes()
    assert [path for path in (tmp_path / "temp").rglob("*") if path.is_file()] == []
    assert sorted({*before, "temp", "page.html"}) == sorted(path.name for path in tmp_path.iterdir())
    local = options("--runner=FnApiRunner")
    assert select_preview.dry_run(selection(listed), None, Division(10), str(page), ABOUT, local, {}) == printed


def test_thresholds_on_columns_that_are_not_there_are_left_out(listed):
    rules = standard_rules(0.5, 0.5, 50)
    plan = plan_report(Selection(TablePlace(str(listed)), rules=None), 0, rules, "watermark")
    assert (plan.columns, plan.top) == (["aesthetic", "side"], "")
