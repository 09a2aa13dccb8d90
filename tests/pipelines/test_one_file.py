"""A new method to find duplicates, format or layout is a new file: the commands take it with nothing else changed."""

import json
import sys
import textwrap

import pytest

from beam_curate.commands import dedup, duplicate_methods, export, select
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.options import option_fields
from beam_curate.duplicates import methods
from beam_curate.export import formats
from beam_curate.runs import layouts
from beam_curate.runs.run import Run
from tests.conftest import encoded, photo, tar_bytes
from tests.support.exporting_runs import curated

SIZES = {"a": (40, 30), "b": (41, 31), "c": (60, 50), "d": (120, 90)}

METHOD = '''
    """Pictures of about the same size are duplicates."""
    import hashlib
    from dataclasses import dataclass, replace
    from typing import ClassVar
    import pyarrow as pa
    from beam_curate.duplicates.digests import EqualDigests

    @dataclass(frozen=True)
    class SameSize(EqualDigests):
        step: int = 1
        name: ClassVar[str] = "same_size"
        place: ClassVar[int] = 50
        alike: ClassVar[str] = "about the same size"
        columns: ClassVar[tuple[str, ...]] = ("width", "height")

        def spread(self, found, spreading):
            sizes = zip(*(found.table.column(name).to_pylist() for name in self.columns))
            told = [f"{width // self.step}x{height // self.step}" for width, height in sizes]
            digests = [hashlib.sha256(text.encode()).hexdigest() for text in told]
            return super().spread(replace(found, table=pa.table({"width": digests})), spreading)

        @property
        def noted(self):
            return {"size_step": self.step}

        @classmethod
        def told(cls, similarity):
            return "about the size of"
'''
OPTIONS = '''
    """same_size: its options and their checks."""
    from dataclasses import dataclass
    from typing import ClassVar
    from beam_curate.commands.method_options import MethodOptions, method_option
    from beam_curate.commands.options import OptionError

    @dataclass(frozen=True, kw_only=True)
    class SameSizeOptions(MethodOptions):
        size_step: int = method_option(1, "same_size: pixels that do not matter", least=1)
        name: ClassVar[str] = "same_size"
        place: ClassVar[int] = 50
        about: ClassVar[str] = "equal sizes"

        def check_with(self, methods, named_by, keep_by):
            if self.size_step > 1 and self.name not in methods:
                raise OptionError(f"--size_step {self.size_step} is of same_size; add it to --{named_by}")

        def method(self):
            from beam_curate.duplicates.methods.same_size import SameSize

            return SameSize(self.size_step)
'''
FORMAT = '''
    """Files of the keys, a line each."""
    from dataclasses import dataclass
    from typing import ClassVar
    from beam_curate.export.prepared import PreparedSamples

    @dataclass(frozen=True)
    class Keys(PreparedSamples):
        name: ClassVar[str] = "keys"
        extension: ClassVar[str] = "keys"
        beside: ClassVar[tuple[str, ...]] = ()
        reading: ClassVar[tuple[str, ...]] = ('keys = open("00000.keys").read().split()',)

        def write(self, out, rows):
            return self._write(rows, lambda place, sample: out.write(f"{sample.key}\\n".encode()))
'''
LAYOUT = '''
    """Lists of the keys, a line each."""
    from typing import ClassVar
    from beam_curate.runs.layout import Layout
    from beam_curate.storage.files import write_atomic

    class KeyLists(Layout):
        files: ClassVar[tuple[str, ...]] = ("list-{}.keys",)
        embeddings: ClassVar[bool] = False

        @staticmethod
        def columns(scores, code):
            return {"key": "key"}

        @staticmethod
        def write(folder, files, rows, columns, code):
            text = "".join(f"{key}\\n" for key in rows.column("key").to_pylist())
            write_atomic(folder, files[0], lambda stream: stream.write(text.encode()))
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that keeps four pictures, two of them of about the same size."""
    folder = tmp_path_factory.mktemp("one_file")
    members = [(f"{key}.png", encoded(photo(n, *size), "PNG")) for n, (key, size) in enumerate(SIZES.items())]
    (folder / "0.tar").write_bytes(tar_bytes(members))
    return curated(f"{folder}/0.tar", folder / "run")


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Adds a file to a package, for the time of a test."""
    methods.all_methods.cache_clear()
    added = []

    def added_to(package, name, text):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added.append(f"{package.__name__}.{name}")

    yield added_to
    for name in added:
        sys.modules.pop(name, None)
    methods.all_methods.cache_clear()


def test_a_new_method_is_two_halves_in_a_file_each_and_the_command_takes_it(run, tmp_path, add, capsys):
    known = [field.name for field in option_fields(DedupOptions)]
    add(methods, "same_size", METHOD)
    add(duplicate_methods, "same_size", OPTIONS)
    assert {field.name for field in option_fields(DedupOptions)} - {*known} == {"size_step"}
    words = [f"--scores={run}", f"--output={tmp_path / 'unique'}"]
    for wrong, said in (
        (["--methods=same_size", "--size_step=0"], "error: --size_step is 0; give at least 1"),
        (["--methods=exact", "--size_step=9"], "error: --size_step 9 is of same_size; add it to --methods"),
        (["--methods=size"], "give a comma list of exact, pixels, perceptual, semantic, same_size"),
    ):
        assert dedup.main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert dedup.main([*words, "--methods=exact,same_size", "--size_step=10"]) == 0
    assert "duplicates: 1 sample (same_size 1) in 1 group," in capsys.readouterr().out
    assert Run(str(tmp_path / "unique")).summary.funnel.kept == 3
    written = json.loads((tmp_path / "unique" / "run.json").read_text())["configuration"]["duplicates"]
    assert (written["methods"], written["size_step"], written["eps"]) == (["exact", "same_size"], 10, 0.01)
    found = json.loads((tmp_path / "unique" / "duplicates" / "summary.json").read_text())
    assert found["size_step"] == 10
    assert not {"eps", "max_distance", "mirrored"} & found.keys()
    again = [*words, "--methods=exact,same_size", "--resume"]
    assert dedup.main([*again, "--size_step=11"]) == 2
    assert "duplicates.size_step was 10 and is 11 now" in capsys.readouterr().err
    assert dedup.main([*again, "--size_step=10"]) == 0


def test_a_new_format_is_a_file_and_the_command_takes_it(run, tmp_path, add, capsys):
    words = [f"--input={run}", f"--output={tmp_path / 'keys'}", "--format=keys", "--samples_per_file=3"]
    assert export.main(words) == 2
    assert "choose from 'mds', 'tfrecord', 'webdataset'" in capsys.readouterr().err.replace(
        "tfrecord, web", "'tfrecord', 'web"
    )
    add(formats, "keys", FORMAT)
    assert export.main(words) == 0
    files = {path.name: path.read_text() for path in (tmp_path / "keys").glob("*.keys")}
    assert files == {"00000.keys": "a\nb\nc\n", "00001.keys": "d\n"}
    assert Run(str(tmp_path / "keys")).configuration.files.format["format"] == "keys"
    assert 'open("00000.keys")' in (tmp_path / "keys" / "README.md").read_text()
    assert export.main([*words[:2], "--format=tfrecord", "--overwrite"]) == 0
    assert not list((tmp_path / "keys").glob("*.keys"))


def test_a_new_layout_is_a_file_and_the_command_takes_it_and_deletes_it(run, tmp_path, add, capsys):
    output = tmp_path / "listed"
    words = [f"--scores={run}", f"--output={output}", "--min_aesthetic=none"]
    assert select.main([*words, "--layout=key-lists"]) == 2
    assert (
        "--layout key-lists is unknown; give a comma list of clip-retrieval, datacomp, laion" in capsys.readouterr().err
    )
    add(layouts, "key_lists", LAYOUT)
    assert select.main([*words, "--layout=key-lists,laion"]) == 0
    folder = output / "layouts" / "key-lists"
    assert (folder / "list-00000.keys").read_text() == "a\nb\nc\nd\n"
    assert json.loads((folder / "_layout.json").read_text())["files"] == ["list-00000.keys"]
    (folder / "mine.txt").write_text("is not the run's")
    assert select.main([*words, "--overwrite"]) == 0
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert not list((output / "layouts").glob("laion/*.parquet"))
