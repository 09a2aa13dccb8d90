"""Duplicates in the report of a run: pairs on both sides of each limit, the largest groups, and the other dataset."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import imagehash
import numpy as np
import pytest
from PIL import Image

from beam_curate import read_score_table
from beam_curate.commands import curate, dedup, select
from beam_curate.duplicates.candidates import normalised
from beam_curate.duplicates.finding import read_findings
from beam_curate.report import writing
from beam_curate.report.duplicates import find_duplicates
from beam_curate.report.html import shorten
from beam_curate.report.table import Place
from beam_curate.report.thumbnails import Thumbnail
from beam_curate.runs.run import Run
from tests.conftest import encoded, photo, tar_bytes
from tests.report.test_choosing import PICTURED
from tests.report.test_report import HOSTILE_KEYS, MODEL, Page, read
from tests.support.browser import Browser

OFF = ["--min_aesthetic=none", "--max_nsfw=none"]
RED, BLUE = (250, 10, 10), (10, 10, 250)


def scored(folder, name, *shards, rules=OFF):
    (folder / f"{name}-in").mkdir()
    for number, members in enumerate(shards):
        (folder / f"{name}-in" / f"{number}.tar").write_bytes(tar_bytes(members))
    flags = [f"--input={folder}/{name}-in/*.tar", f"--output={folder}/{name}", *MODEL, *rules]
    assert curate.main(flags) == 0
    return folder / name


def deduplicated(table, name, *flags):
    output = table.parent / name
    assert dedup.main([f"--scores={table}", f"--output={output}", *flags]) == 0
    return output


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Photographs under hostile keys, each with copies in the second shard; the first of all is red and too small."""
    first = [("red.png", encoded(Image.new("RGB", (40, 40), RED), "PNG"))]
    second = [("red-large.png", encoded(Image.new("RGB", (80, 80), RED), "PNG"))]
    for place, key in enumerate(HOSTILE_KEYS):
        picture = photo(place, 200, 120)
        data = encoded(picture)
        first.append((f"{key}.jpg", data))
        second += [(f"{key}{number}.jpg", data) for number in range(8 - place)]
        second.append((f"{key}-small.jpg", encoded(picture.resize((100, 60)))))
    first += [(f"{place:03}.jpg", encoded(photo(100 + place, 150, 100))) for place in range(20)]
    return scored(tmp_path_factory.mktemp("duplicates"), "all", first, second, rules=[*OFF, "--min_side=48"])


@pytest.fixture(scope="module")
def eps(table):
    """Between the similarities that there are: random weights see little."""
    vectors = normalised(np.array(read_score_table(str(table), ["embedding"]).column(0).to_pylist(), np.float16))
    return float(f"{np.quantile(1 - (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)], 0.15):.2g}")


@pytest.fixture(scope="module")
def output(table, eps):
    return deduplicated(table, "unique", "--methods=exact,semantic", f"--eps={eps}", "--keep_by=first", "--border=0.5")


@pytest.fixture(scope="module")
def other(table):
    """Another dataset, whose first sample has the place of the red one and is blue; and copies of ours."""
    members = [("blue.png", encoded(Image.new("RGB", (80, 80), BLUE), "PNG"))]
    members += [(f"<b>{key}.jpg", encoded(photo(place, 200, 120))) for place, key in enumerate(HOSTILE_KEYS)]
    return scored(table.parent, "other", members)


def section(page):
    """The text from the heading of the duplicates to that of the next section."""
    return page.text[page.text.index("Duplicates") : page.text.index("aestheticNo threshold")]


def labels(page):
    return [span["aria-label"] for span in page.named("span") if "aria-label" in span]


