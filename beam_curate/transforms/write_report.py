"""WriteReport: the summary of a finished run in, `report.html` beside it written."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import apache_beam as beam

from beam_curate.report.data import ReportData
from beam_curate.report.remarks import remarks
from beam_curate.report.writing import plan_of_run, write_run_page
from beam_curate.runs.summary import Summary
from beam_curate.transforms.collect_figures import CollectFigures
from beam_curate.transforms.find_cutoffs import Task
from beam_curate.transforms.global_window import require_global_window


@dataclass(eq=False)
class WriteReport(beam.PTransform):
    """Writes the report of a run when its summary is there; what it holds is that of `report.writing.write_report`.

    In: PCollection of one Summary (of WriteWebDatasetShards or PackShards). Out: the same, when the page is written.
    All workers read the score table, without the embeddings, and the pictures; one makes the page of what they found, and says
    on standard error what is off: a threshold outside the range of its score, and a rule that rejects everything.

    Attributes:
        output: Folder of the run.
        against: Folder of another finished run over the same input, to compare with; empty for none.
        path: The file to write; empty: `report.html` in the folder.
        seen: The state in which both runs were found, see `runs.read_runs`: no page is written of what was changed since.
    """

    output: str
    against: str = ""
    path: str = ""
    seen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summary: beam.PCollection[Summary]) -> beam.PCollection[Summary]:
        """Plans, collects, and writes."""
        require_global_window(summary, self)
        output, against = self.output, self.against
        plan = summary | "Plan" >> beam.Map(lambda found: plan_of_run(found, output, against)[0])
        tasks = (
            summary
            | "List" >> beam.FlatMap(_tasks, output).with_output_types(Task)
            | "Spread" >> beam.Reshuffle().with_input_types(Task)
        )
        data = tasks | CollectFigures(plan)
        return summary | "WritePage" >> beam.Map(_write, output, self.path, self.seen, beam.pvalue.AsSingleton(data))


def _tasks(summary: Summary, output: str) -> Iterator[Task]:
    for shard in plan_of_run(summary, output)[1]:
        yield Task(shard)


def _write(summary: Summary, output: str, path: str, seen: Mapping[str, str], data: ReportData) -> Summary:
    write_run_page(output, summary, data, path, seen)
    for remark in remarks(data):
        # The terminal of a local run; on Dataflow the worker's log.
        print(f"note: {remark}", file=sys.stderr, flush=True)
    return summary
