"""Configurations as version 0.1.0 wrote them: one flat object by the names of the commands' options, brought into today's groups.

A value that is not what it should be is passed on as it is, for whoever checks the shape.
"""

from collections.abc import Mapping
from typing import Any, Final

_GROUPS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("clip_model", "batch_size", "precision", "decoder", "exif_orientation", "image_extension",
                     "max_pixels", "max_member_bytes", "max_shard_bytes"), "scoring"),
    **dict.fromkeys(("prompt", "quality", "caption_score", "heads", "scorers"), "scores"),
    **dict.fromkeys(("min_aesthetic", "max_nsfw", "min_side", "keep", "screen", "top", "top_fraction"), "rules"),
    **dict.fromkeys(("samples_per_file", "samples_per_shard", "shuffle_seed"), "files"),
    **dict.fromkeys(("eps", "n_clusters", "border", "max_distance", "keep_by", "candidates", "against",
                     "against_action"), "duplicates"),
}  # fmt: skip
"""By option, the group that it is in now."""
_NAMES: Final[Mapping[str, str]] = {"samples_per_shard": "samples_per_file", "against_action": "action"}
_OF_TABLES: Final = ("methods", "eps", "max_distance", "keep_by", "between_datasets", "action")
"""What the summary of a duplicates table says of the search; the rest are counts."""
_OF_FORMATS: Final = (
    "format",
    "compression",
    "resize_shortest",
    "image_format",
    "quality",
    "pillow",
    "columns",
    "members",
)


def grouped(value: Any) -> Any:
    """A configuration of any version in today's shape."""
    if not isinstance(value, dict):
        return value
    if "step" in value:
        return _with_sources(value)
    step = "score"
    if "source" in value:
        step = "deduplicate" if "methods" in value else "export" if "columns" in value else "select"
    found: dict[str, Any] = {"step": step}
    left = dict(value)
    if step == "export":
        found["files"] = _format({name: left.pop(name) for name in _OF_FORMATS if name in left})
    duplicates = _duplicates(left)
    for name in [name for name in left if name in _GROUPS]:
        found.setdefault(_GROUPS[name], {})[_NAMES.get(name, name)] = left.pop(name)
    if "files" in left:
        found["files"] = {**found.get("files", {}), **_format(left.pop("files"))}
    searched = found.pop("duplicates", {})
    if duplicates:
        found["duplicates"] = {**searched, **duplicates}
    found |= left
    return _with_sources(found)


def _format(description: Any) -> dict[str, Any]:
    """A format's description, and how its files are named, which was not noted."""
    said = {"format": description}
    if isinstance(description, dict) and description.get("format") == "tfrecord":
        plain = description.get("compression") == "none"
        said |= {"extension": "tfrecord" if plain else "tfrecord.gz", "beside": [".tfindex"] * plain, "indexed": False}
    return said


def rule_of_table(said: Mapping[str, Any]) -> dict[str, Any]:
    """A rule about duplicates from what the summary of the table that was applied says."""
    rule = {name: said[name] for name in _OF_TABLES if name in said}
    return {**rule, "found": {name: value for name, value in said.items() if name not in _OF_TABLES}}


def _duplicates(left: dict[str, Any]) -> dict[str, Any]:
    """Takes out what was looked for, or what the table that was applied says."""
    table, against_run = left.pop("duplicates", None), left.pop("against_run", None)
    methods = left.pop("dedup", None) or left.pop("methods", None)
    if isinstance(table, dict):
        return rule_of_table(table)
    if not methods:
        return {}
    names = methods.split(",") if isinstance(methods, str) else methods
    found = {"methods": [name.strip() for name in names if name.strip()] if isinstance(names, list) else names}
    found["between_datasets"] = bool(left.get("against"))
    return found | ({"against_run": against_run} if against_run else {})


def _with_sources(found: dict[str, Any]) -> dict[str, Any]:
    if "source" in found:
        found = {**found, "source": _source(found["source"])}
    rule = found.get("duplicates")
    if isinstance(rule, dict) and "against_run" in rule:
        found = {**found, "duplicates": {**rule, "against_run": _source(rule["against_run"])}}
    return found


def _source(value: Any) -> Any:
    if not isinstance(value, dict) or "configuration" not in value:
        return value
    return {**value, "configuration": grouped(value["configuration"])}
