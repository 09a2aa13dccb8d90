"""The report of a run: what it says, that it is the same twice, and that nothing in the data can become markup."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import itertools
import json
import pathlib
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_curate.commands import curate
from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample, ScorePart
from beam_curate.report.data import collect
from beam_curate.report.html import shorten, visible
from beam_curate.report.plan import plan_report
from beam_curate.report.samples import MAX_IMAGES
from beam_curate.report.spread import BINS
from beam_curate.report.writing import ReportError, write_report
from beam_curate.runs import score_table
from beam_curate.runs.run import Run
from beam_curate.scores.rules import Rule
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import write_json
from tests.conftest import encoded, photo, tar_bytes
from tests.support.browser import Browser
from tests.support.models import MODEL

HOSTILE_KEYS = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "</style><h1>fake",
    "\u202egnp\u2066",
    "new\nline\x1b[31m",
    "日本é\U0001f600",
]
HOSTILE_CAPTION = "]]>--><script>alert(3)</script><a href='javascript:alert(4)'>\u202e\0&amp; caption"
VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
    """The elements of a document with their attributes, and its text without style and script."""

    def __init__(self, document):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.open = [], "", []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        layout = not data.strip() and "\n" in data  # of the template: a browser shows none of it between blocks
        if not layout and not {"style", "script"} & set(self.open):
            self.text += re.sub(r"\s+", " ", data)

    def named(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def run(folder, members, *options):
    (folder / "in").mkdir(parents=True)
    for number, shard in enumerate(members):
        (folder / "in" / f"{number}.tar").write_bytes(tar_bytes(shard))
    status = curate.main([f"--input={folder}/in/*.tar", f"--output={folder}/out", *options])
    return folder / "out", status


def read(output):
    path = pathlib.Path(write_report(str(output)))
    assert path == output / "report.html"
    return Page(path.read_text("utf-8"))


def collected(output, rules):
    table, parts = Run(str(output)).table, Run(str(output)).judged_parts
    return collect(plan_report(Selection(table, rules=None), 0, rules), sorted(parts))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run over two shards with pictures of many kinds, hostile keys and captions, and damaged images."""
    first, second = [], []
    for place, key in enumerate(HOSTILE_KEYS):
        first += [(f"{key}.jpg", encoded(photo(place, 200, 120))), (f"{key}.txt", HOSTILE_CAPTION.encode())]
    first += [(f"{key}-bad.jpg", b"<x>") for key in HOSTILE_KEYS]
    first += [("<b>bad.jpg", b"no <i>image</i>"), ("cut.jpg", encoded(photo(7))[:500])]
    for place in range(30):
        second.append((f"{place:03}.png", encoded(photo(100 + place, 40 + 8 * place, 60), "PNG")))
    second += [(f"bad{place}.jpg", b"<x>") for place in range(25)]
    folder = tmp_path_factory.mktemp("report")
    output, status = run(folder, [first, second], *MODEL, "--min_aesthetic=5", "--max_nsfw=0.6", "--min_side=48")
    assert status == 0
    return output


def test_the_numbers_are_those_of_the_summary(hostile):
    page = read(hostile)
    summary = json.loads((hostile / "summary.json").read_text())
    funnel = summary["funnel"]
    for name in ("kept", "rejected", "failed"):
        assert f"{name}{funnel[name]}{100 * funnel[name] / funnel['input']:.1f} %" in page.text
    for reason, number in funnel["reasons"].items():
        assert re.search(rf"{reason}(rejected|failed){number}{100 * number / funnel['input']:.1f} %", page.text)
    assert f"Failures: {funnel['failed']} (" in page.text
    assert "The scores are meaningless." in page.text
    assert "Rules: --min_side 48 --min_aesthetic 5.0 --max_nsfw 0.6" in page.text
    assert '"min_aesthetic": 5.0' in page.text


