"""What the pages say of tests, files and limits is so: each that they name is there, and each number is the one in force."""

import argparse
import ast
import contextlib
import importlib
import re

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions

from beam_curate import threads
from beam_curate.commands import cli
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.launch import ProgressOptions
from beam_curate.commands.options import option_fields
from beam_curate.commands.pack_options import PackOptions
from beam_curate.commands.report import ReportOptions
from beam_curate.commands.select_options import SelectOptions
from beam_curate.duplicates import blocks, digests, edges, forecast, groups, made_up_pairs, roots, settling
from beam_curate.heads.head import AESTHETIC, NSFW
from beam_curate.heads.published import PUBLISHED
from beam_curate.reasons import DESCRIPTIONS, REJECTIONS
from beam_curate.report import drawn, origins
from beam_curate.runs import beginning
from beam_curate.storage import retrying
from beam_curate.tars.sample_group import IMAGE_EXTENSIONS
from beam_curate.transforms import pack_images, place_rows, score_and_filter
from tests.conftest import ROOT

PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in (ROOT.glob("*.md"), (ROOT / "docs").glob("*.md"))
         for page in page}  # fmt: skip
NAMED = re.compile(r"\btests(?:_\w+)?/[\w/.:]*")
OF_THE_PROJECT = re.compile(
    r"`((?:tests|tests_\w+|beam_curate|pipelines|benchmarks|examples|engines|templates|docker)/[\w./-]+\w)(?:::\w+)*`"
)


