"""ScoreImages: the user's own scorers of decoded images."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from beam_curate.records import DecodedImage
from beam_curate.scores.scorers import ImagesScorer, run_images, set_up_scorer

_BATCH = 32


@dataclass(eq=False)
class ScoreImages(beam.PTransform):
    """Adds the scores of scorers that take pixels, see `scores.scorers`.

    In: PCollection[DecodedImage]. Out: the same, one to one and in order, with more `scores`; failed samples pass.
    Windows stay; timestamps become the ends of the windows, as with every batching of Beam's (RunInference too).

    Attributes:
        scorers: The scorers; with none of them nothing is done.
    """

    scorers: Sequence[ImagesScorer]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, images: beam.PCollection[DecodedImage]) -> beam.PCollection[DecodedImage]:
        """Batches and scores."""
        if not self.scorers:
            return images
        return (
            images
            | beam.BatchElements(min_batch_size=_BATCH, max_batch_size=_BATCH)
            | beam.ParDo(_Score(tuple(self.scorers))).with_output_types(DecodedImage)
        )


class _Score(beam.DoFn):
    def __init__(self, scorers: tuple[ImagesScorer, ...]) -> None:
        self._scorers = scorers

    def setup(self) -> None:
        for scorer in self._scorers:
            set_up_scorer(scorer)

    def process(self, batch: list[DecodedImage]) -> Iterator[DecodedImage]:
        good = [image for image in batch if image.failure is None]
        columns: dict[str, list[float]] = {}
        if good:
            side = round((len(good[0].pixels) // 3) ** 0.5)
            pixels = np.frombuffer(b"".join([image.pixels for image in good]), np.uint8).reshape(-1, side, side, 3)
            for scorer in self._scorers:
                columns |= {name: values.tolist() for name, values in run_images(scorer, pixels).items()}
        row = 0
        for image in batch:
            if image.failure is not None:
                yield image
                continue
            scores = {**image.scores, **{name: values[row] for name, values in columns.items()}}
            yield dataclasses.replace(image, scores=scores)
            row += 1
