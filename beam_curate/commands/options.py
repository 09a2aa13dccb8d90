"""What the commands share about options: typed fields, made into flags, checked before any work starts.

Only the standard library is imported here, so that `--help` answers at once.
"""

import argparse
import atexit
import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar, cast

from beam_curate.commands import interruption
from beam_curate.commands.option_groups import ORDER, group_of
from beam_curate.version import __version__

Options = TypeVar("Options")
Main = TypeVar("Main", bound=Callable[..., int])

_OWN_ERROR = re.compile(r"^beam_curate(?:\.\w+)+Error: (.+)", re.MULTILINE)


def comma_list(text: str) -> tuple[str, ...]:
    """The words of an option that takes a comma list; empty ones do not count."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


class OptionError(ValueError):
    """A wrong option: the message names the option, its value, and the remedy, on one line."""


def option(default: Any, help: str, **settings: Any) -> Any:
    """A field of an options class that becomes `--<name>`; settings go to argparse (choices, metavar, type, …)."""
    return dataclasses.field(default=default, metadata={"help": help, **settings})


def dependent(default: Any, help: str, **settings: Any) -> Any:
    """A field whose default depends on other options: its default's value counts as given where the user gives it."""
    return option(default, help, dependent=True, **settings)


def once(default: Any, help: str, **settings: Any) -> Any:
    """A field whose text holds a list or a condition: given twice, one of the two would be lost, so that is refused."""
    return option(default, help, once=True, **settings)


def required(help: str, **settings: Any) -> Any:
    """A field that the user must give."""
    return dataclasses.field(metadata={"help": help, "required": True, **settings})


def number_or_none(kind: type[float] | type[int]) -> Callable[[str], float | int | None]:
    """Parses a number, or `none`, which turns the option off."""

    def parse(text: str) -> float | int | None:
        return None if text.lower() == "none" else kind(text)

    parse.__name__ = f"{kind.__name__} (or none)"
    return parse


def several(text: str) -> tuple[str, ...]:
    """The values of an option that takes several, in one text with `;` between them; a `;` in double quotes is none.

    A template's parameter can be given only once. The quotes are those of the JSON behind a --scorer.
    """
    parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|[^;])+', text)
    return tuple(part.strip() for part in parts if part.strip())


def _truth(text: str) -> bool:
    """Parses true or false.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: give true or false")
    return text.lower() == "true"


PROGRESS: Final = (
    "--progress none|line|bar says on standard error how far the job is; default: a bar on a terminal, a line a minute "
    "elsewhere."
)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises an OptionError in place of the usage and the end of the process."""
        raise OptionError(message)


