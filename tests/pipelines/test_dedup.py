"""Duplicates end to end: real photographs with planted copies, through curate.py, dedup.py and select.py."""

import functools
import io
import itertools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image, ImageEnhance

from beam_curate import read_score_table
from beam_curate.commands import curate, dedup, select
from beam_curate.duplicates.candidates import normalised
from beam_curate.duplicates.finding import SUMMARY, read_findings
from beam_curate.duplicates.table import part_name, read_part
from tests.conftest import encoded, tar_bytes
from tests.conftest import photo as made_photo
from tests.support.models import MODEL

NUMBERS = itertools.count()
OFF = ["--min_aesthetic=none", "--max_nsfw=none"]


@functools.cache
def photographs():
    """Of half their size: the searches and the reports of all runs here decode them."""
    from skimage import data

    names = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")
    return {name: Image.fromarray(getattr(data, name)()).reduce(2) for name in names}


def encode(image, form="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def planted(photos):
    """Originals as PNG, and copies of each: what a person would call the same picture."""
    first, second = [], []
    for name, photo in photos.items():
        png = encode(photo, "PNG")
        first += [(f"{name}.png", png), (f"{name}.txt", name.encode())]
        width, height = photo.size
        small = photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        cropped = photo.crop((width // 12, height // 12, width, height))
        mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        second += [
            (f"{name}-same.png", png),
            (f"{name}-lossless.webp", encode(photo, "WEBP", lossless=True)),
            (f"{name}-jpeg.jpg", encode(photo, quality=60)),
            (f"{name}-small.jpg", encode(small, quality=85)),
            (f"{name}-bright.jpg", encode(ImageEnhance.Brightness(photo).enhance(1.1), quality=85)),
            (f"{name}-crop.jpg", encode(cropped, quality=85)),
            (f"{name}-mirror.jpg", encode(mirrored, quality=85)),
        ]
    return first, second


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run that keeps all of two shards: originals, and copies with a damaged image among them."""
    folder = tmp_path_factory.mktemp("dedup")
    (folder / "data").mkdir()
    first, second = planted(photographs())
    (folder / "data" / "0.tar").write_bytes(tar_bytes(first))
    (folder / "data" / "1.tar").write_bytes(tar_bytes([*second, ("broken.jpg", b"no image")]))
    output = folder / "all"
    assert curate.main([f"--input={folder}/data/*.tar", f"--output={output}", *MODEL, *OFF]) == 0
    return output


def deduplicated(table, name, *flags):
    output = table.parent / name
    assert dedup.main([f"--scores={table}", f"--output={output}", *flags]) == 0
    return output


def verdicts(output):
    rows = read_score_table(str(output), ["key", "status", "step", "reason", "error_message"]).to_pylist()
    return {row["key"]: row for row in rows}


def removed(output):
    """The method by which each row is a duplicate, by its key, as the table of duplicates has it."""
    rows = [row for shard in (0, 1) for row in read_part(str(output), shard).to_pylist()]
    return {row["key"]: row["method"] for row in rows if row["duplicate_of_key"] is not None}


def keys(output):
    paths = sorted(map(str, output.glob("*.tar")))
    return [sample["__key__"] for path in paths for sample in webdataset.WebDataset(path, shardshuffle=False)]


@pytest.fixture(scope="module")
def output(table):
    return deduplicated(table, "unique", "--methods=exact,pixels,perceptual", "--keep_by=first")


class TestPlantedCopies:
    @pytest.mark.parametrize(
        ("copy", "method"),
        [
            ("same", "exact"),
            ("lossless", "pixels"),
            ("jpeg", "perceptual"),
            ("small", "perceptual"),
            ("bright", "perceptual"),
        ],
    )
    def test_copies_are_found_by_the_surest_method(self, output, copy, method):
        found = verdicts(output)
        for name in photographs():
            row = found[f"{name}-{copy}"]
            assert (row["status"], row["step"], row["reason"]) == ("rejected", "dedup", f"duplicate_{method}")
            assert f"{name}" in row["error_message"]

    def test_mirrored_and_cropped_ones_are_not_found_by_bytes_pixels_and_hashes(self, output):
        # docs/duplicates.md says so.
        found = verdicts(output)
        assert {found[f"{name}-{copy}"]["status"] for name in photographs() for copy in ("mirror", "crop")} == {"kept"}

    def test_mirrored_ones_are_found_if_that_is_asked_for(self, table):
        flags = ["--methods=perceptual", "--mirrored", "--keep_by=first", "--table_only"]
        found = removed(deduplicated(table, "mirrored", *flags))
        assert {found[f"{name}-mirror"] for name in photographs()} == {"perceptual"}
        assert not found.keys() & {f"{name}-crop" for name in photographs()}

    def test_originals_are_kept_and_written(self, output):
        found = verdicts(output)
        assert {found[name]["status"] for name in photographs()} == {"kept"}
        kept = [key for key, row in found.items() if row["status"] == "kept"]
        assert keys(output) == kept
        assert len(kept) < 0.5 * len(found)

    def test_nothing_is_lost(self, output):
        funnel = json.loads((output / "summary.json").read_text())["funnel"]
        assert funnel["input"] == funnel["kept"] + funnel["rejected"] + funnel["failed"] == len(verdicts(output))
        assert funnel["failed"] == 1
        assert funnel["reasons"]["duplicate_exact"] == 5

    def test_the_table_tells_of_groups(self, output):
        first, second = (read_part(str(output), shard).to_pylist() for shard in (0, 1))
        groups = {row["key"]: row["group"] for row in first}
        assert len(groups) == 5 == len(set(groups.values()))
        assert {row["place"] for row in first} == {0}
        assert {row["method"] for row in first} == {None}
        for row in second:
            name = row["key"].split("-")[0]
            assert row["group"] == groups[name]
            assert row["place"] > 0
            assert row["duplicate_of_shard"].endswith(".tar")
            assert row["similarity"] >= 1 - 4 / 64

    def test_nothing_else_is_left_but_the_hashes(self, output):
        left = {
            str(path.relative_to(output / "duplicates"))
            for path in (output / "duplicates").rglob("*")
            if path.is_file()
        }
        parts = {"part-00000.parquet", "part-00001.parquet"}
        assert left == {"summary.json", *parts, *(f"hashes/{part}" for part in parts)}

    def test_the_same_again_is_the_same(self, table, output):
        again = deduplicated(table, "again", "--methods=exact,pixels,perceptual", "--keep_by=first")
        for path in [*output.glob("*.tar"), *output.glob("verdicts/*"), *output.glob("duplicates/*.parquet")]:
            assert (again / path.relative_to(output)).read_bytes() == path.read_bytes()


def test_the_largest_is_kept(table):
    output = deduplicated(table, "largest", "--methods=perceptual", "--keep_by=largest", "--table_only")
    found = removed(output)
    for name in photographs():
        assert f"{name}-small" in found
    rows = read_score_table(str(table), ["key", "status", "width", "height"]).to_pylist()
    pixels = {row["key"]: row["width"] * row["height"] for row in rows if row["status"] != "failed"}
    for shard in (0, 1):
        for row in read_part(str(output), shard).to_pylist():
            if row["duplicate_of_key"] is not None:
                assert pixels[row["duplicate_of_key"]] >= pixels[row["key"]]


def similarities(table, part=0.1):
    """The kept rows, the cosine similarities of all with all, and an eps by which some are duplicates.

    Random weights see little, so embeddings are near each other: an eps between the distances that there are, by which that
    part of all pairs are duplicates.
    """
    source = read_score_table(str(table), ["key", "status", "aesthetic", "embedding", "shard_index", "index"])
    good = source.filter(np.array([status == "kept" for status in source.column("status").to_pylist()]))
    vectors = normalised(np.array(good.column("embedding").to_pylist(), np.float16))
    similarity = vectors @ vectors.T
    return good, similarity, float(np.quantile(1 - similarity[np.triu_indices(len(vectors), 1)], part))


@pytest.mark.parametrize("keep_by", ["aesthetic", "hard", "easy"])
def test_semantic_duplicates_are_those_of_a_comparison_of_all_with_all(table, keep_by):
    good, similarity, eps = similarities(table)
    flags = ["--methods=semantic", f"--eps={eps}", "--border=0.5", f"--keep_by={keep_by}", "--n_clusters=3"]
    found = removed(deduplicated(table, f"semantic-{keep_by}", *flags, "--table_only")).keys()
    assert found
    names = good.column("key").to_pylist()
    if keep_by == "aesthetic":
        order = np.lexsort((good.column("index"), good.column("shard_index"), -good.column("aesthetic").to_numpy()))
        ranked = similarity[order][:, order]
        expected = (np.tril(ranked, -1) >= np.float32(1 - eps)).any(axis=1)
        assert found == {names[row] for row in order[expected]}
    kept = [names.index(key) for key in names if key not in found]
    left = similarity[np.ix_(kept, kept)][np.triu_indices(len(kept), 1)]
    assert (left < np.float32(1 - eps)).all()


@pytest.fixture(scope="module")
def by_all_methods(table):
    """A run with all methods, and its flags."""
    _, _, eps = similarities(table, 0.15)  # more than are alike by a surer method
    flags = [f"--eps={eps}", "--methods=exact,pixels,perceptual,semantic", "--keep_by=hard", "--samples_per_shard=3"]
    output = deduplicated(table, "by-all-methods", *flags)
    assert len(read_findings(str(output)).by_method) == 4
    return output, flags


@pytest.mark.parametrize(
    "way",
    [["--direct_runner_bundle_repeat=2"], ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]],
    ids=["each bundle twice", "two processes"],
)
def test_other_ways_to_run_it_write_the_same_bytes(table, by_all_methods, way):
    output, flags = by_all_methods
    again = deduplicated(table, f"way-{len(way)}", *flags, *way)
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()}
    told = {"summary.json", "report.html"}  # of times
    assert {name for name in names if (output / name).read_bytes() != (again / name).read_bytes()} <= told


@pytest.fixture(scope="module")
def other(table):
    """Another dataset, of two of the photographs."""
    folder = table.parent
    photos = photographs()
    members = [(f"test/{name}.jpg", encode(photos[name], quality=90)) for name in ("coffee", "rocket")]
    (folder / "other").mkdir()
    (folder / "other" / "0.tar").write_bytes(tar_bytes(members))
    output = folder / "benchmark"
    assert curate.main([f"--input={folder}/other/*.tar", f"--output={output}", *MODEL, *OFF]) == 0
    return output


class TestAgainst:
    def test_what_is_in_the_other_is_dropped_and_nothing_else(self, table, other):
        output = deduplicated(table, "clean", "--methods=exact,perceptual", f"--against={other}")
        found = verdicts(output)
        removed = {key for key, row in found.items() if row["status"] == "rejected"}
        copies = ("", "-same", "-lossless", "-jpeg", "-small", "-bright")
        expected = {f"{name}{copy}" for name in ("coffee", "rocket") for copy in copies}
        assert removed == expected
        assert "other dataset" in found["coffee"]["error_message"]
        assert "test/coffee" in found["coffee"]["error_message"]

    def test_only_what_is_in_the_other_is_kept(self, table, other):
        output = deduplicated(table, "shared", "--methods=perceptual", f"--against={other}", "--against_action=keep")
        kept = {key for key, row in verdicts(output).items() if row["status"] == "kept"}
        assert {key.split("-")[0] for key in kept} == {"coffee", "rocket"}
        assert verdicts(output)["astronaut"]["reason"] == "not_in_other"

    def test_a_search_without_it_is_not_continued_with_it(self, table, other, capsys):
        output = deduplicated(table, "without", "--methods=exact", "--table_only")
        flags = ["--methods=exact", "--table_only", "--resume", f"--against={other}"]
        assert dedup.main([f"--scores={table}", f"--output={output}", *flags]) == 2
        said = f"--resume: duplicates.against was '' and is '{other}' now; give the same as before"
        assert said in capsys.readouterr().err

    def test_embeddings_of_other_weights_are_refused(self, table, other, capsys):
        output = table.parent / "weights"
        summary = other / "summary.json"
        said = summary.read_text()
        changed = json.loads(said)
        changed["configuration"]["model"]["weights"] = "other"
        summary.write_text(json.dumps(changed))
        try:
            assert dedup.main([f"--scores={table}", f"--output={output}", f"--against={other}"]) == 2
        finally:
            summary.write_text(said)
        assert "cannot be compared" in capsys.readouterr().err


@pytest.fixture(scope="module")
def everything(table):
    """A duplicates table of all rows, as dedup.py writes it for select.py."""
    flags = ["--methods=exact,pixels,perceptual", "--keep_by=largest", "--candidates=all", "--table_only"]
    return deduplicated(table, "everything", *flags)


@functools.cache
def selected(table, *flags):
    """The selection by these flags, made once: no test here changes it."""
    output = table.parent / f"selected-{next(NUMBERS)}"
    assert select.main([f"--scores={table}", f"--output={output}", "--samples_per_shard=7", *flags]) == 0
    return output


class TestSelecting:
    def test_without_other_rules_it_is_what_dedup_writes(self, table, everything):
        flags = ["--methods=exact,pixels,perceptual", "--keep_by=largest", "--samples_per_shard=7"]
        by_dedup = deduplicated(table, "by-dedup", *flags)
        by_select = selected(table, f"--duplicates={everything}")
        for path in [*by_dedup.glob("*.tar"), *by_dedup.glob("0*.parquet")]:
            assert (by_select / path.name).read_bytes() == path.read_bytes()
        assert verdicts(by_select) == verdicts(by_dedup)

    def test_that_duplicates_come_back_is_said_unless_they_are_kept_out(self, table, output, everything, capsys):
        def noted(source, *flags):
            capsys.readouterr()
            assert select.main([f"--scores={source}", "--dry_run", *flags]) == 0
            return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]

        words = "note: the duplicates that {} had removed are candidates again; --duplicates {} keeps them out"
        assert noted(output) == [words.format(output, output)]
        assert noted(output, f"--duplicates={everything}") == noted(table) == []
        used = selected(table, f"--duplicates={everything}")
        assert noted(used) == [words.format(used, everything)]
        back = selected(output)
        assert noted(back) == []
        assert set(keys(selected(output, f"--duplicates={output}"))) == set(keys(output)) < set(keys(back))
        twice = deduplicated(output, "noted-twice", "--methods=exact", "--keep_by=first")
        assert noted(twice) == [words.format(twice, twice).replace("them", "those of its last search")]

    def test_that_a_search_has_not_seen_all_is_said_unless_the_rules_keep_no_more(self, table, capsys):
        narrow = selected(table, "--keep=format == 'JPEG'")
        first = deduplicated(narrow, "of-jpegs", "--methods=exact", "--table_only")
        every = deduplicated(narrow, "of-everything", "--methods=exact", "--table_only", "--candidates=all")
        topped = deduplicated(selected(table, "--top=aesthetic=9"), "of-some", "--methods=exact", "--table_only")

        def noted(found, *flags):
            capsys.readouterr()
            assert select.main([f"--scores={table}", f"--duplicates={found}", "--dry_run", *flags]) == 0
            return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]

        (line,) = noted(first)
        assert f"the duplicates in {first} are among what the rules of that run kept" in line
        assert "--candidates all" in line
        assert noted(first, "--min_side=2") == noted(first, "--keep=format == 'PNG'") == [line]
        same = "--keep=format == 'JPEG'"
        assert noted(first, same) == noted(first, same, "--min_side=2") == noted(every) == []
        assert noted(topped, "--top=aesthetic=9") == []
        assert len(noted(topped, "--top=aesthetic=9", "--min_side=2")) == 1

    def test_of_each_group_the_best_that_the_rules_keep_stays(self, table, everything):
        output = selected(table, f"--duplicates={everything}", "--keep=format == 'JPEG'")
        found = verdicts(output)
        kept = {key for key, row in found.items() if row["status"] == "kept"}
        for name in photographs():
            # The PNG is the best of its group, but no JPEG: one of the JPEGs of its size takes its place.
            assert len(kept & {f"{name}-{copy}" for copy in ("jpeg", "bright", "small")}) == 1
            assert f"{name}-small" not in kept
            assert found[name]["reason"] == "not_kept_by_rule"
        assert any("of this group" in (row["error_message"] or "") for row in found.values())

    def test_top_chooses_among_what_is_left(self, table, everything):
        output = selected(table, f"--duplicates={everything}", "--top=aesthetic=8")
        funnel = json.loads((output / "summary.json").read_text())["funnel"]
        assert funnel["kept"] == 8
        assert funnel["reasons"]["duplicate_exact"] == 5

    @pytest.mark.parametrize(
        "flags", [(), ("--keep=format == 'JPEG'",), ("--keep=format != 'PNG'", "--top=aesthetic=4")]
    )
    def test_a_dry_run_counts_what_the_selection_keeps(self, table, everything, capsys, tmp_path, flags):
        page = tmp_path / "page.html"
        output = selected(table, f"--duplicates={everything}", *flags)
        capsys.readouterr()
        dry = ["--dry_run", f"--report={page}", f"--duplicates={everything}", *flags]
        assert select.main([f"--scores={table}", *dry]) == 0
        reasons = json.loads((output / "summary.json").read_text())["funnel"]
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "not a duplicate" in line][1:]
        assert int(line.split()[0]) == reasons["kept"] + reasons["reasons"].get("below_top", 0)
        assert "duplicate_perceptual" in page.read_text()

    def test_a_table_of_other_data_is_refused(self, table, other, everything, capsys):
        never = table.parent / "never"
        assert select.main([f"--scores={other}", f"--output={never}", f"--duplicates={everything}"]) == 2
        assert "other input shards" in capsys.readouterr().err
        assert select.main([f"--scores={table}", f"--output={never}", f"--duplicates={table}"]) == 2
        assert "no finished duplicates table" in capsys.readouterr().err
        assert not never.exists()

    @pytest.mark.parametrize(
        "first", [["--max_pixels=10000"], ["--screen=width < 150"]], ids=["failed", "screened out"]
    )
    def test_a_search_that_has_not_seen_all_samples_is_not_applied(self, tmp_path, capsys, first):
        """Samples that had failed when the search was made are in no group: their copies would stay."""
        for shard in range(2):
            members = [(f"{shard}{n}.jpg", encoded(made_photo(n, 60 + 60 * n, 70))) for n in range(3)]
            (tmp_path / f"{shard}.tar").write_bytes(tar_bytes(members))
        data = [f"--input={tmp_path}/?.tar", f"--output={tmp_path}/run", *MODEL, *OFF]
        search = [f"--scores={tmp_path}/run", "--methods=exact", "--candidates=all", "--table_only"]
        chosen = [f"--scores={tmp_path}/run", f"--output={tmp_path}/best"]
        again = ["--retry_failed=too_many_pixels"] if first == ["--max_pixels=10000"] else ["--overwrite"]
        assert curate.main([*data, *first]) == 0
        assert dedup.main([*search, f"--output={tmp_path}/groups"]) == 0
        assert curate.main([*data, *again]) == 0
        capsys.readouterr()
        assert select.main([*chosen, f"--duplicates={tmp_path}/groups"]) == 2
        said = capsys.readouterr().err
        assert "was searched in a table of 6 samples, 4 of which had an embedding; the score table has 6 and 6" in said
        assert not (tmp_path / "best").exists()
        assert dedup.main([*search, f"--output={tmp_path}/groups", "--overwrite"]) == 0
        assert select.main([*chosen, f"--duplicates={tmp_path}/groups"]) == 0
        table = read_score_table(str(tmp_path / "best"), ["status", "sha256"]).to_pylist()
        kept = [row["sha256"] for row in table if row["status"] == "kept"]
        assert len(kept) == len(set(kept)) == 3

    def test_a_search_of_which_as_many_other_samples_had_failed_is_not_applied(self, tmp_path, capsys):
        """The numbers of rows and of embeddings are the same, and the copies that it has not seen would stay."""
        for shard in range(2):
            members = [(f"{shard}{n}.jpg", encoded(made_photo(n, 60 + 60 * n, 70))) for n in range(3)]
            (tmp_path / f"{shard}.tar").write_bytes(tar_bytes(members))
        data = [f"--input={tmp_path}/?.tar", f"--output={tmp_path}/run", *MODEL, *OFF]
        search = [f"--scores={tmp_path}/run", "--methods=exact", f"--output={tmp_path}/groups", "--candidates=all"]
        chosen = [f"--scores={tmp_path}/run", f"--output={tmp_path}/best", f"--duplicates={tmp_path}/groups"]
        assert curate.main([*data, "--screen=width > 70"]) == 0  # one in three is screened out, then another one
        assert dedup.main([*search, "--table_only"]) == 0
        assert select.main([*chosen, "--keep=width < 150"]) == 0  # of other verdicts on the same scores
        assert curate.main([*data, "--screen=width < 150", "--overwrite"]) == 0
        capsys.readouterr()
        assert select.main([*chosen, "--overwrite"]) == 2
        assert f"--duplicates {tmp_path}/groups was searched in another table than the score" in capsys.readouterr().err
        assert dedup.main([*search, "--overwrite"]) == 0
        assert select.main([*chosen, "--overwrite"]) == 0
        table = read_score_table(str(tmp_path / "best"), ["status", "sha256"]).to_pylist()
        kept = [row["sha256"] for row in table if row["status"] == "kept"]
        assert len(kept) == len(set(kept)) == 2

    def test_only_what_another_dataset_has(self, table, other):
        flags = ["--methods=perceptual", f"--against={other}", "--against_action=keep", "--table_only"]
        shared = deduplicated(table, "shared-table", *flags)
        output = selected(table, f"--duplicates={shared}")
        kept = {key.split("-")[0] for key, row in verdicts(output).items() if row["status"] == "kept"}
        assert kept == {"coffee", "rocket"}


class TestInCurate:
    def test_one_command_does_what_three_do(self, table):
        output = table.parent / "curated"
        flags = ["--dedup=exact,perceptual", "--keep_by=largest", "--keep=format != 'WEBP'", "--top=aesthetic=10"]
        data = [f"--input={table.parent}/data/*.tar", f"--output={output}", *MODEL, *OFF, "--samples_per_shard=7"]
        assert curate.main([*data, *flags]) == 0
        wide = selected(table, "--keep=format != 'WEBP'")
        unique = deduplicated(wide, "wide-unique", "--methods=exact,perceptual", "--keep_by=largest", "--table_only")
        again = selected(table, f"--duplicates={unique}", "--keep=format != 'WEBP'", "--top=aesthetic=10")
        assert len(keys(output)) == 10
        for path in again.glob("*.tar"):
            assert (output / path.name).read_bytes() == path.read_bytes()
        assert verdicts(output) == verdicts(again)
        before = {path.name: path.read_bytes() for path in output.glob("*.tar")}
        for path in (output / "summary.json", output / "verdicts" / "part-00001.parquet", output / "00000.tar"):
            path.unlink()
        assert curate.main([*data, *flags, "--resume"]) == 0
        assert {path.name: path.read_bytes() for path in output.glob("*.tar")} == before

    @pytest.mark.parametrize("again", ["--overwrite", "--retry_failed=not_an_image"])
    def test_what_is_scored_again_is_searched_again(self, table, again):
        output = table.parent / f"again{again}"
        words = [f"--input={table.parent}/data/*.tar", f"--output={output}", *MODEL, *OFF, "--dedup=exact"]
        assert curate.main(words) == 0
        searched = (output / SUMMARY).stat().st_mtime_ns
        assert curate.main([*words, again]) == 0
        assert (output / SUMMARY).stat().st_mtime_ns > searched
        assert read_findings(str(output)).duplicates == 5
        assert len(keys(output)) == 35

    def test_options_of_dedup_need_dedup(self, table, capsys):
        never = table.parent / "never"
        data = [f"--input={table.parent}/data/*.tar", f"--output={never}", *MODEL, *OFF]
        for flags, words in (
            (["--eps=0.1"], "--eps 0.1 is for --dedup"),
            (["--dedup=same"], "--dedup 'same' is unknown"),
            (["--dedup=exact", "--keep_by=beauty"], "--keep_by beauty"),
        ):
            assert curate.main([*data, *flags]) == 2
            assert words in capsys.readouterr().err
        assert not never.exists()


class TestRuns:
    def test_a_run_that_kept_nothing_of_a_shard_or_at_all(self, table):
        methods = "--methods=exact,pixels,perceptual,semantic"
        few = selected(table, "--keep=key == 'rocket-same'")
        assert keys(deduplicated(few, "few-unique", methods)) == ["rocket-same"]
        nothing = selected(table, "--keep=width > 100000")
        output = deduplicated(nothing, "nothing-unique", methods, "--keep_by=hard")
        assert keys(output) == []
        assert read_findings(str(output)).groups == 0

    def test_the_table_alone_then_the_shards(self, table):
        output = deduplicated(table, "alone", "--methods=exact", "--table_only")
        assert read_findings(str(output)).duplicates == 5
        assert not list(output.glob("*.tar"))
        whole = deduplicated(table, "alone", "--methods=exact", "--resume")
        assert len(keys(whole)) == 35

    def test_a_run_that_was_stopped_goes_on(self, table, capsys):
        flags = ["--methods=exact,semantic", "--samples_per_shard=4"]
        output = deduplicated(table, "stopped", *flags)
        before = {path.name: path.read_bytes() for path in output.glob("*.tar")}
        (output / "summary.json").unlink()
        (output / SUMMARY).unlink()
        (output / part_name(1)).unlink()
        (output / "verdicts" / "part-00000.parquet").unlink()
        (output / "00001.tar").unlink()
        deduplicated(table, "stopped", *flags, "--resume")
        assert {path.name: path.read_bytes() for path in output.glob("*.tar")} == before
        assert dedup.main([f"--scores={table}", f"--output={output}", *flags, "--resume"]) == 0
        assert "complete already" in capsys.readouterr().out

    def test_a_run_that_is_replaced_is_searched_again(self, table):
        deduplicated(table, "replaced", "--methods=exact")
        output = deduplicated(table, "replaced", "--methods=exact,pixels", "--overwrite")
        assert read_findings(str(output)).by_method == {"exact": 5, "pixels": 5}
        assert len(keys(output)) == 30

    def test_with_a_tiny_eps_only_equal_pixels_are_duplicates(self, table):
        flags = ["--methods=semantic", "--eps=1e-9", "--keep_by=first", "--table_only"]
        found = removed(deduplicated(table, "tiny", *flags)).keys()
        assert found == {f"{name}-{copy}" for name in photographs() for copy in ("same", "lossless")}

    def test_a_run_without_duplicates(self, table):
        output = deduplicated(table, "none", "--methods=exact", "--candidates=kept", "--keep_by=first")
        again = table.parent / "none-again"
        assert dedup.main([f"--scores={output}", f"--output={again}", "--methods=exact,semantic", "--eps=1e-12"]) == 0
        assert read_findings(str(again)).by_method.keys() <= {"semantic"}
        twice = table.parent / "none-twice"
        assert dedup.main([f"--scores={again}", f"--output={twice}", "--methods=exact", "--keep_by=first"]) == 0
        assert read_findings(str(twice)).duplicates == 0
        assert keys(twice) == keys(again)
        assert [pq.read_table(twice / part_name(shard)).num_rows for shard in (0, 1)] == [0, 0]

    @pytest.mark.parametrize(
        ("flag", "words"),
        [
            ("--methods=exact,phash", "--methods 'phash' is unknown"),
            ("--methods=", "--methods is empty"),
            ("--eps=0", "--eps is 0"),
            ("--eps=nan", "--eps is nan"),
            ("--border=0.6", "--border is 0.6"),
            ("--max_distance=9", "--max_distance is 9"),
            ("--mirrored", "--mirrored is for perceptual"),
            ("--max_comparisons=0", "--max_comparisons is 0"),
            ("--n_clusters=-1", "--n_clusters is -1"),
            ("--keep_by=beauty", "--keep_by beauty"),
            ("--samples_per_shard=0", "--samples_per_shard is 0"),
            ("--against_action=keep", "needs --against"),
            ("--against=nowhere", "--against nowhere"),
        ],
    )
    def test_wrong_options_fail_before_any_work(self, table, tmp_path, capsys, flag, words):
        assert dedup.main([f"--scores={table}", f"--output={tmp_path}/out", flag]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_what_it_costs_is_said_before_and_refused_beyond_the_limit(self, table, tmp_path, capsys):
        deduplicated(table, "told", "--methods=semantic", "--table_only")
        assert "semantic: 40 rows in 1.0 buckets each" in capsys.readouterr().err
        with pytest.raises(ValueError, match="more than `max_comparisons` 10: give a smaller `eps`"):
            dedup.main([f"--scores={table}", f"--output={tmp_path}/out", "--methods=semantic", "--max_comparisons=10"])

    def test_hard_needs_clusters(self, table, tmp_path, capsys):
        flags = ["--methods=exact", "--keep_by=hard"]
        assert dedup.main([f"--scores={table}", f"--output={tmp_path}/out", *flags]) == 2
        assert "needs the clusters" in capsys.readouterr().err