def test_the_histograms_count_every_row(hostile):
    rules = [Rule("a", "aesthetic", minimum=5), Rule("n", "nsfw", maximum=0.6), Rule("s", "side", minimum=48)]
    data = collected(hostile, rules)
    rows = [row for row in pq.read_table(hostile / "scores").to_pylist() if row["status"] != "failed"]
    for row in rows:
        row["side"] = min(row["width"], row["height"])
    assert {found.column for found in data.distributions} == {"aesthetic", "nsfw", "side"}
    for found in data.distributions:
        values = {
            status: [row[found.column] for row in rows if row["status"] == status] for status in ("kept", "rejected")
        }
        for counts, status in ((found.kept, "kept"), (found.rejected, "rejected")):
            assert counts.tolist() == np.histogram(values[status], found.edges)[0].tolist()
            assert counts.sum() == len(values[status]) > 0
        (name, bound), everything = found.bounds[0], values["kept"] + values["rejected"]
        assert found.below == [sum(value < bound for value in everything)]
        assert bound in found.edges
        assert len(found.kept) <= BINS + 2
        assert (found.lowest, found.highest) == (min(everything), max(everything))
        page = read(hostile)
        assert f"{name} {bound:g} lets" in page.text
        samples = "sample" if found.below[0] == 1 else "samples"
        assert f"{found.below[0]} {samples} below it, {len(everything) - found.below[0]} at or above" in page.text


def test_the_samples_are_those_nearest_to_the_threshold(hostile):
    rules = [Rule("a", "aesthetic", minimum=5), Rule("n", "nsfw", maximum=0.6)]
    data = collected(hostile, rules)
    galleries = data.galleries
    rows = [row for row in pq.read_table(hostile / "scores").to_pylist() if row["status"] != "failed"]

    def keys(title, column):
        some = [found for found in galleries if (found.title, found.column) == (title, column)]
        return [data.shown[place].row.key for found in some for place in found.places]

    def expected(column, status, keep, sign):
        some = [row for row in rows if row["status"] in status and keep(row[column])]
        return [
            row["key"] for row in sorted(some, key=lambda row: (sign * row[column], row["shard_index"], row["index"]))
        ]

    size = galleries[0].size
    assert size == 6
    kept, rejected, both = ("kept",), ("rejected",), ("kept", "rejected")
    assert keys("Just kept", "aesthetic") == expected("aesthetic", kept, lambda x: x >= 5, 1)[:size]
    assert keys("Just rejected", "aesthetic") == expected("aesthetic", rejected, lambda x: x < 5, -1)[:size]
    assert keys("Just kept", "nsfw") == expected("nsfw", kept, lambda x: x < 0.6, -1)[:size]
    assert keys("Just rejected", "nsfw") == expected("nsfw", rejected, lambda x: x >= 0.6, 1)[:size]
    assert keys("Highest nsfw", "nsfw") == expected("nsfw", both, lambda x: True, -1)[:size]
    assert keys("Lowest nsfw", "nsfw") == expected("nsfw", both, lambda x: True, 1)[:size]


def test_nothing_in_the_data_becomes_markup(hostile):
    page = read(hostile)
    document = (hostile / "report.html").read_text("utf-8")
    known = "html head meta title style body header main section div dl dt dd b p span strong h1 h2 h3 i bdi code table caption "
    known += "thead tbody tr th td details summary pre svg rect line figure figcaption img "
    known += "script fieldset legend label input output button dialog form select option"
    assert {tag for tag, _ in page.elements} <= set(known.split())
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")]
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert len(page.named("h1")) == len(page.named("style")) == 1
    assert page.named("script") == [{"type": "application/json", "id": "data"}, {}]
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", document)
    assert "http://" not in document
    assert "url(" not in document
    for key in HOSTILE_KEYS:
        assert f"{shorten(key, 90)}-bad" in page.text
    assert "⟨U+202E⟩gnp⟨U+2066⟩-bad" in page.text
    assert "new⟨U+000A⟩line⟨U+001B⟩[31m-bad" in page.text
    assert "]]>--><script>alert(3)</script>" in page.text
    assert "<b>bad" in page.text


