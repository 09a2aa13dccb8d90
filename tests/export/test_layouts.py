"""Each layout, read back as its readers do: with embedding-reader, and by DataComp's and LAION's documented steps."""

import collections
import hashlib
import json
import logging
import pathlib
import shutil
import zipfile
from dataclasses import asdict

import apache_beam as beam
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.export import subsets
from beam_curate.export.layouts import LayoutError, model_code
from beam_curate.records import ImageFacts, SampleRef, ScoredSample, ScorePart, WrittenShard
from beam_curate.runs import score_table
from beam_curate.runs.division import Division
from beam_curate.runs.ending import finish_run
from beam_curate.runs.layouts import datacomp, laion
from beam_curate.storage import ranged_reading, retrying
from beam_curate.storage.files import atomic_output
from beam_curate.transforms import write_layouts
from beam_curate.transforms.write_layouts import WriteLayouts
from tests.support.fault_filesystem import KINDS, Faults, FaultyFileSystem

DIM = 6
SCORES = ("aesthetic", "nsfw", "watermark", "caption_similarity")
# Of each part the status of its rows; the second has no kept ones, and the last more than one row group.
STATUSES = ["krkfk", "rff", "k", "kkrfkkkrkk"]


def sample(part, index, status, scores):
    ref = SampleRef(
        part,
        f"/data/{part:05d}.tar",
        index,
        f"dir/{index:04d}",
        caption=None if index == 2 else f"a photo {part}-{index}",
        url=None if index == 4 else f"https://example.org/{part}/{index}.jpg",
        uid=hashlib.md5(b"%d %d" % (part, index)).hexdigest() if index % 2 else None,
    )
    if status == "f":
        return ScoredSample(ref, None, b"", {}, "failed", "decode", "not_an_image", "no")
    # All images are the same, as duplicates are: what tells samples apart must not be the image.
    facts = ImageFacts(300 + index, 200 + part, "JPEG", "ab" * 32, 9)
    vector = np.random.default_rng([part, index]).normal(size=DIM)
    values = {name: place + index / 16 for place, name in enumerate(scores)}
    embedding = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
    if status == "r":
        return ScoredSample(ref, facts, embedding, values, "rejected", "filter", "aesthetic_below_min")
    return ScoredSample(ref, facts, embedding, values, "kept")


def write_part(output, shard_index, rows, scores):
    table = score_table.to_table(rows, scores, DIM)
    statuses, reasons = score_table.count(table)
    counts = [statuses[status] for status in ("kept", "rejected", "failed")]
    path = score_table.part_name(shard_index)
    part = ScorePart(shard_index, rows[0].ref.shard, path, len(rows), *counts, dict(reasons))
    with atomic_output(str(output), path) as stream:
        score_table.write_table(stream, table, {score_table.PART_METADATA: json.dumps(asdict(part))})
    return part


def make_run(output, scores=SCORES, statuses=STATUSES, **configuration):
    """A finished run without its tars; returns its kept samples in source order."""
    rows = [
        [sample(part, index, status, scores) for index, status in enumerate(text)] for part, text in enumerate(statuses)
    ]
    parts = [write_part(output, index, part, scores) for index, part in enumerate(rows)]
    kept = [row for part in rows for row in part if row.status == "kept"]
    shards = [WrittenShard(0, "00000.tar", len(kept), 1, "")] if kept else []
    about = {"configuration": {"clip_model": "ViT-L-14", "shuffle_seed": None, **configuration}}
    finish_run(str(output), parts, shards, len(parts), Division(100), about)
    return kept


