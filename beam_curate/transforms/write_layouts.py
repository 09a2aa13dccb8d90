"""WriteLayouts: the summary of a finished run in, the layouts of other tools below its folder written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_curate.export.layout_files import FOLDER
from beam_curate.export.layouts import write_layout
from beam_curate.storage.files import join


@dataclass(eq=False)
class WriteLayouts(beam.PTransform):
    """Writes the kept rows as other tools read them, see `export.layouts.write_layout`, to `layouts/<name>` in the run's folder.

    In: PCollection of one dict, the summary. Out: the same. Each layout is written by one worker, part by part.

    Attributes:
        output: Folder of the run.
        names: The layouts.
    """

    output: str
    names: Sequence[str]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, summary: beam.PCollection[dict[str, Any]]) -> beam.PCollection[dict[str, Any]]:
        """Writes one after the other, and hands on."""
        return summary | beam.Map(_write, self.output, tuple(self.names))


def _write(summary: dict[str, Any], output: str, names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        write_layout(output, name, join(output, f"{FOLDER}/{name}"))
    return summary
