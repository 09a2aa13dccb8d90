"""WriteLayouts: the summary of a finished run in, the layouts of other tools below its folder written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.export.layouts import (
    LayoutError,
    LayoutPart,
    LayoutPlan,
    begin_layout,
    finish_layout,
    write_layout_part,
)
from beam_curate.export.subsets import write_bucket
from beam_curate.records import ScorePart
from beam_curate.runs.layouts import layout_names
from beam_curate.runs.run import Run
from beam_curate.storage.files import absolute
from beam_curate.transforms.global_window import require_global_window
from beam_curate.transforms.group_rows import GroupRows
from beam_curate.transforms.side_by_side import SideBySide


@dataclass(eq=False)
class WriteLayouts(beam.PTransform):
    """Writes the kept rows as other tools read them, see `export.layouts`.

    In: PCollection of one element, such as the Summary. Out: the same, when the layouts are written. The parts of the score
    table are written side by side by all workers; what travels are the uids of DataComp's layout, 16 bytes each.

    Attributes:
        output: Folder of the run.
        names: The layouts.
        folders: By layout, where it goes; `layouts/<name>` in the run's folder for those that are not named.

    Raises:
        LayoutError: There is no such layout.
    """

    output: str
    names: Sequence[str]
    folders: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        unknown = next((name for name in self.names if name not in layout_names()), None)
        if unknown is not None:
            raise LayoutError(f"layout={unknown!r} is not known; choose one of {', '.join(layout_names())}")

    def expand(self, summary: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """Looks at the parts once, and writes the layouts."""
        require_global_window(summary, self)
        if not self.names:
            return summary
        output = absolute(self.output)
        parts = (
            summary
            | "List" >> beam.FlatMap(lambda _: sorted(Run(output).judged_parts.items()))
            | "Spread" >> beam.Reshuffle().with_input_types(tuple[int, str])
            | "Counts" >> beam.ParDo(_Counts(output)).with_output_types(ScorePart)
        )
        done = summary
        for name in self.names:
            folder = absolute((self.folders or {}).get(name) or Run(output).layout_folder(name))
            done = self._layout(name, folder, output, summary, parts, done)
        return done

    def _layout(self, name: str, folder: str, output: str, summary: Any, parts: Any, done: Any) -> Any:
        plan = beam.pvalue.AsSingleton(
            summary
            | f"Begin {name}" >> beam.Map(
                lambda _, counted: begin_layout(output, name, folder, counted), beam.pvalue.AsList(parts)
            )
        )  # fmt: skip
        written = parts | f"Write {name}" >> beam.ParDo(_WritePart(), plan)
        rows = written | f"Rows {name}" >> beam.Map(lambda pair: pair[0])
        buckets = (
            written
            | f"Uids {name}" >> beam.FlatMap(lambda pair: pair[1].items()).with_output_types(tuple[int, bytes])
            | f"ByBucket {name}" >> GroupRows(bytes)
            | f"Sort {name}" >> beam.MapTuple(lambda bucket, several: (bucket, write_bucket(folder, bucket, several)))
        )
        return done | f"Finish {name}" >> beam.Map(
            _finish, output, plan, beam.pvalue.AsList(rows), beam.pvalue.AsList(buckets)
        )


class _Counts(SideBySide):
    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def work(self, element: tuple[int, str], *side: Any) -> Iterator[ScorePart]:
        yield Run(self._output).part_counts(element[1])


class _WritePart(SideBySide):
    """Writes parts; a thread holds the kept rows of a part with their embeddings."""

    def work(self, element: ScorePart, *side: Any) -> Iterator[tuple[LayoutPart, dict[int, bytes]]]:
        (plan,) = side
        if element.kept:
            yield write_layout_part(plan, element)


def _finish(
    summary: Any,
    output: str,
    plan: LayoutPlan,
    written: Sequence[LayoutPart],
    buckets: Sequence[tuple[int, int]],
) -> Any:
    finish_layout(plan, output, written, buckets)
    return summary