def write_layout(output, name, folder, *flags):
    """Writes a layout; the paths of its files, in order."""
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *flags])) as root:
        _ = root | beam.Create([{}]) | WriteLayouts(output, [name], {name: folder})
    found = json.loads((pathlib.Path(folder.removeprefix("faulty://")) / "_layout.json").read_text())
    subset = ["subset.npy"] if name == "datacomp" else []
    return [f"{folder}/{file}" for file in (*found["files"], *subset, "_layout.json")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(score_table, "ROW_GROUP_ROWS", 4)
    return tmp_path / "run", make_run(tmp_path / "run")


def vectors(kept):
    return np.stack([np.frombuffer(row.embedding, "<f2") for row in kept])


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PARTS_WITH_KEPT = ["00000", "00002", "00003"]


def test_clip_retrieval_by_embedding_reader(run, tmp_path):
    reader_of = pytest.importorskip("embedding_reader", reason="embedding-reader is not installed").EmbeddingReader
    output, kept = run
    folder = tmp_path / "layout"
    write_layout(str(output), "clip-retrieval", str(folder))
    columns = ["image_path", "caption", "url", "width", "height", *SCORES]
    reader = reader_of(
        str(folder / "img_emb"), "parquet_npy", metadata_folder=str(folder / "metadata"), meta_columns=columns
    )
    assert (reader.count, reader.dimension, reader.byte_per_item) == (len(kept), DIM, 2 * DIM)
    # Batches that cross the files, so that each row of the tables must fit its embedding.
    for size in (1, 4, 100):
        batches = list(reader(batch_size=size, show_progress=False))
        found = np.concatenate([matrix for matrix, _ in batches])
        np.testing.assert_array_equal(found, vectors(kept).astype(np.float32))
        tables = [table.astype(object).where(table.notna(), None) for _, table in batches]  # pandas 3 says NaN
        meta = [row for table in tables for row in table.to_dict("records")]
        assert [row["image_path"] for row in meta] == [row.ref.key for row in kept]
        assert [row["url"] for row in meta] == [row.ref.url for row in kept]
        assert [row["caption"] for row in meta] == [row.ref.caption for row in kept]
        assert [(row["width"], row["height"]) for row in meta] == [(row.facts.width, row.facts.height) for row in kept]
        assert [row["nsfw"] for row in meta] == [row.scores["nsfw"] for row in kept]
    assert reader_of(str(folder / "img_emb"), "npy").count == len(kept)


def test_clip_retrieval_by_its_own_steps(run, tmp_path):
    """As autofaiss and ParquetMetadataProvider see it: both folders sorted by name, and concatenated."""
    output, kept = run
    folder = tmp_path / "layout"
    written = write_layout(str(output), "clip-retrieval", str(folder))
    arrays, tables = sorted((folder / "img_emb").glob("*")), sorted((folder / "metadata").glob("*"))
    assert [path.name for path in arrays] == [f"img_emb_{number}.npy" for number in PARTS_WITH_KEPT]
    assert [path.name for path in tables] == [f"metadata_{number}.parquet" for number in PARTS_WITH_KEPT]
    assert sorted(written) == sorted(str(folder / name) for name in files_in(folder))
    found = [np.load(path) for path in arrays]
    assert {array.dtype for array in found} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(np.concatenate(found), vectors(kept))
    rows = [row for path in tables for row in pq.read_table(path).to_pylist()]
    assert [(row["shard"], row["image_path"]) for row in rows] == [(row.ref.shard, row.ref.key) for row in kept]
    assert rows[0].keys() == {"image_path", "caption", "url", "width", "height", "sha256", "shard", *SCORES}
    # parquet_to_arrow writes all tables with the schema of the first.
    assert len({str(pq.read_schema(path)) for path in tables}) == 1


def as_pairs(uids):
    """DataComp's README: a list of uids as an array."""
    return np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))


