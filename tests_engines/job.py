"""The commands as the tests run them: a made dataset, the main job, and what a command wrote."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.conftest import encoded, photo, tar_bytes
from tests_engines.processes import running, stop, tail, wait_for

ROOT = Path(__file__).resolve().parent.parent
# Rows are scored 64 at a time: each of two workers has three such batches, so parts of the score table come one after another.
SHARDS = 16
SAMPLES = 24
WEIGHTS = "models/clip.safetensors"
_MODEL = "ViT-S-32-alt"
MODEL_FLAGS = (
    *(f"--clip_model={_MODEL}", f"--pretrained={WEIGHTS}", "--preprocess=openai", "--batch_size=4"),
    *("--aesthetic_head=random", "--nsfw_head=random"),
)
_RUN_SECONDS = 420


def make_dataset(folder: Path) -> None:
    """Shards of photographs of 0.5 megapixels with captions; the first of each odd shard is no image.

    The last two of each shard but the first are copies from the shard before: the same bytes, and the same picture in other
    bytes.
    """
    for shard in range(SHARDS):
        members = []
        for sample in range(SAMPLES):
            key = f"{shard}{sample:03d}"
            members += [(f"{key}.jpg", _image(shard, sample)), (f"{key}.txt", b"number %d" % sample)]
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(members))


def _image(shard: int, sample: int) -> bytes:
    if shard % 2 and not sample:
        return b"no image"
    copy = bool(shard) and sample >= SAMPLES - 2
    seed = 100 * (shard - 1) + sample - 10 if copy else 100 * shard + sample
    return encoded(photo(seed, 800, 600), quality=60 if copy and sample % 2 else 90)


def make_weights(file: Path) -> None:
    """A file of weights of a small model, which mean nothing."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file.parent.mkdir()
    save_file(open_clip.create_model(_MODEL).state_dict(), file)


def command(data: Path, output: Path, *flags: str) -> list[str]:
    """The main job; the rules split the samples. Paths are relative to the folder that holds the data."""
    folder = data.parent
    return [
        sys.executable,
        str(ROOT / "pipelines" / "curate.py"),
        f"--input={data.relative_to(folder)}/*.tar",
        f"--output={output.relative_to(folder)}",
        *MODEL_FLAGS,
        *("--min_aesthetic=4.5", "--max_nsfw=none", "--samples_per_shard=40"),
        *flags,
    ]


def environment() -> dict[str, str]:
    """Finds `python` where the tests' own is, which Beam's worker pool needs, and the project wherever the job starts."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ["PATH"]]), "PYTHONPATH": str(ROOT)}


def start(data: Path, output: Path, log: Path, *flags: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """Starts the main job in the folder that holds the data; the workers' folder is another one."""
    return start_in(data.parent, command(data, output, *flags), log)


def start_in(folder: Path, argv: Sequence[str], log: Path) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """Starts a command in a folder."""
    return running(argv, log, environment(), folder)


def finish(process: "subprocess.Popen[bytes]") -> int:
    """Waits for the end of a command and gives its status."""
    try:
        return process.wait(_RUN_SECONDS)
    except subprocess.TimeoutExpired:
        stop(process, signal.SIGKILL)
        raise


def curate(data: Path, output: Path, log: Path, *flags: str) -> None:
    """Runs the main job; fails, with its log, if it does."""
    with start(data, output, log, *flags) as process:
        assert finish(process) == 0, tail(log)


def wait_until_half_done(process: "subprocess.Popen[bytes]", output: Path, log: Path) -> None:
    """Waits until the first part of the score table is there, and the last is not."""
    wait_for(lambda: any(output.glob("scores/part-*")), _RUN_SECONDS, "the first part", process, log)
    assert len(list(output.glob("scores/part-*"))) < SHARDS, "all shards are scored already: give the job more work"


def written(output: Path) -> dict[str, bytes]:
    """All files of a run; of its summary and report, which tell times and the runner, only that they are there."""
    own = (output / "summary.json", output / "report.html")
    paths = sorted(path for path in output.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): b"" if path in own else path.read_bytes() for path in paths}


def assert_same(output: Path, expected: dict[str, bytes]) -> None:
    """Compares a run with the local one, byte for byte."""
    found = written(output)
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    differing = [name for name in found if found[name] != expected[name]]
    assert not differing, differing
