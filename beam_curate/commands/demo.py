"""The demo: builds a small dataset from real photographs, curates it, and says where to look."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from beam_curate.commands import curate, fetch_models
from beam_curate.commands.endings import fail
from beam_curate.commands.options import OptionError
from beam_curate.commands.parsing import OneLineParser
from beam_curate.version import __version__

RULES = ["--min_aesthetic=4.5", "--max_nsfw=0.5", "--min_side=64", "--samples_per_shard=20"]
REAL = ["--clip_model=ViT-L-14", "--pretrained=openai"]
# Nothing to fetch: a small tower with random weights and random heads, to see the job work.
RANDOM = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]

MODELS_HELP = (
    "folder with the model files; default: the environment variable MODEL_DIR. Without either they are fetched into models/ of "
    "--folder (1.8 GB); where there is no network, a small random model takes their place"
)


def model_arguments(model_dir: str, folder: Path) -> list[str]:
    """The model options: real weights from `model_dir`, or from the hub if it answers within seconds, or random ones."""
    from beam_curate.clip.weights import hub_reachable

    if model_dir:
        return [*REAL, f"--model_dir={model_dir}"]
    if hub_reachable():
        fetched = str(folder / "models")
        if fetch_models.main(["--model_dir", fetched]) == 0:
            return [*REAL, f"--model_dir={fetched}"]
    print("no model directory is given and the hub cannot be reached: using a small random model", file=sys.stderr)
    return RANDOM


def parser() -> argparse.ArgumentParser:
    """The parser of the options."""
    parser = OneLineParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"beam_curate {__version__}")
    parser.add_argument("--folder", default="demo", help="where the demo's data and output go (default: demo)")
    parser.add_argument("--model_dir", default=os.environ.get("MODEL_DIR", ""), help=MODELS_HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the dataset, curates it and prints where to look; returns the exit status of the curation."""
    try:
        arguments = parser().parse_args(argv)
    except OptionError as error:
        return fail(error)
    from beam_curate.commands.demo_data import DemoDataError, build_demo_dataset

    folder = Path(arguments.folder)
    from beam_curate.runs.run import Run

    try:
        dataset = build_demo_dataset(folder / "data")
    except (DemoDataError, OSError) as error:
        return fail(f"--folder {folder}: {error}")
    print(f"built {dataset.samples} samples in {folder / 'data'}: real photographs, and some deliberately bad samples")
    output = folder / "out"
    command = [
        f"--input={dataset.pattern}",
        f"--output={output}",
        *model_arguments(arguments.model_dir, folder),
        *RULES,
        *(["--overwrite"] if Run(str(output)).is_begun else []),
    ]
    print(f"beam-curate curate {shlex.join(command)}", flush=True)
    status = curate.main(command)
    print(
        f"""Look at:
  {output}/00000.tar          the curated samples, every member as it was
  {output}/00000.parquet      their scores and embeddings
  {output}/scores/            the score table: all samples, also the rejected and failed ones, with the reasons
  {output}/summary.json       the counts and the configuration"""
    )
    return status
