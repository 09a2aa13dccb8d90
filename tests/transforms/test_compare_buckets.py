"""Buckets compared by the engine, large ones in blocks: what is found is what a comparison of all with all finds."""

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.duplicates import blocks, settling
from beam_curate.duplicates.candidates import ids_of
from beam_curate.duplicates.methods.semantic import Semantic
from beam_curate.duplicates.search import DuplicateSearch
from beam_curate.duplicates.table import read_part
from beam_curate.progress import PROGRESS
from beam_curate.records import ImageFacts, Member, SampleRef, ScoredSample, Shard
from beam_curate.runs import score_table
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.run_files import SUMMARY
from beam_curate.runs.score_parts import write_part
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.selection.rejudging import Selection
from beam_curate.storage.files import write_json
from beam_curate.transforms import find_duplicates
from beam_curate.transforms.find_duplicates import FindDuplicates
from beam_curate.transforms.list_parts import ListParts
from tests.support.made_duplicates import cosine, embeddings, expected

PARTS, PER_PART = 6, 50


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run whose embeddings are a crowd of equal ones to a half, and others of which some are near."""
    vectors, _, ranks = embeddings(PARTS * PER_PART, 16, 60, 0.02)
    vectors[::2] = vectors[0]
    output = str(tmp_path_factory.mktemp("crowd"))
    shards = [Shard(part, f"/s/{part}.tar", 9) for part in range(PARTS)]
    Run(output).begin(WantedRun(Configuration(), shards))
    for shard in shards:
        rows = []
        for n in range(PER_PART):
            row = shard.index * PER_PART + n
            ref = SampleRef(shard.index, shard.path, n, f"{row}", (Member("jpg", 512, 9),), "jpg")
            scores = {"aesthetic": float(ranks[row])}
            facts = ImageFacts(4, 3, "JPEG", f"{row:064x}", 9)
            rows.append(ScoredSample(ref, facts, vectors[row].astype("<f2").tobytes(), scores, "kept"))
        write_part(output, shard.index, shard.path, score_table.to_table(rows, ["aesthetic"], 16))
    write_json(output, SUMMARY, {"funnel": {}})
    index = np.arange(PER_PART, dtype=np.int32)
    return output, vectors, np.concatenate([ids_of(part, index) for part in range(PARTS)]), ranks


@pytest.mark.parametrize(("block_rows", "held_bytes"), [(40, 1 << 20), (1000, 1 << 20), (1000, 1), (40, 20_000)])
def test_a_bucket_in_blocks_gives_the_same(made, tmp_path, monkeypatch, block_rows, held_bytes):
    """Also where what is sent to buckets is sent part by part, the last one at the end of a bundle."""
    monkeypatch.setattr(Semantic, "block_rows", block_rows)
    monkeypatch.setattr(settling, "HOME_ROWS", 150)
    monkeypatch.setattr(find_duplicates, "_HELD_BYTES", held_bytes)
    monkeypatch.setattr(blocks, "LEADERS", 8)
    scores, vectors, ids, ranks = made
    method = Semantic(0.02, n_clusters=6, border=0.5)
    before = PROGRESS.snapshot()
    search = DuplicateSearch(Selection(TablePlace(scores), None), [method])
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
        _ = root | ListParts(search.selection.table) | FindDuplicates(search, str(tmp_path))
    found = {}
    for part in range(PARTS):
        for row in read_part(str(tmp_path), part).to_pylist():
            if row["method"]:
                found[int(row["key"])] = int(row["duplicate_of_key"])
    place = {number: row for row, number in enumerate(ids.tolist())}
    wanted = expected(ids, ranks, cosine(vectors) >= 1 - 0.02)
    assert found == {place[row]: place[of] for row, of in wanted.items()}
    counted = root.result.metrics().query()["counters"]
    counts = {one.key.metric.name: one.committed for one in counted if one.key.metric.name.endswith("buckets")}
    assert counts == {"buckets": 2, "compared_buckets": 2}
    after = PROGRESS.snapshot()
    assert (after.buckets - before.buckets, after.compared - before.compared) == (2, 2)
