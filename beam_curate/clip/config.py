"""open_clip's configuration of a model, and files of JSON."""

import difflib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from beam_curate.clip.checkpoint import WeightsError
from beam_curate.clip.open_clip_parts import model_names, model_settings

_REMEDY: Final = "fetch it again if it was downloaded; correct it, or move it away, if it is your own"


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Words a remedy for an unknown name: close ones, else all that are known."""
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(sorted(known))}"


def model_config(clip_model: str) -> tuple[str, dict[str, Any]]:
    """Looks up open_clip's configuration of a model.

    Returns:
        The model's name as open_clip keeps it (`ViT-L/14` becomes `ViT-L-14`) and its configuration, a fresh copy.

    Raises:
        WeightsError: For an unknown name; lists close ones.
    """
    schema, colon, rest = clip_model.partition(":")
    if colon and schema in ("local-dir", "hf-hub"):
        raise WeightsError(
            f"clip_model={clip_model!r}: give the name of the model in open_clip, and {rest} (a folder here) as its weights, "
            "with `pretrained`"
        )
    name = clip_model.replace("/", "-")
    settings = model_settings(name)
    if settings is None:
        raise WeightsError(f"clip_model={clip_model!r} is not an open_clip model: {did_you_mean(name, model_names())}")
    return name, settings


def read_config(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: The file holds none.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}): correct that, or move it away") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): {_REMEDY}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no JSON object: {_REMEDY}")
    return content
