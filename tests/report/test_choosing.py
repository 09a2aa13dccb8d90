"""The report where thresholds are chosen, used by mouse and keyboard in a browser: what it says is compared with the table."""

import json
import re
import shlex

import numpy as np
import pyarrow.compute as pc
import pytest

from beam_curate import read_score_table
from beam_curate.commands import select
from beam_curate.report import drawn
from beam_curate.report.links import shard_link, web_link
from beam_curate.report.writing import write_report
from tests.conftest import encoded, photo
from tests.report.test_report import HOSTILE_CAPTION, HOSTILE_KEYS, MODEL, made_run, row, run
from tests.support.browser import Browser

RESULT, COMMAND = "#estimate", "#command"
PICTURED = (
    "[...document.querySelectorAll('#sides .gallery')].map(side => "
    "[...side.querySelectorAll('.name')].map(name => name.textContent).sort())"
)
"""The keys of the pictures on both sides."""
HOSTILE_URL = "javascript:alert(5)//</script><script>alert(6)</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run of photographs with hostile keys, captions and urls."""
    members = []
    for place, key in enumerate([*HOSTILE_KEYS, *(f"plain{number}" for number in range(30))]):
        url = HOSTILE_URL if place % 2 else f"https://www.Example.org:8080/{place}?a=<b>&c='"
        about = {"caption": HOSTILE_CAPTION, "url": url}
        members += [
            (f"{key}.jpg", encoded(photo(place, 60 + 8 * place, 60))),
            (f"{key}.json", json.dumps(about).encode()),
        ]
    members += [("bad.jpg", b"<x>"), ("bad.json", json.dumps({"url": "https://bad.example/x"}).encode())]
    output, status = run(
        tmp_path_factory.mktemp("choosing"),
        [members],
        *MODEL,
        "--min_aesthetic=5",
        "--max_nsfw=0.9",
        "--quality=entropy",
    )
    assert status == 0
    return output


def opened(browser, output, width=1280, scheme="light"):
    browser.open(output / "report.html", width, scheme)
    return browser


def slider(browser, name, end, kind="range"):
    places = browser.evaluate("data.columns.map(column => [column.name, column.place])")
    return f'fieldset[data-column="{dict(places)[name]}"] input[type={kind}][data-end="{end}"]'


def table(output):
    rows = read_score_table(str(output), ["key", "status", "aesthetic", "nsfw", "width", "height", "entropy"])
    return rows.filter(pc.not_equal(rows["status"], "failed"))


def test_it_begins_with_the_thresholds_of_the_run(scored, browser):
    opened(browser, scored)
    rows = table(scored)
    kept = pc.sum(pc.equal(rows["status"], "kept")).as_py()
    assert browser.text(RESULT).startswith(f"{kept} of {len(rows)} samples are kept (")
    assert browser.text(COMMAND) == (
        f"beam-curate select --scores {scored} --min_aesthetic 5 --max_nsfw 0.9 --output selected/"
    )
    assert browser.complaints == []


def test_a_slider_that_is_clicked_moves_samples_and_says_the_command_for_it(scored, browser, tmp_path):
    opened(browser, scored)
    browser.click(slider(browser, "aesthetic", 0), 0.3)
    browser.click("#choose summary")
    browser.write(slider(browser, "entropy", 0, "number"), "3.5")
    command = shlex.split(browser.text(COMMAND))
    bound = float(command[command.index("--min_aesthetic") + 1])
    rows = table(scored)
    low, high = (pc.min_max(rows["aesthetic"])[name].as_py() for name in ("min", "max"))
    assert bound == pytest.approx(min(low, 5) + 0.3 * (max(high, 5) - min(low, 5)), abs=0.1 * (high - low))
    assert "--keep" in command
    wanted = pc.and_(pc.greater_equal(rows["aesthetic"], bound), pc.less(rows["nsfw"], 0.9))
    wanted = rows.filter(pc.and_(wanted, pc.greater_equal(rows["entropy"], 3.5)))
    assert 0 < len(wanted) < len(rows)
    assert browser.text(RESULT).startswith(f"{len(wanted)} of {len(rows)} samples are kept (")
    keys = browser.evaluate(
        "[...document.querySelectorAll('#sides .gallery')].map(s => [...s.querySelectorAll('.name')].map(e => e.textContent))"
    )
    assert [len(side) for side in keys] == [len(rows) - len(wanted), len(wanted)]
    assert {key for key in keys[1] if key.startswith("plain")} == {
        key for key in wanted["key"].to_pylist() if key.startswith("plain")
    }
    # What the page says is what the command does.
    assert command[:2] == ["beam-curate", "select"]
    assert select.main([*command[2:-1], str(tmp_path / "selected")]) == 0
    selected = read_score_table(str(tmp_path / "selected"), ["status"])
    assert pc.sum(pc.equal(selected["status"], "kept")).as_py() == len(wanted)
    browser.click("#reset")
    assert "--min_aesthetic 5 --max_nsfw 0.9 --output" in browser.text(COMMAND)