def test_datacomp_metadata_and_features(run, tmp_path):
    output, kept = run
    folder = tmp_path / "layout"
    write_layout(str(output), "datacomp", str(folder))
    # baselines/image_based_clustering.py: the tables of a folder, and each table's features by its name.
    roots = sorted(
        str(path).split(".parquet")[0] for path in (folder / "metadata").iterdir() if ".parquet" in str(path)
    )
    assert [root.rsplit("/", 1)[1] for root in roots] == PARTS_WITH_KEPT
    features = []
    for root in roots:
        with np.load(f"{root}.npz") as arrays:
            assert arrays.files == ["l14_img"]
            features.append(arrays["l14_img"])
        assert len(features[-1]) == pq.read_metadata(f"{root}.parquet").num_rows
    np.testing.assert_array_equal(np.concatenate(features), vectors(kept))
    rows = [row for root in roots for row in pq.read_table(f"{root}.parquet").to_pylist()]
    assert list(rows[0]) == ["uid", "url", "text", "original_width", "original_height", "clip_l14_similarity_score",
                             "sha256", "shard", "key"]  # fmt: skip
    for row, expected in zip(rows, kept, strict=True):
        made = hashlib.sha256(f"{expected.ref.shard}\0{expected.ref.key}".encode()).hexdigest()[:32]
        assert row["uid"] == (expected.ref.uid or made)
        assert row["clip_l14_similarity_score"] == expected.scores["caption_similarity"]
        assert (row["text"], row["url"]) == (expected.ref.caption or "", expected.ref.url)
        assert (row["original_width"], row["original_height"]) == (expected.facts.width, expected.facts.height)
    assert "" in [row["text"] for row in rows]
    own = [row.ref.uid for row in kept if row.ref.uid]
    description = json.loads((folder / "_layout.json").read_text())
    assert (description["uids_of_samples"], description["uids_made"]) == (len(own), len(kept) - len(own))
    assert 0 < len(own) < description["different_uids"] == len(kept)
    # baselines/apply_filter.py: clip scores against a threshold, and lengths of texts, none of which may be null.
    assert sum(row["clip_l14_similarity_score"] >= 3.2 for row in rows) == 6
    assert {type(row["text"]) for row in rows} == {str}


def test_datacomp_subset_as_the_resharder_takes_it(run, tmp_path):
    output, kept = run
    folder = tmp_path / "layout"
    write_layout(str(output), "datacomp", str(folder))
    with open(folder / "subset.npy", "rb") as stream:
        assert stream.read(6) == b"\x93NUMPY"
    subset = np.load(folder / "subset.npy", mmap_mode="r")
    assert subset.dtype == np.dtype("u8,u8")
    uids = [uid for path in (folder / "metadata").glob("*.parquet") for uid in pq.read_table(path)["uid"].to_pylist()]
    assert len(set(uids)) == len(kept) == len(subset)
    expected = as_pairs(uids)
    expected.sort()
    np.testing.assert_array_equal(subset, expected)
    for uid, times in [*((uid, 1) for uid in uids), ("0" * 32, 0), ("f" * 32, 0), (hex(int(uids[0], 16) ^ 1)[2:], 0)]:
        key = np.array([divmod(int(uid, 16), 2**64)], np.dtype("u8,u8"))[0]
        found = np.searchsorted(subset, key, "right") - np.searchsorted(subset, key, "left")
        assert found == times


def test_a_large_subset_is_sorted_across_its_buckets(tmp_path):
    rng = np.random.default_rng(0)
    # The same upper half often, so that the lower one decides; the values with the highest bit set, too.
    upper = rng.integers(0, 1 << 64, 40, dtype=np.uint64)[rng.integers(0, 40, 5000)]
    uids = [
        f"{high:016x}{low:016x}"
        for high, low in zip(upper, rng.integers(0, 1 << 64, 5000, dtype=np.uint64), strict=True)
    ]
    expected = as_pairs(sorted(uids))
    # A uid that two samples have is there once.
    for parts in ((uids[:3000], uids[3000:]), (uids[3000:], uids[:3000], uids[3000:])):
        buckets = {}
        for part in parts:
            for bucket, some in subsets.uid_buckets(part).items():
                buckets.setdefault(bucket, []).append(some)
        counts = {bucket: subsets.write_bucket(str(tmp_path), bucket, some) for bucket, some in buckets.items()}
        assert subsets.write_subset(str(tmp_path), counts) == 5000
        np.testing.assert_array_equal(np.load(tmp_path / "subset.npy"), expected)


def test_datacomp_of_a_table_of_before_the_uids(run, tmp_path):
    output, kept = run
    for path in (output / "scores").iterdir():
        table = pq.read_table(path).drop_columns(["uid"])
        with open(path, "wb") as stream:
            score_table.write_table(stream, table)
    write_layout(str(output), "datacomp", str(tmp_path / "layout"))
    description = json.loads((tmp_path / "layout" / "_layout.json").read_text())
    assert (description["uids_of_samples"], description["uids_made"]) == (0, len(kept))
    assert len(np.load(tmp_path / "layout" / "subset.npy")) == len(kept)


