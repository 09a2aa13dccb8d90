"""What the sliders of a page keep at first is what the run kept, whatever number of a sample its rules compare."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest

from beam_curate.commands import select
from beam_curate.records import ImageFacts
from beam_curate.report.writing import write_report
from beam_curate.scores.rules import FACT_KINDS, FACT_UNITS
from tests.report.test_report import MODEL, Page, encoded, made_run, photo, row, run

LARGE = 2**24
"""float32 does not hold all whole numbers from here on."""


def data_of(output):
    """What the script of a report works on."""
    text = (output / "report.html").read_text("utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def kept_by_sliders(data):
    """How many samples pass the thresholds that the sliders begin with, and the rules beside them; as page.js counts."""
    values = np.frombuffer(base64.b64decode(data["values"]), "<f8" if data["wide"] else "<f4")
    rest = np.frombuffer(base64.b64decode(data["rest"]), "u1").astype(bool)
    values = values.reshape(-1, len(rest))
    for column in data["columns"]:
        of_column = values[column["place"]].astype(float)
        if column["least"] is not None:
            rest = rest & (of_column >= column["least"])
        if column["below"] is not None:
            rest = rest & (of_column < column["below"])
    return int(rest.sum())


def facts(number):
    return {"width": 100 + number, "height": 80 + 3 * number, "side": min(100 + number, 80 + 3 * number),
            "size": LARGE + number}  # fmt: skip


@pytest.mark.parametrize("column", [name for name, kind in FACT_KINDS.items() if kind == "number"])
@pytest.mark.parametrize("rule", ["{} >= {}", "{} > {}", "{} < {}", "{} <= {}", "top"])
def test_each_fact_has_a_slider(tmp_path, column, rule):
    bound = facts(9)[column]
    kept = {
        "{} >= {}": lambda value: value >= bound,
        "{} > {}": lambda value: value > bound,
        "{} < {}": lambda value: value < bound,
        "{} <= {}": lambda value: value <= bound,
        "top": lambda value: value >= bound,
    }[rule]
    rows = []
    for number in range(20):
        own = facts(number)
        made = row(0, number, number / 20, 0.0 if kept(own[column]) else 1.1)
        image = ImageFacts(own["width"], own["height"], "JPEG", "0" * 64, own["size"])
        rows.append(dataclasses.replace(made, facts=image))
    configuration = {"top": f"{column}=11"} if rule == "top" else {"keep": rule.format(column, bound)}
    output = made_run(tmp_path / "run", [rows], configuration)
    write_report(str(output))
    data = data_of(output)
    said = {each["name"]: each["unit"] for each in data["columns"]}
    assert said == {"aesthetic": "", column: FACT_UNITS[column]}
    assert kept_by_sliders(data) == sum(kept(facts(number)[column]) for number in range(20)) not in (0, 20)
    assert (
        f"{column} {'<' if rule in ('{} < {}', '{} <= {}') else '≥'}"
        in Page((output / "report.html").read_text("utf-8")).text
    )


def test_a_rule_on_bytes_beside_others(tmp_path):
    """Of a run as users make it: the rule on the size is no less in force than those on scores and texts."""
    members = [(f"{n}.{end}", encoded(photo(n, 40 + 4 * n, 60), kind))
               for n in range(12) for end, kind in (("png", "PNG") if n % 3 else ("jpg", "JPEG"),)]  # fmt: skip
    output, _ = run(tmp_path, [members], *MODEL, "--min_aesthetic=none", "--max_nsfw=none")
    sizes = sorted(len(data) for _, data in members)
    chosen = tmp_path / "chosen"
    rule = f"size > {sizes[4]} and format == 'PNG' and width < 80"
    assert select.main([f"--scores={output}", f"--output={chosen}", f"--keep={rule}"]) == 0
    wanted = [n for n, (name, data) in enumerate(members)
              if len(data) > sizes[4] and name.endswith("png") and 40 + 4 * n < 80]  # fmt: skip
    data = data_of(chosen)
    assert kept_by_sliders(data) == len(wanted) == json.loads((chosen / "summary.json").read_text())["funnel"]["kept"]
    assert data["keep"] == ["format == 'PNG'"]
