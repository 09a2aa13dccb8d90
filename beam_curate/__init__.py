"""Curate image datasets with Apache Beam: WebDataset shards in, scored and filtered shards out.

The names below are the package's own API. They are loaded when first used, so that a process that needs no model does
not import torch.

The rooms, from the ground up: `storage`, `images`, `tars`, `clip`, `runs`, `scores`, `heads`, `selection`, `export`, `intake`,
`duplicates`, `report` and `transforms`. Each says what it is for in its `__init__.py`, and uses only rooms below it: see the
contracts in pyproject.toml. What all of them share are `records`, the elements of the pipeline, and `reasons`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from beam_curate.version import __version__ as __version__

if TYPE_CHECKING:
    from beam_curate.clip.caption_handler import CaptionHandler as CaptionHandler
    from beam_curate.clip.handler import ClipModelHandler as ClipModelHandler
    from beam_curate.duplicates.methods.exact import Exact as Exact
    from beam_curate.duplicates.methods.perceptual import Perceptual as Perceptual
    from beam_curate.duplicates.methods.pixels import Pixels as Pixels
    from beam_curate.duplicates.methods.semantic import Semantic as Semantic
    from beam_curate.duplicates.removal import Duplicates as Duplicates
    from beam_curate.duplicates.search import DuplicateSearch as DuplicateSearch
    from beam_curate.export.copied_tars import CopiedTars as CopiedTars
    from beam_curate.export.end import Export as Export
    from beam_curate.export.fields import Fields as Fields
    from beam_curate.export.formats.mds import MDSFiles as MDSFiles
    from beam_curate.export.formats.tfrecord import TFRecordFiles as TFRecordFiles
    from beam_curate.export.formats.webdataset import ResizedTars as ResizedTars
    from beam_curate.heads.files import find_heads as find_heads
    from beam_curate.images.decoding import DecodeOptions as DecodeOptions
    from beam_curate.images.reencoding import Reencoding as Reencoding
    from beam_curate.runs.configuration import Configuration as Configuration
    from beam_curate.runs.division import Division as Division
    from beam_curate.runs.output_files import Format as Format
    from beam_curate.runs.run import Run as Run
    from beam_curate.runs.table_parts import TablePlace as TablePlace
    from beam_curate.runs.whole_table import read_score_table as read_score_table
    from beam_curate.scores.rules import Rule as Rule
    from beam_curate.scores.rules import keep_rule as keep_rule
    from beam_curate.scores.top import TopRule as TopRule
    from beam_curate.selection.rejudging import Selection as Selection
    from beam_curate.transforms.continue_run import ContinueRun as ContinueRun
    from beam_curate.transforms.decode_images import DecodeImages as DecodeImages
    from beam_curate.transforms.export_files import ExportFiles as ExportFiles
    from beam_curate.transforms.find_duplicates import FindDuplicates as FindDuplicates
    from beam_curate.transforms.finish_table import FinishTable as FinishTable
    from beam_curate.transforms.judge_table import JudgeTable as JudgeTable
    from beam_curate.transforms.list_images import ListImages as ListImages
    from beam_curate.transforms.list_images import ReadTables as ReadTables
    from beam_curate.transforms.list_parts import ListParts as ListParts
    from beam_curate.transforms.pack_files import PackFiles as PackFiles
    from beam_curate.transforms.pack_images import PackImages as PackImages
    from beam_curate.transforms.pack_shards import PackShards as PackShards
    from beam_curate.transforms.preview_selection import PreviewSelection as PreviewSelection
    from beam_curate.transforms.read_tar_shards import ReadTarShards as ReadTarShards
    from beam_curate.transforms.remove_duplicates import RemoveDuplicates as RemoveDuplicates
    from beam_curate.transforms.score_and_filter import ScoreAndFilter as ScoreAndFilter
    from beam_curate.transforms.score_images import ScoreImages as ScoreImages
    from beam_curate.transforms.select_rows import SelectRows as SelectRows
    from beam_curate.transforms.split_by_status import SplitByStatus as SplitByStatus
    from beam_curate.transforms.write_layouts import WriteLayouts as WriteLayouts
    from beam_curate.transforms.write_report import WriteReport as WriteReport
    from beam_curate.transforms.write_score_table import WriteScoreTable as WriteScoreTable
    from beam_curate.transforms.write_webdataset_shards import WriteWebDatasetShards as WriteWebDatasetShards

_HOMES = {
    "CaptionHandler": "clip.caption_handler",
    "ClipModelHandler": "clip.handler",
    "Exact": "duplicates.methods.exact",
    "Perceptual": "duplicates.methods.perceptual",
    "Pixels": "duplicates.methods.pixels",
    "Semantic": "duplicates.methods.semantic",
    "Duplicates": "duplicates.removal",
    "DuplicateSearch": "duplicates.search",
    "CopiedTars": "export.copied_tars",
    "Export": "export.end",
    "Fields": "export.fields",
    "MDSFiles": "export.formats.mds",
    "TFRecordFiles": "export.formats.tfrecord",
    "ResizedTars": "export.formats.webdataset",
    "find_heads": "heads.files",
    "DecodeOptions": "images.decoding",
    "Reencoding": "images.reencoding",
    "Configuration": "runs.configuration",
    "Division": "runs.division",
    "Format": "runs.output_files",
    "Run": "runs.run",
    "TablePlace": "runs.table_parts",
    "read_score_table": "runs.whole_table",
    "Rule": "scores.rules",
    "keep_rule": "scores.rules",
    "TopRule": "scores.top",
    "Selection": "selection.rejudging",
    "ContinueRun": "transforms.continue_run",
    "DecodeImages": "transforms.decode_images",
    "ExportFiles": "transforms.export_files",
    "FindDuplicates": "transforms.find_duplicates",
    "FinishTable": "transforms.finish_table",
    "JudgeTable": "transforms.judge_table",
    "ListImages": "transforms.list_images",
    "ReadTables": "transforms.list_images",
    "ListParts": "transforms.list_parts",
    "PackFiles": "transforms.pack_files",
    "PackImages": "transforms.pack_images",
    "PackShards": "transforms.pack_shards",
    "PreviewSelection": "transforms.preview_selection",
    "ReadTarShards": "transforms.read_tar_shards",
    "RemoveDuplicates": "transforms.remove_duplicates",
    "ScoreAndFilter": "transforms.score_and_filter",
    "ScoreImages": "transforms.score_images",
    "SelectRows": "transforms.select_rows",
    "SplitByStatus": "transforms.split_by_status",
    "WriteLayouts": "transforms.write_layouts",
    "WriteReport": "transforms.write_report",
    "WriteScoreTable": "transforms.write_score_table",
    "WriteWebDatasetShards": "transforms.write_webdataset_shards",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Loads a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'beam_curate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"beam_curate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
