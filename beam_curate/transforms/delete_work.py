"""DeleteWork: deletes what a search for duplicates has put down, when its run is complete."""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.duplicates.finding import delete_work


@dataclass(eq=False)
class DeleteWork(beam.PTransform):
    """Deletes the files that the steps of FindDuplicates have left for each other.

    In: PCollection of one dict, the summary, or what was found where the duplicates table is all that is written. Out: the same.

    It is for the end of a run, not of the search: a runner such as Flink that loses a worker in the steps between makes those
    steps of the search again whose results were there, and these read what others have put down, whose results are left.

    Attributes:
        output: Folder of the duplicates table.
    """

    output: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summary: beam.PCollection[dict[str, Any]]) -> beam.PCollection[dict[str, Any]]:
        """Deletes, and hands on."""
        return summary | beam.Map(_delete, self.output)


def _delete(summary: dict[str, Any], output: str) -> dict[str, Any]:
    delete_work(output)
    return summary
