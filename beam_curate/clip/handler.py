"""The model handler that Beam's RunInference runs: decoded images in, CLIP embeddings out, in the same order.

    images | RunInference(ClipModelHandler("ViT-L-14", "openai")).with_output_types(EmbeddedSample)

RunInference itself declares no output type, hence `with_output_types`. torch is imported where the model is, on the
workers: making a handler is cheap, and pickling one carries options, never weights.
"""

import dataclasses
import functools
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from beam_curate.clip.careful_calls import CarefulCalls, Row
from beam_curate.clip.loading_ahead import load_ahead, loaded
from beam_curate.devices import given_up_if_lost
from beam_curate.images.options import DecodeOptions
from beam_curate.records import DecodedImage, EmbeddedSample, Failure, Sample

if TYPE_CHECKING:
    from beam_curate.clip.model_description import ModelDescription
    from beam_curate.clip.tower_copies import TowerCopies
    from beam_curate.clip.visual_tower import Pixels, VisualTower

Embedded: TypeAlias = EmbeddedSample | DecodedImage
"""What comes out: the one, or of a second model the other."""

NAMESPACE: Final = "beam_curate.infer"
PRECISIONS: Final = ("auto", "bf16", "fp16", "fp32")
# A batch holds at most this many samples that failed earlier: they wait for images, at about 2 KB each.
_MAX_WAITING: Final = 8192


def element_size(element: object, batch_size: int) -> float:
    """Weighs a sample for BatchElements, so that a batch of weight `batch_size` holds that many images exactly.

    Beam's KeyedModelHandler weighs the pairs (key, sample) with it, and a handler with a preprocessing function what goes
    into that: whatever is not a sample weighs like an image.

    An image weighs (B + 1)/(B + 2): B of them fit and B + 1 do not, and what is left of the B, B/(B + 2), takes the
    failed samples between them, B/8192 each. So failed samples do not take the place of images (until there are
    about 8192/B of them in a batch), and a batch of nothing but failed samples is bounded too. BatchElements takes the
    weight of a bundle's first batch for the size of its second, which may therefore hold one image less.
    """
    if batch_size == 1:
        return 1.0
    match element:
        case (
            DecodedImage(failure=Failure())
            | (_, DecodedImage(failure=Failure()))
            | Sample(failure=Failure())
            | (_, Sample(failure=Failure()))
        ):
            return batch_size / _MAX_WAITING
    return (batch_size + 1) / (batch_size + 2)


def _load_tower(clip_model: str, pretrained: str, places: Mapping[str, Any], **how: Any) -> "VisualTower":
    from beam_curate.clip.visual_tower import build_visual_tower
    from beam_curate.clip.weights import find_weights

    return build_visual_tower(find_weights(clip_model, pretrained, **places), **how)


