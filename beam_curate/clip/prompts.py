"""Text scores: how much an image looks like a prompt, by the CLIP model that embedded it; and simple facts of captions.

A prompt score with contrasting prompts is the zero-shot probability of its first prompt; with a prompt alone it is the
cosine similarity. The prompts are embedded once, at launch; a score then is a matrix of a few KB. Scores are computed
row by row in float64, so a row's score depends on that row alone, bit for bit: see `heads.head` for why and what it costs.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PromptSpec:
    """A prompt score as asked for: its name, the prompt, and the prompts that it is contrasted with."""

    name: str
    prompts: tuple[str, ...]


def parse_prompts(text: str) -> tuple[PromptSpec, ...]:
    r"""Reads prompt scores: `name=prompt` or `name=prompt,contrasting prompt,...`, several separated by `;`.

    A comma or semicolon within a prompt is written `\,` or `\;`. White space around names and prompts is dropped.

    Raises:
        ValueError: Says what of the text is wrong: no `=`, a name that is no identifier or is there twice, an empty
            prompt, or the same prompt twice in a score.
    """
    specs: dict[str, PromptSpec] = {}
    for entry in re.split(r"(?<!\\);", text):
        name, equals, rest = entry.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(
                f"the prompt score {entry.strip()!r} has no '=': write name=prompt or name=prompt,contrasting prompt; a "
                r"literal semicolon is \;"
            )
        if not name.isidentifier():
            raise ValueError(
                f"the prompt score name {name!r} cannot name a column: use letters, digits and _, as in has_watermark"
            )
        if name in specs:
            raise ValueError(f"the prompt score {name!r} is given twice: give each its own name")
        prompts = tuple(re.sub(r"\\([,;])", r"\1", part).strip() for part in re.split(r"(?<!\\),", rest))
        if "" in prompts:
            raise ValueError(rf"the prompt score {name!r} has an empty prompt ({rest!r}); a literal comma is \,")
        if len(set(prompts)) < len(prompts):
            raise ValueError(f"the prompt score {name!r} has the same prompt twice ({rest!r}): contrast different ones")
        specs[name] = PromptSpec(name, prompts)
    return tuple(specs.values())


@dataclass(frozen=True, eq=False)
class PromptScore:
    """A prompt score with its prompts embedded: used like a `heads.Head`, and like it sent to the workers by value.

    Attributes:
        name: The score's name.
        prompts: P prompts, the one that is scored first.
        matrix: (P, D) float32, the L2-normalised embeddings of the prompts.
        logit_scale: What the cosines are multiplied by before the softmax.
        random: Whether the weights of the model are random.
    """

    name: str
    prompts: tuple[str, ...]
    matrix: npt.NDArray[np.float32]
    logit_scale: float
    random: bool = False

    @property
    def width(self) -> int:
        """D, the width of the embeddings."""
        return int(self.matrix.shape[1])

    @property
    def id(self) -> str:
        """The sha256 of the matrix: of its float32 little-endian values, row by row."""
        return hashlib.sha256(self.matrix.astype("<f4").tobytes()).hexdigest()

    @property
    def description(self) -> dict[str, object]:
        """What a summary says of the score: JSON values. `meaningless` is there, and True, for random weights alone."""
        said: dict[str, object] = {"name": self.name, "prompts": list(self.prompts), "width": self.width, "id": self.id}
        if len(self.prompts) > 1:
            said |= {"kind": "zero-shot probability of the first prompt", "logit_scale": self.logit_scale}
        else:
            said["kind"] = "cosine similarity with the prompt"
        if self.random:
            said["meaningless"] = True
        return said

    def score(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Scores every embedding, each as if it were alone.

        The probability is softmax(logit_scale * cosines)[0]. Source: Radford et al., Learning Transferable Visual Models
        From Natural Language Supervision, 2021, section 3.1.2.

        Args:
            embeddings: (N, D), L2-normalised; float16 as stored, or float32. N may be 0.

        Returns:
            (N,) float32, in the order of the rows: 0 to 1 with contrasting prompts, else -1 to 1. NaN for a row with
            NaN or infinity, and for one of zeros, which has no direction.

        Raises:
            ValueError: The embeddings are not (N, D).
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise ValueError(f"the prompt score {self.name} takes embeddings (N, {self.width}), not {embeddings.shape}")
        matrix = self.matrix.astype(np.float64)
        return np.array([self._value(matrix, row) for row in embeddings.astype(np.float64)], np.float32)

    def _value(self, matrix: Floats, row: Floats) -> float:
        length = _length(row)
        if math.isnan(length):
            return math.nan
        # In scalars from here: see heads.Head.
        cosines = [float(value) / length for value in matrix.dot(row)]
        if len(cosines) == 1:
            return cosines[0]
        top = max(cosines)
        parts = [math.exp(self.logit_scale * (cosine - top)) for cosine in cosines]
        return parts[0] / sum(parts)


def _length(row: Floats) -> float:
    """The L2 norm of a row; NaN if the row has no direction. A stored embedding's differs from 1 by its rounding."""
    length = math.sqrt(float(row.dot(row)))
    return length if math.isfinite(length) and length > 0 else math.nan


