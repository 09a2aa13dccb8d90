"""Run: the one door to the folder of a run or an export.

Nobody else knows the names of the files there, what is complete, whose score table is read, or what was configured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from beam_curate.records import LeftOut, ScorePart, Shard, WrittenShard
from beam_curate.runs import beginning, ending, finished_run, read_runs, whole_run
from beam_curate.runs.configuration import EXPORT, PACK, Configuration, Source
from beam_curate.runs.division import Division
from beam_curate.runs.left_out import read_left_out, write_left_out
from beam_curate.runs.parts import failed_rows, part_paths, read_part_counts
from beam_curate.runs.run_files import (
    CARD,
    CARD_TAG,
    CROISSANT,
    FAILURES,
    LAYOUTS_FOLDER,
    REPORT,
    ROWS,
    RUN,
    SUMMARY,
    is_our_card,
)
from beam_curate.runs.score_table import VERDICTS
from beam_curate.runs.state_files import (
    RunFile,
    ended_kind,
    input_shards,
    read_export_summary,
    read_pack_summary,
    read_run_file,
    read_summary,
)
from beam_curate.runs.summary import ExportSummary, PackSummary, Summary
from beam_curate.runs.table_parts import TablePlace
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage.files import clean_temporary, exists, join, write_atomic, write_json


@dataclass(frozen=True)
class Run:
    """A run, an export, or the folder for one.

    What is read raises DamagedFileError, which names the file and the remedy, and StorageError; each look reads again.

    Attributes:
        folder: Where it lies, on any file system that Beam has.
    """

    folder: str

    card_tag: ClassVar[str] = CARD_TAG
    """What a dataset card that a run writes has among its tags."""
    packed_rows: ClassVar[str] = ROWS
    """The folder of the tables that a packing writes."""

    # --- how far it is

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a run, complete or not. A pipeline of the user's own may leave no mark at its begin."""
        return exists(join(self.folder, RUN))

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its end, or to that of its table."""
        return exists(join(self.folder, SUMMARY))

    @property
    def ended_kind(self) -> str:
        """Of a finished one EXPORT or PACK, which have no score table; empty: it has one."""
        return ended_kind(self.folder)

    @property
    def has_report(self) -> bool:
        """Whether its report is written."""
        return exists(join(self.folder, REPORT))

    def begin(self, wanted: WantedRun) -> bool:
        """Makes the folder ready for a run; returns whether it is complete already. Errors are those of `beginning.begin`."""
        return beginning.begin(self.folder, wanted)

    def forget_unstarted(self) -> bool:
        """Takes back a beginning of which nothing is finished; returns whether it did. No worker may be writing any more."""
        return beginning.forget_unstarted(self.folder)

    def clean(self) -> None:
        """Deletes what workers that died have left behind."""
        clean_temporary(self.folder)

    # --- what it is made of

    @property
    def _mark(self) -> RunFile:
        return read_run_file(self.folder)

    @property
    def configuration(self) -> Configuration:
        """What decides the result, as it was noted at the begin."""
        return self._mark.configuration

    @property
    def input_shards(self) -> list[Shard]:
        """The input, as it was listed at the begin."""
        return input_shards(self.folder)

    @property
    def scores_folder(self) -> str:
        """The folder of the run whose score table is judged: its own, unless it was selected from another's."""
        return (self._mark.scores or self.folder) if self.is_begun else self.folder

    @property
    def retried(self) -> Sequence[str]:
        """The reasons of failure whose samples were being scored again when it was stopped."""
        return self._mark.retry if self.is_begun else ()

    @property
    def summary(self) -> Summary:
        """What it ended with; of an export see `export_summary`."""
        return read_summary(self.folder)

    @property
    def export_summary(self) -> ExportSummary:
        """What an export ended with."""
        return read_export_summary(self.folder)

    @property
    def pack_summary(self) -> PackSummary:
        """What a packing ended with."""
        return read_pack_summary(self.folder)

    # --- its score table

    @property
    def parts(self) -> dict[int, str]:
        """The finished parts of its own score table by input shard, as paths below the folder."""
        return part_paths(self.folder)

    @property
    def verdicts(self) -> dict[int, str]:
        """The finished parts of its verdicts on a table, likewise."""
        return part_paths(self.folder, VERDICTS)

    def part_counts(self, path: str) -> ScorePart:
        """What a finished part counts, by its path below the folder."""
        return read_part_counts(self.folder, path)

    def failed_rows(self, path: str, reasons: Sequence[str]) -> list[int] | None:
        """The indexes of a part's rows that failed for one of the reasons; None: its shard is to be read from its start."""
        return failed_rows(self.folder, path, reasons)

    @property
    def judged_parts(self) -> dict[int, str]:
        """The files with the verdicts that count, likewise."""
        return self.verdicts or self.parts

    @property
    def table(self) -> TablePlace:
        """The score table of a finished run with the verdicts that count: its own if it has any, or no table of its own."""
        return self._place(bool(self.verdicts) or self.scores_folder != self.folder)

    def table_of(self, part: ScorePart) -> TablePlace:
        """The score table to which a finished part belongs: verdicts count if the part is one of these."""
        return self._place(part.path.startswith(f"{VERDICTS}/"))

    def _place(self, judged: bool) -> TablePlace:
        return TablePlace(self.scores_folder, self.folder) if judged else TablePlace(self.folder)

    # --- whether it is whole, and the same

    def table_of_end(self, ended: Summary) -> TablePlace:
        """As `table`, but with verdicts if the run has ended with some: files of it may be gone since, even all verdicts."""
        configuration = ended.configuration
        searched = configuration.duplicates is not None and configuration.duplicates.found is None
        return self._place(True) if searched or configuration.rules.need_the_whole_table else self.table

    def check_table(self) -> None:
        """Checks that a finished run has the score table, and the verdicts on it, with which it ended.

        Raises:
            ScoreTableError: The first part that is missing, damaged, or has a row that names another file than its input shard;
                or one of at most 1,000 is not the one of the run's end.
        """
        ended = self.summary
        whole_run.check_table(self.table_of_end(ended), ended.table)

    def check_files(self) -> None:
        """Checks that the output files of a finished run, export or packing are there, with what lies beside each.

        Raises:
            MissingFileError: The first one that is missing, or has another size.
        """
        ended = self._packed_or_exported or self.summary
        if isinstance(ended, Summary) and ended.table_only:
            return
        files = ended.configuration.files
        ends = [f".{files.extension}"] if isinstance(ended, PackSummary) else files.ends
        whole_run.check_files(self.folder, files, ended.output_bytes, ends)

    @property
    def _packed_or_exported(self) -> PackSummary | ExportSummary | None:
        if self._mark.kind == PACK:
            return self.pack_summary
        return self.export_summary if self.ended_kind == EXPORT else None

    @property
    def packed(self) -> finished_run.PackedRun:
        """Its output shards as a source, checked; raises RunNotUsableError where there are none of use."""
        return finished_run.read_run(self.folder)

    @property
    def source(self) -> Source:
        """What a run that starts from this finished one notes of it.

        The digest is of the footprints of the table's parts, as its end noted it; in runs of version 0.1.0, whose end did not,
        of the names, sizes and md5 of the output shards.
        """
        return read_runs.source_of(self.folder)

    @property
    def seen(self) -> dict[str, str]:
        """The state of this finished one, for one that reads it, see `read_runs`."""
        return read_runs.see([self.summary_path])

    def check_read(self) -> None:
        """Checks that the other runs which this one reads are what they were at its begin; raises RunChangedError."""
        read_runs.check_read(self.folder)

    # --- what it ends with

    def end(
        self,
        parts: Sequence[ScorePart],
        files: Sequence[WrittenShard],
        division: Division,
        about: Mapping[str, object],
        **more: Any,
    ) -> Summary:
        """Checks the accounts of the run and writes its last files, see `ending.finish_run`."""
        return ending.finish_run(self.folder, parts, files, len(parts), division, about, **more)

    def end_table(self, parts: Sequence[ScorePart], about: Mapping[str, object]) -> Summary:
        """Ends a run with its score table, see `ending.finish_table`."""
        return ending.finish_table(self.folder, parts, len(parts), about)

    def end_export(
        self, files: Sequence[WrittenShard], index: Mapping[str, Any] | None, said: Mapping[str, object]
    ) -> None:
        """Writes the lists of an export's files and, last, its summary; raises RunChangedError as `check_read`."""
        ending.write_lists(self.folder, files, index)
        self.check_read()
        write_json(self.folder, SUMMARY, said)

    def write_report(self, page: bytes) -> str:
        """Writes the page of the report; returns its path."""
        write_atomic(self.folder, REPORT, lambda stream: stream.write(page))
        return join(self.folder, REPORT)

    def note_left_out(self, left_out: Sequence[LeftOut], shards: Mapping[int, str], rows: str) -> None:
        """Notes the kept samples that are in no file, see `left_out.write_left_out`."""
        write_left_out(self.folder, left_out, shards, rows)

    def known_left_out(self, rows: str) -> list[LeftOut]:
        """Those that an earlier try has noted of the same rows."""
        return read_left_out(self.folder, rows)

    def write_card(self, text: str) -> None:
        """Writes the dataset card, which has `card_tag` among its tags, unless there is a README.md of the user's own."""
        path = join(self.folder, CARD)
        if not exists(path) or is_our_card(path):
            write_atomic(self.folder, CARD, lambda stream: stream.write(text.encode()))

    def write_croissant(self, metadata: Mapping[str, object]) -> None:
        """Writes an export's Croissant metadata."""
        write_json(self.folder, CROISSANT, metadata)

    def layout_folder(self, name: str) -> str:
        """Where the commands write a layout."""
        return join(self.folder, f"{LAYOUTS_FOLDER}/{name}")

    @property
    def failures_path(self) -> str:
        """The samples that a format could not take."""
        return join(self.folder, FAILURES)

    @property
    def report_path(self) -> str:
        """Its report."""
        return join(self.folder, REPORT)

    @property
    def summary_path(self) -> str:
        """What says that it is complete."""
        return join(self.folder, SUMMARY)
