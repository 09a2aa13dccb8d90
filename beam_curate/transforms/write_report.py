"""WriteReport: the summary of a finished run in, `report.html` beside it written."""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from beam_curate.report.data import Figures, ReportPlan, report_data
from beam_curate.report.writing import plan_of_run, write_run_page
from beam_curate.runs.summary import Summary
from beam_curate.transforms.collect_figures import CollectFigures
from beam_curate.transforms.find_cutoffs import Task
from beam_curate.transforms.global_window import require_global_window


@dataclass(eq=False)
class WriteReport(beam.PTransform):
    """Writes the report of a run when its summary is there; what it holds is that of `report.writing.write_report`.

    In: PCollection of one Summary (of WriteWebDatasetShards or PackShards). Out: the same, when the page is written.
    All workers read the parts of the score table, without the embeddings; one makes the page of the figures.

    Attributes:
        output: Folder of the run.
    """

    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summary: beam.PCollection[Summary]) -> beam.PCollection[Summary]:
        """Plans, collects, and writes."""
        require_global_window(summary, self)
        output = self.output
        plan = summary | "Plan" >> beam.Map(lambda found: plan_of_run(found, output)[0])
        tasks = (
            summary
            | "List" >> beam.FlatMap(_tasks, output).with_output_types(Task)
            | "Spread" >> beam.Reshuffle().with_input_types(Task)
        )
        figures = tasks | CollectFigures(plan)
        return summary | "WritePage" >> beam.Map(
            _write, output, beam.pvalue.AsSingleton(plan), beam.pvalue.AsSingleton(figures)
        )


def _tasks(summary: Summary, output: str) -> Iterator[Task]:
    for shard in plan_of_run(summary, output)[1]:
        yield Task(shard)


def _write(summary: Summary, output: str, plan: ReportPlan, figures: Figures) -> Summary:
    table = plan.selection.table
    write_run_page(output, summary, table, report_data(table, figures))
    return summary
