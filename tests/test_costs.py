"""docs/costs.md: its program is the file in examples/, its figures are the program's, and its counts are what is counted."""

import ast
import io
import re
import runpy
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from beam_curate.commands.gpus import GPUS
from beam_curate.runs import score_table
from beam_curate.storage.ranged_reading import REMOTE_BUFFER_BYTES
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "costs.md").read_text()
FILE = ROOT / "examples" / "costs.py"


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(FILE))


def test_the_page_shows_the_program():
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    code = ast.parse(FILE.read_text()).body[1:-1]  # neither the docstring nor the end
    assert ast.dump(ast.Module(code, [])) == ast.dump(ast.parse(block))


def test_the_table_of_the_example_is_what_the_program_says(program):
    million = program["Measured"](10**6, 100e3, 1e9, 0.3, 292, 1000)
    for at, run in enumerate((million, million._replace(images=10**9))):
        for name, number in program["quantities"](run).items():
            (line,) = re.findall(rf"^\| {name} \| ([\d.,]+) \| ([\d.,]+) \|$", PAGE, re.M)
            assert float(line[at].replace(",", "")) == pytest.approx(number, rel=0.005, abs=0.005)


def test_the_quantities_by_hand(program):
    """Ten shards of 100 MB with 1,000 images of 100 KB each; every second one is kept."""
    found = program["quantities"](program["Measured"](10_000, 1e5, 1e8, 0.5, 100, 50, 1000, 1000))
    assert found == {
        "hours of a worker that scores": 100 / 3600,
        "hours of a worker that packs": 100 / 3600,
        "GB read": 1.5,
        "GB of the score table": 0.01,
        "GB of curated shards": 0.5,
        "read requests": 120 + 60 + 80,
        "write requests": 2 * (10 + 15),
    }


DATAFLOW = (ROOT / "docs" / "dataflow.md").read_text()


def machines():
    """The rows of docs/dataflow.md: a machine, and its figures."""
    rows = re.findall(r"^\| (\S+), (\S+-\S+) \| ((?:[\d.]+ \| ){5}[\d.]+) \|$", DATAFLOW, re.M)
    return {machine: [float(cell) for cell in cells.split(" | ")] for _, machine, cells in rows}


def test_the_table_has_each_machine_and_the_hours_that_follow_from_its_speed(program):
    assert machines().keys() == {gpu.machine_type for gpu in GPUS.values()}
    for model, processors, worker, hours, large, large_hours in machines().values():
        assert worker <= min(model, processors)
        assert hours == pytest.approx(program["dollars_per_million"](1, worker), abs=0.005)
        assert large_hours == pytest.approx(program["dollars_per_million"](1, large), abs=0.005)


def test_the_program_has_the_speeds_of_the_table(program):
    speeds = {machine: (worker, large) for machine, (_, _, worker, _, large, _) in machines().items()}
    assert program["WORKERS"] == speeds


