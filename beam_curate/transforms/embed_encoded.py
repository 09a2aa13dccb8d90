"""EmbedEncoded: Sample in, EmbeddedSample out; DALI decodes where the model runs, and the pixels never leave the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from beam_curate.clip.handler import ClipModelHandler
from beam_curate.images.dali_decoding import DaliDecoder, require_dali
from beam_curate.images.errors import ImageError
from beam_curate.images.options import DecodeOptions
from beam_curate.inference import ModelHandler, RunInference
from beam_curate.records import DecodedImage, EmbeddedSample, Sample
from beam_curate.transforms.decode_images import DecodeCounters, not_decoded

if TYPE_CHECKING:
    from beam_curate.clip.tower_copies import TowerCopies
    from beam_curate.clip.visual_tower import Pixels, VisualTower


@dataclass(eq=False)
class EmbedEncoded(beam.PTransform):
    """Decodes and embeds images on one device.

    In: PCollection[Sample]. Out: PCollection[EmbeddedSample]: the same, one to one and in order, as with
    `DecodeImages(options)` and `RunInference(handler)` behind each other, with the same failures and counters. Between those two
    the pixels of each image go to the host's memory and back to the GPU; here DALI hands its tensors to the model (DLPack), and
    only the images that it leaves to Pillow are uploaded. So nothing that looks at pixels can stand between: for runs with scores
    of images (`DecodeImages.screening`, `ScoreImages`) and for second models are the two transforms.

    A batch is decoded before it is embedded: it takes several bundles at a time in a worker process for both to be busy.

    Attributes:
        handler: The model; with one model a process (`model_copies=None`).
        options: How images are decoded, for the handler's model; their decoder is not looked at.
        dali_device: As of `DecodeImages`; it should be the model's.
        threads: As of `DecodeImages`, for the images that are Pillow's.

    Raises:
        ValueError: At construction, where DALI is not installed, or the device is none; or for a handler that has copies of the
            model, which are in other processes, or is a second model's.
    """

    handler: ClipModelHandler
    options: DecodeOptions
    dali_device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        require_dali(self.dali_device)
        for name, value in (("model_copies", self.handler.copies), ("embedding_name", self.handler.embedding_name)):
            if value:
                raise ValueError(
                    f"the handler has {name}={value!r}, but EmbedEncoded is for one model in its own process: leave it out, or "
                    "use DecodeImages and RunInference"
                )

    def expand(self, samples: beam.PCollection[Sample]) -> beam.PCollection[EmbeddedSample]:
        """Runs the decoder and the model in one handler."""
        both = _DecodingHandler(self.handler, self.options, self.dali_device, self.threads)
        return samples | RunInference(both).with_output_types(EmbeddedSample)


class _Both:
    """A model and the decoder beside it; a RunInference shares it between the threads of a process."""

    def __init__(self, tower: "VisualTower | TowerCopies[Pixels]", decoder: DaliDecoder) -> None:
        self.tower = tower
        self.decoder = decoder


class _DecodingHandler(ModelHandler[Sample, EmbeddedSample, _Both]):
    def __init__(self, handler: ClipModelHandler, options: DecodeOptions, dali_device: str, threads: int) -> None:
        super().__init__(**handler.batch_elements_kwargs())
        self._handler = handler
        self._options = options
        self._device = dali_device
        self._threads = threads
        self._counters = DecodeCounters()

    def load_model(self) -> _Both:
        """Builds the tower, then the decoder, which checks itself."""
        tower = self._handler.load_model()
        return _Both(tower, DaliDecoder(self._options, self._device, self._threads, as_tensors=True))

    def run_inference(
        self, batch: Sequence[Sample], model: _Both, inference_args: Mapping[str, Any] | None = None
    ) -> list[EmbeddedSample]:
        """Decodes and embeds a batch, in order.

        Raises:
            ValueError: If the options do not prepare images as the model sees them.
        """
        prepared, wanted = str(self._options.target), str(model.tower.describe().target)
        if prepared != wanted:
            raise ValueError(f"options prepare images with {prepared}, but the model sees {wanted}: use these")
        decoded = model.decoder.decode([sample.data for sample in batch if sample.failure is None])
        self._counters.by_dali.inc(decoded.by_dali)
        left, images, pixels = iter(decoded.images), list[DecodedImage](), list[Any]()
        for sample in batch:
            if sample.failure is not None:
                images.append(DecodedImage(sample.ref, failure=sample.failure))
                continue
            result = next(left)
            if isinstance(result, ImageError):
                images.append(self._counters.count(not_decoded(sample, result)))
                continue
            facts, (picture,) = result
            images.append(self._counters.count(DecodedImage(sample.ref, facts, prepared=prepared)))
            pixels.append(picture)
        embedded: list[Any] = self._handler.embed_pixels(images, pixels, model.tower)
        return embedded

    def get_num_bytes(self, batch: Sequence[Sample]) -> int:
        """Counts the bytes of the files."""
        return sum(len(sample.data) for sample in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of the metrics of the model's handler."""
        return self._handler.get_metrics_namespace()
