"""Rules in words: `aesthetic >= 5 and nsfw < 0.3 and width >= 256 and not (watermark > 0.5)`.

The grammar is a part of Python's, read with Python's own parser (`ast`) and carried out by Arrow's compute kernels on whole
columns. Nothing is ever evaluated as Python: a node that is not listed here is refused.

    and, or, not          ( )          < <= > >= == !=, chained too: 0.2 < aesthetic_2 < 0.9
    + - * /               numbers      "text" in quotes
    format in ("JPEG", "PNG"), format not in (...)
    caption is None, caption is not None
    length(caption)       characters of a text; lower(key): a text in lower case
    words(caption)        words, separated by white space of any kind (no-break and ideographic spaces too), as by str.split
    min(width, 512), max(a, b), abs(a)

A missing value (a score that could not be computed, a sample without caption) makes a comparison unknown, as in SQL, and
what is unknown is not kept: `not (watermark > 0.5)` does not keep a sample without a watermark score either; write
`watermark is None or watermark <= 0.5` to keep it.
"""

import ast
import difflib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

NUMBER: Final = "number"
TEXT: Final = "text"
_TRUTH: Final = "condition"

_MAX_LENGTH: Final = 4096  # characters: Python's parser is recursive, and nobody writes more
# Parts inside each other: the functions below call themselves up to twice a level, within Python's 1000 calls and below what a
# runner has called already, which is more on a worker than where an expression is checked.
_MAX_DEPTH: Final = 200

_LARGEST: Final = 1e308

# White space as str.split takes it. Arrow's `\s` is that of ASCII alone, and captions of the web are full of no-break spaces.
_WORD: Final = r"[^\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"

