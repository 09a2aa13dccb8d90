import ast
import math
import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_curate.scores import expressions
from beam_curate.scores.expression_bounds import bounds
from beam_curate.scores.expressions import NUMBER, TEXT, ExpressionError, parse_expression

KINDS = {"aesthetic": NUMBER, "nsfw": NUMBER, "width": NUMBER, "format": TEXT, "caption": TEXT}
COLUMNS = {
    "aesthetic": pa.array([4.0, 5.0, None, 6.5], pa.float32()),
    "nsfw": pa.array([0.1, 0.9, 0.2, float("nan")], pa.float32()),
    "width": pa.array([100, 200, 300, 400], pa.int32()),
    "format": pa.array(["JPEG", "PNG", "GIF", "JPEG"]),
    "caption": pa.array(["a cat", None, "", "Ein Hund"]),
}


def kept(text):
    return [row for row, keeps in enumerate(parse_expression(text, KINDS).keeps(COLUMNS, 4).to_pylist()) if keeps]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("aesthetic >= 5", [1, 3]),
        ("aesthetic >= 5 and nsfw < 0.3", []),
        ("aesthetic >= 5 or nsfw < 0.3", [0, 1, 2, 3]),
        ("not (nsfw > 0.5)", [0, 2]),
        ("not (nsfw > 0.5) or nsfw is None", [0, 2, 3]),
        ("aesthetic is not None", [0, 1, 3]),
        ("150 < width <= 300", [1, 2]),
        ("width / 100 == 3", [2]),
        ("-width + 2 * 100 >= 0", [0, 1]),
        ("format in ('JPEG', 'GIF')", [0, 2, 3]),
        ("format not in ['JPEG', 'GIF']", [1]),
        ("width in (100, 400)", [0, 3]),
        ("length(caption) > 4", [0, 3]),
        ("words(caption) == 2", [0, 3]),
        ("width in (-100, 100)", [0]),
        ("width - 100 in (-0.0, 1)", [0]),
        ("width * -0.0 in (0, 7)", [0, 1, 2, 3]),
        ("width in (1e999, 300)", [2]),
        ("width in ()", []),
        ("aesthetic in (5, 6.5)", [1, 3]),
        ("aesthetic not in (5, 7)", [0, 3]),
        ("caption not in ('a cat', '')", [3]),
        ("2 in (1, 2) and width > 150", [1, 2, 3]),
        ("not ((width - width) / (width - width) > 1)", []),
        ("words(caption) == 0", [2]),
        ("lower(caption) == 'ein hund'", [3]),
        ("min(width, 250) == 250", [2, 3]),
        ("max(width, 250) == 250", [0, 1]),
        ("abs(aesthetic - 5) <= 1", [0, 1]),
        ("min(aesthetic, 9) < 10", [0, 1, 3]),
        ("caption != ''", [0, 3]),
        ("1 < 2", [0, 1, 2, 3]),
        ("width < 1e999", [0, 1, 2, 3]),
    ],
)
def test_what_is_kept(text, rows):
    assert kept(text) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aestetic > 5", "no column 'aestetic'; did you mean aesthetic"),
        ("zzz > 5", "there are: aesthetic, nsfw"),
        ("aesthetic > 'a'", "'a'\" is a text, but the comparison with aesthetic needs a number"),
        ("format > 5", "'5' is a number, but the comparison with format needs a text"),
        ("width in ('a', 'b')", "is a text, but a choice for width needs a number"),
        ("aesthetic", "is a number, not a condition"),
        ("aesthetic and nsfw > 1", "'aesthetic' is a number, but and/or needs a condition"),
        ("not width", "needs a condition"),
        ("(nsfw > 1) > 2", "is a condition already"),
        ("format + 'a' == 'b'", "arithmetic needs a number"),
        ("length(width) > 1", r"length\(\) needs a text"),
        ("min(width) > 1", "takes 2 argument"),
        ("aesthetic >= ", "cannot be read"),
        ("", "cannot be read"),
        ("width > 1\0", "cannot be read"),
        ("True", "not understood"),
        ("width > True", "not understood"),
        ("None", "not understood"),
        ("width ** 2 > 1", r"'width \*\* 2' is not understood; use and, or, not"),
        ("__import__('os').system('true')", "not understood"),
        ("().__class__", "not understood"),
        ("[x for x in (1, 2)]", "not understood"),
        ("lambda: 1", "not understood"),
        ("width.real > 1", "not understood"),
        ("(1, 2) == (1, 2)", "not understood"),
        ("(width := 3) > 1", "not understood"),
        ("f'{width}' == 'a'", "not understood"),
        ("eval(caption) == 1", "not understood"),
        ("(width + 1) is None", "only a column can be missing"),
        ("width in caption", "not understood"),
        ("not " * 900 + "width > 1", "nested too deeply|cannot be read"),
        ("width > 1" + "0" * 400, "too large a number"),
        ("width in (width, 2)", "the choices after `in`"),
        ("width" + " + 1" * 250 + " > 1", "nested too deeply"),
        ("(" * 3000 + "1" + ")" * 3000, "at most 4096"),
        ("(" * 1000 + "width" + ")" * 1000 + " > 1", "cannot be read"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ExpressionError, match=message):
        parse_expression(text, KINDS)


