"""Where `--help`, the shell and the console of Google Cloud show an option: one list for all commands."""

from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any, Final

DUPLICATES: Final = "Duplicates"
INPUT: Final = "Input"
OUTPUT: Final = "Output"
MORE: Final = "More"
"""Of options that are named nowhere here."""

GROUPS: Final[Mapping[str, Sequence[str]]] = {
    INPUT: ("input", "run", "scores", "duplicates", "against", "against_action", "class_folders", "beside", "path_column",
            "image_column", "key_column", "caption_column", "base", "exif_orientation", "max_pixels", "max_member_bytes",
            "max_shard_bytes", "image_extension"),
    "Models": ("model_dir", "clip_model", "pretrained", "quick_gelu", "preprocess", "second_model", "batch_size", "device",
               "precision", "model_copies", "decoder", "dali_device", "decode_threads"),
    "Scores": ("aesthetic_head", "nsfw_head", "nsfw_chain", "prompt", "head", "scorer", "caption_score", "quality"),
    "Rules": ("min_aesthetic", "max_nsfw", "min_side", "keep", "top", "top_fraction", "screen"),
    DUPLICATES: ("dedup", "methods", "candidates", "keep_by", "max_comparisons"),
    OUTPUT: ("output", "table_only", "layout", "format", "samples_per_shard", "samples_per_file", "shuffle_seed",
             "compression", "resize_shortest", "image_format", "fields", "license", "dataset_name", "card", "croissant",
             "encode_threads", "dry_run", "report"),
    "Resume": ("resume", "retry_failed", "overwrite"),
    "Dataflow": ("accelerator", "gpu_placement"),
}  # fmt: skip
_GROUP_OF: Final = {name: group for group, names in GROUPS.items() for name in names}
ORDER: Final = (*GROUPS, MORE)


def group_of(field: Field[Any], options: type[Any]) -> str:
    """The group of an option of a command.

    Args:
        field: Of the option.
        options: The options class of the command: --quality is of scores in one, and of encoded images in the others.
    """
    if field.name == "quality" and hasattr(options, "resize_shortest"):
        return OUTPUT
    return _GROUP_OF.get(field.name) or str(field.metadata.get("group", MORE))


def place_of(field: Field[Any], options: type[Any]) -> tuple[int, int]:
    """Where in `--help` an option stands: that of its group, and in it; what is named nowhere here comes last in its group."""
    group = group_of(field, options)
    named = GROUPS.get(group, ())
    name = "image_format" if field.name == "quality" else field.name
    return ORDER.index(group), named.index(name) if name in named else len(named)
