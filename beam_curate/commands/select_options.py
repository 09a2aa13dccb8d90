"""The options of `select.py`."""

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
from beam_curate.commands.options import OptionError, number_or_none, once, option, required
from beam_curate.commands.selecting_options import (
    SelectingOptions,
    head_option,
    keep_option,
    layout_option,
    scorer_option,
    top_fraction_option,
    top_option,
)


@dataclass(frozen=True)
class SelectOptions(SelectingOptions, FormatOptions):
    """Which score table to select from, by which rules, and where to write."""

    scores: str = required("folder of the run that made the score table: the --output of beam-curate curate")
    output: str = option("", "folder for the selected shards and their table; not needed with --dry_run")
    head: tuple[str, ...] = head_option()
    scorer: tuple[str, ...] = scorer_option()
    min_aesthetic: Any = option(None, "keep if aesthetic >= this, or none", type=number_or_none(float))
    max_nsfw: Any = option(None, "keep if the NSFW probability < this, or none", type=number_or_none(float))
    min_side: Any = option(None, "keep if the shorter side in pixels >= this, or none", type=number_or_none(int))
    keep: str = keep_option()
    top: str = top_option()
    top_fraction: str = top_fraction_option()
    duplicates: str = option(
        "",
        "folder of a duplicates table, the --output of beam-curate dedup: of each group of duplicates that the other rules keep, "
        "keep the best one; --top chooses among what is left",
    )
    prompt: str = once(
        "",
        'scores from words to add, by the text tower of the model that made the embeddings: "watermark=a photo with a '
        'watermark,a clean photo" is the probability of the first text against the others, one text alone its similarity; '
        "several are separated by ;",
        metavar="NAME=TEXT,TEXT…",
    )
    model_dir: str = option("", "for --prompt: folder with the model files", type=str)
    pretrained: str = option("openai", "for --prompt: weights: an open_clip tag, a local file or folder, or random")
    layout: str = layout_option()
    samples_per_shard: int = option(1000, "samples in every output shard but the last")
    shuffle_seed: Any = option(
        None, "shuffle all kept samples by this seed; none: source order", type=number_or_none(int)
    )
    format: str = option(
        "webdataset",
        "webdataset: tars with every member as it is, unless an option below asks for something else; tfrecord: files of "
        "tf.train.Example, with index files for DALI; mds: for MosaicML's streaming",
        choices=FORMATS,
    )
    compression: str = compression_option()
    resize_shortest: Any = resize_option()
    image_format: str = image_format_option()
    quality: Any = quality_option()
    fields: str = fields_option("*", "; if this or an option above is given, the tables have these columns too")
    encode_threads: int = encode_threads_option()
    dry_run: bool = option(
        False, "write nothing: print how many samples, bytes and shards each rule keeps", action="store_true"
    )
    report: str = option(
        "",
        "with --dry_run: write the report that the selection would have, one HTML file with charts and samples, to this path",
        metavar="FILE",
    )
    resume: bool = option(False, "continue the run in --output", action="store_true")
    overwrite: bool = option(False, "delete an earlier run's files in --output first", action="store_true")

    def __post_init__(self) -> None:
        self.check_selecting()
        self.check_format()
        if self.samples_per_shard < 1:
            raise OptionError(f"--samples_per_shard is {self.samples_per_shard}; give at least 1")
        if not self.output and not self.dry_run:
            raise OptionError("--output is missing; give a folder, or --dry_run to see what the rules keep")
        if self.resume and self.overwrite:
            raise OptionError("--resume and --overwrite exclude each other; give one of them")
        if self.output and self.output.rstrip("/") == self.scores.rstrip("/"):
            raise OptionError(
                f"--output {self.output} is the folder of --scores; give another one: the table there stays as it is"
            )
        if self.report and not self.dry_run:
            raise OptionError(
                f"--report {self.report} is for --dry_run; a run writes report.html to --output by itself"
            )
        if self.report.endswith(("/", "\\")):
            raise OptionError(f"--report {self.report} is a folder; give the path of a file, such as preview.html")