def test_pairs_are_in_order_with_eps_between(output, eps):
    text = section(read(output))
    shown = [
        (float(number), verdict) for number, verdict in re.findall(r"([01]\.\d{4,6}) (duplicate|kept apart)", text)
    ]
    assert {verdict for _, verdict in shown} == {"duplicate", "kept apart"}
    assert [number for number, _ in shown] == sorted((number for number, _ in shown), reverse=True)
    # The numbers are rounded to four digits or more: one within half of the last digit of the limit may be on either side.
    assert all(number >= 1 - eps - 1e-4 for number, verdict in shown if verdict == "duplicate")
    assert all(number <= 1 - eps + 1e-4 for number, verdict in shown if verdict == "kept apart")
    line = text.index(f"--eps {eps:g} · similarity {1 - eps:.4f}"[:-2])
    assert text.rindex(" duplicate", 0, text.index("The largest groups")) < line < text.index(" kept apart")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """Photographs that lose more and more columns: their pHashes are 0 to 10 bits apart. The pHashes, and the run."""
    pictures = {}
    for place in range(4):
        for lost in (0, 3, 6, 8):
            pictures[f"lost-{lost}-of-{place}x"] = encoded(photo(place, 200, 120).crop((lost, 0, 200, 120)))
    table = scored(tmp_path_factory.mktemp("cropped"), "all", [(f"{key}.jpg", data) for key, data in pictures.items()])
    hashes = {key: imagehash.phash(Image.open(io.BytesIO(data)).convert("RGB")) for key, data in pictures.items()}
    return hashes, deduplicated(table, "unique", "--methods=perceptual,semantic", "--eps=0.05", "--keep_by=first")


def test_each_method_with_a_limit_has_pairs_on_both_sides_of_its_own(cropped):
    hashes, output = cropped
    text = section(read(output))
    starts = [text.index(f"Is {option} right?") for option in ("--max_distance 4", "--eps 0.05")]
    of_hashes, of_embeddings = text[slice(*starts)], text[starts[1] : text.index("The largest groups")]
    above, below = of_hashes.split("--max_distance 4 · difference 4 bits")
    bits = [
        [int(number) for number in re.findall(rf"(\d+) bits {verdict}", of_hashes)] for verdict in ("duplicate", "kept")
    ]
    assert 0 < above.count(" bits duplicate") == len(bits[0])
    assert 0 < below.count(" bits kept apart") == len(bits[1])
    assert sum(bits, []) == sorted(sum(bits, []))
    assert max(bits[0]) <= 4 < min(bits[1])
    # The numbers are those of ImageHash.
    shown = find_duplicates(str(output), Run(str(output)).table)
    pairs = [[shown.rows[place].key for place in pair.places] for pair in shown.pairs if pair.method == "perceptual"]
    assert sorted(hashes[first] - hashes[second] for first, second in pairs) == sum(bits, [])
    above, below = of_embeddings.split("--eps 0.05 · similarity 0.9500")
    assert "bits" not in of_embeddings
    assert re.search(r"0\.9[5-9]\d\d duplicate|1\.0000 duplicate", above)
    assert "kept apart" in below or "No pair was seen below the line." in below
    assert re.search(r"rejectedperceptual \d bits19\d × 120", text)


def test_a_pair_is_two_samples_of_that_similarity_and_is_shown_once(output, eps):
    shown = find_duplicates(str(output), Run(str(output)).table)
    rows = read_score_table(str(output), ["shard_index", "index", "key", "embedding"]).to_pylist()
    rows = {(row["shard_index"], row["index"]): row for row in rows}
    assert {place[:2] for place in shown.rows} <= set(rows)
    assert len({frozenset(pair.places) for pair in shown.pairs}) == len(shown.pairs)
    for pair in shown.pairs:
        first, second = (normalised(np.array([rows[place[:2]]["embedding"]], np.float16))[0] for place in pair.places)
        assert pair.similarity == pytest.approx(float(first @ second), abs=2e-6)
        assert pair.duplicate == (pair.similarity >= 1 - eps)
        assert [shown.rows[place].key for place in pair.places] == [rows[place[:2]]["key"] for place in pair.places]


def test_groups_have_the_kept_sample_first_and_how_the_others_were_found(table):
    output = deduplicated(table, "exact", "--methods=exact", "--keep_by=first")
    text = section(read(output))
    assert "33 duplicates in 6 groups, the largest of 9." in text
    assert "Is --eps" not in text
    assert "exact33100.0 %the same bytes" in text
    assert "9 samples, 6 of them here" in text
    assert "2 more" in text
    first = text[text.index("9 samples") : text.index("8 samples")]
    name = re.escape(shorten(HOSTILE_KEYS[0], 60))
    expected = rf"9 samples, 6 of them herekept200 × 120{name}" + "".join(
        rf"rejectedexact200 × 120{name}{place}" for place in range(5)
    )
    assert re.fullmatch(expected, first)