class ClipModelHandler(ModelHandler[DecodedImage, Embedded, "VisualTower | TowerCopies[Pixels]"]):
    """Embeds decoded images with a CLIP visual tower.

    In: `DecodedImage`, prepared for the model (`DecodeImages(handler.decode_options())`) or refused; one that failed earlier
    passes through, in order, at no cost. Out: one `EmbeddedSample` each, with the reference and the facts, without pixels.
    With an `embedding_name` it is a second model, which stands before the one without: its embedding is added to the
    `DecodedImage`, which comes out again:

        images | "Second" >> RunInference(ClipModelHandler("ViT-B-16", "openai", embedding_name="vit_b_16")).with_output_types(
            DecodedImage) | RunInference(ClipModelHandler("ViT-L-14", "openai")).with_output_types(EmbeddedSample)

    A call of the model gives the same bits as one with `batch_size` images, the tail being filled up with black images as far as
    it takes, so an embedding depends on its image alone, not on the samples beside it or on how the runner made bundles.
    What becomes of calls that fail, of rows that are not finite, and where memory is short, says `careful_calls`. A worker
    process that has lost its GPU ends, so that the runner starts another one: see `beam_curate.devices`.

    Args:
        clip_model: A model name of open_clip.
        pretrained: `random`, a tag, a file or a directory: see beam_curate.clip.weights.
        model_dir: A models directory on the workers, where a tag is looked for before the hub.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is one. CUDA that is absent is an error on load.
        precision: `bf16`, `fp16`, `fp32`, or `auto`: see model_description.choose_precision.
        batch_size: Images in a call of the model.
        model_copies: Loads this many copies on a machine, each in a process of its own, which the workers share (four on an
            80 GB GPU compare with NeMo Curator's 0.25 GPU a worker): see tower_copies. Linux alone. None: each worker process
            has a model.
        large_model: The same as `model_copies=1`: one model a machine, however many worker processes.
        seed: The seed of `random`.
        quick_gelu: `auto`, True or False: see model_description.describe_model.
        preprocess: How images are prepared, where neither a tag nor a file says it: see model_description.describe_model.
        embedding_name: Of a second model: by this name `DecodeImages.second` gives its pixels, where they are not those of the
            first model, and its embedding goes to the column `embedding_<name>` of the score table.

    Attributes:
        copies: How many copies of the model share a machine; 0 where each worker process has a model.
        embedding_name: As above.

    Raises:
        ValueError: For an option that is wrong by itself, on construction; the weights are looked at by `describe`
            and on load.
    """

    def __init__(
        self,
        clip_model: str = "ViT-L-14",
        pretrained: str = "openai",
        *,
        model_dir: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        model_copies: int | None = None,
        large_model: bool = False,
        seed: int = 0,
        quick_gelu: bool | Literal["auto"] = "auto",
        preprocess: str | Mapping[str, Any] = "auto",
        embedding_name: str | None = None,
    ) -> None:
        for name, count in (("batch_size", batch_size), ("model_copies", model_copies)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise ValueError(f"{name}={count!r}: give a whole number of at least 1")
        if batch_size > _MAX_WAITING:
            raise ValueError(f"batch_size={batch_size}: give at most {_MAX_WAITING}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"device={device!r}: give auto, cpu, cuda or cuda:N")
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r}: give {', '.join(PRECISIONS)}")
        if precision == "fp16" and device == "cpu":
            raise ValueError(
                "precision='fp16' with device='cpu' is five times slower than fp32: give bf16, fp32 or auto"
            )
        if quick_gelu != "auto" and not isinstance(quick_gelu, bool):
            raise ValueError(f"quick_gelu={quick_gelu!r}: give 'auto', True or False")
        if embedding_name is not None and not re.fullmatch(r"[A-Za-z0-9_]+", embedding_name):
            raise ValueError(f"embedding_name={embedding_name!r}: give letters, digits and _, as in vit_b_16")
        super().__init__(
            min_batch_size=batch_size,
            max_batch_size=batch_size,
            element_size_fn=functools.partial(element_size, batch_size=batch_size),
        )
        self._weights: dict[str, Any] = {"model_dir": model_dir, "seed": seed}
        self._model: tuple[str, str] = (clip_model, pretrained)
        self._quick_gelu: bool | Literal["auto"] = quick_gelu
        self._preprocess: str | Mapping[str, Any] = preprocess
        self._device = device
        self._precision = precision
        self.copies = model_copies or int(large_model)
        self._id = uuid.uuid4().hex  # pickled with the handler: the same in all workers
        self.embedding_name = embedding_name
        self._namespace = NAMESPACE if embedding_name is None else f"{NAMESPACE}.{embedding_name}"
        self._calls = CarefulCalls(batch_size, self._namespace)
        self._images = Metrics.counter(self._namespace, "images")
        self._failures = Metrics.counter(self._namespace, "failures")

    def describe(self, fetch: bool = False) -> "ModelDescription":
        """Describes the model and its weights, without loading them: see model_description.describe_model."""
        from beam_curate.clip.model_description import describe_model

        return describe_model(
            *self._model, **self._weights, quick_gelu=self._quick_gelu, preprocess=self._preprocess, fetch=fetch
        )

    def decode_options(self, **options: Any) -> DecodeOptions:
        """Gives the options for `DecodeImages` that prepare images as this model sees them.

        Args:
            options: The other fields of DecodeOptions, such as `decoder`.

        Raises:
            WeightsError: For weights that cannot be found here, or of which it is not said how images are prepared.
        """
        target = self.describe().target
        return DecodeOptions(target.size, target.resize_mode, target.interpolation, **options)

    def load_ahead(self) -> None:
        """Starts to load the model in a thread, for a pipeline that runs in this process; `load_model` then waits for it."""
        if not self.copies:
            load_ahead(self._load, self._calls.shape)

    def load_model(self) -> "VisualTower | TowerCopies[Pixels]":
        """Fetches the weights if need be, and builds the tower, or its copies."""
        if not self.copies:
            with given_up_if_lost():
                return loaded(self._load)
        from beam_curate.clip.tower_copies import TowerCopies

        return TowerCopies(self._load, f"beam-curate-{self._id}", self.copies)

    @property
    def _load(self) -> "functools.partial[VisualTower]":
        return functools.partial(
            _load_tower,
            *self._model,
            self._weights,
            precision=self._precision,
            device=self._device,
            quick_gelu=self._quick_gelu,
            preprocess=self._preprocess,
        )

    def run_inference(
        self,
        batch: Sequence[DecodedImage],
        model: "VisualTower | TowerCopies[Pixels]",
        inference_args: Mapping[str, Any] | None = None,
    ) -> list[Embedded]:
        """Embeds a batch, in order.

        Raises:
            ValueError: If the pixels were not prepared for this model, or do not say how they were.
            RuntimeError: If the model fails on every image, or runs out of memory with one.
        """
        good = [sample for sample in batch if sample.failure is None]
        if not good:
            return [self._result(sample, sample.failure) for sample in batch]
        target = model.describe().target
        size, wanted = target.size, str(target)
        for sample in good:
            if self._prepared(sample) != wanted or len(self._pixels(sample)) != size * size * 3:
                raise ValueError(self._refusal(sample, model.describe()))
        return self.embed_pixels(batch, [self._pixels(sample) for sample in good], model)

    def embed_pixels(
        self, batch: Sequence[DecodedImage], pixels: Sequence["Pixels"], model: "VisualTower | TowerCopies[Pixels]"
    ) -> list[Embedded]:
        """Embeds a batch whose pixels lie elsewhere than in the samples.

        Args:
            batch: The samples, in order.
            pixels: Those of the samples that have not failed, prepared for the model.
            model: What `load_model` gave.
        """
        rows = self._calls.embed(pixels, model)
        failed = sum(isinstance(row, Failure) for row in rows)
        self._images.inc(len(rows) - failed)
        self._failures.inc(failed)
        left = iter(rows)
        return [self._result(sample, next(left) if sample.failure is None else sample.failure) for sample in batch]

    def _pixels(self, sample: DecodedImage) -> bytes:
        """What the model sees of a sample."""
        return (
            sample.pixels
            if self.embedding_name is None
            else sample.other_pixels.get(self.embedding_name, sample.pixels)
        )

    def _prepared(self, sample: DecodedImage) -> str:
        """How that was made."""
        return (
            sample.prepared
            if self.embedding_name is None
            else sample.other_prepared.get(self.embedding_name, sample.prepared)
        )

    def _refusal(self, sample: DecodedImage, model: "ModelDescription") -> str:
        """Says what is wrong with the pixels of a sample, and how a decoder is told what the model sees."""
        prepared, wanted = self._prepared(sample), str(model.target)
        if not prepared:
            what = "do not say how they were prepared (DecodedImage.prepared)"
        elif prepared != wanted:
            what = f"were prepared with {prepared}"
        else:
            what = f"are {len(self._pixels(sample))} bytes"
        remedy = f"DecodeImages(DecodeOptions({wanted})), or DecodeImages(handler.decode_options())"
        if self.embedding_name is not None:
            remedy = f"DecodeImages(..., second={{{self.embedding_name!r}: Target({wanted})}})"
        return f"the pixels of {sample.ref.key!r} {what}, but {model.clip_model} sees {wanted}: use {remedy}"

    def _result(self, sample: DecodedImage, found: Row | None) -> Embedded:
        """What a sample becomes, given its embedding or why there is none."""
        failure = found if isinstance(found, Failure) else None
        row = b"" if found is None or isinstance(found, Failure) else found.astype("<f2", copy=False).tobytes()
        if self.embedding_name is None:
            second = {} if failure else sample.embeddings
            return EmbeddedSample(sample.ref, sample.facts, row, failure, sample.scores, second)
        if failure:
            return DecodedImage(sample.ref, sample.facts, b"", failure, sample.scores)
        pixels = {name: data for name, data in sample.other_pixels.items() if name != self.embedding_name}
        embeddings = {**sample.embeddings, self.embedding_name: row}
        prepared = {name: how for name, how in sample.other_prepared.items() if name != self.embedding_name}
        return dataclasses.replace(sample, other_pixels=pixels, other_prepared=prepared, embeddings=embeddings)

    def get_num_bytes(self, batch: Sequence[DecodedImage]) -> int:
        """Counts the bytes of pixels in a batch (Beam's default pickles the whole batch to find out)."""
        return sum(len(self._pixels(sample)) for sample in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of the metrics of this handler and of RunInference for it."""
        return self._namespace
