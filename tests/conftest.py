"""What the tests share: where the assets are, and small images and tars made in code."""

import os

# Tests run in several processes at once: with threads for all cores in each they wait for each other, spinning. Read when torch,
# numpy and Arrow are loaded, here and in the processes that tests start. A test about threads says how many it wants.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as curate sets it: a thread that waits leaves the core to others
# As a tower sets it before it multiplies; some test here may have multiplied in this process before (see clip/independent_rows).
os.environ.setdefault("MKL_CBWR", "AUTO")

import contextlib
import io
import pathlib
import sys
import tarfile
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image


def pytest_configure(config: pytest.Config | None = None) -> None:
    """Quickens Beam and writing; a process that a test starts, and that takes something from here, may need no Beam."""
    if config is not None and config.getoption("numprocesses", None):
        return  # the tests run in others, and this one only listens
    from tests.support import quick_garbage

    quick_garbage.look_no_more()  # before Beam is loaded
    from tests.support import quick_beam, quick_bundles, quick_files, quick_threads, quick_workers

    quick_beam.quicken()
    quick_bundles.quicken()
    quick_files.quicken()
    quick_threads.quicken()
    quick_workers.quicken()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is loaded by now stays."""
    if "apache_beam" not in sys.modules:
        return
    from tests.support import quick_garbage

    quick_garbage.look_seldom()


# Hypothesis fails an example that takes more than 200 ms, which on a busy machine any may.
settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")

ROOT = pathlib.Path(__file__).resolve().parent.parent
ASSETS = pathlib.Path(os.environ.get("BEAM_CURATE_ASSETS", ROOT.parent / "shared" / "assets"))


@pytest.fixture(scope="session")
def assets() -> pathlib.Path:
    """The folder of reference files, which is not part of the project."""
    if not ASSETS.is_dir():
        pytest.skip(f"the reference assets are not at {ASSETS} (set BEAM_CURATE_ASSETS)")
    return ASSETS


@pytest.fixture
def two_threads():
    """torch with two threads for one test, as it has where the other tests' one is not set."""
    with torch_threads(2):
        yield


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """torch with so many threads, as in a process that has had no others."""
    import torch

    from beam_curate.clip.batch_parts import _torch_threads

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    _torch_threads.cache_clear()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _torch_threads.cache_clear()


def photo(seed: int, width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """A smooth random picture: low-frequency noise, so that codecs and resizes behave as on photographs."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tar_bytes(members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of the named members, in order, as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