def test_a_threshold_is_turned_off_at_the_end_of_its_slider(scored, browser):
    opened(browser, scored)
    browser.click(slider(browser, "aesthetic", 0), 0.01)
    browser.click(slider(browser, "nsfw", 1), 0.99)
    assert browser.text(COMMAND) == f"beam-curate select --scores {scored} --output selected/"
    assert browser.text(RESULT) == f"{len(table(scored))} of {len(table(scored))} samples are kept (100.0\u00a0%)."
    # Nothing is rejected: the pictures that are kept have the whole width.
    assert browser.evaluate("document.querySelector('#sides').classList.contains('one')")


def test_samples_are_seen_from_the_threshold_on_and_by_any_score(scored, browser):
    opened(browser, scored)
    shown = "[...document.querySelectorAll('#sides .gallery')].map(s => [...s.querySelectorAll('b')].map(e => e.textContent))"
    values = [[float(text.split("\u00a0")[1]) for text in side] for side in browser.evaluate(shown)]
    for side in values:
        assert side == sorted(side, key=lambda value: abs(value - 5))
    browser.evaluate(
        "for (const [id, value] of [['view', 'rejected'], ['order', 'down'], ['by', String(data.columns.find("
        "column => column.name === 'nsfw').place)]]) { const field = document.getElementById(id); field.value = value;"
        "field.dispatchEvent(new Event('change')) }"
    )
    (side,) = ([float(text.split("\u00a0")[1]) for text in side] for side in browser.evaluate(shown))
    assert side == sorted(side, reverse=True)
    assert len(side) > 5


def test_a_picture_is_enlarged_with_all_that_is_known(scored, browser):
    opened(browser, scored)
    count = browser.evaluate("document.querySelectorAll('#sides .frame').length")
    seen, links = [], set()
    for number in range(0, count, 3):
        browser.evaluate(f"document.querySelectorAll('#sides .frame')[{number}].id = 'f{number}'")
        browser.click(f"#f{number}")
        assert browser.evaluate("document.getElementById('large').open")
        seen.append(browser.text("#large dd"))
        links |= set(browser.evaluate("[...document.querySelectorAll('#large a')].map(link => link.href)"))
        assert HOSTILE_CAPTION.split("\u202e", maxsplit=1)[0] in browser.text("#large")
        browser.click("#close")
        assert not browser.evaluate("document.getElementById('large').open")
    assert any(key.startswith("plain") for key in seen)
    assert {link.split(":")[0] for link in links} == {"https", "file"}
    assert f"file://{scored.parent}/in/0.tar" in links
    # Also a picture that was there before the script.
    browser.click(".score .frame img")
    assert browser.evaluate("document.getElementById('large').open")
    assert browser.complaints == []


def test_hostile_texts_stay_data(scored, browser):
    document = (scored / "report.html").read_text("utf-8")
    assert len(re.findall("<script", document)) == len(re.findall("</script", document)) == 2
    inside = re.search('<script type="application/json" id="data">(.*?)</script>', document, re.S)[1]
    assert not set("<>&'") & set(inside)
    pictures = json.loads(inside)["pictures"]
    assert {picture["url_link"][:8] for picture in pictures} == {"", "https://"}
    assert any(picture["url"].startswith("javascript:alert(5)") for picture in pictures)
    opened(browser, scored)
    assert browser.evaluate("document.querySelectorAll('script').length") == 2
    assert browser.evaluate("document.querySelectorAll('#sides script, #sides iframe, #sides h1').length") == 0
    assert browser.complaints == []


def test_markup_cannot_be_made_of_text_even_by_the_script(scored, browser):
    opened(browser, scored)
    made = "try { document.body.innerHTML = '<b>x</b>'; 'made' } catch (error) { error.name }"
    assert browser.evaluate(made) == "TypeError"