def test_laion(run, tmp_path):
    output, kept = run
    folder = tmp_path / "layout"
    written = write_layout(str(output), "laion", str(folder))
    assert [pathlib.Path(path).name for path in written] == [
        *(f"part-{number}.parquet" for number in PARTS_WITH_KEPT),
        "_layout.json",
    ]
    rows = ds.dataset(folder).to_table().to_pylist()  # the whole folder, as readers of LAION take it
    assert list(rows[0]) == ["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe", "pwatermark", "AESTHETIC_SCORE",
                             "sha256", "key"]  # fmt: skip
    for row, expected in zip(rows, kept, strict=True):
        assert (row["URL"], row["TEXT"], row["key"]) == (expected.ref.url, expected.ref.caption, expected.ref.key)
        assert (row["WIDTH"], row["HEIGHT"]) == (expected.facts.width, expected.facts.height)
        names = ("AESTHETIC_SCORE", "punsafe", "pwatermark", "similarity")
        assert [row[name] for name in names] == [expected.scores[name] for name in SCORES]


def test_columns_of_scores_that_the_run_does_not_have_are_left_out(tmp_path):
    make_run(tmp_path / "run", scores=("nsfw",), clip_model="ViT-B-32-quickgelu")
    for name in ("clip-retrieval", "datacomp", "laion"):
        write_layout(str(tmp_path / "run"), name, str(tmp_path / name))
    laion = ds.dataset(tmp_path / "laion").to_table()
    assert laion.column_names == ["URL", "TEXT", "WIDTH", "HEIGHT", "punsafe", "sha256", "key"]
    datacomp = pq.read_schema(tmp_path / "datacomp" / "metadata" / "00000.parquet").names
    assert not [name for name in datacomp if "similarity" in name]
    assert pq.read_schema(tmp_path / "clip-retrieval" / "metadata" / "metadata_00000.parquet").names[-1] == "nsfw"
    with np.load(tmp_path / "datacomp" / "metadata" / "00000.npz") as arrays:
        assert arrays.files == ["b32_img"]


@pytest.mark.parametrize(
    ("clip_model", "code"),
    [
        ("ViT-L-14", "l14"),
        ("ViT-L/14", "l14"),
        ("ViT-B-32-quickgelu", "b32"),
        ("ViT-bigG-14", "bigg14"),
        ("ViT-L-14-336", "vit_l_14_336"),
        ("RN50", "rn50"),
        ("", ""),
    ],
)
def test_short_names_of_models(clip_model, code):
    assert model_code(clip_model) == code


@pytest.mark.parametrize(
    ("configuration", "name"),
    [
        ({"source": {"configuration": {"source": {"configuration": {"clip_model": "ViT-B-32"}}}}}, "b32_img"),
        ({"source": {}}, "img"),
        (None, "img"),
    ],
)
def test_the_model_of_a_run_that_selects_from_another(configuration, name, tmp_path):
    make_run(tmp_path / "run", statuses=["k"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    del summary["configuration"]
    about = {} if configuration is None else {"configuration": configuration}
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, **about}))
    write_layout(str(tmp_path / "run"), "datacomp", str(tmp_path / "layout"))
    with np.load(tmp_path / "layout" / "metadata" / "00000.npz") as arrays:
        assert arrays.files == [name]


def test_names_sort_as_the_parts_do_beyond_five_digits(tmp_path):
    output = tmp_path / "run"
    make_run(output, statuses=["k"] * 3)
    for old, new in ((1, 9999), (2, 100000)):
        (output / score_table.part_name(old)).unlink()
        write_part(output, new, [sample(new, 0, "k", SCORES)], SCORES)
    write_layout(str(output), "clip-retrieval", str(tmp_path / "layout"))
    arrays = sorted((tmp_path / "layout" / "img_emb").iterdir())
    assert [path.name for path in arrays] == [f"img_emb_{number}.npy" for number in ("000000", "009999", "100000")]
    expected = vectors([sample(number, 0, "k", SCORES) for number in (0, 9999, 100000)])
    np.testing.assert_array_equal(np.concatenate([np.load(path) for path in arrays]), expected)


