"""The options of `export`."""

from dataclasses import dataclass

from beam_curate.commands.format_options import FormatOptions
from beam_curate.commands.options import number_or_none, option, required
from beam_curate.commands.run_options import RunOptions
from beam_curate.export.formats import format_names
from beam_curate.runs.division import Division


@dataclass(frozen=True, kw_only=True)
class ExportOptions(FormatOptions, RunOptions):
    """Which run to export, to which format, and where to write."""

    input: str = required("folder of a finished run: the --output of beam-curate curate, select or dedup")
    output: str = required("folder for the exported files, their rows and the summary")
    format: str = required(
        "webdataset: tars, as in the run; tfrecord: files of tf.train.Example, with index files for DALI; mds: for MosaicML's "
        "streaming",
        choices=format_names,
    )
    samples_per_file: int = option(1000, "samples in every file but the last", least=1)
    shuffle_seed: int | None = option(
        None, "shuffle all samples of the run by this seed; none: in the order of the run", type=number_or_none(int)
    )
    license: str = option("unknown", "for the dataset card: the images' license by its name on the Hugging Face hub")
    dataset_name: str = option("", "for the dataset card; default: the name of the --output folder")
    card: str = option("yes", "write the dataset card README.md", choices=("yes", "no"))
    croissant: str = option("yes", "write the Croissant metadata croissant.json", choices=("yes", "no"))

    @property
    def division(self) -> Division:
        """How many samples a file holds, and in which order."""
        return Division(self.samples_per_file, self.shuffle_seed)
