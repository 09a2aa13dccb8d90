"""Scores of the user's own: a class with a few lines of Python, named on the command line. See docs/scorers.md.

A scorer is an object of a class that is an `EmbeddingsScorer` or an `ImagesScorer`; it need not inherit from either. Two
more members are optional:

    setup()         called once for each copy of the object, before its first batch: load a model there, not in the
                    constructor, as the object travels to the workers by pickle
    description     a property: dict of JSON values for summary.json, asked at launch, before `setup`

What a scorer gives back is checked with every batch: a wrong name, shape or type is a bug in it, and ends the job.
"""

import difflib
import hashlib
import importlib
import inspect
import json
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from beam_curate.runs import score_table
from beam_curate.scores.rules import FACT_KINDS

Scores = dict[str, npt.NDArray[np.float32]]

_FORM: Final = 'package.module:Class, or package.module:Class {"option": value}'
_TEXT: Final = re.compile(r"\s*(\w+(?:\.\w+)*):(\w+)\s*(\{.*)?", re.DOTALL)
# Where a loaded scorer keeps the options it was made with, as JSON: in its pickle, so that nobody has to carry them along.
_OPTIONS: Final = "_scorer_options"


@runtime_checkable
class EmbeddingsScorer(Protocol):
    """Scores of stored embeddings: they can be computed from a finished score table too.

    Attributes:
        columns: The names of the scores, one column of the score table each; known without `setup`, and always the same.
    """

    columns: Sequence[str]

    def score_embeddings(self, embeddings: npt.NDArray[np.float16]) -> Mapping[str, npt.ArrayLike]:
        """Scores (N, D) float16 embeddings, L2-normalised and read-only: by column, (N,) numbers, NaN for no score."""


@runtime_checkable
class ImagesScorer(Protocol):
    """Scores of decoded images, as the model sees them: resized and cropped.

    Attributes:
        columns: As of an `EmbeddingsScorer`.
    """

    columns: Sequence[str]

    def score_images(self, pixels: npt.NDArray[np.uint8]) -> Mapping[str, npt.ArrayLike]:
        """Scores (N, S, S, 3) uint8 RGB images, read-only: by column, (N,) numbers, NaN for no score."""


Scorer = EmbeddingsScorer | ImagesScorer


def column_problem(name: str) -> str:
    """Says why a score cannot have this name, and what to do; empty if it can."""
    if not name.isidentifier() or keyword.iskeyword(name):
        return f"{name!r} cannot name a column: use letters, digits and _, as in has_text, and not a keyword of Python"
    try:
        score_table.schema([name], 1)
    except score_table.ScoreTableError as error:
        return f"{error}; choose another name"
    if name in FACT_KINDS:
        return f"a score cannot be named {name!r}: rules know a fact of that name; choose another name"
    return ""


