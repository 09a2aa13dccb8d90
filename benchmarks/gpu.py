"""Checks and measures the model and the decoder on a GPU: embeddings, out of memory, images a second, MFU, nvJPEG.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --models ViT-B-32 --batch_sizes 16 --images 64    (does it run at all)

It needs neither network nor weights: the photographs are those of scikit-image, and weights are random unless `--pretrained`
names others. Checks that fail make the exit status 1; speeds do not.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

PARTS: Final = ("embeddings", "memory", "model", "pipeline", "decode")
PRECISIONS: Final = ("fp32", "bf16", "fp16")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda", help="cuda, or cpu to see that everything runs", choices=("cuda", "cpu")
    )
    parser.add_argument("--models", type=_words, default="ViT-L-14,ViT-B-32", help="of open_clip, a comma list")
    parser.add_argument("--pretrained", default="random", help="weights of every model, as --pretrained of curate.py")
    parser.add_argument("--model_dir", default=None, help="folder with the weights")
    parser.add_argument("--precisions", type=_words, default="fp32,bf16,fp16", help="a comma list")
    parser.add_argument("--batch_sizes", type=_words, default="32,64,128,256", help="a comma list")
    parser.add_argument("--images", type=int, default=8192, help="images of the pipeline's long run, and to decode")
    parser.add_argument("--compared", type=int, default=72, help="images whose embeddings are compared with the CPU's")
    parser.add_argument(
        "--decoders", type=_words, default="fast", help="of the pipeline, a comma list: fast, scaled, dali"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each speed of the model alone")
    parser.add_argument("--peak_tflops", type=float, help="what the GPU can do, where its name is not known here")
    parser.add_argument("--only", type=_words, default=",".join(PARTS), help="a comma list of parts")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    for name, known in (
        ("only", PARTS),
        ("precisions", PRECISIONS),
        ("decoders", ("fast", "pillow", "scaled", "dali")),
    ):
        unknown = sorted(set(getattr(options, name)) - set(known))
        if unknown or not getattr(options, name):
            parser.error(f"--{name} has {', '.join(unknown) or 'nothing'}; choose from {', '.join(known)}")
    if not all(size.isdecimal() and int(size) >= 2 for size in options.batch_sizes) or not options.batch_sizes:
        parser.error(f"--batch_sizes is {','.join(options.batch_sizes)}; give whole numbers of at least 2")
    options.batch_sizes = [int(size) for size in options.batch_sizes]
    for name, low in (("images", 16), ("compared", 1), ("seconds", 0)):
        if getattr(options, name) < low:
            parser.error(f"--{name} is {getattr(options, name)}; give at least {low}")
    return options


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as pipelines/curate.py does; read when torch is loaded
    import gpu_runs
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but torch sees no GPU here; --device cpu shows that everything runs")
    settings = gpu_runs.Settings(options.device, options.pretrained, options.model_dir, options.seconds)
    name = gpu_runs.device_name(options.device)
    precisions = [each for each in options.precisions if (options.device, each) != ("cpu", "fp16")]
    large = max(options.batch_sizes)

    def models(run: Callable[..., Any], *choices: Iterable[Any]) -> list[Any]:
        """Runs for every model and each of the choices."""
        calls = [(model,) for model in options.models]
        for choice in choices:
            calls = [(*call, each) for call in calls for each in choice]
        return [_said(run(settings, *call), call) for call in calls]

    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "pretrained": options.pretrained}
    result |= {"cores": os.cpu_count(), "load": os.getloadavg()[1]}
    if "embeddings" in options.only:
        lines = models(lambda *call: list(gpu_runs.compare_embeddings(*call, precisions, options.compared)))
        result["embeddings"] = [line for each in lines for line in each]
    if "memory" in options.only:
        result["memory"] = models(gpu_runs.out_of_memory, [large])
    if "model" in options.only:
        speeds = models(gpu_runs.model_speed, precisions, options.batch_sizes)
        result["model"] = [gpu_runs.with_mfu(speed, name, options.peak_tflops) for speed in speeds]
    if "pipeline" in options.only:
        fastest = "bf16" if "bf16" in precisions else precisions[0]
        with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as folder:
            paths = gpu_runs.photo_tars(Path(folder), options.images)
            speeds = models(
                lambda *call: gpu_runs.pipeline_speed(*call, paths, options.images),
                [fastest],
                options.batch_sizes,
                options.decoders,
            )
        result["pipeline"] = [gpu_runs.with_mfu(speed, name, options.peak_tflops) for speed in speeds]
    if "decode" in options.only:
        result["decode"] = [
            line for size in ("S", "M") for line in gpu_runs.compare_decoders(settings, size, options.images)
        ]
    return result


def _said(value: Any, call: Sequence[Any]) -> Any:
    print("done:", *call, file=sys.stderr, flush=True)
    return value


_COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "embeddings": ("model", "precision", "images", "cosine_min", "cosine_mean", "limit", "passed"),
    "memory": ("model", "batch_size", "real", "ballast_gb", "calls", "cosine_min", "same_bits", "passed"),
    "model": ("model", "precision", "batch_size", "images_per_s", "tflops", "mfu", "gpu_gb"),
    "pipeline": ("model", "precision", "batch_size", "decoder", "images", "images_per_s", "tflops", "mfu"),
    "decode": ("decoder", "size", "images_per_s", "by_dali", "max_levels", "mean_levels", "passed", "not_run"),
}
_TITLES: Final = {
    "embeddings": "Embeddings against those of the CPU in fp32",
    "memory": "Out of memory: images in each call of the model",
    "model": "The model alone",
    "pipeline": "The whole pipeline, tar to tar",
    "decode": "Decoding, differences to Pillow in levels of 255",
}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 100 else f"{value:.4g}" if value < 0.9 or value > 1 else f"{value:.5f}"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _report(result: Mapping[str, Any]) -> None:
    print(f"{result['device']}, torch {result['torch']}, {result['cores']} cores, weights {result['pretrained']}")
    for part, columns in _COLUMNS.items():
        lines = result.get(part)
        if not lines:
            continue
        shown = [name for name in columns if any(name in line for line in lines)]
        rows = [shown, *([_cell(line.get(name)) for name in shown] for line in lines)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(shown))]
        print(f"\n{_TITLES[part]}")
        for row in rows:
            print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; returns 1 if a check failed."""
    options = _arguments(argv)
    result = _measure(options)
    _report(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    failed = [line for part in _COLUMNS for line in result.get(part, ()) if line.get("passed") is False]
    if failed:
        print(f"{len(failed)} checks FAILED", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