def test_the_policy_forbids_everything_but_styles_pictures_and_the_one_script(hostile):
    read(hostile)
    (script,) = re.findall("<script>(.*?)</script>", (hostile / "report.html").read_text("utf-8"), re.S)
    policies = [
        meta["content"] for meta in read(hostile).named("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'; "
        "require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'"
    ]


def test_it_can_be_read_without_eyes(hostile):
    page = read(hostile)
    assert page.named("html") == [{"lang": "en"}]
    assert all(image["alt"].startswith("Sample: ") for image in page.named("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    assert all(cell["scope"] in ("col", "row") for cell in page.named("th"))
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))


def test_pictures_are_few_and_small(hostile):
    images = read(hostile).named("img")
    assert 20 < len(images) <= MAX_IMAGES
    for image in images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert picture.format == "JPEG"
        assert (str(picture.width), str(picture.height)) == (image["width"], image["height"])
        assert max(picture.size) <= 240
    assert {("200", "120")} <= {(image["width"], image["height"]) for image in images}  # no larger than they are
    assert (hostile / "report.html").stat().st_size < 2_000_000


def test_a_picture_shows_its_sample(tmp_path):
    colours = [(250, 10, 10), (10, 10, 250)]
    shard = [
        (f"{place}.png", encoded(Image.new("RGB", (320, 80), colour), "PNG")) for place, colour in enumerate(colours)
    ]
    output, _ = run(tmp_path, [shard], *MODEL, "--min_aesthetic=none", "--max_nsfw=none")
    images = read(output).named("img")
    for place, colour in enumerate(colours):
        sources = {image["src"] for image in images if image["alt"] == f"Sample: {place}"}
        assert len(sources) == 1
        picture = Image.open(io.BytesIO(base64.b64decode(sources.pop().partition(",")[2])))
        assert picture.size == (240, 60)
        assert np.abs(np.asarray(picture, int) - colour).max() < 8


def test_failures_are_grouped_and_bounded(hostile):
    page = read(hostile)
    assert "not_an_image 32" in page.text
    assert page.text.count("Pillow knows no format that begins with the bytes") == 20
    assert "the first 20:" in page.text
    assert "all of them:" in page.text  # truncated_image


def test_the_same_run_gives_the_same_bytes(hostile):
    read(hostile)
    before = (hostile / "report.html").read_bytes()
    (hostile / "report.html").unlink()
    read(hostile)
    assert (hostile / "report.html").read_bytes() == before


def test_a_source_that_is_gone_or_changed_costs_its_pictures_only(hostile, tmp_path):
    shutil.copytree(hostile.parent, tmp_path / "copy")
    output, source = tmp_path / "copy" / "out", hostile.parent / "in"
    moved = tmp_path / "moved"
    shutil.move(source / "0.tar", moved)
    whole = (source / "1.tar").read_bytes()
    try:
        (source / "1.tar").write_bytes(whole.replace(b"IEND", b"IEMD"))
        page = read(output)
    finally:
        shutil.move(moved, source / "0.tar")
        (source / "1.tar").write_bytes(whole)
    labels = {span.get("aria-label") for span in page.named("span")}
    assert "No picture: source not readable" in labels
    assert "No picture: source changed" in labels
    assert page.named("img") == []
    assert "<script>alert(1)</script>" in page.text


def test_scores_turned_off(tmp_path):
    shard = [("1.jpg", encoded(photo(1))), ("2.jpg", encoded(photo(2)))]
    output, status = run(tmp_path, [shard], *MODEL[:2], "--aesthetic_head=none", "--nsfw_head=none")
    assert status == 0
    page = read(output)
    assert len(page.named("img")) == 2
    assert "Histogram" not in "".join(svg["aria-label"] for svg in page.named("svg"))


def test_all_failed(tmp_path):
    rows = [
        ScoredSample(
            SampleRef(0, "gone.tar", index, f"{index}"), None, b"", {}, "failed", "decode", "not_an_image", "<no>"
        )
        for index in range(2)
    ]
    page = Page(write_and_read(made_run(tmp_path / "run", [rows])).decode())
    assert "All samples failed." in page.text
    assert "failed2100.0 %" in page.text
    assert "not_an_image 2" in page.text
    assert page.named("img") == []


def test_nothing_kept(tmp_path):
    output, status = run(tmp_path, [[(f"{n}.jpg", encoded(photo(n))) for n in range(3)]], *MODEL, "--min_aesthetic=20")
    assert status == 0
    page = read(output)
    assert "Nothing was kept." in page.text
    assert "aesthetic ≥ 20 rejects all samples: 100.0 %." in page.text
    assert "No such sample." in page.text


def made_run(folder, parts, configuration=None):
    """A run's folder with these parts of the score table and no sources."""
    (folder / "scores").mkdir(parents=True)
    totals = {"input": 0, "failed": 0, "rejected": 0, "kept": 0, "reasons": {}}
    for number, rows in enumerate(parts):
        table = score_table.to_table(rows, list(rows[0].scores) if rows else ["aesthetic"], 4)
        statuses, reasons = score_table.count(table)
        for name in ("failed", "rejected", "kept"):
            totals[name] += statuses[name]
        totals["input"] += len(rows)
        totals["reasons"].update(reasons)
        part = ScorePart(
            number,
            "gone.tar",
            "",
            len(rows),
            *(statuses[name] for name in ("kept", "rejected", "failed")),
            dict(reasons),
        )
        with (folder / score_table.part_name(number)).open("wb") as stream:
            metadata = {score_table.PART_METADATA: json.dumps(dataclasses.asdict(part))}
            score_table.write_table(stream, table, metadata)
    summary = {
        "funnel": totals,
        "configuration": configuration or {"min_aesthetic": 0.5},
        "seconds": 4,
    }
    write_json(str(folder), "summary.json", summary)
    return folder


def row(shard, index, value, threshold=0.5, key=None):
    ref = SampleRef(shard, "gone.tar", index, key or f"{index:06}", [Member("jpg", 512 * (index + 1), 10)], "jpg")
    status = "kept" if value >= threshold else "rejected"
    facts = ImageFacts(100, 80, "JPEG", "0" * 64, 10)
    embedding = np.array([1, 0, 0, 0], "<f2").tobytes()
    return ScoredSample(ref, facts, embedding, {"aesthetic": value}, status)


@pytest.mark.parametrize(
    ("configuration", "text", "cut"),
    [
        ({"keep": "aesthetic >= 0.5 and width > 2"}, "aesthetic ≥ 0.5 lets 50.0 % pass", 0.5),
        ({"keep": "aesthetic >= 0.5 or width > 2"}, "", None),
        ({"top": "aesthetic=5"}, "aesthetic ≥ 0.5 lets 50.0 % pass", 0.5),
        ({"top_fraction": "aesthetic = 1/2", "min_aesthetic": 0.3}, "aesthetic ≥ 0.3 lets 70.0 % pass", 0.3),
        ({"methods": "exact", "source": {"configuration": {"top": "aesthetic=5"}}}, "aesthetic ≥ 0.5 lets 50.0 %", 0.5),
    ],
)
def test_bounds_of_keep_and_the_last_of_the_best_are_thresholds(tmp_path, configuration, text, cut):
    both = "min_aesthetic" in configuration
    rows = [row(0, index, index / 10, 0.6 if both else 0.5) for index in range(10)]
    page = read(made_run(tmp_path / "run", [rows], configuration))
    assert text in page.text
    assert ("aesthetic ≥ 0.6 lets 40.0 % pass" in page.text) == both
    assert ("No threshold is set" in page.text) == (cut is None)
    assert ("Just kept" in page.text) == ("Just rejected" in page.text) == (cut is not None)


def test_many_rows_ties_and_row_groups(tmp_path, monkeypatch):
    """All rows have one of three values: ties go by place, however the table is cut into row groups."""
    values = [[(0.25, 0.5, 0.75)[(shard + index) % 3] for index in range(500)] for shard in range(3)]
    parts = [[row(shard, index, value) for index, value in enumerate(of)] for shard, of in enumerate(values)]
    seen = []
    for name, size in (("small", 7), ("large", 4096)):
        monkeypatch.setattr(score_table, "ROW_GROUP_ROWS", size)
        output = made_run(tmp_path / name, parts)
        data = collected(output, [Rule("a", "aesthetic", minimum=0.5)])
        places = [gallery.places for gallery in data.galleries]
        just_kept = next(gallery for gallery in data.galleries if gallery.title == "Just kept")
        assert just_kept.places == [(0, 1 + 3 * n, False) for n in range(6)]
        drawn = [place for gallery in data.galleries if not gallery.column for place in gallery.places]
        assert len({shard for shard, *_ in drawn}) > 1
        assert data.distributions[0].below == [sum(value < 0.5 for of in values for value in of)]
        seen.append((places, write_and_read(output).replace(str(output).encode(), b"run")))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("further", "folded"), [(3, False), (9, True)])