def defined_in(path):
    """The names of the tests in a file, those in classes behind the class and `::`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        inner = [(f"{node.name}::", each) for each in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        found |= {f"{home}{each.name}" for home, each in inner if isinstance(each, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def missing_tests(text):
    """What a text names as a test, a file or a folder of tests, and is none."""
    missing = []
    for named in NAMED.findall(text):
        path, _, name = named.rstrip(".:").partition("::")
        place = ROOT / path
        if not place.exists() or (name and name not in defined_in(place)):
            missing.append(named)
    return missing


def test_each_test_that_a_page_names_is_there():
    assert {page: missing for page, text in PAGES.items() if (missing := missing_tests(text))} == {}
    assert len(NAMED.findall(PAGES["docs/reliability.md"])) > 40


@pytest.mark.parametrize("wrong", ["tests/runs/test_gone.py", "tests/runs/test_sources.py::test_gone", "tests_gone/",
                                   "tests/runs/test_sources.py::read_all"])  # fmt: skip
def test_one_that_is_not_there_is_found(wrong):
    assert missing_tests(f"see `{wrong}`.") == [wrong]


def test_each_file_of_the_project_that_a_page_names_is_there():
    named = {(page, path) for page, text in PAGES.items() for path in OF_THE_PROJECT.findall(text)}
    assert [(page, path) for page, path in sorted(named) if page != "CHANGELOG.md" and not (ROOT / path).exists()] == []
    assert len(named) > 30


UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6, "Mi": 1 << 20}
HOMES = ("images", "tars", "runs", "storage", "transforms", "")
"""The rooms in which a module may lie that the page names without its room."""


def constants():
    """Of docs/limits.md: the row, the constants that it names, by module, and the numbers that it has."""
    for line in PAGES["docs/limits.md"].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        names = re.findall(r"`(?:(\w+)\.)?((?:MAX_|HELD_)[A-Z_]+)`", cells[-1]) if line.startswith("|") else []
        if names:
            numbers = re.findall(r"([\d,]*\d)(?: (KiB|MiB|GiB|MB|Mi)\b)?", " ".join(cells[:-1]))
            yield cells[0], names, {int(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in numbers}


def value(module, name):
    """The constant of a module that is named without its room."""
    for room in HOMES:
        try:
            return getattr(importlib.import_module(f"beam_curate.{room}.{module}".replace("..", ".")), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise AssertionError(f"there is no {module}.{name}")


def test_the_limits_of_the_page_are_those_in_force():
    rows = list(constants())
    assert len(rows) > 20
    wrong = []
    for row, names, numbers in rows:
        module = names[0][0]
        for said, name in names:
            module = said or module
            if value(module, name) not in numbers:
                wrong.append((row, f"{module}.{name}", value(module, name), numbers))
    assert wrong == []


SAID = [
    ("reliability.md", r"\((\d+) attempts, 0\.25 to 30 s apart", retrying.MAX_ATTEMPTS),
    ("reliability.md", r"attempts, ([\d.]+) to 30 s apart", retrying.FIRST_PAUSE_SECONDS / 2),  # cut by up to a half
    ("reliability.md", r"to (\d+) s apart, 300 s in all", retrying.MAX_PAUSE_SECONDS),
    ("reliability.md", r"s apart, (\d+) s in all", retrying.MAX_SECONDS),
    ("reliability.md", r"of the first ([\d,]+) parts", beginning.LOOKED_INTO),
    ("reliability.md", r"(\d+) samples being scored", score_and_filter._BATCH),
    ("scale.md", r"bucket of about ([\d,]+) rows", digests.BUCKET_ROWS // 1000 * 1000),
    ("scale.md", r"in each of (\d+) rounds", roots.ROUNDS + 1),
    ("scale.md", r"(\d+) bytes a row to shuffle", digests.ROW.itemsize),
    ("scale.md", r"for each duplicate (\d+) and", edges.EDGE.itemsize),
    ("scale.md", r"for each duplicate 37 and (\d+) more", groups.MEMBER.itemsize),
    ("scale.md", r"and at most (\d+) in each of", 2 * roots.POINTER.itemsize),  # its own, and a question
    ("scale.md", r"group of duplicates, at (\d+) bytes each", groups.MEMBER.itemsize),
    ("scale.md", r"\((\d+) MiB a bundle\)", place_rows.LOOSE_BYTES >> 20),
    ("scale.md", r"hold at most (\d+) GiB", threads.HELD_BYTES >> 30),
    ("scale.md", r"trained on: ([\d,]+) of them", settling.SAMPLE),
    ("scale.md", r"dimensions\), ([\d,]+) at most", settling.MOST_SAMPLED),
    ("duplicates-search.md", r"groups, one for every ([\d,]+) embeddings", settling.HOME_ROWS),
    ("duplicates-search.md", r"sample, one for every ([\d,]+) embeddings", settling.CELL_ROWS),
    ("duplicates-search.md", r"Up to ([\d,]+) embeddings are searched", settling.FEW),
    ("duplicates-search.md", r"with its ([\d,]+) best ones", blocks.LEADERS),
    ("duplicates-search.md", r"The sample has ([\d,]+) embeddings", settling.SAMPLE),
    ("duplicates-search.md", r"for each cell if that is more, at most ([\d,]+)\.", settling.MOST_SAMPLED),
    ("duplicates-search.md", r"Three times ([\d,]+) pairs, or", made_up_pairs.LEAST),
    ("duplicates-search.md", r"pairs, or ([\d,]+) of a\slarge sample", made_up_pairs.MOST),
    ("duplicates-search.md", r"are compared in ([\d,]+) directions, and", forecast.MOST_COMPARED),
    ("duplicates.md", r"in (\d+) rounds in which", roots.ROUNDS),
    ("duplicates.md", r"makes its clusters: at most ([\d,]+) embeddings", settling.MOST_SAMPLED),
    ("choosing-thresholds.md", r"It has at most ([\d,]+), drawn by chance", drawn.MAX_ROWS),
    ("choosing-thresholds.md", r"drawn by chance: ([\d,]+) from all samples", drawn.MAX_ROWS * drawn._OF_ALL),
    ("choosing-thresholds.md", r"fewer \(([\d,]+) numbers in all\)", drawn.MAX_VALUES),
    ("choosing-thresholds.md", r"more than (\w+) scores it has fewer", drawn.MAX_VALUES // drawn.MAX_ROWS),
    ("choosing-thresholds.md", r"shows the worst\s(\w+) of each", origins.MAX_ORIGINS),
    ("choosing-thresholds.md", r"no more than ([\d,]+) rows, all are there", drawn.MAX_ROWS * drawn._OF_ALL),
    ("your-own-data.md", r"holds more than ([\d,]+) references", pack_images.RANGE_ROWS),
    ("your-own-data.md", r"up to (\d+) million rows", pack_images.RANGE_ROWS * pack_images.SAMPLED // 10**8 * 100),
]
WORDS = {"eight": 8, "twelve": 12}


@pytest.mark.parametrize(("page", "pattern", "number"), SAID, ids=[f"{page} {text}" for page, text, _ in SAID])
def test_a_number_of_a_page_is_the_one_in_force(page, pattern, number):
    (said,) = re.findall(pattern, PAGES[f"docs/{page}"])
    assert (WORDS[said] if said in WORDS else float(said.replace(",", ""))) == number


def test_the_versions_of_python_are_those_of_the_package():
    wanted = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text())
    said = f"Python 3.{wanted[1]} to 3.{int(wanted[2]) - 1}"
    assert {page for page in ("README.md", "docs/tutorial.md") if said not in PAGES[page]} == set()


def test_the_page_lists_the_extensions_of_images():
    (listed,) = re.findall(r"known image extension \(([\w,\s]+); in any case\)", PAGES["docs/from-nemo-curator.md"])
    assert {name.strip() for name in listed.split(",")} == IMAGE_EXTENSIONS


def test_the_readme_names_what_can_be_installed_beside_the_package():
    extras = re.findall(r'^    "([\w-]+)": \[', (ROOT / "setup.py").read_text().partition("EXTRAS_REQUIRE")[2], re.M)
    assert {"s3", "dev"} <= set(extras)
    assert [name for name in extras if name != "dev" and f"[{name}]" not in PAGES["README.md"]] == []


def test_the_page_lists_all_reasons_with_what_they_mean():
    section = PAGES["docs/score-table.md"].partition("\n## Reasons\n")[2].partition("\n## ")[0]
    failed, _, rejected = (
        dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", part, re.M)) for part in section.partition("**rejected**")
    )
    assert {**failed, **rejected} == DESCRIPTIONS
    assert set(rejected) == set(REJECTIONS)


def test_the_page_lists_the_published_heads():
    rows = re.findall(r"^\| `(ViT-\S+)` \| (yes|no) \| (yes|no) \|$", PAGES["docs/weights.md"], re.M)
    said = {
        (head, name)
        for name, *cells in rows
        for head, cell in zip((AESTHETIC, NSFW), cells, strict=True)
        if cell == "yes"
    }
    assert said == PUBLISHED.keys()


def test_the_rooms_and_files_of_the_layout_page_are_there():
    page = PAGES["docs/architecture.md"]
    below = re.findall(r"`((?:\w+/)+)`", page) + re.findall(r"`((?:\w+/)+\w+\.py)(?:::\w+)?`", page)
    missing = [path for path in below if not any((ROOT / home / path).exists() for home in ("", "beam_curate"))]
    assert missing == []
    assert len(below) > 25
    rooms = {path.parent.name for path in (ROOT / "beam_curate").glob("*/__init__.py")}
    assert {room for room in rooms if not re.search(rf"^\|.*`{room}/`.*\|$", page, re.M)} == set()
    code = {path: (ROOT / "beam_curate" / path).read_text() for path, _ in re.findall(r"`(\w+/\w+\.py)::(\w+)`", page)}
    assert [name for path, name in re.findall(r"`(\w+/\w+\.py)::(\w+)`", page)
            if not re.search(rf"^(class {name}\b|def {name}\b|{name}\b)", code[path], re.M)] == []  # fmt: skip


COMMANDS = (CurateOptions, SelectOptions, DedupOptions, ExportOptions, PackOptions, ReportOptions)
OF_OTHER_TOOLS = {
    "tar, zstd, docker and gcloud": ("dereference", "long", "parameters", "tag", "target"),
    "img2dataset": ("output_format",),
    "the boot program of Beam's images": ("worker_pool",),
    "the Java side of Flink's runner": ("number_of_execution_retries", "object_reuse"),
    "benchmarks": ("image_kb", "rows", "seed", "simulate"),
    "the program beam-curate": ("help",),
    "beam-curate fetch-models and demo, which are no jobs": ("github_url", "hub_url", "only", "folder"),
}


def flags_of_beam():
    """All flags of Beam's groups of options that are loaded."""
    flags = set()
    for group in (FlinkRunnerOptions, ProgressOptions, *PipelineOptions.__subclasses__()):
        parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
        with contextlib.suppress(AttributeError):  # a group without flags
            group._add_argparse_args(parser)
        flags |= {flag.removeprefix("--") for flag in parser._option_string_actions}
    return flags


