"""The commands on a finished run, and the rules on the whole table, as the tests run them on each engine."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from beam_curate import read_score_table
from beam_curate.duplicates.candidates import normalised
from tests_engines.job import MODEL_FLAGS, ROOT, assert_same, finish, start_in, written
from tests_engines.processes import tail

# Each writes to a folder; `local` is the run of the main job on the local runner, `local-dedup` its duplicates.
_COMMANDS: Mapping[str, Sequence[str]] = {
    "dedup": ("dedup.py", "--scores=local", "--methods=exact,perceptual,semantic", "--keep_by=hard",
              "--samples_per_shard=40"),
    "against": ("dedup.py", "--scores=local-dedup", "--against=local-rules", "--methods=perceptual,semantic",
                "--table_only"),
    "rules": ("curate.py", "--input=data/0000{0..5}.tar", *MODEL_FLAGS, "--dedup=exact,perceptual,semantic",
              "--min_aesthetic=none", "--max_nsfw=none", "--top=aesthetic=50", "--samples_per_shard=20"),
    "select": ("select.py", "--scores=local", "--duplicates=local-dedup", "--min_aesthetic=4.6",
               "--top_fraction=aesthetic=0.5", "--samples_per_shard=20"),
    "webdataset": ("export.py", "--input=local-dedup", "--format=webdataset", "--resize_shortest=256", "--shuffle_seed=7",
                   "--samples_per_file=30", "--dataset_name=photographs"),
    "tfrecord": ("export.py", "--input=local-dedup", "--format=tfrecord", "--shuffle_seed=7", "--samples_per_file=30",
                 "--dataset_name=photographs"),
}  # fmt: skip
NAMES = tuple(_COMMANDS)


class Commands:
    """The commands, and what each of them writes on the local runner.

    Attributes:
        expected: What the local runner wrote, by the command's name.
    """

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._eps = near(shared / "local")
        self.expected: dict[str, dict[str, bytes]] = {}
        for name in ("dedup", "rules", *NAMES):  # the others read what these two write
            if name not in self.expected:
                self.run(name, "local")
                self.expected[name] = written(shared / f"local-{name}")

    def argv(self, name: str, engine: str, *flags: str) -> list[str]:
        """A command, in the folder that all hosts share, as it writes to `<engine>-<name>`."""
        script, *options = _COMMANDS[name]
        semantic = [f"--eps={self._eps}"] if any("semantic" in option for option in options) else []
        output = f"--output={engine}-{name}"
        return [sys.executable, str(ROOT / "pipelines" / script), output, *options, *semantic, *flags]

    def start(self, name: str, engine: str, *flags: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """Starts a command; its log is `<engine>-<name>.log`."""
        return start_in(self._shared, self.argv(name, engine, *flags), self._shared / f"{engine}-{name}.log")

    def run(self, name: str, engine: str, *flags: str) -> None:
        """Runs a command; fails, with its log, if it does."""
        with self.start(name, engine, *flags) as process:
            assert finish(process) == 0, tail(self._shared / f"{engine}-{name}.log")

    def assert_same(self, name: str, engine: str, *flags: str) -> None:
        """Runs a command on an engine, and compares what it writes with what the local runner wrote, byte for byte."""
        self.run(name, engine, *flags)
        assert_same(self._shared / f"{engine}-{name}", self.expected[name])


def near(run: Path) -> float:
    """An --eps by which some kept samples of a run are semantic duplicates: random weights see little, so most are near."""
    table = read_score_table(str(run), ["status", "embedding"]).to_pylist()
    vectors = normalised(np.array([row["embedding"] for row in table if row["status"] == "kept"], np.float16))
    similarity = vectors @ vectors.T
    return float(np.quantile(1 - similarity[np.triu_indices(len(vectors), 1)], 0.002))