@pytest.mark.parametrize("name", ["clip-retrieval", "datacomp", "laion"])
def test_the_same_bytes_with_any_workers_and_bundles(name, run, tmp_path):
    output, _ = run
    write_layout(str(output), name, str(tmp_path / "one"))
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    write_layout(str(output), name, str(tmp_path / "two"), *flags)
    write_layout(str(output), name, str(tmp_path / "again"), "--direct_runner_bundle_repeat=2")
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two") == files_in(tmp_path / "again")


def test_a_part_is_read_once_for_a_layout(run, tmp_path, monkeypatch):
    output, _ = run
    opened = collections.Counter()
    init = ranged_reading.RangeReader.__init__

    def counted(self, path):
        opened[path] += 1
        init(self, path)

    monkeypatch.setattr(ranged_reading.RangeReader, "__init__", counted)
    write_layout(str(output), "datacomp", str(tmp_path / "layout"))
    of_parts = {path: count for path, count in opened.items() if "/scores/" in path}
    # For the counts and for the rows; the first one also tells the names of the scores.
    assert max(of_parts.values()) <= 3
    assert not any("/layout/" in path and path.endswith(".parquet") for path in opened)


@pytest.mark.parametrize(("name", "each"), [("clip-retrieval", 0), ("datacomp", 16), ("laion", 0)])
def test_of_a_sample_only_its_uid_travels(name, each, run, tmp_path, monkeypatch):
    output, kept = run
    sent = []
    work = write_layouts._WritePart.work

    def counted(self, element, *side):
        for part, uids in work(self, element, *side):
            sent.append(sum(len(some) for some in uids.values()))
            yield part, uids

    monkeypatch.setattr(write_layouts._WritePart, "work", counted)
    write_layout(str(output), name, str(tmp_path / "layout"))
    assert sum(sent) == each * len(kept)
    assert len(sent) == len([statuses for statuses in STATUSES if "k" in statuses])


