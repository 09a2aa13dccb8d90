"""Checks and measures the model and the decoder on a GPU: embeddings, out of memory, images a second, MFU, copies, nvJPEG.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --device cpu --models ViT-B-32 --batch_sizes 16 --images 64    (does it run at all)

It needs neither network nor weights: the photographs are those of scikit-image, and weights are random unless `--pretrained`
names others. Every part is printed when it ends, and the file is written after every line. A measurement that fails does not
keep the next ones from running. Failures and checks that fail make the exit status 1; speeds do not.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from gpu_report import PARTS, save, show, table_of_docs

from beam_curate.threads import usable_cores

_PRECISIONS: Final = ("fp32", "bf16", "fp16")
_DECODERS: Final = ("fast", "pillow", "scaled", "dali")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, or cpu to see that everything runs", choices=("cuda", "cpu"))
    add("--models", type=_words, default="ViT-L-14,ViT-B-32", help="of open_clip, a comma list")
    add("--pretrained", default="random", help="weights of every model, as --pretrained of curate.py")
    add("--model_dir", default=None, help="folder with the weights")
    add(
        "--precisions",
        type=_words,
        default="auto",
        help="fp32, bf16, fp16; auto is those that the device computes natively",
    )
    add("--batch_sizes", type=_words, default="32,64,128,256", help="a comma list")
    add(
        "--images",
        type=int,
        default=8192,
        help="to decode, and of the pipeline's long run; with fewer than 4 x threads x batch size its batches are not full",
    )
    add("--compared", type=int, default=72, help="images whose embeddings are compared with the CPU's")
    add("--decoders", type=_words, default="fast", help=f"of the pipeline, a comma list: {', '.join(_DECODERS)}")
    add("--threads", type=int, default=min(8, usable_cores()), help="bundles of the pipeline at the same time")
    add("--copies", type=_words, default="2,4", help="of the model, a comma list")
    add("--seconds", type=float, default=3.0, help="for each speed of the model alone")
    add("--peak_tflops", type=float, help="what the GPU can do, where its name is not known here")
    add("--dollars_per_hour", type=float, help="what the machine costs, for the table")
    add("--only", type=_words, default=",".join(PARTS), help="a comma list of parts")
    add("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    for name, known in (("only", PARTS), ("precisions", ("auto", *_PRECISIONS)), ("decoders", _DECODERS)):
        unknown = sorted(set(getattr(options, name)) - set(known))
        if unknown or not getattr(options, name):
            parser.error(f"--{name} has {', '.join(unknown) or 'nothing'}; choose from {', '.join(known)}")
    for name, least in (("batch_sizes", 2), ("copies", 1)):
        numbers = getattr(options, name)
        if not all(number.isdecimal() and int(number) >= least for number in numbers) or not numbers:
            parser.error(f"--{name} is {','.join(numbers)}; give whole numbers of at least {least}")
        setattr(options, name, [int(number) for number in numbers])
    if options.device == "cpu" and options.precisions == ["fp16"]:
        parser.error("--precisions is fp16, which is slow on a CPU and refused there; give fp32 or bf16")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json is {options.json}, in a folder that is not there; make it first")
    for name, low in (("threads", 1), ("images", max(16, 4 * options.threads)), ("compared", 1), ("seconds", 0)):
        if getattr(options, name) < low:
            parser.error(f"--{name} is {getattr(options, name)}; give at least {low}")
    return options


def _settings(options: argparse.Namespace) -> Any:
    """What all measurements share; finishes the options with what the device tells, and refuses unknown models.

    Raises:
        SystemExit: There is no GPU, or a model or its weights cannot be had.
    """
    import gpu_runs
    import torch

    from beam_curate.clip.model_description import describe_model
    from beam_curate.cuda import problem

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"error: --device cuda, but torch can use no GPU here: {problem()}; --device cpu shows that everything runs"
        )
    if "auto" in options.precisions:
        options.precisions = gpu_runs.usual_precisions(options.device)
    options.precisions = [each for each in options.precisions if (options.device, each) != ("cpu", "fp16")]
    options.fastest = gpu_runs.fastest(options.device, options.precisions)
    for model in options.models:
        try:
            describe_model(model, options.pretrained, model_dir=options.model_dir)
        except ValueError as error:
            print(f"error: --models {model} with --pretrained {options.pretrained}: {error}", file=sys.stderr)
            raise SystemExit(2) from error
    weights = (options.pretrained, options.model_dir)
    return gpu_runs.Settings(options.device, *weights, options.seconds, options.threads, options.peak_tflops)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts; returns 1 if a check or a measurement failed."""
    options = _arguments(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as pipelines/curate.py does; read when torch is loaded
    settings = _settings(options)
    import gpu_parts
    import torch

    result: dict[str, Any] = {"device": settings.name, "torch": torch.__version__, "pretrained": options.pretrained}
    result |= {"cores": usable_cores(), "load": os.getloadavg()[1], "complete": False}
    print(
        f"{settings.name}, torch {torch.__version__}, {usable_cores()} cores, weights {options.pretrained}", flush=True
    )

    def keep(**more: Any) -> None:
        result.update(more)
        if options.json:
            save(options.json, result)

    keep()  # a file that cannot be written is found before the work
    failed = 0
    with tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as folder:
        for part in (part for part in PARTS if part in options.only):
            lines: list[gpu_parts.Line] = []
            for job in gpu_parts.jobs(part, options, settings, Path(folder)):
                for line in job.lines():
                    lines.append(line)
                    keep(**{part: lines})
                print("done:", part, *job.of.values(), file=sys.stderr, flush=True)
            show(part, lines)
            failed += sum(line.get("passed") is False for line in lines)
    keep(complete=True)
    if table := table_of_docs(result, options.dollars_per_hour):
        print(f"\nFor the table of docs/dataflow.md\n{table}")
    if failed:
        print(f"{failed} checks or measurements FAILED", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