class _Formatter(argparse.HelpFormatter):
    """Adds the defaults that tell something: neither empty ones nor those that turn an option off."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = action.default is False or action.default in (None, "", (), argparse.SUPPRESS)
        if nothing or "default:" in text:
            return text
        return f"{text} (default: %(default)s)"


def parser_of(options: type[Any], description: str, epilog: str) -> argparse.ArgumentParser:
    """The argument parser of an options class: a frozen dataclass with `option` and `required` fields."""
    epilog = f"{epilog}\n{PROGRESS}"
    parser = OneLineParser(description=description, epilog=epilog, formatter_class=_Formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"beam_curate {__version__}")
    fields = dataclasses.fields(options)
    wanted = [field.name for field in fields if field.metadata.get("required")]
    parser.usage = " ".join(["%(prog)s", *(f"--{name} {name.upper()}" for name in wanted), "[options]"])
    groups = {group_of(field.name, options): None for field in fields}
    places = {group: parser.add_argument_group(group) for group in ORDER if group in groups}
    for field in fields:
        settings = dict(field.metadata)
        for own in ("dependent", "once"):
            settings.pop(own, None)
        if settings.get("action") == "store_true":
            # Also `--name=true`: a template's launcher gives every parameter a value.
            settings |= {"action": "store", "nargs": "?", "const": True, "default": False, "type": _truth}
            settings["metavar"] = "true|false"
        elif "required" in settings:
            settings.pop("default", None)
        elif settings.get("action") == "append":
            settings |= {"action": "extend", "type": several}
        else:
            settings["default"] = field.default
            settings.setdefault("type", type(field.default))
        places[group_of(field.name, options)].add_argument(f"--{field.name}", **settings)
    return parser


def parse(
    options: type[Options], argv: Sequence[str], description: str, epilog: str = ""
) -> tuple[Options, list[str], frozenset[str]]:
    """Parses a command line into an options object, the arguments left for Beam, and the names given by the user.

    An option with its default's value does not count as given, unless it is `dependent`: the Google Cloud console fills in
    every default that a template has, and sends it.

    Raises:
        OptionError: A value is wrong or a required option is missing.
    """
    parser = parser_of(options, description, epilog)
    own: type[Any] = options
    _refuse_missing([field.name for field in dataclasses.fields(own) if field.metadata.get("required")], argv)
    namespace, rest = parser.parse_known_args(list(argv))
    words = [word.split("=", 1)[0] for word in argv]
    for field in dataclasses.fields(own):
        if field.metadata.get("once") and words.count(f"--{field.name}") > 1:
            raise OptionError(
                f"--{field.name} is given more than once; give all of it in one: {field.metadata['help']}"
            )
        if field.metadata.get("action") == "append":
            setattr(namespace, field.name, tuple(getattr(namespace, field.name) or ()))
        if field.metadata.get("required") and not getattr(namespace, field.name):
            raise OptionError(f"--{field.name} is empty; give a value")
    found = options(**vars(namespace))
    named = {word[2:].split("=", 1)[0] for word in argv if word.startswith("--")}
    defaults = {field.name: field.default for field in dataclasses.fields(own) if "dependent" not in field.metadata}
    given = frozenset(name for name in named if name not in defaults or getattr(found, name) != defaults[name])
    return found, rest, given


def _refuse_missing(required: Sequence[str], argv: Sequence[str]) -> None:
    """Refuses a command line without a required option, and says which of its words may have been meant for it.

    Raises:
        OptionError: It names the option.
    """
    if {"-h", "--help", "--version"} & set(argv):
        return
    names = [word[2:].split("=", 1)[0] for word in argv if word.startswith("--")]
    for missing in (name for name in required if name not in names):
        (close,) = difflib.get_close_matches(missing, names, n=1) or [""]
        if close and close not in required:
            raise OptionError(f"--{missing} is missing; did you mean it by --{close}?")
        if argv and not argv[0].startswith("-"):
            raise OptionError(f"--{missing} is missing; did you mean --{missing} {argv[0]}?")
        raise OptionError(f"--{missing} is missing; give a value (see --help)")


def refuse_unknown(left: Sequence[str], own: Sequence[str], beam_flags: Sequence[str]) -> None:
    """Refuses options that neither this command nor Beam has.

    Args:
        left: The words that no parser has taken.
        own: The names of this command's options.
        beam_flags: The names of Beam's.

    Raises:
        OptionError: It names the word and close names.
    """
    for word in left:
        if word.startswith("-"):
            name = word.lstrip("-").split("=", 1)[0]
            close = difflib.get_close_matches(name, [*own, *beam_flags], n=3)
            hint = f"; did you mean --{' or --'.join(close)}?" if close else "; see --help"
            raise OptionError(f"unknown option {word.split('=', 1)[0]}{hint}")


def refuse_stray(left: Sequence[str]) -> None:
    """Refuses words that are no option's value, such as the files of a pattern that the shell has expanded.

    Raises:
        OptionError: It names the first.
    """
    for word in left:
        if not word.startswith("-"):
            raise OptionError(
                f"{word!r} belongs to no option; put a pattern into quotes ('data/*.tar'), and commas between several values"
            )


def printable(text: object) -> str:
    """A text on one line, with `?` for characters that would act on a terminal (escapes, directions of writing)."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in line)


def as_options(message: object) -> str:
    """An error of the library, which names arguments in backquotes, in the words of a command line: `output` is --output."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", r"--\1", str(message))


def fail(error: object) -> int:
    """Prints one line on standard error and gives the exit status of a wrong command."""
    print(f"error: {printable(as_options(error))}", file=sys.stderr)
    return 2


def gives_back(main: Main) -> Main:
    """A command that gives its output folder back at its end, however it ends; see `beam_curate.runs.claims`."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        finally:
            claims = sys.modules.get("beam_curate.runs.claims")
            if claims is not None:  # else it ended before anything was loaded
                claims.release_all()

    return cast(Main, run)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its status.

    An error of one of this project's own classes says what is wrong in a line (status 1); so does one in a worker process, whose
    traceback Beam makes the text of its own error. Any other error is a bug and keeps its traceback.
    """
    try:
        status = main()
    except KeyboardInterrupt:  # of a caller that does not `listen`
        print("error: interrupted", file=sys.stderr)
        status = 130
    except (OSError, ValueError, RuntimeError) as error:
        from_worker = _OWN_ERROR.findall(str(error)) if type(error) is RuntimeError else []
        if not from_worker and type(error).__module__.split(".")[0] != "beam_curate":
            raise
        print(f"error: {printable(as_options(from_worker[-1] if from_worker else error))}", file=sys.stderr)
        status = 1
    leave(status)


def leave(status: int) -> NoReturn:
    """Ends the process: exit handlers run, buffers are flushed, and the interpreter is not torn down.

    A thread of one of the native libraries sometimes outlives the interpreter and aborts the process ("terminate called
    without an active exception", status 134) after all work is done: 3 of 16 times after a short command (measured). A
    job's success must not be told as a failure.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    interruption.leave(status)
