"""The options of all commands that write a run: where to, and what becomes of one that is there."""

from dataclasses import dataclass

from beam_curate.commands.options import CheckedOptions, OptionError, comma_list, number_or_none, option, required
from beam_curate.runs.division import Division
from beam_curate.runs.layouts import layout_names


@dataclass(frozen=True, kw_only=True)
class RunOptions(CheckedOptions):
    """Where a run is written, and what becomes of one that is there."""

    output: str = required("folder of the run")
    resume: bool = option(False, "continue the run in --output", action="store_true")
    overwrite: bool = option(False, "delete an earlier run's files in --output first", action="store_true")

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        if self.resume and self.overwrite:
            raise OptionError("--resume and --overwrite exclude each other; give one of them")


@dataclass(frozen=True, kw_only=True)
class ShardOptions(RunOptions):
    """How the kept samples of a score table are packed into shards."""

    layout: str = option(
        "",
        "also write the kept rows as other tools read them, to layouts/ in --output: a comma list of "
        + ", ".join(layout_names()),
        once=True,
    )
    samples_per_shard: int = option(1000, "samples in every output shard but the last", least=1)
    shuffle_seed: int | None = option(
        None, "shuffle all kept samples by this seed; none: source order", type=number_or_none(int)
    )

    @property
    def division(self) -> Division:
        """How many samples a shard holds, and in which order."""
        return Division(self.samples_per_shard, self.shuffle_seed)

    @property
    def layouts(self) -> tuple[str, ...]:
        """The names of --layout."""
        return comma_list(self.layout)

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        unknown = sorted(set(self.layouts) - set(layout_names()))
        if unknown:
            raise OptionError(f"--layout {unknown[0]} is unknown; give a comma list of {', '.join(layout_names())}")
        if getattr(self, "table_only", False) and self.layout:
            raise OptionError(
                f"--layout {self.layout} needs shards, which --table_only does not write; leave one of them out"
            )
