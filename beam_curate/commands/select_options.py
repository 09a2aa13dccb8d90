"""The options of `select`."""

from dataclasses import dataclass

from beam_curate.commands.format_options import FIELDS, FormatOptions
from beam_curate.commands.options import OptionError, option, required
from beam_curate.commands.selecting_options import SelectingOptions


@dataclass(frozen=True, kw_only=True)
class SelectOptions(FormatOptions, SelectingOptions):
    """Which score table to select from, by which rules, and where to write."""

    scores: str = required(
        "folder of the run that made the score table: the --output of beam-curate curate, select or dedup"
    )
    output: str = option("", "folder for the selected shards and their table; not needed with --dry_run")
    duplicates: str = option(
        "",
        "folder of a duplicates table, the --output of beam-curate dedup: of each group of duplicates that the other rules keep, "
        "keep the best one; --top chooses among what is left",
    )
    prompt: str = option(
        "",
        'scores from words to add, by the text tower of the model that made the embeddings: "watermark=a photo with a '
        'watermark,a clean photo" is the probability of the first text against the others, a single text gives its similarity; '
        "several are separated by ;",
        metavar="NAME=TEXT,TEXT…",
        once=True,
    )
    model_dir: str = option("", "for --prompt: folder with the model files", type=str)
    pretrained: str = option("openai", "for --prompt: weights: an open_clip tag, a local file or folder, or random")
    fields: str = option(
        "*", f"{FIELDS}; if this or an option above is given, the tables have these columns too", once=True
    )
    dry_run: bool = option(
        False, "write nothing: print how many samples, bytes and shards each rule keeps", action="store_true"
    )
    report: str = option(
        "",
        "with --dry_run: write the report that the selection would have, one HTML file with charts and samples, to this path",
        metavar="FILE",
    )

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        if not self.output and not self.dry_run:
            raise OptionError("--output is missing; give a folder, or --dry_run to see what the rules keep")
        if self.report and not self.dry_run:
            raise OptionError(
                f"--report {self.report} is for --dry_run; a run writes report.html to --output by itself"
            )
        if self.report.endswith(("/", "\\")):
            raise OptionError(f"--report {self.report} is a folder; give the path of a file, such as preview.html")
