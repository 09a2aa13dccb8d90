"""The options of `dedup`."""

from dataclasses import dataclass

from beam_curate.commands.duplicate_options import DuplicateOptions, methods_help
from beam_curate.commands.options import OptionError, comma_list, option, required
from beam_curate.commands.run_options import ShardOptions


@dataclass(frozen=True, kw_only=True)
class DedupOptions(DuplicateOptions, ShardOptions):
    """In which score table duplicates are looked for, what a duplicate is, and where to write."""

    scores: str = required(
        "folder of the run that made the score table: the --output of beam-curate curate, select or dedup"
    )
    output: str = required("folder for the duplicates table and the shards without duplicates")
    methods: str = option("exact,semantic", f"what a duplicate is: {methods_help()}", once=True)
    candidates: str = option(
        "kept",
        "where to look for duplicates. kept: among the samples that the run of --scores kept; all: among all samples with an "
        "embedding, for a table that beam-curate select uses with other rules",
        choices=("kept", "all"),
    )
    against: str = option(
        "",
        "folder of another run: look for samples that it kept too (decontamination), and not for duplicates inside --scores",
    )
    against_action: str = option(
        "drop",
        "what to do with samples that are in --against too: drop them, or keep only them",
        choices=("drop", "keep"),
    )
    table_only: bool = option(
        False,
        "write only the duplicates table, for beam-curate select --duplicates, and no shards",
        action="store_true",
    )

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        self.check_duplicates("methods", self.methods)
        if not comma_list(self.methods):
            raise OptionError(f"--methods is empty; give {' or '.join(kind.name for kind in self.of_methods)}")
        if self.against_action == "keep" and not self.against:
            raise OptionError("--against_action keep needs --against, the folder of the other run")
