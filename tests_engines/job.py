"""The main job as the tests run it: a made dataset, the command, and what it wrote."""

import os
import signal
import subprocess
import sys
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
_RUN_SECONDS = 420


def make_dataset(folder: Path) -> None:
    """Shards of photographs of 0.5 megapixels with captions; the first of each odd shard is no image."""
    for shard in range(SHARDS):
        members = []
        for sample in range(SAMPLES):
            bad = shard % 2 and not sample
            image = b"no image" if bad else encoded(photo(100 * shard + sample, 800, 600), quality=90)
            members += [(f"{shard}{sample:03d}.jpg", image), (f"{shard}{sample:03d}.txt", b"number %d" % sample)]
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(members))


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
        *(f"--clip_model={_MODEL}", f"--pretrained={WEIGHTS}", "--aesthetic_head=random", "--nsfw_head=random"),
        *("--min_aesthetic=4.5", "--max_nsfw=none", "--samples_per_shard=40", "--batch_size=4"),
        *flags,
    ]


def environment() -> dict[str, str]:
    """Finds `python` where the tests' own is, which Beam's worker pool needs, and the project wherever the job starts."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ["PATH"]]), "PYTHONPATH": str(ROOT)}


def start(data: Path, output: Path, log: Path, *flags: str) -> AbstractContextManager["subprocess.Popen[bytes]"]:
    """Starts the main job in the folder that holds the data; the workers' folder is another one."""
    return running(command(data, output, *flags), log, environment(), data.parent)


def finish(process: "subprocess.Popen[bytes]") -> int:
    """Waits for the end of the main job and gives its status."""
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
    """All files of a run but the summary and the report, which tell times and the runner."""
    own = ("summary.json", "report.html")
    paths = sorted(path for path in output.rglob("*") if path.is_file() and path.name not in own)
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def assert_same(output: Path, expected: dict[str, bytes]) -> None:
    """Compares a run with the local one, byte for byte, and looks for its summary."""
    found = written(output)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert (output / "summary.json").exists()
    assert (output / "report.html").exists()
