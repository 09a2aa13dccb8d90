"""Caption scores: the model handler that compares each image with its own caption, by the model's text tower.

    embedded | RunInference(CaptionHandler("ViT-L-14", "openai")).with_output_types(EmbeddedSample)

It stands behind the ClipModelHandler of the same model and weights, whose embeddings it needs.
"""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from beam_curate.clip.prompts import caption_similarity
from beam_curate.records import EmbeddedSample

if TYPE_CHECKING:
    from beam_curate.clip.text_tower import TextTower

_LOG = logging.getLogger(__name__)

NAMESPACE: Final = "beam_curate.captions"
CAPTION_SCORE: Final = "caption_similarity"
"""The score's name: the CLIP score of LAION-400M (Schuhmann et al., 2021) and DataComp (Gadre et al., 2023), unscaled."""


class CaptionHandler(ModelHandler[EmbeddedSample, EmbeddedSample, "TextTower"]):
    """Adds `caption_similarity` to embedded samples.

    In: `EmbeddedSample`. Out: the same, in order, with the score: -1 to 1, NaN where the sample has no caption or an empty
    one. Samples that failed pass through. A text is embedded in a call of fixed shape, so its score depends on nothing else.

    Args:
        clip_model: A model name of open_clip.
        pretrained: Its weights, see beam_curate.clip.weights: those of the image embeddings.
        model_dir: A models directory on the workers.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`.
        batch_size: Samples in a batch.
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
        batch_size: int = 32,
        seed: int = 0,
        quick_gelu: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._model: tuple[str, str] = (clip_model, pretrained)
        self._weights: dict[str, Any] = {"model_dir": model_dir, "seed": seed}
        self._device = device
        self._quick_gelu: bool | Literal["auto"] = quick_gelu
        self._scored = Metrics.counter(NAMESPACE, "captions")
        self._missing = Metrics.counter(NAMESPACE, "missing")

    def load_model(self) -> "TextTower":
        """Fetches the weights if need be, and builds the tower, in fp32."""
        from beam_curate.clip.text_tower import build_text_tower
        from beam_curate.clip.weights import find_weights

        source = find_weights(*self._model, **self._weights)
        tower = build_text_tower(source, device=self._device, quick_gelu=self._quick_gelu)
        _LOG.info("Loaded the text tower of %s (QuickGELU: %s)", source, tower.quick_gelu)
        return tower

    def run_inference(
        self, batch: Sequence[EmbeddedSample], model: "TextTower", inference_args: Mapping[str, Any] | None = None
    ) -> list[EmbeddedSample]:
        """Scores a batch, in order."""
        out = list(batch)
        good = [place for place, sample in enumerate(batch) if sample.failure is None]
        scores = dict.fromkeys(good, math.nan)
        captioned = [place for place in good if batch[place].ref.caption]
        if captioned:
            images = np.stack([np.frombuffer(batch[place].embedding, "<f2") for place in captioned])
            texts = model.embed([batch[place].ref.caption or "" for place in captioned])
            values = caption_similarity(images, texts).tolist()
            scores.update(zip(captioned, values, strict=True))
        for place, score in scores.items():
            out[place] = dataclasses.replace(batch[place], scores={**batch[place].scores, CAPTION_SCORE: score})
        self._scored.inc(len(captioned))
        self._missing.inc(len(good) - len(captioned))
        return out

    def get_num_bytes(self, batch: Sequence[EmbeddedSample]) -> int:
        """Counts the characters of the captions."""
        return sum(len(sample.ref.caption or "") for sample in batch)

    def get_metrics_namespace(self) -> str:
        """Returns the namespace of the metrics of this handler and of RunInference for it."""
        return NAMESPACE