def test_a_best_sample_that_another_rule_rejected_is_told(table, eps):
    flags = ["--methods=semantic", "--eps=1e-4", "--keep_by=first", "--candidates=all"]
    text = section(read(deduplicated(table, "all-candidates", *flags)))
    assert re.search(r"2 sampleskeptsemantic \d\.\d{6}80 × 80red-largerejected: side_below_min40 × 40red", text)


def check_markup(page, document):
    known = (
        "html head meta title style body header main section div dl dt dd b p span strong h1 h2 h3 h4 i bdi code table "
    )
    known += "caption thead tbody tr th td details summary pre svg rect line figure figcaption img "
    known += "script fieldset legend label input output button dialog form select option"
    assert {tag for tag, _ in page.elements} <= set(known.split())
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")]
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", document)


def test_hostile_keys_are_text(output):
    page = read(output)
    check_markup(page, (output / "report.html").read_text("utf-8"))
    text = section(page)
    for key in HOSTILE_KEYS:
        assert shorten(key, 60) in text
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(headings, headings[1:], strict=False))


def test_the_same_run_gives_the_same_bytes(output):
    read(output)
    before = (output / "report.html").read_bytes()
    read(output)
    assert (output / "report.html").read_bytes() == before


@pytest.fixture(scope="module")
def compared(table, other):
    flags = ["--methods=exact,semantic", "--eps=0.9", "--border=0.5", "--keep_by=first", f"--against={other}"]
    return deduplicated(table, "compared", *flags)


def colours(output):
    shown = find_duplicates(str(output), Run(str(output)).table)
    found = {}
    for place, image in shown.pictures(writing.make_thumbnails(shown.rows.values()), 10**6).items():
        picture = Image.open(io.BytesIO(base64.b64decode(image.uri.partition(",")[2])))
        found[place] = np.asarray(picture, int).mean(axis=(0, 1))
    return found


def test_samples_of_the_other_dataset_are_shown_and_marked(compared, other):
    page = read(compared)
    text = section(page)
    assert "A duplicate is a sample that is in the other dataset too; these are rejected." in text
    assert text.count("other dataset<b>") > 3
    assert labels(page) == []
    check_markup(page, (compared / "report.html").read_text("utf-8"))


def test_places_of_both_datasets_do_not_meet(table, other):
    # All are alike, so that both first samples are shown.
    flags = ["--methods=semantic", "--eps=0.99", "--keep_by=first", "--candidates=all", f"--against={other}"]
    output = deduplicated(table, "both", *flags)
    summary = output / "duplicates" / "summary.json"
    found = json.loads(summary.read_text())
    places = [{"other": side, "shard_index": 0, "index": 0} for side in (False, True)]
    found["pairs"] = [{"method": "semantic", "similarity": 0.5, "duplicate": True, "samples": places}]
    summary.write_text(json.dumps(found))
    seen = colours(output)
    assert np.abs(seen[Place(0, 0, False)] - RED).max() < 8
    assert np.abs(seen[Place(0, 0, True)] - BLUE).max() < 8


@pytest.mark.parametrize("how", ["moved", "replaced", "sources"])
def test_another_dataset_that_is_gone_costs_its_pictures_only(compared, other, how):
    problem = "the other dataset is not there any more"
    aside = other.parent / "aside"
    moved = other.parent / "other-in" if how == "sources" else other
    shutil.move(moved, aside)
    try:
        if how == "replaced":
            scored(other.parent, "new", [("new.jpg", encoded(photo(77)))])
            shutil.move(other.parent / "new", other)
        page = read(compared)
    finally:
        if how == "replaced":
            shutil.rmtree(other)
        shutil.move(aside, moved)
    said = set(labels(page))
    assert said == {f"No picture: {'source not readable' if how == 'sources' else problem}"}
    assert ("<b>" in section(page)) == (how == "sources")
    assert "other dataset" in section(page)
    assert len(page.named("img")) > 10


