"""The user's own scorers: naming them, what they give, every error, and the example of docs/scorers.md."""

import hashlib
import importlib
import json
import pickle
import re
import shlex
import sys

import numpy as np
import pytest

from beam_curate import read_score_table
from beam_curate.commands import curate, select
from beam_curate.runs import score_table
from beam_curate.scores.rules import FACT_KINDS
from beam_curate.scores.scorers import (
    EmbeddingsScorer,
    ImagesScorer,
    column_problem,
    describe_scorer,
    load_scorer,
    run_embeddings,
    run_images,
    set_up_scorer,
)
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.made_heads import embeddings

MODULE = """
from dataclasses import dataclass

class Images:
    columns = ("first", "second")
    def __init__(self, result=None): self.result = result
    def score_images(self, pixels): return self.result

class Vectors(Images):
    score_images = None
    def score_embeddings(self, embeddings): return self.result

class Scaled:
    def __init__(self, factor: float, columns=("scaled",)):
        if factor < 0:
            raise ValueError(f"factor is {factor}; give one of 0 or more")
        self.columns, self.factor, self.ready = columns, factor, 0
    def setup(self): self.ready += 1
    @property
    def description(self): return {"factor": self.factor}
    def score_embeddings(self, embeddings): return {"scaled": embeddings[:, 0] * self.factor}

@dataclass(frozen=True)
class Frozen:
    columns: tuple = ("frozen",)
    def score_images(self, pixels): return {"frozen": [0] * len(pixels)}

class Sorts(Images):
    def __init__(self, values): self.values = values; values.sort()

class Slots:
    __slots__ = ()
    columns = ("slots",)
    def score_images(self, pixels): return {"slots": [0] * len(pixels)}

class Both(Frozen):
    def score_embeddings(self, embeddings): return {}

class Neither:
    columns = ("neither",)

class NoColumns:
    def score_images(self, pixels): return {}

class BadDescription(Frozen):
    description = {"value": float("nan")}

class ListDescription(Frozen):
    description = [1]

class Writes(Images):
    def score_images(self, pixels): pixels[0] = 0

def function(): pass
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder on the path; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_scorers.py").write_text(MODULE)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "inner.py").write_text("from own_scorers import Frozen\n")
    (tmp_path / "broken_syntax.py").write_text("class Broken(:\n")
    (tmp_path / "needs_another.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("own_scorers", "own_package", "needs_another", "red_scorer", "versioned"):
            del sys.modules[name]


def pixels(count, size=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


# --- naming a scorer


def test_load_with_and_without_options(modules):
    plain = load_scorer(" own_scorers:Images ")
    assert isinstance(plain, ImagesScorer)
    assert not isinstance(plain, EmbeddingsScorer)
    for text in ('own_scorers:Scaled {"factor": 3}', 'own_scorers:Scaled{"factor":\n3 } '):
        scaled = load_scorer(text)
        assert isinstance(scaled, EmbeddingsScorer)
        assert not isinstance(scaled, ImagesScorer)
        assert (scaled.factor, scaled.ready) == (3, 0)
    assert load_scorer("own_package.inner:Frozen").columns == ("frozen",)


@pytest.mark.parametrize(
    "text", ["", "own_scorers", ":Images", "own_scorers:", "a b:C", ".a:C", "a..b:C", "a:C [1]", "a:C.d", "a:C x"]
)
def test_text_of_another_form(text):
    with pytest.raises(ValueError, match=re.escape(f"`scorer` {text!r} is not of the form package.module:Class")):
        load_scorer(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nowhere.own:C",
            "the module nowhere.own cannot be imported .*nowhere.*; install it, or name its folder in PYTHONPATH",
        ),
        ("own_package.absent:C", "own_package.absent cannot be imported .*; install it"),
        ("needs_another:C", "needs_another cannot be imported .*no_such_module_at_all.*; install what it imports"),
        ("broken_syntax:C", r"broken_syntax cannot be imported .*broken_syntax\.py, line 1.*; correct it"),
        ("own_scorers:Scald", "has no class Scald; did you mean Scaled[?] its classes are: Images, Vectors, Scaled, "),
        ("own_scorers:function", "has no class function; "),
        ("own_scorers:dataclass", "has no class dataclass; "),
        ('own_scorers:Scaled {"factor": }', "options .* are not a JSON object .*Expecting value.*write them as in"),
        ("own_scorers:Scaled {'factor': 3}", "are not a JSON object .*double quotes"),
        ('own_scorers:Scaled {"factor": 3} x', "are not a JSON object .*Extra data"),
        ('own_scorers:Scaled {"factor": NaN}', "are not a JSON object .*NaN is not a JSON value"),
        ("own_scorers:Scaled", r"Scaled cannot be made .*missing .*'factor'.*; it takes \(factor: float, "),
        ('own_scorers:Scaled {"factr": 3}', r"Scaled cannot be made .*'factr'.*; it takes \(factor"),
        ('own_scorers:Scaled {"factor": -1}', r"Scaled cannot be made \(factor is -1; give one of 0 or more\)"),
        ("own_scorers:Both", "Both has both score_embeddings and score_images; make two classes"),
        ("own_scorers:Neither", "Neither has neither score_embeddings nor score_images; write one"),
        ("own_scorers:NoColumns", r"NoColumns.columns is None; give the names"),
        ("own_scorers:Slots", "takes no attributes; leave out its __slots__"),
        ('own_scorers:Scaled {"factor": 1, "columns": []}', r"columns is \[\]; give the names"),
        ('own_scorers:Scaled {"factor": 1, "columns": "ab"}', "columns is 'ab'; give the names"),
        ('own_scorers:Scaled {"factor": 1, "columns": [1]}', r"columns is \[1\]; give the names"),
        ('own_scorers:Scaled {"factor": 1, "columns": ["a", "b", "a"]}', "a name twice .a, b, a.; give each"),
        ('own_scorers:Scaled {"factor": 1, "columns": ["a", "b c"]}', "'b c' cannot name a column: use letters"),
        ('own_scorers:Scaled {"factor": 1, "columns": ["status"]}', "cannot be named 'status'.*choose another name"),
    ],
)
def test_errors_name_option_text_and_remedy(modules, text, message):
    with pytest.raises(ValueError, match=f"(?s)^`scorer` {re.escape(repr(text))}.*{message}"):
        load_scorer(text)


def test_an_error_of_the_module_itself_keeps_its_traceback(modules):
    with pytest.raises(ZeroDivisionError):
        load_scorer("raises:C")


def test_no_score_is_named_like_a_column_or_a_word_of_the_rules():
    fixed = score_table.schema([], 8).names
    assert len(fixed) > 15
    for name in {*fixed, *FACT_KINDS, "and", "None", "in", "", "a-b", "1a"}:
        assert column_problem(name), name
    for name in ("redness", "has_text", "aesthetic", "schärfe", "_x1"):
        assert not column_problem(name), name


# --- describing it


def test_description(modules):
    said = describe_scorer(load_scorer('own_scorers:Scaled {"factor": 3, "columns": ["scaled"]}'))
    source = (modules / "own_scorers.py").read_bytes()
    assert json.loads(json.dumps(said)) == {
        "scorer": "own_scorers:Scaled",
        "takes": "embeddings",
        "columns": ["scaled"],
        "options": {"factor": 3, "columns": ["scaled"]},
        "sha256": hashlib.sha256(source).hexdigest(),
        "description": {"factor": 3},
    }
    plain = describe_scorer(load_scorer("own_package.inner:Frozen"))
    assert plain == {
        "scorer": "own_scorers:Frozen",
        "takes": "images",
        "columns": ["frozen"],
        "options": {},
        "sha256": hashlib.sha256(source).hexdigest(),
    }


def test_options_survive_a_scorer_that_changes_them_and_its_pickle(modules):
    scorer = load_scorer('own_scorers:Scaled {"factor": 3, "columns": ["scaled"]}')
    before = describe_scorer(scorer)
    again = pickle.loads(pickle.dumps(scorer))
    scorer.columns.append("more")
    assert describe_scorer(scorer)["options"] == before["options"]
    assert describe_scorer(again) == before
    sorting = load_scorer('own_scorers:Sorts {"values": [3, 1]}')
    assert (sorting.values, describe_scorer(sorting)["options"]) == ([1, 3], {"values": [3, 1]})


def test_another_version_of_the_file_is_described_otherwise(modules):
    found = []
    for line in ("", "# changed\n"):
        (modules / "versioned.py").write_text(f"{line}from own_scorers import Frozen\nclass Mine(Frozen): pass\n")
        sys.modules.pop("versioned", None)
        importlib.invalidate_caches()
        found.append(describe_scorer(load_scorer("versioned:Mine")))
    first, second = found
    assert first.pop("sha256") != second.pop("sha256")
    assert first == second


@pytest.mark.parametrize(
    ("name", "message"), [("BadDescription", "not of JSON values"), ("ListDescription", r"is \[1\]; make it")]
)
def test_a_description_that_is_no_json_object(modules, name, message):
    with pytest.raises(ValueError, match=f"scorer own_scorers:{name}: its description .*{message}"):
        describe_scorer(load_scorer(f"own_scorers:{name}"))


# --- running it


def test_setup_is_called_where_there_is_one(modules):
    scaled, plain = load_scorer('own_scorers:Scaled {"factor": 2}'), load_scorer("own_scorers:Images")
    set_up_scorer(scaled)
    set_up_scorer(plain)
    assert scaled.ready == 1
    x = embeddings(5, 8)
    scores = run_embeddings(scaled, x)
    assert list(scores) == ["scaled"]
    assert np.array_equal(scores["scaled"], (x[:, 0] * np.float16(2)).astype(np.float32))


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, 3],
        (1.0, 0.0, 3.0),
        np.array([1, 0, 3], np.float16),
        np.array([1, 0, 3], np.int64),
        np.array([1, 0, 3], ">f8"),
    ],
    ids=str,
)
def test_numbers_of_any_type_become_float32_in_the_order_of_the_columns(modules, values):
    scorer = load_scorer("own_scorers:Images")
    scorer.result = {"second": [True, False, True], "first": values}
    scores = run_images(scorer, pixels(3))
    assert list(scores) == ["first", "second"]
    assert scores["first"].dtype == scores["second"].dtype == np.float32
    assert (scores["first"].tolist(), scores["second"].tolist()) == ([1.0, 0.0, 3.0], [1.0, 0.0, 1.0])


def test_what_a_mask_hides_is_no_score(modules):
    """As numpy.ma and scipy.stats.mstats give it: numpy.asarray shows what is behind the mask."""
    scorer = load_scorer("own_scorers:Images")
    some = np.ma.masked_array([1.0, 99.0, 3.0, 4.0], [False, True, False, False])
    scorer.result = {"first": some, "second": np.ma.masked_array([1, 2, 3, 4])}
    scores = run_images(scorer, pixels(4))
    np.testing.assert_array_equal(scores["first"], np.array([1, np.nan, 3, 4], np.float32))
    np.testing.assert_array_equal(scores["second"], np.array([1, 2, 3, 4], np.float32))


def test_nan_and_infinity_are_no_score(modules):
    scorer = load_scorer("own_scorers:Images")
    scorer.result = {"first": np.array([np.nan, np.inf, 1e300, 5.0]), "second": [-np.inf, 0, 1, 2]}
    with np.errstate(all="raise"):
        scores = run_images(scorer, pixels(4))
    assert np.isnan(scores["first"]).tolist() == [True, True, True, False]
    assert np.isnan(scores["second"]).tolist() == [True, False, False, False]
    assert np.isinf(scorer.result["first"][1])  # the scorer's own array is as it was


def test_a_buffer_that_the_scorer_uses_again_is_copied(modules):
    scorer = load_scorer("own_scorers:Images")
    buffer = np.zeros(2, np.float32)
    scorer.result = {"first": buffer, "second": buffer}
    scores = run_images(scorer, pixels(2))
    buffer[:] = 7
    assert scores["first"].tolist() == scores["second"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, "gave NoneType; give a dict of column to 3 numbers"),
        ([1, 2, 3], TypeError, "gave list; give a dict"),
        ({"first": [1, 2, 3]}, ValueError, r"gave the columns \['first'\]; its columns are \['first', 'second'\]"),
        ({"first": [1] * 3, "second": [1] * 3, "third": [1] * 3}, ValueError, r"gave the columns \[.*'third'\]; its"),
        ({"first": [1] * 3, "second": [1] * 4}, ValueError, r"column 'second': expected shape \(3,\), got \(4,\)"),
        (
            {"first": np.ones((3, 1)), "second": [1] * 3},
            ValueError,
            r"column 'first': expected shape \(3,\), got \(3, 1\)",
        ),
        ({"first": 1.0, "second": [1] * 3}, ValueError, r"column 'first': expected shape \(3,\), got \(\)"),
        ({"first": [[1], [1, 2], 3], "second": [1] * 3}, TypeError, "column 'first': no array can be made of it"),
        (
            {"first": ["a", "b", "c"], "second": [1] * 3},
            TypeError,
            "column 'first': expected numbers, got an array of <U1",
        ),
        (
            {"first": [None] * 3, "second": [1] * 3},
            TypeError,
            "column 'first': expected numbers, got an array of object",
        ),
        (
            {"first": [1j] * 3, "second": [1] * 3},
            TypeError,
            "column 'first': expected numbers, got an array of complex128",
        ),
    ],
)
@pytest.mark.parametrize("name", ["Images", "Vectors"])
def test_wrong_results_name_scorer_and_column(modules, name, result, error, message):
    scorer = load_scorer(f"own_scorers:{name}")
    scorer.result = result
    with pytest.raises(error, match=f"^scorer own_scorers:{name}.*{message}"):
        run_images(scorer, pixels(3)) if name == "Images" else run_embeddings(scorer, embeddings(3, 8))


def test_a_tensor_of_torch_is_taken_and_one_with_a_gradient_is_refused(modules):
    torch = pytest.importorskip("torch")
    scorer = load_scorer("own_scorers:Images")
    scorer.result = {"first": torch.ones(2, dtype=torch.float16), "second": torch.ones(2)}
    assert run_images(scorer, pixels(2))["first"].tolist() == [1, 1]
    scorer.result["second"].requires_grad = True
    with pytest.raises(TypeError, match=r"column 'second': no array can be made of it .*grad"):
        run_images(scorer, pixels(2))


def test_input_is_read_only_for_the_scorer_alone(modules):
    batch = pixels(2)
    with pytest.raises(ValueError, match="read-only"):
        run_images(load_scorer("own_scorers:Writes"), batch)
    batch[0] = 1  # the caller's array can be written as before


def test_no_rows_need_no_call(modules):
    scorer = load_scorer("own_scorers:Images")
    scorer.result = "never looked at"
    assert {name: (x.shape, x.dtype) for name, x in run_images(scorer, pixels(0)).items()} == {
        "first": ((0,), np.float32),
        "second": ((0,), np.float32),
    }


@pytest.mark.parametrize(
    "batch", [np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4, 4), np.uint8)]
)
def test_pixels_of_another_kind(modules, batch):
    with pytest.raises(TypeError, match=r"pixels are \(N, S, S, 3\) uint8, not \(2, 4, 4"):
        run_images(load_scorer("own_scorers:Images"), batch)


@pytest.mark.parametrize("batch", [np.zeros((2, 4), np.float32), np.zeros(4, np.float16)])
def test_embeddings_of_another_kind(modules, batch):
    with pytest.raises(TypeError, match=r"embeddings are \(N, D\) float16, not "):
        run_embeddings(load_scorer("own_scorers:Vectors"), batch)


# --- the example, and the page that shows it

PAGE = (ROOT / "docs" / "scorers.md").read_text()
EXAMPLE = ROOT / "examples" / "red_scorer.py"


@pytest.fixture
def example(modules, monkeypatch):
    """The example's folder on the path, and embeddings of examples in the current folder."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.chdir(modules)
    for seed, name in enumerate(("sunset", "harbour")):
        np.save(f"{name}.npy", embeddings(1, 48, seed)[0])