def test_without_a_script_it_is_what_it_was(scored, browser):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened(browser, scored)
        assert browser.evaluate("getComputedStyle(document.getElementById('choose')).display") == "none"
        assert browser.evaluate("[...document.images].filter(image => image.naturalWidth > 0).length") > 20
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_the_screen(scored, browser, width, scheme):
    opened(browser, scored, width, scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    boxes = browser.evaluate(
        "[...document.querySelectorAll('#choose :is(input, select, button):not(#close)')].map(field => {"
        "const box = field.getBoundingClientRect(); return [box.left, box.right, box.width, box.height] })"
    )
    assert all(left >= 0 and right <= width for left, right, *_ in boxes)
    assert all(box[3] >= 18 for box in boxes)
    browser.click("#sides .frame")
    assert browser.evaluate("document.getElementById('large').getBoundingClientRect().right") <= width
    assert browser.complaints == []


def test_the_estimate_is_that_of_the_weighted_rows_and_holds_the_truth(tmp_path, browser, monkeypatch):
    monkeypatch.setattr(drawn, "MAX_ROWS", 400)
    values = np.random.default_rng(8).normal(5, 1, (6, 700)).astype(np.float32).clip(0.1, 9.9)
    parts = [[row(shard, index, float(value)) for index, value in enumerate(of)] for shard, of in enumerate(values)]
    output = made_run(tmp_path / "run", parts, {"min_aesthetic": 5.0})
    write_report(str(output))
    opened(browser, output)
    assert "drawn by chance" in browser.text("#choose")
    rows, chances = browser.evaluate("[[...values], [...chances]]")
    weights, scores, everything = 1 / np.array(chances), np.array(rows), values.ravel()
    inside = 0
    thresholds = np.quantile(everything, [0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.995, 1]).astype(float)
    for threshold in thresholds:
        browser.write(slider(browser, "aesthetic", 0, "number"), repr(float(threshold)))
        found = browser.evaluate("estimate(Uint8Array.from({length: rows}, (_, row) => passes(row)))")
        passing = scores >= threshold
        part = weights[passing].sum() / weights.sum()
        assert found["kept"] == pytest.approx(part * everything.size)
        off = passing - part
        squares = ((1 - np.array(chances)) * weights**2 * off**2).sum()
        error = 1.96 * squares**0.5 / weights.sum()
        if passing.all() or not passing.any():
            error = 3 * (weights**2).sum() / weights.sum() ** 2
        assert found["error"] == pytest.approx(everything.size * error)
        inside += abs(found["kept"] - (everything >= threshold).sum()) <= found["error"]
        assert "give or take" in browser.text(RESULT)
    assert inside >= len(thresholds) - 3  # one draw: its thresholds err together; test_drawn looks at many


def test_rules_that_no_slider_stands_for_are_kept_or_left_out(tmp_path, browser):
    members = [(f"{n}.jpg", encoded(photo(n, 40 + n, 60))) for n in range(30)]
    members += [(f"{n}.png", encoded(photo(n, 40 + n, 60), "PNG")) for n in range(30, 40)]
    rule = "aesthetic >= 0 and (format == 'PNG' or width > 50)"
    output, _ = run(tmp_path, [members], *MODEL, "--min_aesthetic=none", "--max_nsfw=none", f"--keep={rule}")
    opened(browser, output)
    assert browser.text(RESULT).startswith("29 of 40 samples are kept")
    command = shlex.split(browser.text(COMMAND))
    assert command[command.index("--keep") + 1] == "(format == 'PNG' or width > 50)"
    assert command[command.index("--min_aesthetic") + 1] == "0"
    rows = read_score_table(str(output), ["key", "status"]).to_pylist()
    sides = {side: {row["key"] for row in rows if row["status"] == side} for side in ("rejected", "kept")}
    assert {len(keys) for keys in sides.values()} == {11, 29}
    assert browser.evaluate(PICTURED) == [sorted(sides["rejected"]), sorted(sides["kept"])]
    browser.click("#rest")
    assert browser.text(RESULT).startswith("40 of 40 samples are kept")
    assert browser.evaluate(PICTURED) == [[], sorted(sides["rejected"] | sides["kept"])]


def test_a_rule_that_excludes_its_bound_is_said_so(scored, browser, tmp_path):
    output = tmp_path / "strict"
    assert select.main([f"--scores={scored}", f"--output={output}", "--keep=aesthetic > 4.5 and nsfw <= 0.75"]) == 0
    opened(browser, output)
    command = shlex.split(browser.text(COMMAND))
    assert command[command.index("--keep") + 1] == "aesthetic > 4.5 and nsfw <= 0.75"
    assert not [word for word in command if word.startswith(("--min", "--max"))]
    fields = [browser.evaluate(f"document.querySelector({slider(browser, name, end, 'number')!r}).value")
              for name, end in (("aesthetic", 0), ("nsfw", 1))]  # fmt: skip
    assert fields == ["4.5", "0.75"]


def test_where_samples_come_from(scored):
    text = re.sub("<[^>]*>", " ", (scored / "report.html").read_text("utf-8"))
    rows = read_score_table(str(scored), ["url", "status"]).to_pylist()
    of_example = [each["status"] for each in rows if "xample.org" in (each["url"] or "")]
    assert "0.tar" in text
    assert re.search(
        rf"\bexample\.org\s+{len(of_example)}\s+{100 * of_example.count('kept') / len(of_example):.1f} %", text
    )
    assert re.search(r"\bbad\.example\s+1\s+0\.0 %\s+not_an_image\s+1", text)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://a.example/x y", "https://a.example/x y"),
        ("HTTP://a.example", "HTTP://a.example"),
        ("javascript:alert(1)", ""),
        ("java\nscript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("//a.example/x", ""),
        ("https:///x", ""),
        ("http://[", ""),
        ("https://a.example/\u202e", ""),
    ],
)
def test_only_addresses_on_the_web_are_links(address, expected):
    assert web_link(address) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/a b#?.tar", "file:///data/a%20b%23%3F.tar"),
        ("gs://bucket/a b.tar", "https://storage.cloud.google.com/bucket/a%20b.tar"),
        ("s3://bucket/a.tar", ""),
        ("https://a.example/a.tar", "https://a.example/a.tar"),
        ("a.tar", ""),
    ],
)
def test_a_shard_is_linked_where_a_browser_can_open_it(path, expected):
    assert shard_link(path) == expected
