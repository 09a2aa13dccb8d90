"""From a command line to an options object: one line for what is wrong with it.

Only the standard library is imported here, so that `--help` answers at once.
"""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

from beam_curate.commands.option_groups import ORDER, group_of
from beam_curate.commands.options import OptionError, flag_of, has_parts, option_fields, option_values, settings_of
from beam_curate.version import __version__

Options = TypeVar("Options")

# Options whose values are paths or URLs, or comma lists of them.
_PLACES: Final = frozenset(
    {
        "aesthetic_head",
        "against",
        "base",
        "duplicates",
        "input",
        "model_dir",
        "nsfw_head",
        "output",
        "pretrained",
        "report",
        "scores",
    }
)


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
        shown = f"{action.default:g}".replace("e+", "e") if isinstance(action.default, float) else "%(default)s"
        return f"{text} (default: {shown})"


def parser_of(options: type[Any], description: str, epilog: str) -> argparse.ArgumentParser:
    """The argument parser of an options class: a frozen dataclass with `option` and `required` fields."""
    epilog = f"{epilog}\n{PROGRESS}"
    parser = OneLineParser(description=description, epilog=epilog, formatter_class=_Formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"beam_curate {__version__}")
    fields = option_fields(options)
    wanted = [field.name for field in fields if field.metadata.get("required")]
    parser.usage = " ".join(["%(prog)s", *(f"--{name} {name.upper()}" for name in wanted), "[options]"])
    groups = {group_of(field, options) for field in fields}
    places = {group: parser.add_argument_group(group) for group in ORDER if group in groups}
    for field in fields:
        settings = settings_of(field)
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
        places[group_of(field, options)].add_argument(flag_of(field.name), dest=field.name, **settings)
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
    fields = option_fields(options)
    _refuse_missing([field.name for field in fields if field.metadata.get("required")], argv)
    namespace, rest = parser.parse_known_args(list(argv))
    words = [word.split("=", 1)[0] for word in argv]
    for field in fields:
        if field.metadata.get("once") and words.count(flag_of(field.name)) > 1:
            help = field.metadata["help"]
            raise OptionError(f"--{field.name} is given more than once; give all of it in one: {help}")
        if field.metadata.get("action") == "append":
            setattr(namespace, field.name, tuple(getattr(namespace, field.name) or ()))
        if field.metadata.get("required") and not str(getattr(namespace, field.name)).strip():
            raise OptionError(f"--{field.name} is empty; give a value")
    found: Options = _made(options, vars(namespace))
    values = option_values(found)
    given = frozenset(
        field.name
        for field in fields
        if flag_of(field.name) in words and ("dependent" in field.metadata or values[field.name] != field.default)
    )
    return found, rest, given


def check_places(options: Any) -> None:
    """Refuses URLs that no file system is for; Beam's options must have been set, since some of them have to do with it.

    Raises:
        OptionError: It names the option, the URL and the remedy.
    """
    from beam_curate.storage.schemes import SchemeError, check_scheme

    for name, value in option_values(options).items():
        for place in value.split(",") if name in _PLACES else ():
            try:
                check_scheme(place.strip())
            except SchemeError as error:
                raise OptionError(f"--{name} {error}") from error


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


def _made(options: Any, values: Mapping[str, Any]) -> Any:
    """An object of an options class, with its parts."""
    own = {}
    for field in dataclasses.fields(options):
        if has_parts(field):
            own[field.name] = tuple(_made(kind, values) for kind in field.metadata["parts"]())
        else:
            own[field.name] = values[field.name]
    return options(**own)


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
    """Refuses words that are not an option's value, such as the files of a pattern that the shell has expanded.

    Raises:
        OptionError: It names the first.
    """
    for word in left:
        if not word.startswith("-"):
            raise OptionError(
                f"{word!r} belongs to no option; put a pattern into quotes ('data/*.tar'), and commas between several values"
            )