def test_the_page_shows_the_example():
    code = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert "\n\n".join(code[:2]) == EXAMPLE.read_text()


def test_the_scorers_of_the_pages_commands_run(example):
    texts = []
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S):
        words = shlex.split(block.replace("\\\n", " "))
        texts += [after for word, after in zip(words, words[1:], strict=False) if word == "--scorer"]
    assert len(texts) >= 2
    for text in texts:
        scorer = load_scorer(text)
        set_up_scorer(scorer)
        images = isinstance(scorer, ImagesScorer)
        (scores,) = (run_images(scorer, pixels(3)) if images else run_embeddings(scorer, embeddings(3, 48))).values()
        assert np.isfinite(scores).all()


def test_the_commands_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    """On a small random model in place of the weights that they name."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    members = [(f"{n}.png", encoded(photo(n, 40, 40), "PNG")) for n in range(3)]
    (tmp_path / "data" / "0.tar").write_bytes(tar_bytes(members))
    np.save("harbour.npy", embeddings(1, 256, 0)[0])
    model = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
    (block,) = [
        block for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) if "red_scorer:Likeness" in block
    ]
    commands = [
        shlex.split(line)[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("beam-curate")
    ]
    scoring = " ".join(commands[0]).replace("--model_dir models/", "").split()
    assert curate.main([*scoring, *model]) == 0
    assert select.main(commands[1]) == 0
    assert {"redness", "likeness"} <= set(read_score_table("like").column_names)


def test_redness(example):
    batch = np.zeros((4, 5, 5, 3), np.uint8)
    batch[0, ..., 0] = 9
    batch[1] = 200
    batch[2, 0, 0, 2] = 1
    scores = run_images(load_scorer("red_scorer:Redness"), batch)["redness"]
    assert scores[:3].tolist() == [1.0, np.float32(1 / 3), 0.0]
    assert np.isnan(scores[3])


def test_likeness(example):
    scorer = load_scorer('red_scorer:Likeness {"example": "sunset.npy"}')
    set_up_scorer(scorer)
    sunset = embeddings(1, 48, 0)
    scores = run_embeddings(scorer, np.concatenate([sunset, -sunset, embeddings(1, 48, 1)]))["likeness"]
    assert scores[:2] == pytest.approx([1, -1], abs=1e-3)
    assert abs(scores[2]) < 0.9


def test_rows_of_the_example_do_not_depend_on_the_batch(example):
    likeness = load_scorer('red_scorer:Likeness {"example": "sunset.npy"}')
    set_up_scorer(likeness)
    for scorer, run, batch in (
        (load_scorer("red_scorer:Redness"), run_images, pixels(67, 32)),
        (likeness, run_embeddings, embeddings(67, 48)),
    ):
        (column,) = scorer.columns
        whole = run(scorer, batch)[column].tobytes()
        for size in (1, 2, 7, 32):
            parts = [run(scorer, batch[start : start + size])[column] for start in range(0, len(batch), size)]
            assert np.concatenate(parts).tobytes() == whole
