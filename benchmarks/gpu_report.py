"""What gpu.py prints, and the file that it writes: both part by part, so that a run that is cut short has told what it knows."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "embeddings": ("model", "precision", "images", "cosine_min", "cosine_mean", "limit", "passed"),
    "neighbours": ("model", "precision", "batch_size", "moved", "part", "passed"),
    "memory": (
        *(
            "model",
            "precision",
            "batch_size",
            "real",
            "need_gb",
            "free_gb",
            "calls",
            "cosine_min",
            "same_bits",
            "passed",
        ),
    ),
    "model": ("model", "precision", "batch_size", "images_per_s", "tflops", "mfu", "gpu_gb"),
    "pipeline": (
        *(
            "model",
            "precision",
            "batch_size",
            "decoder",
            "threads",
            "images",
            "images_per_s",
            "tflops",
            "mfu",
            "gpu_gb",
        ),
    ),
    "decode": (
        *("decoder", "size", "images_per_s", "by_dali", "max_levels", "mean_levels"),
        *("batch", "clean_ms", "one_bad_ms", "same_bits", "nvjpeg", "passed"),
    ),
    "copies": (
        *(
            "model",
            "precision",
            "batch_size",
            "copies",
            "mps",
            "images_per_s",
            "same_bits",
            "after_kill",
            "after_loss",
            "passed",
        ),
    ),
}
_TITLES: Final = {
    "embeddings": "Embeddings against those of the CPU in fp32",
    "neighbours": "An image's embedding in another place, and in a batch that black images fill up: largest differences",
    "memory": "Out of memory: images in each call of the model",
    "model": "The model alone",
    "pipeline": "The whole pipeline, tar to tar",
    "copies": "Copies of the model, and after one was killed, and after one has lost its GPU",
    "decode": "Decoding, differences to Pillow in levels of 255",
}
PARTS: Final = tuple(_COLUMNS)


def save(file: Path, result: Mapping[str, Any]) -> None:
    """Writes the figures; the file is whole at any time."""
    new = file.with_name(file.name + ".part")
    new.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(new, file)


def show(part: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Prints a part: its figures as a table, and below it what has failed and what was left out."""
    print(f"\n{_TITLES[part]}")
    figures = [line for line in lines if not _why(line)]
    shown = [name for name in _COLUMNS[part] if any(line.get(name) is not None for line in figures)]
    rows = [shown, *([_cell(line.get(name)) for name in shown] for line in figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(shown))]
    for row in rows if figures else []:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for line in lines:
        if _why(line):
            of = " ".join(_cell(line[name]) for name in _COLUMNS[part] if name in line and name != "passed")
            print(f"{of}: {'FAILED' if line.get('passed') is False else 'not run'}: {_why(line)}")
    print(end="", flush=True)


def table_of_docs(result: Mapping[str, Any], dollars_per_hour: float | None) -> str | None:
    """The line of this machine for the table of docs/dataflow.md, with its heading; None without both speeds.

    The model's is its best one, in the first model's lines; the processor's is that of the decoder `fast` at 1024x768 on all
    cores; a worker is as fast as the slower of the two. With a price it says what a million images cost.
    """
    models = [line for line in result.get("model", []) if line.get("images_per_s")]
    decoded = [line for line in result.get("decode", []) if (line.get("decoder"), line.get("size")) == ("fast", "M")]
    if not models or not decoded:
        return None
    best = max(line["images_per_s"] for line in models if line["model"] == models[0]["model"])
    both = (best, decoded[0]["images_per_s"])
    cells = [
        f"{result['device']}, {result['cores']} vCPUs, {models[0]['model']}",
        *(f"{speed:.0f}" for speed in (*both, min(both))),
        f"{1e6 / min(both) / 3600:.2f}",
    ]
    heading = ["GPU, machine", "model, img/s", "vCPUs, img/s", "worker, img/s", "hours for a million"]
    if dollars_per_hour:
        heading += ["worker, $/h", "$ for a million"]
        cells += [f"{dollars_per_hour:.2f}", f"{dollars_per_hour / 3600 * 1e6 / min(both):.1f}"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), cells))


def _why(line: Mapping[str, Any]) -> str | None:
    """Why a line has no figures."""
    return line.get("failed") or line.get("not_run")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 100 else f"{value:.4g}" if value < 0.9 or value > 1 else f"{value:.5f}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
