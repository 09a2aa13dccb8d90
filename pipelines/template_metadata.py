"""Writes the metadata of the Flex Templates from the options of the commands, so that the two cannot drift.

    python pipelines/template_metadata.py --write     # after a change of options
    python pipelines/template_metadata.py --check     # says what differs; what the tests do

Source: Google Cloud, "Configure Flex Templates" (docs.cloud.google.com/dataflow/docs/guides/templates), and the message
TemplateMetadata of its API dataflow/v1beta3, whose field names these are.
"""

import sys

if __name__ == "__main__" and not __package__:
    del sys.path[0]  # the scripts' folder, where `select` is not the standard library's

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.option_groups import group_of
from beam_curate.commands.options import option_fields, settings_of
from beam_curate.commands.pack_options import PackOptions
from beam_curate.commands.select_options import SelectOptions

FOLDER: Final = Path(__file__).resolve().parent.parent / "templates"

# A template's job reads and writes where its workers can: a bucket. A pattern may be a comma list, with braces.
_BUCKET: Final = r"^(gs|s3)://[^/\s]+/\S+$"
_SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "input": {"paramType": "TEXT", "regexes": [_BUCKET]},
    "scores": {"paramType": "TEXT", "regexes": [_BUCKET]},
    "output": {"paramType": "TEXT", "regexes": [_BUCKET]},
    "duplicates": {"paramType": "TEXT", "regexes": [_BUCKET]},
    "against": {"paramType": "TEXT", "regexes": [_BUCKET]},
}
_NUMBER_OR_NONE: Final = r"^(none|-?\d+(\.\d+)?)$"
_WHOLE: Final = r"^\d+$"

_WORDS: Final = {"clip": "CLIP", "dali": "DALI", "dir": "directory", "exif": "EXIF", "gpu": "GPU", "max": "maximum",
                 "min": "minimum", "nsfw": "NSFW"}  # fmt: skip

# Beam's own options that a launch sets and gcloud has no flag for.
_BEAM: Final = (
    {
        "name": "sdk_container_image",
        "label": "Image of the workers",
        "helpText": "the template's own image, its --image when it was built; Beam's stock image lacks torch and this package",
        "isOptional": False,
        "paramType": "TEXT",
        "regexes": [r"^\S+/\S+$"],
    },
    {
        "name": "disk_size_gb",
        "label": "Disk of a worker (GB)",
        "helpText": "at least 50 with GPUs, for the image; default: 100 with an accelerator, else Dataflow's",
        "isOptional": True,
        "paramType": "NUMBER",
        "regexes": [_WHOLE],
    },
    {
        "name": "number_of_worker_harness_threads",
        "label": "Threads of a worker process",
        "helpText": "bundles that a process works on at a time; default: by accelerator, else Dataflow's",
        "isOptional": True,
        "paramType": "NUMBER",
        "regexes": [_WHOLE],
    },
    {
        "name": "element_processing_timeout_minutes",
        "label": "Minutes for one element",
        "helpText": "a worker process that works on one element for longer is ended and started again; default: 120 with an "
        "accelerator, else no limit",
        "isOptional": True,
        "paramType": "NUMBER",
        "regexes": [_WHOLE],
    },
    {
        "name": "dataflow_service_options",
        "label": "Dataflow service options",
        "helpText": "such as enable_google_cloud_profiler",
        "isOptional": True,
        "paramType": "TEXT",
    },
)


def metadata(options: type[Any], name: str, description: str) -> dict[str, Any]:
    """The metadata of one template.

    Args:
        options: The options class of the command: a dataclass with `option` and `required` fields.
        name: Of the template, as a console shows it.
        description: What it does, one sentence.
    """
    fields = [field for field in option_fields(options) if field.name not in _LOCAL]
    own = [_parameter(field) | {"groupName": group_of(field, options)} for field in fields]
    beam = [parameter | {"groupName": "Dataflow"} for parameter in _BEAM]
    return {"name": name, "description": description, "streaming": False, "parameters": [*own, *beam]}


def _parameter(field: Any) -> dict[str, Any]:
    settings = settings_of(field)
    # A command may do without a folder to write to, with --dry_run; a job that writes nothing is of no use.
    optional = not settings.get("required", False) and field.name != "output"
    found = {"name": field.name, "label": _label(field.name), "helpText": settings["help"], "isOptional": optional}
    found |= _SHAPES.get(field.name) or _shape(field.default, settings)
    if "dependent" in field.metadata:  # the console would send it as given, and an accelerator could not choose it
        found["helpText"] += f" (default: {_text(field.default)}, or as the accelerator wants)"
    elif optional and field.default not in ("", ()):
        found["defaultValue"] = _text(field.default)
    return found


def _shape(default: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    if "choices" in settings:
        return {
            "paramType": "ENUM",
            "enumOptions": [{"value": choice, "label": choice} for choice in settings["choices"]],
        }
    if isinstance(default, bool):
        return {"paramType": "BOOLEAN", "regexes": ["^(true|false)$"]}
    if "(or none)" in getattr(settings.get("type"), "__name__", ""):
        return {"paramType": "TEXT", "regexes": [_NUMBER_OR_NONE]}
    if isinstance(default, int):
        return {"paramType": "NUMBER", "regexes": [_WHOLE]}
    return {"paramType": "TEXT"}


def _text(default: Any) -> str:
    """A default as a launch would give it, and as `--help` shows it."""
    if isinstance(default, float):
        return f"{default:g}".replace("e+", "e")
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def _label(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


# What only prints to a terminal.
_LOCAL: Final = ("dry_run",)

_COMMANDS: Final[Mapping[str, tuple[type[Any], str, str]]] = {
    "curate": (
        CurateOptions,
        "Curate an image dataset",
        "Reads WebDataset shards, embeds and scores the images with CLIP, filters them, and writes curated shards.",
    ),
    "select": (
        SelectOptions,
        "Select again from scored images",
        "Reads the score table of a finished run, judges it by other rules without a model, and writes the selected shards.",
    ),
    "dedup": (
        DedupOptions,
        "Remove duplicates from scored images",
        "Finds duplicates in the score table of a finished run, or samples of another dataset, and writes the shards without "
        "them.",
    ),
    "export": (
        ExportOptions,
        "Export curated images for training",
        "Reads a finished run and writes WebDataset, TFRecord or MDS files; if asked for with smaller images, or shuffled.",
    ),
    "pack": (
        PackOptions,
        "Pack images into shards",
        "Reads a folder of images, tables of paths, or Parquet with image bytes, and writes WebDataset shards.",
    ),
}


def templates() -> dict[str, dict[str, Any]]:
    """All templates, by the name of their file."""
    return {f"{command}.json": metadata(*about) for command, about in _COMMANDS.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the files; returns the exit status, 1 if a file is not as it should be."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="write the files")
    mode.add_argument("--check", action="store_true", help="compare the files with the options; write nothing")
    arguments = parser.parse_args(argv)
    wrong = False
    for name, value in templates().items():
        path = FOLDER / name
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        found = path.read_text() if path.exists() else ""
        if arguments.write:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
        elif found != text:
            wrong = True
            difference = difflib.unified_diff(
                found.splitlines(), text.splitlines(), str(path), "the options", lineterm="", n=1
            )
            print("\n".join(difference), file=sys.stderr)
            print(f"error: templates/{name} is not what the options say; run make templates", file=sys.stderr)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
