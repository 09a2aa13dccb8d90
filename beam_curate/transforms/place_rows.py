"""PlaceRows: the rows of parts on their way to their output files."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from beam_curate.records import PlacedRows, ScorePart
from beam_curate.runs.output_files import Format
from beam_curate.runs.placed_rows import Loose, packed, place_part
from beam_curate.runs.row_sources import RowSource
from beam_curate.transforms.side_by_side import SideBySide

LOOSE_BYTES: Final = 1 << 25
"""Rows that travel wait in memory until there are 32 MiB of them: then those of one output file go together."""


class PlaceRows(SideBySide):
    """Sends the rows of parts to their files; rows that travel by themselves go together where they can."""

    def __init__(self, source: RowSource, format: Format) -> None:
        super().__init__()
        self._source, self._format = source, format

    def start_bundle(self) -> None:
        """Nothing is loose yet."""
        super().start_bundle()
        self._loose: list[Loose] = []
        self._loose_bytes = 0

    def process(self, element: tuple[int, Mapping[str, Iterable[Any]]], *side: Any) -> Iterator[tuple[int, PlacedRows]]:
        """Sends the rows of a part, or none where nothing is written again."""
        _, joined = element
        for part in joined["parts"]:  # none where nothing is written again
            renamed = {rank: key for keys in joined["renamed"] for rank, key in zip(keys.ranks, keys.keys, strict=True)}
            for result in super().process((part, renamed), *side):
                yield from self._pass_on(result)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Sends what is still under way and what is loose."""
        for result in super().finish_bundle():
            for placed in self._pass_on(result.value):
                yield GlobalWindows.windowed_value(placed)
        for placed in self._packed():
            yield GlobalWindows.windowed_value(placed)

    def work(self, element: tuple[ScorePart, dict[int, str]], *side: Any) -> Iterator[Loose | tuple[int, PlacedRows]]:
        """The rows of a part with the files that they go to."""
        (part, renamed), (packing, finished) = element, side
        return place_part(self._source, part, packing, renamed, finished, self._format.columns)

    def _pass_on(self, result: Loose | tuple[int, PlacedRows]) -> Iterator[tuple[int, PlacedRows]]:
        if not isinstance(result, Loose):
            yield result
            return
        if self._loose and self._loose[0].table.schema != result.table.schema:
            yield from self._packed()
        self._loose.append(result)
        self._loose_bytes += result.table.nbytes
        if self._loose_bytes >= LOOSE_BYTES:
            yield from self._packed()

    def _packed(self) -> Iterator[tuple[int, PlacedRows]]:
        yield from packed(self._loose)
        self._loose.clear()
        self._loose_bytes = 0