def prompt_scores(
    specs: Sequence[PromptSpec],
    model_name: str,
    pretrained: str,
    *,
    model_dir: str | None = None,
    quick_gelu: bool | Literal["auto"] = "auto",
    seed: int = 0,
) -> tuple[PromptScore, ...]:
    """Embeds the prompts with the text tower of the model that embeds the images, on the CPU in fp32.

    Args:
        specs: The scores asked for.
        model_name: A model name of open_clip.
        pretrained: `random`, a tag, a file or a directory: see `weights`.
        model_dir: A models directory, where a tag is looked for before the hub.
        quick_gelu: `auto`, True or False: see model_description.describe_model.
        seed: The seed of `random`.

    Raises:
        WeightsError: The weights or the tokenizer cannot be had, do not fit, or give embeddings that are not finite.
    """
    if not specs:
        return ()
    from beam_curate.clip.checkpoint import WeightsError
    from beam_curate.clip.text_tower import build_text_tower
    from beam_curate.clip.weights import find_weights

    source = find_weights(model_name, pretrained, model_dir=model_dir, seed=seed)
    tower = build_text_tower(source, quick_gelu=quick_gelu)
    rows = tower.embed([prompt for spec in specs for prompt in spec.prompts])
    if not np.isfinite(rows).all() or not math.isfinite(tower.logit_scale):
        raise WeightsError(
            f"the text weights of {model_name} ({pretrained}) give values that are not finite: use other weights, "
            "or fetch them again if they were downloaded"
        )
    scores, start = [], 0
    for spec in specs:
        matrix = rows[start : start + len(spec.prompts)].copy()
        scores.append(PromptScore(spec.name, spec.prompts, matrix, tower.logit_scale, source.seed is not None))
        start += len(spec.prompts)
    return tuple(scores)


def caption_similarity(
    image_embeddings: npt.NDArray[np.floating], text_embeddings: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """The cosine similarity of each image with its own caption (CLIP score), each pair as if it were alone.

    Args:
        image_embeddings: (N, D), float16 as stored, or float32. N may be 0.
        text_embeddings: (N, D), of the captions in the same order.

    Returns:
        (N,) float32, -1 to 1. NaN where one of the pair has NaN or infinity, or is zeros.

    Raises:
        ValueError: The two are not of the same shape (N, D).
    """
    if image_embeddings.ndim != 2 or image_embeddings.shape != text_embeddings.shape:
        raise ValueError(
            f"images and captions need embeddings of one shape (N, D), not {image_embeddings.shape} and {text_embeddings.shape}"
        )
    pairs = zip(image_embeddings.astype(np.float64), text_embeddings.astype(np.float64), strict=True)
    return np.array([_cosine(image, text) for image, text in pairs], np.float32)


def _cosine(image: Floats, text: Floats) -> float:
    length = _length(image) * _length(text)
    return math.nan if math.isnan(length) else float(image.dot(text)) / length
