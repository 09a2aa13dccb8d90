"""Caption scores: the model handler that compares each image with its own caption, by the model's text tower.

    embedded | RunInference(CaptionHandler("ViT-L-14", "openai")).with_output_types(EmbeddedSample)

It stands behind the ClipModelHandler of the same model and weights, whose embeddings it needs.
"""

import dataclasses
import functools
import logging
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from beam_curate.clip.careful_calls import CarefulCalls
from beam_curate.clip.prompts import caption_similarity
from beam_curate.devices import given_up_if_lost
from beam_curate.records import EmbeddedSample, Failure

if TYPE_CHECKING:
    from beam_curate.clip.text_tower import TextTower
    from beam_curate.clip.tower_copies import TowerCopies

_LOG = logging.getLogger(__name__)

NAMESPACE: Final = "beam_curate.captions"
CAPTION_SCORE: Final = "caption_similarity"
"""The score's name: the CLIP score of LAION-400M (Schuhmann et al., 2021) and DataComp (Gadre et al., 2023), unscaled."""


def _load_tower(
    clip_model: str, pretrained: str, places: Mapping[str, Any], precision: str, device: str, quick_gelu: Any
) -> "TextTower":
    from beam_curate.clip.model_description import choose_device
    from beam_curate.clip.text_tower import build_text_tower
    from beam_curate.clip.weights import find_weights

    source = find_weights(clip_model, pretrained, **places)
    if precision == "auto" and choose_device(device).type == "cpu":
        precision = "fp32"
    tower = build_text_tower(source, precision=precision, device=device, quick_gelu=quick_gelu)
    _LOG.info("Loaded the text tower of %s on %s in %s", source, *tower.runtime())
    return tower


class CaptionHandler(ModelHandler[EmbeddedSample, EmbeddedSample, "TextTower | TowerCopies[str]"]):
    """Adds `caption_similarity` to embedded samples.

    In: `EmbeddedSample`. Out: the same, in order, with the score: -1 to 1, NaN where the sample has no caption or an empty
    one. Samples that failed pass through. A call of the model gives the bits of one with `batch_size` texts, so that a score
    depends on its text and image alone. What becomes of calls that fail says `careful_calls`: a caption that the model fails on
    fails its sample.

    Args:
        clip_model: A model name of open_clip.
        pretrained: Its weights, see beam_curate.clip.weights: those of the image embeddings.
        model_dir: A models directory on the workers.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`.
        precision: See ClipModelHandler; but `auto` is fp32 on a CPU, where few captions are not worth another rounding.
        batch_size: Texts in a call of the model.
        model_copies: As of ClipModelHandler.
        seed: The seed of `random`.
        quick_gelu: `auto`, True or False.
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
        seed: int = 0,
        quick_gelu: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._model: tuple[str, str] = (clip_model, pretrained)
        self._weights: dict[str, Any] = {"model_dir": model_dir, "seed": seed}
        self._device = device
        self._precision = precision
        self._copies = model_copies or 0
        self._id = uuid.uuid4().hex
        self._quick_gelu: bool | Literal["auto"] = quick_gelu
        self._calls = CarefulCalls(batch_size, NAMESPACE)
        self._failed = Metrics.counter(NAMESPACE, "failures")
        self._scored = Metrics.counter(NAMESPACE, "captions")
        self._missing = Metrics.counter(NAMESPACE, "missing")

    def load_model(self) -> "TextTower | TowerCopies[str]":
        """Fetches the weights if need be, and builds the tower, or its copies."""
        build = functools.partial(
            _load_tower,
            *self._model,
            self._weights,
            precision=self._precision,
            device=self._device,
            quick_gelu=self._quick_gelu,
        )
        if not self._copies:
            with given_up_if_lost():
                return build()
        from beam_curate.clip.tower_copies import TowerCopies

        return TowerCopies(build, f"beam-curate-{self._id}", self._copies)

    def run_inference(
        self,
        batch: Sequence[EmbeddedSample],
        model: "TextTower | TowerCopies[str]",
        inference_args: Mapping[str, Any] | None = None,
    ) -> list[EmbeddedSample]:
        """Scores a batch, in order."""
        out = list(batch)
        good = [place for place, sample in enumerate(batch) if sample.failure is None]
        scores = dict.fromkeys(good, math.nan)
        captioned = [place for place in good if batch[place].ref.caption]
        rows = self._calls.embed([batch[place].ref.caption or "" for place in captioned], model)
        for place, row in zip(captioned, rows, strict=True):
            if isinstance(row, Failure):
                failure = dataclasses.replace(row, message=f"caption: {row.message}")
                out[place] = dataclasses.replace(batch[place], embedding=b"", embeddings={}, failure=failure)
                del scores[place]
        texts = {place: row for place, row in zip(captioned, rows, strict=True) if not isinstance(row, Failure)}
        if texts:
            images = np.stack([np.frombuffer(batch[place].embedding, "<f2") for place in texts])
            values = caption_similarity(images, np.stack(list(texts.values()))).tolist()
            scores.update(zip(texts, values, strict=True))
        for place, score in scores.items():
            out[place] = dataclasses.replace(batch[place], scores={**batch[place].scores, CAPTION_SCORE: score})
        self._scored.inc(len(texts))
        self._failed.inc(len(captioned) - len(texts))
        self._missing.inc(len(good) - len(captioned))
        return out

    def get_num_bytes(self, batch: Sequence[EmbeddedSample]) -> int:
        """Counts the characters of the captions."""
        return sum(len(sample.ref.caption or "") for sample in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of the metrics of this handler and of RunInference for it."""
        return NAMESPACE
