"""Fetching: resumption, checks and messages, against a server on 127.0.0.1; the same over the hub's own client."""

import hashlib
import http.server
import io
import json
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from beam_curate.commands import fetch_models
from beam_curate.heads import fetching
from beam_curate.heads.files import find_heads, load_head
from beam_curate.heads.head import head_from_state
from beam_curate.heads.nsfw_lookup import Lookup
from beam_curate.heads.published import PUBLISHED, PublishedHead, fixed_embeddings, problem
from beam_curate.storage.downloading import DownloadError, UnreachableError, download
from tests.conftest import ROOT
from tests.support.made_heads import mlp_state, nsfw_state
from tests.support.made_saved_model import nsfw_zip

WIDTH = 24
VOCABULARY = {3: {"0.125000": 1, "-0.250000": 2}}


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path to bytes) and keeps a log of (method, path, range)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.log = []
        self.ranges = True
        self.etag = None  # instead of the sha256
        self.break_after = None  # bytes per answer, then the connection closes
        self.url = f"http://127.0.0.1:{self.server_port}"

    def gets(self, path):
        return [span for method, where, span in self.log if (method, where) == ("GET", path)]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        span = self.headers.get("Range")
        self.server.log.append((self.command, self.path, span))
        data = self.server.files.get(self.path)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(span.removeprefix("bytes=").split("-")[0]) if span and self.server.ranges else 0
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        # What the Hugging Face hub says of a large file.
        self.send_header("ETag", f'"{self.server.etag or hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            rest = data[start:]
            if self.server.break_after is not None and len(rest) > self.server.break_after:
                rest = rest[: self.server.break_after]
                self.close_connection = True
            self.wfile.write(rest)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def dead_url():
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


# --- one file


def test_download_and_not_twice(server, tmp_path):
    server.files["/a"] = DATA
    target = tmp_path / "deep" / "er" / "a"
    assert download(f"{server.url}/a", target, SHA256)
    assert target.read_bytes() == DATA
    assert not download(f"{server.url}/a", target, SHA256)
    assert server.gets("/a") == [None]
    target.write_bytes(b"damaged")
    assert download(f"{server.url}/a", target, SHA256)
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_from_a_part(server, tmp_path, ranges):
    server.files["/a"] = DATA
    server.ranges = ranges
    (tmp_path / "a.part").write_bytes(DATA[:1000])
    assert download(f"{server.url}/a", tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.gets("/a") == ["bytes=1000-"]


def test_whole_part_is_only_checked(server, tmp_path):
    server.files["/a"] = DATA
    (tmp_path / "a.part").write_bytes(DATA)
    assert download(f"{server.url}/a", tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA


def test_broken_transfers_are_taken_up_again(server, tmp_path):
    server.files["/a"] = DATA
    server.break_after = len(DATA) // 3
    assert download(f"{server.url}/a", tmp_path / "a", SHA256)
    assert (tmp_path / "a").read_bytes() == DATA
    starts = [int(span[6:-1]) for span in server.gets("/a")[1:]]
    assert starts == sorted(starts)
    assert len(starts) == 3


def test_transfer_that_keeps_breaking(server, tmp_path):
    server.files["/a"] = DATA
    server.break_after = 10
    with pytest.raises(DownloadError, match=r"/a: the transfer broke off 5 times; run again"):
        download(f"{server.url}/a", tmp_path / "a", SHA256)
    assert (tmp_path / "a.part").read_bytes() == DATA[:50]
    server.break_after = 0
    with pytest.raises(DownloadError, match="breaks off at byte 50; run again"):
        download(f"{server.url}/a", tmp_path / "a", SHA256)
    server.break_after = None
    assert download(f"{server.url}/a", tmp_path / "a", SHA256)


def test_wrong_checksum_leaves_nothing(server, tmp_path):
    server.files["/a"] = DATA[::-1]
    with pytest.raises(DownloadError, match=rf"/a is not the file .* not {SHA256}"):
        download(f"{server.url}/a", tmp_path / "a", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_refusals(server, dead_url, tmp_path):
    with pytest.raises(DownloadError, match=r"/nothing: the server answers 404") as error:
        download(f"{server.url}/nothing", tmp_path / "a", SHA256)
    assert not isinstance(error.value, UnreachableError)
    with pytest.raises(UnreachableError, match=f"{dead_url}/a"):
        download(f"{dead_url}/a", tmp_path / "a", SHA256)


# --- all of them


@pytest.fixture
def publishers(server, monkeypatch):
    """A small aesthetic head as .pth and a small NSFW head as SavedModel, published on the server."""
    aesthetic, nsfw = mlp_state(WIDTH), nsfw_state(WIDTH, (64, 512, 256))
    buffer = io.BytesIO()
    torch.save({key: torch.from_numpy(value) for key, value in aesthetic.items()}, buffer)
    x = fixed_embeddings(WIDTH)

    def scores(state, lookup=None):
        return tuple(head_from_state(state, lookup=lookup).score(x).tolist())

    lookup = Lookup.from_vocabulary(VOCABULARY)
    for name, path, data, expected in (
        ("aesthetic", "/some/one/a%2Bb.pth", buffer.getvalue(), (scores(aesthetic),)),
        ("nsfw", "/some/one/model.zip", nsfw_zip(nsfw, VOCABULARY), (scores(nsfw, lookup), scores(nsfw))),
    ):
        server.files[path] = data
        published = PublishedHead(path, hashlib.sha256(data).hexdigest(), *expected)
        monkeypatch.setitem(PUBLISHED, (name, "ViT-L-14"), published)
    weights = save({"visual.proj": np.ones((4, 4), np.float32), "text": np.zeros(1000, np.float32)})
    server.files["/timm/vit_large_patch14_clip_224.openai/resolve/main/open_clip_model.safetensors"] = weights
    server.files["/"] = b""
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return server


def fetch(server, model_dir, *options):
    urls = ["--github_url", server.url, "--hub_url", server.url]
    return fetch_models.main(["--model_dir", str(model_dir), *urls, *options])


def test_fetch_everything_then_nothing(publishers, tmp_path, capsys):
    assert fetch(publishers, tmp_path) == 0
    said = capsys.readouterr().out
    assert said.count("is ready and verified") == 3

    aesthetic, nsfw = find_heads(str(tmp_path), "ViT-L-14", WIDTH)
    assert (aesthetic.name, nsfw.chain) == ("aesthetic", "laion")
    state = mlp_state(WIDTH)
    assert all(np.array_equal(state[key], value) for key, value in load_file(aesthetic.file).items())
    vocabulary = json.loads((tmp_path / "heads" / "nsfw_vit_l_14_lookup.json").read_text())["columns"]
    assert vocabulary == {"3": VOCABULARY[3]}
    clip = tmp_path / "ViT-L-14" / "openai" / "open_clip_model.safetensors"
    assert load_file(clip).keys() == {"visual.proj", "text"}

    publishers.log.clear()
    assert fetch(publishers, tmp_path) == 0
    assert publishers.log == []
    assert capsys.readouterr().out.count("is there and verified") == 3


def test_damaged_results_are_made_again(publishers, tmp_path, capsys):
    assert fetch(publishers, tmp_path) == 0
    heads = tmp_path / "heads"
    other = mlp_state(WIDTH, seed=5)
    (heads / "sac_logos_ava1-l14-linearMSE.safetensors").write_bytes(save(other))
    (heads / "nsfw_vit_l_14_lookup.json").unlink()
    clip = tmp_path / "ViT-L-14" / "openai" / "open_clip_model.safetensors"
    clip.write_bytes(clip.read_bytes()[:-10])
    publishers.log.clear()
    capsys.readouterr()
    assert fetch(publishers, tmp_path) == 0
    said = capsys.readouterr().out
    assert "scores of fixed embeddings are off by up to" in said
    assert "nsfw_vit_l_14_lookup.json does not exist" in said
    assert "not a whole checkpoint" in said
    assert said.count("is ready and verified") == 3
    assert load_file(clip).keys() == {"visual.proj", "text"}
    assert not publishers.gets("/some/one/model.zip"), "what was downloaded is still there and right"


def test_only_some(publishers, tmp_path):
    assert fetch(publishers, tmp_path, "--only", "aesthetic") == 0
    assert {path for _, path, _ in publishers.log} == {"/some/one/a%2Bb.pth"}
    assert (tmp_path / "downloads" / "a+b.pth").exists()


def test_no_network_says_what_to_put_where(publishers, dead_url, tmp_path, capsys):
    options = ["--model_dir", str(tmp_path), "--github_url", dead_url, "--hub_url", dead_url]
    assert fetch_models.main(options) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: no way to {dead_url}")
    lines = [line.strip() for line in said.splitlines()]
    for url, place in (
        ("/timm/vit_large_patch14_clip_224.openai/resolve/main/open_clip_model.safetensors", None),
        ("/some/one/a%2Bb.pth", "downloads/a+b.pth"),
        ("/some/one/model.zip", "downloads/model.zip"),
    ):
        put = tmp_path / (place or "ViT-L-14/openai/open_clip_model.safetensors")
        assert lines[lines.index(dead_url + url) + 1] == f"-> {put}"
        put.parent.mkdir(parents=True, exist_ok=True)
        put.write_bytes(publishers.files[url])
    # With the files where the message wants them, the same command needs no network.
    assert fetch_models.main(options) == 0
    assert len(find_heads(str(tmp_path), "ViT-L-14", WIDTH)) == 2


def test_wrong_upstream_file_is_refused(publishers, tmp_path, capsys):
    publishers.files["/some/one/model.zip"] += b"x"
    assert fetch(publishers, tmp_path, "--only", "nsfw") == 1
    assert "is not the file that was expected" in capsys.readouterr().err
    assert not (tmp_path / "heads" / "nsfw_vit_l_14.safetensors").exists()


def test_hub_without_the_file(publishers, tmp_path, capsys):
    name = "/timm/vit_large_patch14_clip_224.openai/resolve/main/open_clip_model.safetensors"
    data = publishers.files.pop(name)
    assert fetch(publishers, tmp_path, "--only", "clip") == 1
    assert "has none of open_clip_model.safetensors, open_clip_pytorch_model.bin" in capsys.readouterr().err
    publishers.files[name] = data[:-4]
    assert fetch(publishers, tmp_path, "--only", "clip") == 1
    assert "not a whole checkpoint" in capsys.readouterr().err


def test_checksum_of_the_hub(publishers, tmp_path, capsys):
    publishers.etag = "0" * 64
    assert fetch(publishers, tmp_path, "--only", "clip") == 1
    assert "does not have the sha256 that the hub gives" in capsys.readouterr().err
    publishers.etag = "0" * 40  # a git hash, as the hub has for small files: nothing to compare
    assert fetch(publishers, tmp_path, "--only", "clip") == 0


def test_model_without_published_heads(publishers, tmp_path, capsys):
    assert fetch(publishers, tmp_path, "--only", "aesthetic,nsfw", "--clip_model", "ViT-H-14") == 0
    assert capsys.readouterr().out.count("no head is published for ViT-H-14") == 2


def test_weights_that_open_clip_does_not_know(tmp_path, capsys):
    assert fetch_models.main(["--model_dir", str(tmp_path), "--only", "clip", "--pretrained", "nonsense"]) == 1
    assert "--pretrained nonsense is not a tag of ViT-L-14 in open_clip; there are: openai" in capsys.readouterr().err


def test_a_model_that_open_clip_does_not_know(tmp_path, capsys):
    assert fetch_models.main(["--model_dir", str(tmp_path), "--only", "clip", "--clip_model", "ViT-L-15"]) == 1
    assert "error: --clip_model 'ViT-L-15' is not an open_clip model: did you mean" in capsys.readouterr().err


# --- what the project knows of the publishers


def test_hub_repositories_and_layout_are_as_the_loader_has_them(tmp_path):
    from open_clip.pretrained import get_pretrained_cfg

    from beam_curate.clip.weights import find_weights

    for (clip_model, tag), repository in fetching.HUB_REPOSITORIES.items():
        assert get_pretrained_cfg(clip_model, tag)["hf_hub"] == f"{repository}/"
        placed = tmp_path / clip_model / tag / "open_clip_model.safetensors"
        placed.parent.mkdir(parents=True)
        placed.write_bytes(save({"visual.proj": np.ones((4, 4), np.float32)}))
        assert find_weights(clip_model, tag, model_dir=str(tmp_path)).path == str(placed)


@pytest.mark.parametrize(("name", "clip_model"), sorted(PUBLISHED))
def test_expected_scores_are_those_of_the_published_heads(assets, tmp_path, name, clip_model):
    stem = fetching.STEMS[name, clip_model][0]
    target = tmp_path / f"{stem}.safetensors"
    shutil.copy(assets / "heads" / target.name, target)
    if name == "nsfw":
        shutil.copy(assets / "heads" / f"{stem}_keras_lookup.json", tmp_path / f"{stem}_lookup.json")
    assert problem(target, PUBLISHED[name, clip_model]) == ""
    state = load_file(target)
    first = "linear_1.bias" if name == "nsfw" else min(key for key in state if key.endswith("bias"))
    target.write_bytes(save({**state, first: state[first] + 0.05}))
    assert load_head(str(target)).name == name
    assert "off by" in problem(target, PUBLISHED[name, clip_model])


def test_fixed_embeddings_are_unit_vectors():
    x = fixed_embeddings(768)
    assert x.shape == (6, 768)
    assert np.abs(np.linalg.norm(x.astype(np.float64), axis=1) - 1).max() < 1e-3
    assert np.abs(x[0].astype(np.float64) @ x[1].astype(np.float64)) < 0.5


# --- the command line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--model_dir"),
        (["--model_dir", "m", "--only", "clip,heads"], "--only heads"),
        (["--model_dir", "m", "--only", ","], "--only is empty"),
        (["--model_dir", "gs://bucket/m"], "fetch into a local directory"),
        (["--model_dir", "m", "--clip_modle", "ViT-B-32"], "--clip_modle"),
        (["--model_dir", "m", "--clip", "ViT-B-32"], "--clip"),
    ],
)
def test_bad_options(options, said, capsys):
    assert fetch_models.main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['fetch_models.py', '--help']\n"
        "try: runpy.run_path('pipelines/fetch_models.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'apache_beam', 'open_clip', 'huggingface_hub', 'numpy'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--model_dir" in done.stdout