def test_sources_that_are_gone_cost_the_pictures(output, table):
    source = table.parent / "all-in"
    shutil.move(source, table.parent / "aside-in")
    try:
        page = read(output)
    finally:
        shutil.move(table.parent / "aside-in", source)
    assert page.named("img") == []
    assert set(labels(page)) == {"No picture: source not readable"}
    assert shorten(HOSTILE_KEYS[0], 60) in section(page)


def test_pictures_are_left_out_before_the_page_is_too_large(output, monkeypatch):
    whole = len(read(output).named("img"))
    most = (output / "report.html").stat().st_size - 60_000
    monkeypatch.setattr(writing, "MAX_BYTES", most)
    page = read(output)
    assert (output / "report.html").stat().st_size <= most
    left_out = labels(page).count("No picture: left out: the page would be too large")
    assert left_out > 0
    assert len(page.named("img")) == whole - left_out > 0


def test_a_page_of_the_largest_pictures_fills_its_room_and_no_more(output, monkeypatch):
    large = Thumbnail("data:image/jpeg;base64," + "A" * 18_000, 160, 160)
    monkeypatch.setattr(writing, "make_thumbnails", lambda rows, limit: {row.place: large for row in rows})
    found = read_findings(str(output))
    found = replace(found, pairs=found.pairs * 9)
    monkeypatch.setattr("beam_curate.report.duplicates.read_findings", lambda folder: found)
    monkeypatch.setattr(writing, "MAX_BYTES", 2_500_000)
    page = read(output)
    assert len(page.named("img")) > 60
    assert 2_300_000 < (output / "report.html").stat().st_size < 2_500_000


def test_a_selection_names_the_table_that_it_used(table, output, tmp_path):
    chosen = tmp_path / "chosen"
    flags = [f"--scores={table}", f"--duplicates={output}", "--min_side=48"]
    assert select.main([*flags, f"--output={chosen}"]) == 0
    assert select.main([*flags, "--dry_run", f"--report={tmp_path}/preview/report.html"]) == 0
    counts = read_findings(str(output)).by_method
    for text in (read(chosen).text, Page((tmp_path / "preview" / "report.html").read_text("utf-8")).text):
        assert f"--duplicates {output}" in text
        assert "From the duplicates table in " in text
        for method, number in counts.items():
            assert f"{method}{number}" in text
            assert re.search(rf"duplicate_{method}rejected\d+", text)
    assert "--duplicates" not in read(table).text


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.mark.parametrize("width", [360, 400, 1280])
def test_in_a_browser_pairs_are_side_by_side_and_the_line_between(output, browser, width):
    read(output)
    browser.open(output / "report.html", width, "light")
    browser.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.pair')].map(pair => [...pair.querySelectorAll('.frame')].map(frame => {"
        "const box = frame.getBoundingClientRect(); return [box.left, box.top, box.right]}))"
    )
    assert len(boxes) > 8
    for left, right in boxes:
        assert left[1] == right[1]
        assert 60 < left[2] - left[0] < right[0] - left[0]
    ends = "[...document.querySelectorAll('.pair-%s')].map(pair => pair.getBoundingClientRect().%s)"
    line = browser.evaluate("document.querySelector('.line').getBoundingClientRect().top")
    assert (
        max(browser.evaluate(ends % ("duplicate", "bottom"))) <= line <= min(browser.evaluate(ends % ("apart", "top")))
    )
    # No text of a group reaches into the next sample's.
    assert browser.evaluate(
        "[...document.querySelectorAll('.group figcaption, .pair figcaption')].every(c => c.scrollWidth <= c.clientWidth + 1)"
    )
    assert browser.evaluate("document.querySelectorAll('a, iframe, [onerror]').length") == 0
    assert browser.complaints == []


def test_a_duplicate_is_pictured_among_the_rejected_as_long_as_duplicates_are_left_out(cropped, browser):
    _, output = cropped
    browser.open(output / "report.html", 1280, "light")
    rows = read_score_table(str(output), ["key", "status"]).to_pylist()
    sides = [{row["key"] for row in rows if row["status"] == side} for side in ("rejected", "kept")]
    assert all(sides)
    assert browser.evaluate(PICTURED) == [sorted(side) for side in sides]
    browser.click("#duplicates")
    assert browser.evaluate(PICTURED) == [[], sorted(sides[0] | sides[1])]