def load_scorer(text: str) -> Scorer:
    """Makes the scorer that an option names; `setup` is not called.

    Args:
        text: `package.module:Class`, and after it, if wanted, a JSON object with the keyword arguments of the class.

    Raises:
        ValueError: Says what is wrong with the text or the class, and the remedy. An error within the module itself other
            than a failed import or a syntax error comes as it is, for its traceback.
    """
    said = f"`scorer` {text!r}"
    found = _TEXT.fullmatch(text)
    if not found:
        raise ValueError(f"{said} is not of the form {_FORM}")
    module_name, class_name, options_text = found.groups()
    options = _options(options_text, said) if options_text else {}
    asked = json.dumps(options)  # before the class can change it
    made = _class(_module(module_name, said), class_name, said)
    try:
        scorer = made(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{said}: {class_name} cannot be made ({error}); it takes {_signature(made)}") from error
    _check(scorer, class_name, said)
    try:
        object.__setattr__(scorer, _OPTIONS, asked)  # also where the class is a frozen dataclass
    except AttributeError as error:
        raise ValueError(f"{said}: an object of {class_name} takes no attributes; leave out its __slots__") from error
    return scorer


def _options(text: str, said: str) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON value")

    try:
        return dict(json.loads(text, parse_constant=refuse))
    except ValueError as error:
        raise ValueError(
            f"{said}: the options {text.strip()!r} are not a JSON object ({error}); write them as in {_FORM}, in single "
            "quotes for the shell"
        ) from error


def _module(name: str, said: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        remedy = "correct it"
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            remedy = "install it, or name its folder in PYTHONPATH, here and on the workers"
        elif isinstance(error, ImportError):
            remedy = "install what it imports"
        raise ValueError(f"{said}: the module {name} cannot be imported ({error}); {remedy}") from error


def _class(module: ModuleType, name: str, said: str) -> Callable[..., Any]:
    made = getattr(module, name, None)
    if inspect.isclass(made):
        return made
    own = [key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__]
    close = difflib.get_close_matches(name, own, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"{said}: the module {module.__name__} has no class {name}; {hint}its classes are: {', '.join(own) or 'none'}"
    )


def _signature(made: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(made))
    except (TypeError, ValueError):  # a class written in C tells nothing
        return "other arguments"


def _check(scorer: object, class_name: str, said: str) -> None:
    methods = [name for name in ("score_embeddings", "score_images") if callable(getattr(scorer, name, None))]
    if len(methods) != 1:
        has = "both score_embeddings and score_images" if methods else "neither score_embeddings nor score_images"
        remedy = "make two classes of it" if methods else "write one of them"
        raise ValueError(f"{said}: {class_name} has {has}; {remedy}")
    columns = getattr(scorer, "columns", None)
    listed = isinstance(columns, Sequence) and not isinstance(columns, str | bytes)
    if not listed or not columns or not all(isinstance(name, str) for name in columns):
        raise ValueError(
            f'{said}: {class_name}.columns is {columns!r}; give the names of the scores, as in columns = ("redness",)'
        )
    for name in columns:
        problem = column_problem(name)
        if problem:
            raise ValueError(f"{said}: {class_name}.columns: {problem}")
    if len(set(columns)) < len(columns):
        raise ValueError(
            f"{said}: {class_name}.columns has a name twice ({', '.join(columns)}); give each score its own"
        )


def scorer_name(scorer: Scorer) -> str:
    """The class, as `package.module:Class`."""
    return f"{type(scorer).__module__}:{type(scorer).__qualname__}"


def describe_scorer(scorer: Scorer) -> dict[str, object]:
    """What a summary says of a scorer that `load_scorer` made, and what a run that goes on must find unchanged.

    Returns:
        JSON values: `scorer` (the class), `takes` (`embeddings` or `images`), `columns`, `options`, `sha256` of the file that
        defines the class (files that it imports are not looked at), and the scorer's own `description`, if it has one.

    Raises:
        ValueError: The scorer's own description is not a dict of JSON values.
    """
    said: dict[str, object] = {
        "scorer": scorer_name(scorer),
        "takes": "images" if isinstance(scorer, ImagesScorer) else "embeddings",
        "columns": list(scorer.columns),
        "options": json.loads(getattr(scorer, _OPTIONS, "{}")),
        "sha256": _source_sha256(type(scorer)),
    }
    if hasattr(scorer, "description"):
        said["description"] = _json_dict(scorer.description, scorer_name(scorer))
    return said


def _json_dict(value: object, name: str) -> dict[str, object]:
    try:
        copied = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"scorer {name}: its description is not of JSON values ({error}); correct it") from error
    if not isinstance(copied, dict):
        raise ValueError(f"scorer {name}: its description is {value!r}; make it a property that gives a dict")
    return copied


def _source_sha256(made: type) -> str:
    """Of the file that defines the class, bytes as they are; empty where there is none (a class made at run time)."""
    try:
        with open(inspect.getfile(made), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (TypeError, OSError):
        return ""


def set_up_scorer(scorer: Scorer) -> None:
    """Calls the scorer's `setup`, if it has one: once for each copy of a step in a worker process, before its first batch."""
    setup = getattr(scorer, "setup", None)
    if setup is not None:
        setup()


def run_embeddings(scorer: EmbeddingsScorer, embeddings: npt.NDArray[np.float16]) -> Scores:
    """Scores a batch of embeddings and checks what comes back.

    Args:
        scorer: Set up.
        embeddings: (N, D) float16. With N = 0 the scorer is not called.

    Returns:
        By column, in the order of `columns`: new (N,) float32 arrays. NaN where there is no score, an infinite or a masked one.

    Raises:
        TypeError: The result is not a mapping, or a column holds no numbers. The message names scorer and column.
        ValueError: The result lacks a column, has one too many, or one of another shape.
    """
    if embeddings.ndim != 2 or embeddings.dtype != np.float16:
        raise TypeError(f"embeddings are (N, D) float16, not {embeddings.shape} {embeddings.dtype}")
    return _run(scorer, scorer.score_embeddings, embeddings)


def run_images(scorer: ImagesScorer, pixels: npt.NDArray[np.uint8]) -> Scores:
    """Scores a batch of images and checks what comes back, as `run_embeddings` does.

    Args:
        scorer: Set up.
        pixels: (N, S, S, 3) uint8 RGB.
    """
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
        raise TypeError(f"pixels are (N, S, S, 3) uint8, not {pixels.shape} {pixels.dtype}")
    return _run(scorer, scorer.score_images, pixels)


def _run(scorer: Scorer, score: Callable[[Any], object], batch: npt.NDArray[Any]) -> Scores:
    if not len(batch):
        return {column: np.zeros(0, np.float32) for column in scorer.columns}
    view = batch.view()
    view.flags.writeable = False
    result = score(view)
    name = f"scorer {scorer_name(scorer)}"
    if not isinstance(result, Mapping):
        raise TypeError(f"{name} gave {type(result).__name__}; give a dict of column to {len(batch)} numbers")
    if set(result) != set(scorer.columns):
        raise ValueError(f"{name} gave the columns {list(result)}; its columns are {list(scorer.columns)}: give these")
    return {column: _numbers(result[column], len(batch), f"{name}, column {column!r}") for column in scorer.columns}


def _numbers(values: Any, rows: int, what: str) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on a GPU, or with a gradient
        raise TypeError(
            f"{what}: no array can be made of it ({error}); give a numpy array of shape ({rows},)"
        ) from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what}: expected numbers, got an array of {array.dtype}; give floats, NaN for no score")
    if array.shape != (rows,):
        raise ValueError(
            f"{what}: expected shape ({rows},), got {array.shape}; give one number for each row of the batch"
        )
    with np.errstate(over="ignore"):
        scores = array.astype(np.float32)
    scores[np.isinf(scores)] = np.nan
    if isinstance(values, np.ma.MaskedArray):  # what is behind a mask is no score
        scores[np.ma.getmaskarray(values)] = np.nan
    return scores
