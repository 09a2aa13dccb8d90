"""Second models: a further embedding of every image, in a column of its own beside the first one's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from beam_curate.clip.model_description import ModelDescription, describe_model
from beam_curate.clip.weights import for_any_folder
from beam_curate.images.resizing import Target


class SecondModelError(ValueError):
    """A second model that cannot be had; the message names the option's value and the remedy."""


@dataclass(frozen=True)
class SecondModel:
    """A model whose embedding goes to the column `embedding_<name>`.

    Attributes:
        name: Of the embedding.
        pretrained: Its weights, as a worker finds them.
        description: What the model is.
    """

    name: str
    pretrained: str
    description: ModelDescription

    @property
    def target(self) -> Target:
        """What the model wants of an image."""
        model = self.description
        return Target(model.image_size, model.resize_mode, model.interpolation)


def embedding_name(clip_model: str) -> str:
    """The name of a model's embedding: `ViT-B-16` gives `vit_b_16`."""
    return re.sub(r"[^a-z0-9]+", "_", clip_model.lower()).strip("_")


def find_second_models(texts: Sequence[str], model_dir: str | None = None) -> dict[str, SecondModel]:
    """Describes the models of the option --second_model, `MODEL=WEIGHTS` each, by the names of their embeddings.

    Args:
        texts: The values of the option.
        model_dir: A models directory, where a tag is looked for before the hub.

    Raises:
        SecondModelError: A value is none, two give the same name, or a model cannot be had.
    """
    found: dict[str, SecondModel] = {}
    for text in texts:
        clip_model, _, pretrained = (part.strip() for part in text.partition("="))
        if not clip_model or not pretrained:
            raise SecondModelError(
                f"{text!r} is no model with weights; give MODEL=WEIGHTS, such as ViT-B-16=laion2b_s34b_b88k"
            )
        try:
            description = describe_model(clip_model, pretrained, model_dir=model_dir, fetch=True)
        except ValueError as error:
            hint = f"; for QuickGELU name the model {clip_model}-quickgelu" if "quick_gelu" in str(error) else ""
            raise SecondModelError(f"{text}: {error}{hint}") from error
        name = embedding_name(description.clip_model)
        if name in found:
            raise SecondModelError(f"{text}: there is a second model {clip_model} already; give each model once")
        found[name] = SecondModel(name, for_any_folder(clip_model, pretrained), description)
    return found


def widths(models: Mapping[str, SecondModel]) -> dict[str, int]:
    """The widths of the embeddings, by name."""
    return {name: model.description.embed_dim for name, model in models.items()}
