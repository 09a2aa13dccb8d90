"""Gets the CLIP weights and the scoring heads from their publishers into a model directory, and verifies them.

    beam-curate fetch-models --model_dir models/

Run it again to go on after an interruption; what is there and right is not fetched again. Where there is no network
it says which files to get and where to put them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from beam_curate.commands.endings import as_options, fail
from beam_curate.commands.options import OptionError, comma_list
from beam_curate.commands.parsing import OneLineParser
from beam_curate.version import __version__

PARTS = ("clip", "aesthetic", "nsfw")


def parser() -> argparse.ArgumentParser:
    """The parser of the options."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"beam_curate {__version__}")
    parser.add_argument("--model_dir", required=True, help="where to put the files; made if it is not there")
    parser.add_argument("--clip_model", default="ViT-L-14", help="open_clip's name of the model (default: ViT-L-14)")
    parser.add_argument(
        "--pretrained",
        default="openai",
        help="open_clip's tag of its weights (default: openai; the heads were trained on the embeddings of these)",
    )
    parser.add_argument("--only", default=",".join(PARTS), help="a comma list of clip, aesthetic, nsfw (default: all)")
    parser.add_argument("--github_url", default="", help="a mirror of https://raw.githubusercontent.com")
    parser.add_argument("--hub_url", default="", help="a mirror of https://huggingface.co (default: HF_ENDPOINT)")
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the options.

    Raises:
        OptionError: One is wrong; it names the option.
    """
    options = parser().parse_args(argv)
    chosen = list(comma_list(options.only))
    unknown = [part for part in chosen if part not in PARTS]
    if unknown or not chosen:
        raise OptionError(
            f"--only {','.join(unknown) or 'is empty'}: it can be {', '.join(PARTS)}, or several with commas"
        )
    options.only = chosen
    if "://" in options.model_dir:
        raise OptionError(f"--model_dir {options.model_dir}: fetch into a local directory, then copy it there")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Fetches the files; gives the exit status.

    0: all are there and verified. 1: something could not be had. 2: a wrong option, before any work.
    """
    try:
        options = parse(argv)
    except OptionError as error:
        return fail(error)
    # After the options are read: these bring in Beam and torch, and --help should not wait for them.
    from beam_curate.heads import fetching
    from beam_curate.storage.downloading import DownloadError

    if options.pretrained != "openai" and options.only != ["clip"]:
        print(
            f"note: LAION's heads were trained on embeddings of OpenAI's weights; scores with --pretrained "
            f"{options.pretrained} are on an unknown scale",
            file=sys.stderr,
        )
    try:
        fetching.fetch_models(
            Path(options.model_dir),
            options.clip_model,
            options.pretrained,
            options.only,
            github=options.github_url or fetching.GITHUB,
            hub=options.hub_url,
            report=lambda line: print(as_options(line)),
        )
    except (DownloadError, ValueError) as error:
        print(f"error: {as_options(error)}", file=sys.stderr)
        return 1
    return 0