def test_a_line_prints_dollars_for_a_million_images_on_each_machine():
    done = subprocess.run(
        [sys.executable, str(FILE), "g2-standard-8=1.00", "a2-highgpu-1g=3.67"],
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stdout.split("A million images through the model\n")[1].splitlines()
    rows = {(words[0], words[1]): (words[-2] if words[-1] == "$" else None) for words in map(str.split, printed)}
    assert len(rows) == 2 * len(machines())
    priced = {key: float(dollars) for key, dollars in rows.items() if dollars}
    assert priced == {
        ("g2-standard-8", "1024x768"): 0.95, ("g2-standard-8", "12"): 2.81,
        ("a2-highgpu-1g", "1024x768"): 0.89, ("a2-highgpu-1g", "12"): 6.89,
    }  # fmt: skip
    done = subprocess.run([sys.executable, str(FILE), "l4=1"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "l4 is none of n1-standard-4, g2-standard-8" in done.stderr


# vCPUs, TFLOP/s and GB/s. Source of the first: Google Cloud, GPU machine types; of the others: docs/dataflow.md.
HARDWARE = {
    "n1-standard-4": (4, 27, 250), "g2-standard-8": (8, 65, 250), "a2-highgpu-1g": (12, 230, 1300),
    "a2-ultragpu-1g": (12, 230, 1300), "a3-highgpu-1g": (26, 600, 2700),
}  # fmt: skip


def test_the_speeds_follow_from_what_the_page_says():
    gflops, *tflops, megabytes = map(
        float,
        re.findall(
            r"\(([\d.]+) GFLOP an image, at (\d+), (\d+), (\d+) and\s+(\d+) TFLOP/s.*?about (\d+) MB an image",
            DATAFLOW,
            re.S,
        )[0],
    )
    assert set(tflops) == {flops for _, flops, _ in HARDWARE.values()}
    usual, decoding, large = map(
        float,
        re.findall(r"([\d.]+) ms an image for all but decoding and ([\d.]+) ms for decoding \((\d+) ms at", DATAFLOW)[
            0
        ],
    )
    for machine, (vcpus, flops, rate) in HARDWARE.items():
        model, processors, worker, _, at_12, _ = machines()[machine]
        assert model == pytest.approx(1000 / (gflops / flops + megabytes / rate), rel=0.01)
        assert processors == pytest.approx(600 * vcpus / (usual + decoding))
        assert at_12 == pytest.approx(600 * vcpus / (usual + large), rel=0.01)
        assert worker == min(model, processors, 1900)


def test_only_the_process_holds_a_worker_below_both_its_gpu_and_its_processors():
    slower = {name for name, (model, processors, worker, *_) in machines().items() if worker < min(model, processors)}
    assert slower == {"a3-highgpu-1g"}
    assert "at most 1,900 to 2,400 images/s. That limits the H100's worker" in DATAFLOW


def test_the_example_in_dollars(program):
    ((price, usual, large),) = re.findall(
        r"at \$([\d.]+) for an hour, a million images on the A100 cost \$([\d.]+), and \$([\d.]+) at 12", DATAFLOW
    )
    _, _, worker, _, at_12, _ = machines()["a2-highgpu-1g"]
    assert [program["dollars_per_million"](float(price), speed) for speed in (worker, at_12)] == pytest.approx(
        [float(usual), float(large)], abs=0.005
    )


def test_dollars_by_hand(program):
    """100 images a second are 360,000 an hour: a million takes 2.78 hours."""
    assert program["dollars_per_million"](3.6, 100) == pytest.approx(10)


def test_the_requests_of_a_shard_are_those_that_the_page_on_scale_counts():
    scale = (ROOT / "docs" / "scale.md").read_text()
    counted = [
        re.findall(rf"^\| {stage}.*?\| [\d.]+; (?:1 to )?(\d+) \|", scale, re.M)
        for stage in ("judge", "pack in", "report")
    ]
    (said,) = re.findall(r"and about (\d+) for each input shard", PAGE)
    assert int(said) == sum(int(each) for (each,) in counted)


def test_what_is_asked_for_at_once():
    assert f"{REMOTE_BUFFER_BYTES >> 20} MiB are asked for at once" in PAGE


@pytest.mark.parametrize(("dim", "said"), [(768, 1490), (512, 1020)])
def test_the_size_of_a_row(dim, said):
    """Made rows with what a row usually has; the page says how many bytes, in KB."""
    rows, rng = 4_000, np.random.default_rng(0)
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = {
        "key": [f"{n:09d}" for n in range(rows)],
        "shard": ["gs://bucket/raw/00000.tar"] * rows,
        "status": ["kept"] * rows,
        "sha256": [rng.bytes(32).hex() for _ in range(rows)],
        "caption": [f"A photograph number {rng.integers(1e9)} of something with a caption of usual length" for _ in range(rows)],
        "url": [f"https://example.com/images/{rng.integers(1e15)}.jpg" for _ in range(rows)],
        "members": [
            [{"suffix": suffix, "offset": 200_000 * n + at, "size": int(rng.integers(1, most))}
             for suffix, at, most in (("jpg", 512, 150_000), ("txt", 151_000, 100), ("json", 152_000, 600))]
            for n in range(rows)
        ],
    }  # fmt: skip
    schema = score_table.schema(("aesthetic", "nsfw"), dim)

    def column(field):
        if field.name in made:
            return pa.array(made[field.name], field.type)
        if field.name == "embedding":
            return score_table.embedding_column(vectors.astype(np.float16))
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            return pa.array(rng.integers(100, 5_000, rows).astype(np.float64)).cast(field.type)
        return pa.nulls(rows, field.type)

    out = io.BytesIO()
    score_table.write_table(out, pa.table([column(field) for field in schema], schema=schema))
    assert len(out.getvalue()) / rows == pytest.approx(said, rel=0.05)
    assert f"{said / 1000:.2f} KB" in PAGE
