"""The options of `export.py`."""

from dataclasses import dataclass
from typing import Any

from beam_curate.commands.format_options import (
    FORMATS,
    FormatOptions,
    compression_option,
    encode_threads_option,
    fields_option,
    image_format_option,
    quality_option,
    resize_option,
)
from beam_curate.commands.options import OptionError, number_or_none, option, required


@dataclass(frozen=True)
class ExportOptions(FormatOptions):
    """Which run to export, to which format, and where to write."""

    input: str = required("folder of a finished run: the --output of beam-curate curate or select")
    output: str = required("folder for the exported files, their rows and the summary")
    format: str = required(
        "webdataset: tars, as in the run; tfrecord: files of tf.train.Example, with index files for DALI; mds: for MosaicML's "
        "streaming",
        choices=FORMATS,
    )
    samples_per_file: int = option(1000, "samples in every file but the last")
    shuffle_seed: Any = option(
        None, "shuffle all samples of the run by this seed; none: in the order of the run", type=number_or_none(int)
    )
    compression: str = compression_option()
    resize_shortest: Any = resize_option()
    image_format: str = image_format_option()
    quality: Any = quality_option()
    fields: str = fields_option("*")
    license: str = option("unknown", "for the dataset card: the images' license by its name on the Hugging Face hub")
    dataset_name: str = option("", "for the dataset card; default: the name of the --output folder")
    card: str = option("yes", "write the dataset card README.md", choices=("yes", "no"))
    croissant: str = option("yes", "write the Croissant metadata croissant.json", choices=("yes", "no"))
    encode_threads: int = encode_threads_option()
    resume: bool = option(False, "continue the export in --output", action="store_true")
    overwrite: bool = option(False, "delete an earlier run's files in --output first", action="store_true")

    def __post_init__(self) -> None:
        self.check_format()
        if self.samples_per_file < 1:
            raise OptionError(f"--samples_per_file is {self.samples_per_file}; give at least 1")
        if self.resume and self.overwrite:
            raise OptionError("--resume and --overwrite exclude each other; give one of them")