@given(st.text(st.sampled_from("width nsfw<>=()'and or not+-*/0.1,\"[]:\0\n"), max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        expression = parse_expression(text, KINDS)
    except ExpressionError:
        return
    assert expression.keeps(COLUMNS, 4).null_count == 0


def test_it_travels():
    expression = parse_expression("nsfw < 0.3 and width > 1 and nsfw > 0", KINDS)
    assert expression.columns == ("nsfw", "width")
    assert pickle.loads(pickle.dumps(expression)) == expression


@pytest.mark.parametrize(
    ("few", "many"),
    [
        ("width in (1, 200)", f"width in ({'1,' * 1998}200)"),
        ("width not in (1, 200)", f"width not in ({'1,' * 1998}200)"),
        ("format in ('a', 'PNG')", "format in (" + "'a'," * 990 + "'PNG')"),
    ],
)
def test_a_list_of_choices_takes_the_same_steps_whatever_its_length(monkeypatch, few, many):
    steps = []

    class Counting:
        def __getattr__(self, name):
            steps.append(name)
            return getattr(expressions_pc, name)

    expressions_pc = expressions.pc
    monkeypatch.setattr(expressions, "pc", Counting())
    assert kept(few) == kept(many)
    steps.clear()
    kept(few)
    wanted = list(steps)
    steps.clear()
    kept(many)
    assert steps == wanted


@pytest.mark.parametrize(
    "text",
    [
        f"width in ({'1,' * 1998}200)",
        f"1 {'< width ' * 400}< 1000",
        " or ".join(["width == 100"] * 200),
        " + ".join(["abs(width)"] * 150) + " > 1",
    ],
)
def test_the_text_is_walked_through_for_a_message_alone(monkeypatch, text):
    walks = []
    real = ast.get_source_segment
    monkeypatch.setattr(ast, "get_source_segment", lambda *args: walks.append(args) or real(*args))
    parse_expression(text, KINDS)
    assert not walks
    with pytest.raises(ExpressionError):
        parse_expression(f"({text}) + 1 > 0", KINDS)
    assert len(walks) == 1


def test_what_is_read_is_evaluated_however_deep_a_worker_is_already():
    text = "width" + " + 1" * 190 + " > 1"

    def deeper(levels):
        return deeper(levels - 1) if levels else kept(text)

    assert deeper(350) == [0, 1, 2, 3]


def test_no_rows():
    nothing = {name: column[:0] for name, column in COLUMNS.items()}
    assert parse_expression("width > 1 and 1 < 2", KINDS).keeps(nothing, 0).to_pylist() == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aesthetic >= 4.5 and nsfw < 0.3", [("aesthetic", 4.5, None), ("nsfw", None, 0.3)]),
        ("(aesthetic >= 4.5 and width >= 64) and nsfw < 0.3",
         [("aesthetic", 4.5, None), ("width", 64.0, None), ("nsfw", None, 0.3)]),
        ("-1 <= aesthetic < 6", [("aesthetic", -1.0, None), ("aesthetic", None, 6.0)]),
        ("0.3 > nsfw", [("nsfw", None, 0.3)]),
        ("aesthetic > 5", [("aesthetic", math.nextafter(5, 6), None)]),
        ("nsfw <= 0.5", [("nsfw", None, math.nextafter(0.5, 1))]),
        ("aesthetic >= 4.5 and (nsfw < 0.3 or width > 5)", [("aesthetic", 4.5, None)]),
        ("aesthetic >= 4.5 or nsfw < 0.3", []),
        ("not aesthetic >= 4.5", []),
        ("aesthetic + 1 >= 4.5 and nsfw < width and aesthetic == 5 and format == 'JPEG' and nsfw < 1e999", []),
    ],
)  # fmt: skip
def test_bounds_are_of_comparisons_with_numbers_that_all_must_hold(text, found):
    assert bounds(text) == found


def test_words_are_what_python_splits_at_any_white_space():
    """Of every character there is: captions of the web have no-break spaces, those of East Asia ideographic ones."""
    texts = [f"a{chr(code)}b" for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    keeps = parse_expression("words(caption) == 2", KINDS).keeps({"caption": pa.array(texts)}, len(texts)).to_pylist()
    assert keeps == [len(text.split()) == 2 for text in texts]
    assert sum(keeps) == 29