@pytest.mark.parametrize("name", ["clip-retrieval", "datacomp", "laion"])
def test_the_same_bytes_again_and_a_repeated_call(name, run, tmp_path):
    output, _ = run
    for folder in ("a", "b", "a"):
        write_layout(str(output), name, str(tmp_path / folder))
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    assert not (tmp_path / "a" / "_temporary").exists()
    for path in (tmp_path / "a").rglob("*.npz"):
        # The time of writing would be in here.
        assert {info.date_time for info in zipfile.ZipFile(path).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_each_part_by_itself(run, tmp_path, monkeypatch):
    output, kept = run
    sizes = []
    write = laion.write_parquet
    monkeypatch.setattr(laion, "write_parquet", lambda *of: (sizes.append(of[2].num_rows), write(*of)))
    write_layout(str(output), "laion", str(tmp_path / "layout"))
    assert sorted(sizes) == sorted(text.count("k") for text in STATUSES if "k" in text)
    assert sum(sizes) == len(kept)


def test_a_shuffled_run_is_in_source_order_and_says_so(tmp_path, caplog):
    kept = make_run(tmp_path / "run", shuffle_seed=7)
    with caplog.at_level(logging.WARNING):
        write_layout(str(tmp_path / "run"), "laion", str(tmp_path / "layout"))
    assert "shuffle_seed=7" in caplog.text
    assert "source order" in caplog.text
    description = json.loads((tmp_path / "layout" / "_layout.json").read_text())
    assert (description["order"], description["shuffle_seed_of_the_shards"]) == ("source", 7)
    assert (description["complete"], description["rows"]) == (True, len(kept))
    found = ds.dataset(tmp_path / "layout").to_table()["URL"].to_pylist()
    assert found == [row.ref.url for row in kept]


def test_a_run_without_kept_samples(tmp_path):
    make_run(tmp_path / "run", statuses=["rf", "r"])
    written = write_layout(str(tmp_path / "run"), "datacomp", str(tmp_path / "layout"))
    assert [pathlib.Path(path).name for path in written] == ["subset.npy", "_layout.json"]
    assert np.load(tmp_path / "layout" / "subset.npy").shape == (0,)


def test_wrong_calls_are_refused_before_any_work(run, tmp_path):
    output, _ = run
    with pytest.raises(ValueError, match=r"'wds' is not known; choose one of clip-retrieval, datacomp, laion"):
        write_layout(str(output), "wds", str(tmp_path / "layout"))
    (output / "summary.json").rename(output / "hidden.json")
    with pytest.raises(LayoutError, match=r"no complete run .summary.json is missing.*`resume`"):
        write_layout(str(output), "laion", str(tmp_path / "layout"))
    (output / "hidden.json").rename(output / "summary.json")
    (output / score_table.part_name(2)).unlink()
    with pytest.raises(
        LayoutError, match=r"3 parts of the score table with 10 kept samples, and its summary says 4 with 11"
    ):
        write_layout(str(output), "laion", str(tmp_path / "layout"))
    assert not (tmp_path / "layout").exists()


def test_a_folder_with_other_files_is_refused(run, tmp_path):
    output, _ = run
    before = files_in(output)
    # The score table itself has the names of LAION's files.
    with pytest.raises(LayoutError, match=r"other files, such as .*part-00000.parquet; give an empty or new folder"):
        write_layout(str(output), "laion", str(output / "scores"))
    with pytest.raises(LayoutError, match="other files"):
        (output / "input_shards.parquet").write_bytes(b"")
        write_layout(str(output), "laion", str(output))
    (output / "input_shards.parquet").unlink()
    assert files_in(output) == before
    folder = tmp_path / "layout"
    write_layout(str(output), "clip-retrieval", str(folder))
    with pytest.raises(LayoutError, match="holds the layout clip-retrieval"):
        write_layout(str(output), "datacomp", str(folder))
    # A part of another, larger run would be read as well.
    shutil.copy(folder / "img_emb" / "img_emb_00003.npy", folder / "img_emb" / "img_emb_00004.npy")
    with pytest.raises(LayoutError, match=r"other files, such as .*img_emb_00004.npy"):
        write_layout(str(output), "clip-retrieval", str(folder))


def test_a_stopped_writing_is_not_complete_and_can_be_repeated(run, tmp_path, monkeypatch):
    output, _ = run
    folder = tmp_path / "layout"
    with monkeypatch.context() as patch:
        patch.setattr(datacomp, "uids", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_layout(str(output), "datacomp", str(folder))
    assert json.loads((folder / "_layout.json").read_text()) == {"layout": "datacomp", "complete": False}
    write_layout(str(output), "datacomp", str(folder))
    write_layout(str(output), "datacomp", str(tmp_path / "other"))
    assert files_in(folder) == files_in(tmp_path / "other")


def test_a_score_named_as_a_column_of_clip_retrieval(tmp_path):
    make_run(tmp_path / "run", scores=("image_path",))
    with pytest.raises(score_table.ScoreTableError, match="'image_path'"):
        write_layout(str(tmp_path / "run"), "clip-retrieval", str(tmp_path / "layout"))


def test_parts_that_do_not_fit_together(run, tmp_path):
    output, _ = run
    rows = [sample(2, 0, "k", ("nsfw",))]
    write_part(output, 2, rows, ("nsfw",))
    with pytest.raises(score_table.ScoreTableError, match=r"part-00002.parquet has no column 'aesthetic'"):
        write_layout(str(output), "laion", str(tmp_path / "layout"))


@pytest.mark.parametrize("name", ["clip-retrieval", "datacomp", "laion"])
def test_another_file_system_with_faults(name, run, tmp_path, monkeypatch):
    output, _ = run
    write_layout(str(output), name, str(tmp_path / "local"))
    # Listings that lie are not retried: what they leave out cannot be known.
    rates = {kind: 0.03 for kind in KINDS if not kind.startswith("stale")}
    faults = Faults(seed=5, rates=rates)
    monkeypatch.setattr(FaultyFileSystem, "faults", faults)
    monkeypatch.setattr(retrying, "sleep", lambda seconds: None)
    write_layout(f"faulty://{output}", name, f"faulty://{tmp_path}/far")
    assert sum(faults.injected.values()) > 0
    assert files_in(tmp_path / "far") == files_in(tmp_path / "local")