_COMPARISONS: Final[dict[type[ast.cmpop], Callable[..., Any]]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_ARITHMETIC: Final[dict[type[ast.operator], Callable[..., Any]]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: lambda left, right: _known(pc.divide(left, right)),
}
# Name: kinds of the arguments, kind of the result, kernel.
_FUNCTIONS: Final[dict[str, tuple[tuple[str, ...], str, Callable[..., Any]]]] = {
    "length": ((TEXT,), NUMBER, lambda text: pc.cast(pc.utf8_length(text), pa.float64())),
    "words": ((TEXT,), NUMBER, lambda text: pc.cast(pc.count_substring_regex(text, _WORD), pa.float64())),
    "lower": ((TEXT,), TEXT, pc.utf8_lower),
    "abs": ((NUMBER,), NUMBER, pc.abs),
    "min": ((NUMBER, NUMBER), NUMBER, lambda a, b: pc.min_element_wise(a, b, skip_nulls=False)),
    "max": ((NUMBER, NUMBER), NUMBER, lambda a, b: pc.max_element_wise(a, b, skip_nulls=False)),
}
_GRAMMAR: Final = "use and, or, not, comparisons, + - * /, in (...), is None, and " + ", ".join(
    f"{name}()" for name in _FUNCTIONS
)


class ExpressionError(ValueError):
    """An expression that cannot be understood; the message names the place and the remedy."""


@dataclass(frozen=True)
class Expression:
    """A condition on the columns of the score table, made by `parse_expression`. It can be pickled.

    Attributes:
        text: As the user wrote it.
        columns: The names of the columns that it reads, in the order in which they appear.
    """

    text: str
    columns: tuple[str, ...]

    def keeps(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> pa.BooleanArray:
        """Says for each row whether the condition holds; where it is unknown it does not.

        Args:
            columns: The columns by name, each of `rows` values; numbers of any type, NaN or null where missing.
            rows: N.

        Returns:
            (N,) booleans without nulls.
        """
        numbers = {name: _values(column) for name, column in columns.items() if name in self.columns}
        result = _evaluate(read_tree(self.text), numbers)
        if isinstance(result, pa.Scalar):  # a condition without a column
            result = pa.array([result.as_py()] * rows, pa.bool_())
        return pc.fill_null(result, False)


def parse_expression(text: str, kinds: Mapping[str, str]) -> Expression:
    """Reads and checks an expression.

    Args:
        text: The expression.
        kinds: The columns there are, each `NUMBER` or `TEXT`.

    Raises:
        ExpressionError: It cannot be read, names a column that is not there, or compares what cannot be compared.
    """
    columns: dict[str, None] = {}
    kind = _check(read_tree(text), text, kinds, columns)
    if kind != _TRUTH:
        raise ExpressionError(f"{text!r} is a {kind}, not a condition; compare it with something, such as {text} > 0")
    return Expression(text, tuple(columns))


def number_of(node: ast.expr) -> float:
    """A number with or without a sign; NaN if it is none."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -number_of(operand)
        case ast.Constant(value=int() | float() as number):
            return float(number)
    return math.nan


@functools.lru_cache(maxsize=16)  # read once, and evaluated on every batch
def read_tree(text: str) -> ast.expr:
    """The syntax tree of an expression, of which nothing is checked yet.

    Raises:
        ExpressionError: The expression cannot be read.
    """
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters; at most {_MAX_LENGTH} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # ValueError: NUL; the last two: nesting
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExpressionError(f"{text!r} cannot be read ({reason}); {_GRAMMAR}") from error
    level: list[ast.AST] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [inner for node in level for inner in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise ExpressionError("the expression is nested too deeply: write it with fewer parts")


@functools.lru_cache(maxsize=16)  # as a tree's nodes are the same each time
def _choices(node: ast.Tuple | ast.List) -> pa.Array:
    """The choices after `in`, which `_check` has seen: texts, or numbers."""
    texts = [choice.value for choice in node.elts if isinstance(choice, ast.Constant) and isinstance(choice.value, str)]
    if texts:
        return pa.array(texts, pa.string())
    # 0 instead of -0, which is_in tells apart.
    return pa.array([number_of(choice) + 0.0 for choice in node.elts], pa.float64())


def _check(node: ast.expr, text: str, kinds: Mapping[str, str], columns: dict[str, None]) -> str:  # noqa: PLR0912, PLR0915
    """Gives the kind of a node after checking what is below it, and collects the columns."""

    def part(inner: ast.AST) -> str:
        return ast.get_source_segment(text.strip(), inner) or text

    def expect(inner: ast.expr, wanted: str, where: str, of: ast.AST | None = None) -> None:
        kind = _check(inner, text, kinds, columns)
        if kind != wanted:  # only now, since to find the words of a part takes a walk through all of the text
            where += f" {part(of)}" if of else ""
            raise ExpressionError(f"{part(inner)!r} is a {kind}, but {where} needs a {wanted}")

    match node:
        case ast.BoolOp(values=values):
            for value in values:
                expect(value, _TRUTH, "and/or")
            return _TRUTH
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            expect(operand, _TRUTH, "not")
            return _TRUTH
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            expect(operand, NUMBER, "a sign")
            return NUMBER
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            expect(left, NUMBER, "arithmetic")
            expect(right, NUMBER, "arithmetic")
            return NUMBER
        case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot()], comparators=[ast.Constant(value=None)]):
            if not isinstance(left, ast.Name):
                raise ExpressionError(f"{part(left)!r} is None: only a column can be missing")
            _check(left, text, kinds, columns)
            return _TRUTH
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[ast.Tuple() | ast.List() as choices]):
            wanted = _check(left, text, kinds, columns)
            for choice in choices.elts:
                value = choice.operand if isinstance(choice, ast.UnaryOp) else choice
                if not isinstance(value, ast.Constant):
                    raise ExpressionError(f"{part(choice)!r}: the choices after `in` are numbers or quoted texts")
                expect(choice, wanted, "a choice for", left)
            return _TRUTH
        case ast.Compare(left=left, ops=operators, comparators=comparators) if all(
            type(operator) in _COMPARISONS for operator in operators
        ):
            wanted = _check(left, text, kinds, columns)
            if wanted == _TRUTH:
                raise ExpressionError(f"{part(left)!r} is a condition already; it cannot be compared")
            for other in comparators:
                expect(other, wanted, "the comparison with", left)
            return _TRUTH
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            needed, result, _ = _FUNCTIONS[name]
            if len(arguments) != len(needed):
                raise ExpressionError(f"{part(node)!r}: {name} takes {len(needed)} argument(s), not {len(arguments)}")
            for argument, wanted in zip(arguments, needed, strict=True):
                expect(argument, wanted, f"{name}()")
            return result
        case ast.Constant(value=bool() | None):
            pass
        case ast.Constant(value=int() | float() as number):
            if abs(number) > _LARGEST and number != math.inf:
                raise ExpressionError(f"{part(node)[:40]!r} is too large a number")
            return NUMBER
        case ast.Constant(value=str()):
            return TEXT
        case ast.Name(id=name):
            if name not in kinds:
                close = difflib.get_close_matches(name, list(kinds), n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ExpressionError(f"there is no column {name!r}; {hint}there are: {', '.join(kinds)}")
            columns[name] = None
            return kinds[name]
        case _:
            pass
    raise ExpressionError(f"{part(node)!r} is not understood; {_GRAMMAR}")


def _known(numbers: Any) -> Any:
    """Null instead of NaN: 0 / 0 is as unknown as what is missing."""
    return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)


def _is_in(value: Any, choices: pa.Array) -> Any:
    """Whether a value is one of the choices, in one pass whatever their number; null where it is missing."""
    if choices.type == pa.float64():
        value = pc.add(value, 0.0)
    return pc.if_else(pc.is_null(value), pa.scalar(None, pa.bool_()), pc.is_in(value, value_set=choices))


def _values(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Numbers as float64, which holds every score and size exactly, null where they are missing."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _known(pc.cast(column, pa.float64(), safe=False))
    return column


def _evaluate(node: ast.expr, columns: Mapping[str, object]) -> Any:  # noqa: PLR0912
    """Carries out a checked node: an Arrow array, or a scalar where no column is in it."""
    match node:
        case ast.BoolOp(op=operator, values=values):
            kernel = pc.and_kleene if isinstance(operator, ast.And) else pc.or_kleene
            result = _evaluate(values[0], columns)
            for value in values[1:]:
                result = kernel(result, _evaluate(value, columns))
            return result
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(_evaluate(operand, columns))
        case ast.UnaryOp(op=operator, operand=operand):
            value = _evaluate(operand, columns)
            return pc.negate(value) if isinstance(operator, ast.USub) else value
        case ast.BinOp(left=left, op=operator, right=right):
            return _ARITHMETIC[type(operator)](_evaluate(left, columns), _evaluate(right, columns))
        case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as operator]):
            missing = pc.is_null(_evaluate(left, columns))
            return missing if isinstance(operator, ast.Is) else pc.invert(missing)
        case ast.Compare(
            left=left, ops=[ast.In() | ast.NotIn() as operator], comparators=[ast.Tuple() | ast.List() as choices]
        ):
            found = _is_in(_evaluate(left, columns), _choices(choices)) if choices.elts else pa.scalar(False)
            return found if isinstance(operator, ast.In) else pc.invert(found)
        case ast.Compare(left=left, ops=operators, comparators=comparators):
            result = None
            value = _evaluate(left, columns)
            for compare, comparator in zip(operators, comparators, strict=True):
                other = _evaluate(comparator, columns)
                holds = _COMPARISONS[type(compare)](value, other)
                result = holds if result is None else pc.and_kleene(result, holds)
                value = other
            return result
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name][2](*(_evaluate(argument, columns) for argument in arguments))
        case ast.Constant(value=str() as text):
            return pa.scalar(text)
        case ast.Constant(value=number):
            return pa.scalar(float(number), pa.float64())  # type: ignore[arg-type]
        case ast.Name(id=name):
            return columns[name]
    raise AssertionError(ast.dump(node))
