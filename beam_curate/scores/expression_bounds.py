"""What an expression holds columns against: the thresholds in it, and those that no value of its columns can reach."""

import ast
import math
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from beam_curate.scores.expressions import number_of, read_tree
from beam_curate.scores.scales import Scale, scale_problem

_Reach: TypeAlias = tuple[float, float]  # the lowest and the highest value
_ANY: Final = (-math.inf, math.inf)
_MIRRORED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE,
}  # fmt: skip


def bounds(text: str) -> list[tuple[str, float | None, float | None]]:
    """The numbers that an expression holds columns against: those of comparisons that all must hold, joined by `and`.

    What is more complicated (`or`, `not`, arithmetic, `==`) has no bounds.

    Returns:
        Column, least value that passes, and least value that does not, of which one is None.

    Raises:
        ExpressionError: The expression cannot be read.
    """
    return [bound for part in _joined(text) for some in _bounds(part) for bound in some]


def beside_bounds(text: str) -> str:
    """The parts of an expression, joined by `and`, that are more than comparisons of a column with a number; see `bounds`.

    Raises:
        ExpressionError: The expression cannot be read.
    """
    parts = [part for part in _joined(text) if not _bounds(part) or not all(_bounds(part))]
    words = [f"({ast.unparse(part)})" if isinstance(part, ast.BoolOp) else ast.unparse(part) for part in parts]
    return " and ".join(words)


def _joined(text: str) -> list[ast.expr]:
    """The parts of an expression that all must hold."""
    left, found = [read_tree(text)], []
    while left:
        match left.pop(0):
            case ast.BoolOp(op=ast.And(), values=values):
                left = [*values, *left]
            case part:
                found.append(part)
    return found


def _bounds(part: ast.expr) -> list[list[tuple[str, float | None, float | None]]]:
    """For each comparison of a part its bound, if it is one; none if the part is not a comparison."""
    if not isinstance(part, ast.Compare):
        return []
    pairs = zip([part.left, *part.comparators[:-1]], part.ops, part.comparators, strict=True)
    return [_bound(one, operator, other) for one, operator, other in pairs]


def _bound(one: ast.expr, operator: ast.cmpop, other: ast.expr) -> list[tuple[str, float | None, float | None]]:
    kind = type(operator)
    if isinstance(other, ast.Name) and kind in _MIRRORED:
        one, kind, other = other, _MIRRORED[kind], one
    number = number_of(other)
    if not isinstance(one, ast.Name) or kind not in _MIRRORED or not math.isfinite(number):
        return []
    if kind in (ast.Gt, ast.LtE):
        number = math.nextafter(number, math.inf)
    return [(one.id, number, None) if kind in (ast.Gt, ast.GtE) else (one.id, None, number)]


def out_of_reach(text: str, scales: Mapping[str, Scale]) -> str:
    """Says which number of an expression cannot be reached by what it is compared with; empty if none is.

    Args:
        text: The expression, which was checked.
        scales: Of the columns that have one.
    """
    for one, other in _compared(text):
        number = number_of(other)
        if isinstance(one, ast.Name) and not math.isnan(number):
            if problem := scale_problem(one.id, [number], scales):
                return problem
        elif any(isinstance(node, ast.Name) for node in ast.walk(one)):
            (low, high), (least, most) = _reach(one, scales), _reach(other, scales)
            if least > high or most < low:
                against = ast.unparse(other) + (
                    "" if least == most else f", which is {_shown(least)} to {_shown(most)}"
                )
                return f"{ast.unparse(one)} is {_shown(low)} to {_shown(high)}, but is compared with {against}"
    return ""


def _shown(number: float) -> str:
    return f"{round(number, 6) + 0.0:g}"


def _compared(text: str) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Both sides of every comparison, either first; each choice after `in` is one."""
    for node in ast.walk(read_tree(text)):
        if isinstance(node, ast.Compare):
            for one, other in zip([node.left, *node.comparators[:-1]], node.comparators, strict=True):
                for each in other.elts if isinstance(other, ast.Tuple | ast.List) else [other]:
                    yield one, each
                    yield each, one


def _reach(node: ast.expr, scales: Mapping[str, Scale]) -> _Reach:
    """Bounds of the values of a part, by interval arithmetic: it may not reach them all, and never leaves them."""
    match node:
        case ast.Constant(value=bool() | str()):
            return _ANY
        case ast.Constant(value=int() | float() as number):
            return float(number), float(number)
        case ast.Name(id=name) if name in scales:
            return scales[name].low, scales[name].high
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            low, high = _reach(operand, scales)
            return -high, -low
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _reach(operand, scales)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combined(operator, _reach(left, scales), _reach(right, scales))
        case ast.Call(func=ast.Name(id="abs"), args=[argument]):
            low, high = _reach(argument, scales)
            return max(low, -high, 0.0), max(-low, high)
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=[one, other]):
            first, second = _reach(one, scales), _reach(other, scales)
            choose = min if name == "min" else max
            return choose(first[0], second[0]), choose(first[1], second[1])
        case ast.Call(func=ast.Name(id="length" | "words")):
            return 0.0, math.inf
    return _ANY


def _combined(operator: ast.operator, one: _Reach, other: _Reach) -> _Reach:
    if isinstance(operator, ast.Add):
        ends = [one[0] + other[0], one[1] + other[1]]
    elif isinstance(operator, ast.Sub):
        ends = [one[0] - other[1], one[1] - other[0]]
    elif isinstance(operator, ast.Mult):
        ends = [first * second for first in one for second in other]
    elif other[0] > 0 or other[1] < 0:
        ends = [first / second for first in one for second in other]
    else:
        return _ANY
    # The rounding of float64 may end a last bit outside.
    low, high = min(ends), max(ends)
    margin = 1e-9 * max(abs(low), abs(high))
    return _ANY if any(map(math.isnan, ends)) else (low - margin, high + margin)
