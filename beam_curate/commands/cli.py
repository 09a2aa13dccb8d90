"""The command `beam-curate`: one name for all commands, their options on the shell's TAB key, and the version."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from beam_curate.commands.endings import fail
from beam_curate.commands.options import OptionError
from beam_curate.commands.parsing import OneLineParser, parser_of

_PROGRAM: Final = "beam-curate"
_SHELLS: Final = ("bash", "zsh", "tcsh")


@dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        about: What it does, as `--help` lists it.
        module: The one with its `main`.
        options: Its options class, as module:Class; or the function that makes its parser, as module:function.
    """

    about: str
    module: str
    options: str

    def parser(self) -> argparse.ArgumentParser:
        """The parser of its options."""
        module, _, name = self.options.partition(":")
        found: Any = getattr(importlib.import_module(module), name)
        parser: argparse.ArgumentParser = parser_of(found, self.about, "") if isinstance(found, type) else found()
        return parser


COMMANDS: Final = {
    "curate": Command("score shards of images, and write the samples that pass", "beam_curate.commands.curate",
                      "beam_curate.commands.curate_options:CurateOptions"),
    "select": Command("select again from a score table by other rules, without a GPU", "beam_curate.commands.select",
                      "beam_curate.commands.select_options:SelectOptions"),
    "dedup": Command("find duplicates in a score table, and write the dataset without them", "beam_curate.commands.dedup",
                     "beam_curate.commands.dedup_options:DedupOptions"),
    "export": Command("write a finished run as a training loop reads it", "beam_curate.commands.export",
                      "beam_curate.commands.export_options:ExportOptions"),
    "pack": Command("make shards of images: a folder, a table of paths, Parquet with image bytes", "beam_curate.commands.pack",
                    "beam_curate.commands.pack_options:PackOptions"),
    "report": Command("write the report of a run again, or compare two runs in one page", "beam_curate.commands.report",
                      "beam_curate.commands.report:ReportOptions"),
    "fetch-models": Command("get the CLIP weights and the scoring heads", "beam_curate.commands.fetch_models",
                            "beam_curate.commands.fetch_models:parser"),
    "demo": Command("curate a small dataset of real photographs", "beam_curate.commands.demo",
                    "beam_curate.commands.demo:parser"),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that is named first; returns its exit status, 2 if there is no such command."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    if name in COMMANDS:
        sys.argv[0] = f"{_PROGRAM} {name}"  # how its `--help` calls it
        status: int = importlib.import_module(COMMANDS[name].module).main(words[1:])
        return status
    try:
        if name and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(COMMANDS)}"
            raise OptionError(f"there is no command {name!r}; {hint}")
        said = _parser().parse_args(words)
    except OptionError as error:
        return fail(error)
    if said.print_completion:
        print(_completion(said.print_completion))
    else:
        _parser().print_help()
    return 0


def _parser() -> argparse.ArgumentParser:
    from beam_curate.version import __version__

    listed = "\n".join(f"  {name:14}{command.about}" for name, command in COMMANDS.items())
    parser = OneLineParser(
        prog=_PROGRAM,
        usage="%(prog)s COMMAND [options]",
        description="Curates image datasets with Apache Beam.",
        epilog=f"commands:\n{listed}\n\n`%(prog)s COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"beam_curate {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="|".join(_SHELLS),
        choices=_SHELLS,
        help=f'print what makes the TAB key complete commands and options; in bash: eval "$({_PROGRAM} '
        '--print-completion bash)"',
    )
    return parser


def _completion(shell: str) -> str:
    """The script of a shell that completes commands, options and their choices."""
    import shtab

    parser = _parser()
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        parents = [command.parser()]
        commands.add_parser(name, parents=parents, add_help=False, description=command.about, help=command.about)
    return str(shtab.complete(parser, shell))
