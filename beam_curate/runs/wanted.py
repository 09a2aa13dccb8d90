"""What somebody wants a run's folder to hold, and what may become of a run that is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from beam_curate.records import Shard
from beam_curate.runs.configuration import EXPORT, PACK, Configuration


@dataclass(frozen=True)
class WantedRun:
    """A run to begin, or to go on with; `Run.begin` takes it.

    Attributes:
        configuration: All that decides the results.
        shards: The input.
        resume: Continue the run that is there, which must have the same configuration and input.
        overwrite: Delete the files of the run that is there.
        retry: Reasons of failure: continue the run, complete or not, and score again the samples that failed for one of
            them. The limits that failed them may have changed. Duplicates and verdicts on the whole table are deleted, for they
            may change; output files whose plan still holds stay. They are noted until the run's end (`Run.retried`): a retry
            that was stopped goes on with `resume` as well.
        scores: The folder of the run whose score table this one judges, for one that has only verdicts of its own. It is
            noted, and a run that is continued may name another: the table was moved.
        reads: Files and folders that the run reads besides the shards and `scores`: none may lie in the output folder.
        runs: Folders of runs that it reads besides `scores`: nor may the output folder lie in one of these.
        seen: The state in which it has found the runs that it reads, see `Run.seen`. It is noted; a run that is continued must
            find the same, wherever it lies now, and so must its end.
        table_only: The run ends with its score table, so one that has ended so is complete; without, it is not. Its summary
            then stays until that of the whole run takes its place: that one can be told by `table_only` in it.
    """

    configuration: Configuration
    shards: Sequence[Shard]
    resume: bool = False
    overwrite: bool = False
    retry: Sequence[str] = ()
    scores: str = ""
    reads: Sequence[str] = ()
    runs: Sequence[str] = ()
    seen: Mapping[str, str] = field(default_factory=dict)
    table_only: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether a run that is there is to be continued."""
        return self.resume or bool(self.retry)

    @property
    def kind(self) -> str:
        """EXPORT for an export, PACK for packed images; empty for a run with a score table."""
        return self.configuration.step if self.configuration.step in (EXPORT, PACK) else ""

    @property
    def read(self) -> list[str]:
        """The input, and what is read besides."""
        return [*(shard.path for shard in self.shards), *self.reads]
