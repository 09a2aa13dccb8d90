"""Where weights lie as a rule, and that a file is read once, ahead or not."""

import hashlib
import os
import threading

import pytest

from beam_curate.clip import weights_files
from beam_curate.clip.weights_files import CHECKPOINT_NAMES, digest_ahead, file_digest, likely_file
from beam_curate.commands import curate
from beam_curate.commands.curate_options import CurateOptions


@pytest.fixture
def reads(monkeypatch):
    """The paths that were read whole, with the names of the threads."""
    seen = []

    def reading(path, *rest):
        seen.append((os.path.basename(path), threading.current_thread().name))
        return open(path, *rest)

    monkeypatch.setattr(weights_files, "open", reading, raising=False)
    return seen


def checksum(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_file_is_read_once_ahead_and_again_when_it_is_another(tmp_path, reads):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * 9_000_000)
    digest_ahead(path)
    assert file_digest(str(path)) == file_digest(str(path)) == checksum(b"a" * 9_000_000)
    assert reads == [("weights.safetensors", "digest-ahead")]
    path.write_bytes(b"b" * 9_000_001)
    assert file_digest(str(path)) == checksum(b"b" * 9_000_001)
    assert len(reads) == 2


def test_a_file_that_changes_after_it_was_read_ahead_is_read_again(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")
    digest_ahead(path)
    path.write_bytes(b"newer")
    assert file_digest(str(path)) == checksum(b"newer")


def test_what_cannot_be_read_is_said_where_it_is_wanted(tmp_path):
    digest_ahead(tmp_path / "nothing")
    digest_ahead(tmp_path)  # a folder
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(OSError, match="directory"):
            file_digest(str(path))


@pytest.mark.parametrize("name", CHECKPOINT_NAMES)
def test_where_weights_lie_as_a_rule(tmp_path, name):
    for folder in ("models/ViT-B-32/openai", "downloaded"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).touch()
    models, inside = str(tmp_path / "models"), tmp_path / "models/ViT-B-32/openai" / name
    assert likely_file("ViT-B-32", "openai", models) == inside
    assert likely_file("ViT-B-32", str(inside), None) == inside
    assert likely_file("ViT-B-32", str(tmp_path / "downloaded"), "") == tmp_path / "downloaded" / name
    for model, pretrained, folder in (
        ("ViT-L-14", "openai", models), ("ViT-B-32", "openai", ""), ("ViT-B-32", "", ""), ("ViT-B-32", "random", models)
    ):  # fmt: skip
        assert likely_file(model, pretrained, folder) is None


def test_curate_begins_to_read_the_weights_before_it_loads_anything(tmp_path, monkeypatch, reads):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    options = CurateOptions(input="a.tar", output="out", pretrained=str(path))
    settled, rest = curate.settled(options, frozenset(), ["--project=a"])
    assert (settled.pretrained, rest) == (str(path), ["--project=a"])
    assert file_digest(str(path)) == checksum(b"weights")
    assert reads == [("weights.safetensors", "digest-ahead")]
