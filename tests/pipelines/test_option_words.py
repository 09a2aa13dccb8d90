"""What a command line lacks, or has twice, is told before any work, with what may have been meant."""

import pytest

from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.options import OptionError
from beam_curate.commands.pack_options import PackOptions
from beam_curate.commands.parsing import parse
from beam_curate.commands.select_options import SelectOptions


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos/", "--output=out"], r"^--input is missing; did you mean --input photos/\?$"),
        (["--inptu", "photos/", "--output=out"], r"^--input is missing; did you mean it by --inptu\?$"),
        (["--input=photos/", "--outputs=out"], r"^--output is missing; did you mean it by --outputs\?$"),
        (["--input=photos/"], r"^--output is missing; give a value \(see --help\)$"),
        # --output is close to no word but itself, and is not taken for another one.
        (["--output=out"], r"^--input is missing; give a value"),
        ([], r"^--input is missing"),
    ],
)
def test_a_missing_option_is_guessed(words, said):
    with pytest.raises(OptionError, match=said):
        parse(PackOptions, words, "")


@pytest.mark.parametrize(
    ("kind", "words", "name"),
    [
        (SelectOptions, ["--scores=s", "--output=o", "--keep=side > 1", "--keep", "width > 2"], "keep"),
        (SelectOptions, ["--scores=s", "--output=o", "--prompt=a=b", "--prompt=c=d"], "prompt"),
        (CurateOptions, ["--input=i", "--output=o", "--prompt=a=b", "--prompt=c=d"], "prompt"),
        (CurateOptions, ["--input=i", "--output=o", "--layout=laion", "--layout=datacomp"], "layout"),
        (DedupOptions, ["--scores=s", "--output=o", "--methods=exact", "--methods=semantic"], "methods"),
        (ExportOptions, ["--input=i", "--output=o", "--format=mds", "--fields=caption", "--fields=.json"], "fields"),
    ],
)
def test_a_list_that_is_given_twice_would_lose_one(kind, words, name):
    with pytest.raises(OptionError, match=f"^--{name} is given more than once; give all of it in one: "):
        parse(kind, words, "")


def test_other_options_may_be_given_again_and_some_add_up():
    words = ["--scores=s", "--output=o", "--min_aesthetic=4", "--min_aesthetic=5", "--scorer=a:B", "--scorer=c:D"]
    found, _, _ = parse(SelectOptions, words, "")
    assert (found.min_aesthetic, found.scorer) == (5.0, ("a:B", "c:D"))
