"""The formats by the names that options give them: the one place where such a name is looked up."""

from collections.abc import Mapping
from typing import Final

from beam_curate.export.mds_files import MDSFiles
from beam_curate.export.prepared import PreparedSamples
from beam_curate.export.resized_tars import ResizedTars
from beam_curate.export.tfrecord_files import TFRecordFiles

FORMATS: Final[Mapping[str, type[PreparedSamples]]] = {
    "webdataset": ResizedTars,
    "tfrecord": TFRecordFiles,
    "mds": MDSFiles,
}
"""Whose samples are prepared. Without any such wish a run writes `copied_tars.CopiedTars`."""