def test_each_option_is_on_some_page():
    """Beside `--help`, which says what it is: on a page stands what it is for."""
    text = "\n".join(text for page, text in PAGES.items() if page == "README.md" or page.startswith("docs/"))
    options = {(name, word[2:]) for name, command in cli.COMMANDS.items()
               for action in command.parser()._actions for word in action.option_strings if word.startswith("--")}  # fmt: skip
    shown = set(re.findall(r"(?<![\w-])--([A-Za-z]\w*)(?![\w-])", text)) | {"version"}
    assert sorted(each for each in options if each[1] not in shown) == []


def test_each_option_that_a_page_names_is_one():
    own = {field.name for options in COMMANDS for field in option_fields(options)}
    known = own | flags_of_beam() | {name for names in OF_OTHER_TOOLS.values() for name in names}
    named = set()
    for page, text in PAGES.items():
        if page == "README.md" or page.startswith("docs/"):
            prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
            # A name with a hyphen is another tool's: no option of ours has one.
            found = re.findall(r"(?<![\w-])--([A-Za-z]\w*)(?![\w-])", " ".join(re.findall(r"`([^`]+)`", prose)))
            named |= {(name, page) for name in found}
    assert sorted(each for each in named if each[0] not in known) == []
    assert len({name for name, _ in named} & own) > 50
