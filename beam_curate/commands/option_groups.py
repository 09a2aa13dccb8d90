"""Where `--help`, the shell and the console of Google Cloud show an option: one list for all commands."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

INPUT: Final = "Input"
OUTPUT: Final = "Output"
MORE: Final = "More"
"""Of options that are named nowhere here."""

GROUPS: Final[Mapping[str, Sequence[str]]] = {
    INPUT: ("input", "run", "scores", "duplicates", "against", "against_action", "image_extension", "exif_orientation",
            "max_pixels", "max_member_bytes", "max_shard_bytes", "path_column", "image_column", "key_column", "caption_column",
            "base", "beside", "class_folders"),
    "Models": ("model_dir", "clip_model", "pretrained", "quick_gelu", "preprocess", "second_model", "device", "precision",
               "batch_size", "model_copies", "decoder", "dali_device", "decode_threads"),
    "Scores": ("aesthetic_head", "nsfw_head", "nsfw_chain", "prompt", "head", "scorer", "caption_score", "quality"),
    "Rules": ("min_aesthetic", "max_nsfw", "min_side", "keep", "top", "top_fraction", "screen"),
    "Duplicates": ("dedup", "methods", "candidates", "keep_by", "eps", "n_clusters", "border", "max_distance",
                   "mirrored", "max_comparisons"),
    OUTPUT: ("output", "table_only", "format", "samples_per_shard", "samples_per_file", "shuffle_seed", "compression",
             "fields", "layout", "resize_shortest", "image_format", "encode_threads", "license", "dataset_name", "card",
             "croissant", "dry_run", "report"),
    "Resume": ("resume", "retry_failed", "overwrite"),
    "Dataflow": ("accelerator", "gpu_placement"),
}  # fmt: skip
_GROUP_OF: Final = {name: group for group, names in GROUPS.items() for name in names}
ORDER: Final = (*GROUPS, MORE)


def group_of(name: str, options: type[Any]) -> str:
    """The group of an option of a command.

    Args:
        name: Of the option.
        options: The options class of the command: --quality is of scores in one, and of encoded images in the others.
    """
    if name == "quality" and hasattr(options, "resize_shortest"):
        return OUTPUT
    return _GROUP_OF.get(name, MORE)
