"""Every numeric option has its bounds, and a threshold outside a known scale is refused wherever it can be given."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from beam_curate import ScoreAndFilter
from beam_curate.clip.handler import _MAX_WAITING
from beam_curate.commands import curate, select
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.options import OptionError, option_fields, option_values
from beam_curate.commands.parsing import parse
from beam_curate.commands.select_options import SelectOptions
from beam_curate.images.decoding import MAX_PIXELS
from beam_curate.scores.expression_bounds import beside_bounds
from beam_curate.scores.expressions import NUMBER, ExpressionError, parse_expression
from beam_curate.scores.rules import Rule, keep_rule
from beam_curate.scores.scales import SCALES, prompt_scales
from beam_curate.scores.screening import parse_screening
from beam_curate.yaml_transforms import score_and_filter
from tests.support.stubs import stub_heads

NEEDED = {
    CurateOptions: ["--input=/none", "--output=/none/out"],
    SelectOptions: ["--scores=/none", "--output=/none/out", "--resize_shortest=9"],
    DedupOptions: ["--scores=/none", "--output=/none/out", "--methods=exact,perceptual,semantic"],
    ExportOptions: ["--input=/none", "--output=/none/out", "--format=webdataset", "--resize_shortest=9"],
}
ENDLESS = 10**15
# By option: a value at each end, and one beyond it; None where there is no end.
BOUNDS = {
    "min_aesthetic": (-10, -10.1, 20, 45), "max_nsfw": (0, -0.1, 1, 50), "min_side": (0, -5, 2**31 - 1, 2**31),
    "eps": (1e-9, 0, 0.999, 1), "n_clusters": (0, -1, ENDLESS, None), "border": (0, -0.1, 0.5, 0.51),
    "max_distance": (0, -1, 8, 9), "samples_per_shard": (1, 0, ENDLESS, None), "shuffle_seed": (-ENDLESS, None, ENDLESS, None),
    "batch_size": (1, 0, _MAX_WAITING, _MAX_WAITING + 1), "model_copies": (1, 0, 99, None),
    "decode_threads": (0, -1, 99, None), "max_pixels": (1, 0, MAX_PIXELS, MAX_PIXELS + 1),
    "max_member_bytes": (1, 0, ENDLESS, None), "max_shard_bytes": (1, 0, ENDLESS, None), "encode_threads": (0, -1, 99, None),
    "max_comparisons": (1.0, 0.0, 1e15, None),
    "samples_per_file": (1, 0, ENDLESS, None), "resize_shortest": (1, 0, 9999, None), "quality": (1, 0, 100, 101),
}  # fmt: skip
TEXTS = {(CurateOptions, "quality")}


def numeric(options):
    """The options that take a number: by their default's type, or by their parser's."""
    for field in option_fields(options):
        kind = field.metadata.get("type", type(field.default))
        name = getattr(kind, "__name__", "")
        if name.startswith(("int", "float")) and (options, field.name) not in TEXTS:
            yield field.name


CASES = [(options, name) for options in NEEDED for name in numeric(options)]


def checked(options, *words):
    found, _, _ = parse(options, [*NEEDED[options], *words], "")
    if hasattr(found, "check_scales"):
        found.check_scales()
    return found


@pytest.mark.parametrize(("options", "name"), CASES)
def test_every_numeric_option_has_its_bounds(options, name):
    low, below, high, above = BOUNDS[name]
    for value in (low, high):
        assert option_values(checked(options, f"--{name}={value}"))[name] == value
    for value in filter(lambda value: value is not None, (below, above)):
        with pytest.raises(OptionError, match=f"^--{name} is {type(low)(value) if isinstance(low, float) else value}"):
            checked(options, f"--{name}={value}")
    for word in ("nan", "inf", "-inf", "many", ""):
        with pytest.raises(OptionError, match=name):
            checked(options, f"--{name}={word}")


def test_a_command_refuses_a_percentage_before_it_looks_at_anything(capsys):
    assert curate.main([*NEEDED[CurateOptions], "--max_nsfw=50"]) == 2
    assert select.main([*NEEDED[SelectOptions], "--min_aesthetic=45"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --max_nsfw is 50.0; it is a probability; give 0 to 1, or none",
        "error: --min_aesthetic is 45.0; its scale is nominally 1 to 10, useful cuts are 4.5 to 6.5; give -10 to 20, or none",
    ]


OUTSIDE = ["nsfw < 50", "not (nsfw > 50)", "aesthetic >= 5 or nsfw < 30", "50 > nsfw", "0.2 < nsfw < 80", "nsfw == 2",
           "nsfw in (0, 7)", "aesthetic > 45", "side >= -5", "width < -1", "size > -1", "nsfw < -0.1",
           "length(caption) > 3 and (nsfw) <= 1.01", "nsfw < 1e999"]  # fmt: skip


@pytest.mark.parametrize("text", OUTSIDE)
def test_expressions_are_held_against_the_scales(text):
    with pytest.raises(ExpressionError, match=r"is compared with .*; give"):
        keep_rule(text, ["nsfw", "aesthetic"])


@pytest.mark.parametrize(
    "text",
    [
        "0 <= nsfw <= 1",
        "aesthetic > -1",
        "own > 500",
        "nsfw * 100 < 50",
        "aesthetic - nsfw > 15",
        "-nsfw >= -1",
        "1 < 2",
        "nsfw / own < 50",
        "1 / nsfw > 500",
        "abs(caption_similarity - 1) <= 2",
        "max(width, 512) >= 512",
        "width * height >= 65536",
        "max(width, height) / min(width, height) < 3",
        "own - nsfw > 70",
        "lower(key) == 'a'",
        "size / (width * height) > 0.05",
    ],
)
def test_what_is_on_a_scale_or_on_none_that_is_known_passes(text):
    assert keep_rule(text, ["nsfw", "aesthetic", "own", "caption_similarity"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-nsfw > -50", "-nsfw is -1 to 0, but is compared with -50"),
        ("50 > +nsfw", r"\+nsfw is 0 to 1, but is compared with 50"),
        ("nsfw * 100 < 500", r"nsfw \* 100 is 0 to 100, but is compared with 500"),
        ("own > 3 or not (1 - nsfw > 50)", "1 - nsfw is 0 to 1, but is compared with 50"),
        ("aesthetic - nsfw > 30", "aesthetic - nsfw is -11 to 20, but is compared with 30"),
        ("abs(nsfw) > 2", r"abs\(nsfw\) is 0 to 1, but is compared with 2"),
        ("max(nsfw, caption_similarity) > 30", r"max\(nsfw, caption_similarity\) is 0 to 1, but is compared with 30"),
        ("min(nsfw, 0.5) >= 0.6", r"min\(nsfw, 0.5\) is 0 to 0.5, but is compared with 0.6"),
        ("nsfw > aesthetic + 12", r"nsfw is 0 to 1, but is compared with aesthetic \+ 12, which is 2 to 32"),
        ("nsfw / 100 > 0.5", "nsfw / 100 is 0 to 0.01, but is compared with 0.5"),
        ("-nsfw in (-3, 0)", "-nsfw is -1 to 0, but is compared with -3"),
        ("words(caption) > -1", r"words\(caption\) is 0 to inf, but is compared with -1"),
    ],
)
def test_what_no_value_on_the_scales_reaches_is_refused(text, problem):
    with pytest.raises(ExpressionError, match=problem):
        keep_rule(text, ["nsfw", "aesthetic", "own", "caption_similarity"])


def test_reach_holds_for_values_everywhere_on_the_scales():
    """By brute force: a comparison that some values on the scales satisfy, and others do not, passes."""
    grid = {
        "nsfw": np.linspace(0, 1, 9),
        "caption_similarity": np.linspace(-1, 1, 9),
        "aesthetic": np.linspace(-10, 20, 9),
    }
    names = list(grid)
    columns = dict(zip(names, (pa.array(axis.reshape(-1)) for axis in np.meshgrid(*grid.values())), strict=True))
    parts = [*names, *(f"({one} {by} {other})" for one in names for by in "+-*/" for other in names)]
    for one, other in itertools.product(parts, [*parts, "0.3", "-2", "7"]):
        text = f"{one} < {other}"
        holds = parse_expression(text, dict.fromkeys(names, NUMBER)).keeps(columns, 9**3)
        if 0 < holds.true_count < 9**3:
            assert keep_rule(text, names), text


def test_scores_from_words_have_their_scales():
    scales = prompt_scales(
        [{"name": "mark", "prompts": ["a", "b"]}, {"name": "cat", "prompts": ["a"]}, {"name": "nsfw"}]
    )
    assert keep_rule("mark < 0.5 and cat > -0.2", ["mark", "cat"], prompts=scales)
    for text in ("mark < 50", "mark > -0.1", "cat < 30"):
        with pytest.raises(ExpressionError, match="is compared with"):
            keep_rule(text, ["mark", "cat"], prompts=scales)


def test_screening_and_quality_scores():
    assert parse_screening("brightness", "brightness > 0.1 and side >= 64").rules
    for text in ("brightness > 10", "side >= -1"):
        with pytest.raises(ValueError, match=r"`screen`.*is compared with"):
            parse_screening("brightness", text)
    assert {"sharpness", "entropy", "border", "frames"} <= SCALES.keys()


@pytest.mark.parametrize("rule", [{"max_nsfw": 50}, {"min_aesthetic": 45}, {"min_side": -5}])
def test_the_transform_and_yaml_refuse_too(rule):
    with pytest.raises(ValueError, match="is compared with"):
        ScoreAndFilter(stub_heads(), **rule)
    with pytest.raises(ValueError, match="is compared with"):
        score_and_filter("ViT-B-32", aesthetic_head="random", nsfw_head="random", **rule)


def test_a_rule_of_the_users_own_is_held_against_the_scale():
    with pytest.raises(ValueError, match="rule mine: nsfw is compared with 30"):
        ScoreAndFilter(stub_heads(), rules=[Rule("mine", "nsfw", maximum=30)])
    with pytest.raises(ValueError, match="is compared with 30"):
        score_and_filter("ViT-B-32", aesthetic_head="random", nsfw_head="random", keep="nsfw < 30")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("aesthetic >= 5", ""),
        ("0.2 < nsfw < 0.8 and 5 <= aesthetic", ""),
        ("aesthetic >= 5 and format in ('JPEG', 'PNG')", "format in ('JPEG', 'PNG')"),
        ("aesthetic >= 5 and (nsfw < 0.1 or width > 9)", "(nsfw < 0.1 or width > 9)"),
        ("not nsfw > 1 and caption is None and width > 2", "not nsfw > 1 and caption is None"),
        ("0 < aesthetic + 1 < 5", "0 < aesthetic + 1 < 5"),
        ("width == 5", "width == 5"),
    ],
)
def test_what_is_no_threshold_is_what_is_left(text, rest):
    assert beside_bounds(text) == rest
