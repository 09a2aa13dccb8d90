"""GroupRows: the engine's GroupByKey, or the stand-in that spills."""

import glob
import tempfile

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from beam_curate.records import PlacedRows
from beam_curate.transforms.group_rows import GroupRows

PAIRS = [(key, PlacedRows(part, f"p{part}", b"%d-%d" % (key, part))) for part in range(5) for key in range(part + 1)]
GROUPS = [(key, sorted(rows.rows for at, rows in PAIRS if at == key)) for key in range(5)]


@pytest.mark.parametrize("repeated", ["1", "2"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_values_of_a_key_meet(tmp_path, monkeypatch, workers, repeated):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = PipelineOptions(
        ["--runner=FnApiRunner", f"--direct_num_workers={workers}", f"--direct_runner_bundle_repeat={repeated}"]
    )
    root = beam.Pipeline(options=options)
    groups = root | beam.Create(PAIRS) | GroupRows(PlacedRows)
    found = groups | beam.MapTuple(lambda key, values: (key, sorted(value.rows for value in values)))
    assert_that(found, equal_to(GROUPS))
    root.run().wait_until_finish()
    assert glob.glob(f"{tmp_path}/beam_curate-*/*")
    del root, groups, found
    import gc

    gc.collect()
    assert not glob.glob(f"{tmp_path}/beam_curate-*")


def test_the_engine_groups_where_it_has_a_shuffle():
    root = beam.Pipeline("PrismRunner")
    _ = root | beam.Create(PAIRS) | GroupRows(PlacedRows)
    steps = [part.full_label for part in root._root_transform().parts[1].parts]
    assert steps == ["GroupRows/Typed", "GroupRows/Group"]