def test_many_scores_are_folded_below_a_picture(tmp_path, further, folded):
    rows = [row(0, index, index / 10) for index in range(10)]
    for one in rows:
        one.scores.update({f"own_{number}": float(number) for number in range(further)})
    page = read(made_run(tmp_path / "run", [rows]))
    shown = re.search(r"Just rejected.*?Lowest", page.text).group(0)
    assert shown.count("own_2 2") == shown.count("kept") + shown.count("rejected") - 2 > 0  # two headings
    assert shown.count("more scores") == folded * shown.count("own_2 2")
    assert f"own_{further - 1} {further - 1}" in page.text


def write_and_read(output):
    return pathlib.Path(write_report(str(output))).read_bytes()


def test_throughput_is_shown_if_known(tmp_path):
    page = Page(write_and_read(made_run(tmp_path / "run", [[row(0, n, n / 10) for n in range(10)]])).decode())
    assert "Samples a second2.5" in page.text


def test_one_sample_is_no_samples(tmp_path):
    text = Page(write_and_read(made_run(tmp_path / "run", [[row(0, 0, 0.5)]])).decode()).text
    assert "input1sample" in text
    assert "1 value, 0.5 to 0.5" in text
    assert not re.search(r"\b1 (samples|values|pictures)", text)


@pytest.mark.parametrize("folder", ["", "scores"])
def test_the_score_table_may_lie_elsewhere(tmp_path, folder):
    scored = made_run(tmp_path / "scored", [[row(0, n, n / 10) for n in range(10)]])
    selected = tmp_path / "selected"
    selected.mkdir()
    shutil.copy(scored / "summary.json", selected)
    write_report(str(selected), scores=str(scored / folder))
    assert "10 values, 0 to 0.9" in Page((selected / "report.html").read_text("utf-8")).text


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ReportError, match=r"summary\.json is missing; finish the run with `resume`"):
        write_report(str(tmp_path))
    output = made_run(tmp_path / "run", [])
    with pytest.raises(ReportError, match=r"there is no score table in .*run: scores/part-\*\.parquet are missing"):
        write_report(str(output))


