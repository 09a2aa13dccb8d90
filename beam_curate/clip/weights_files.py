"""Weights files before torch is loaded: where they lie as a rule, and their checksums, which may be computed ahead.

A checkpoint of 600 MB takes 0.4 s to read, without Python's lock: in another thread, while Beam and torch load, it costs no
time. Only the standard library is imported.
"""

import functools
import hashlib
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeAlias

# Those that open_clip's `local-dir:` loader prefers, in its order. Source: open_clip 3.3, factory._find_checkpoint_in_dir.
CHECKPOINT_NAMES: Final = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)

_Key: TypeAlias = tuple[str, int, int, int, int, int]

_lock: Final = threading.Lock()
_ahead: Final[dict[_Key, Future[str]]] = {}


def checkpoints(folder: Path) -> list[Path]:
    """The files of a folder that have one of the usual names, in their order."""
    return [folder / name for name in CHECKPOINT_NAMES if (folder / name).is_file()]


def likely_file(clip_model: str, pretrained: str, model_dir: str | None) -> Path | None:
    """Where weights probably lie on this machine; `weights.find_weights` decides, which needs the records of all tags.

    Args:
        clip_model: A model name of open_clip.
        pretrained: A tag, a file or a directory.
        model_dir: A models directory, or nothing.
    """
    path = Path(pretrained)
    if pretrained and path.is_file():
        return path
    folders = [Path(model_dir, clip_model, pretrained)] if model_dir else []
    return next((found for folder in (*folders, path) for found in checkpoints(folder)), None)


def file_digest(path: str) -> str:
    """The checksum of a file, `sha256:<hex digits>`; read once in a process as long as the file stays the same.

    Raises:
        OSError: The file cannot be read.
    """
    key = _key(path)
    with _lock:
        ahead = _ahead.pop(key, None)
    return _sha256(*key) if ahead is None else ahead.result()


def digest_ahead(path: Path) -> None:
    """Starts to read a file in a thread; `file_digest` then waits for it. What cannot be read is found there."""
    try:
        key = _key(str(path))
    except OSError:
        return
    result: Future[str] = Future()
    with _lock:
        _ahead[key] = result
    # A daemon: a command that ends with an error does not wait for it.
    threading.Thread(target=_read, args=(key, result), name="digest-ahead", daemon=True).start()


def _read(key: _Key, result: Future[str]) -> None:
    try:
        result.set_result(_sha256(*key))
    except OSError as error:
        result.set_exception(error)


def _key(path: str) -> _Key:
    """A file, and what tells one content of it from another."""
    now = os.stat(path)
    return os.path.realpath(path), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


@functools.lru_cache
def _sha256(path: str, *_same: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"