def test_the_worst_texts_stay_below_2_mb(tmp_path):
    """Every sample fails, for 50 reasons, with long texts of characters that take the most bytes."""
    worst = '&\u202e"' * 2000
    rows = [
        ScoredSample(SampleRef(0, worst, n, worst), None, b"", {}, "failed", "read", f"{n % 50} {worst}", worst)
        for n in range(2000)
    ]
    output = made_run(tmp_path / "run", [rows])
    assert len(write_and_read(output)) < 2_000_000


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("plain", 10, "plain"),
        ("a\tb\r\nc", 40, "a⟨U+0009⟩b⟨U+000A⟩c"),
        ("x" * 11, 10, "x" * 9 + "…"),
        ("\u202e" * 5, 12, "⟨U+202E⟩⟨U+…"),
        ("bad\udcff", 20, "bad⟨U+DCFF⟩"),
        (" \u2028 ", 20, ""),
    ],
)
def test_texts_are_cut_and_spelled_out(text, limit, expected):
    assert shorten(text, limit) == expected
    assert visible(expected) == expected


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_a_browser_paints_it_in_both_schemes(hostile, browser, width, scheme):
    read(hostile)
    browser.open(hostile / "report.html", width, scheme)
    shot = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
    picture = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), int)
    kept, page = {"light": ((11, 122, 117), (246, 247, 249)), "dark": ((54, 184, 172), (18, 22, 27))}[scheme]
    assert (np.abs(picture.reshape(-1, 3) - kept).max(axis=1) < 4).sum() > 100
    assert np.abs(picture[:, :4] - page).max() < 4
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.evaluate("document.images.length") > 20
    # Nothing wants sideways scrolling, not even with everything unfolded.
    browser.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []


def test_a_browser_takes_hostile_texts_for_text(hostile, browser):
    read(hostile)
    browser.open(hostile / "report.html", 1600, "light")
    foreign = "script:not([id=data]):not(main + script), a, iframe, [onerror], img:not([src^=data])"
    assert browser.evaluate(f"document.querySelectorAll({foreign!r}).length") == 0
    assert browser.evaluate("document.querySelectorAll('h1').length") == 1
    text = browser.evaluate("document.body.textContent")
    for key in HOSTILE_KEYS:
        assert f"{shorten(key, 90)}-bad" in text
    assert browser.complaints == []


def test_the_policy_holds_in_a_browser_and_the_console_is_seen(hostile, browser, tmp_path):
    """The counterpart of the tests above: were markup let through, the policy would stop it, and the console tell."""
    read(hostile)
    page = (hostile / "report.html").read_text("utf-8")
    (tmp_path / "x.html").write_text(page.replace("</main>", "<script>document.title='x'</script></main>"), "utf-8")
    browser.open(tmp_path / "x.html", 1600, "light")
    assert browser.evaluate("document.title") == "Curation report"
    assert "Content Security Policy" in str(browser.complaints)
