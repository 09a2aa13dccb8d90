"""Fetches the model files of a run from their publishers into a model directory, and verifies them.

    <model_dir>/<CLIP model>/<pretrained tag>/      the checkpoint, under its name on the Hugging Face hub
    <model_dir>/heads/                              the heads as safetensors, and the NSFW lookup as JSON
    <model_dir>/downloads/                          the heads as published; a file put here by hand is used as well

A head counts as there when it gives the right scores for a few fixed embeddings, so a run that was cut short goes on,
and a damaged file is replaced.
"""

import contextlib
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from beam_curate.heads.files import HEADS_DIR, STEMS
from beam_curate.heads.head import AESTHETIC, NSFW, HeadError
from beam_curate.heads.published import PUBLISHED, convert, problem
from beam_curate.progress import Seen, shown
from beam_curate.storage.downloading import DownloadError, UnreachableError, download, file_sha256

CLIP: Final = "clip"
PARTS: Final = (CLIP, AESTHETIC, NSFW)
GITHUB: Final = "https://raw.githubusercontent.com"
HUB: Final = "https://huggingface.co"
DOWNLOADS: Final = "downloads"
_HUB_TIMEOUT: Final = 5.0
_HUB_FILES: Final[tuple[str, ...]] = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# open_clip's own record of these, kept here too because importing open_clip (and with it torch) takes seconds.
HUB_REPOSITORIES: Final = {
    ("ViT-L-14", "openai"): "timm/vit_large_patch14_clip_224.openai",
    ("ViT-B-32", "openai"): "timm/vit_base_patch32_clip_224.openai",
    ("ViT-B-16", "openai"): "timm/vit_base_patch16_clip_224.openai",
}


@dataclass(frozen=True)
class _Job:
    """A file to get: from `url` to `place`; `check` says what is wrong with what is there, `fetch` makes it right."""

    name: str
    url: str
    place: Path
    result: Path
    check: Callable[[], str]
    fetch: Callable[[], None]


def fetch_models(
    model_dir: Path,
    clip_model: str,
    pretrained: str,
    parts: Sequence[str] = PARTS,
    *,
    github: str = GITHUB,
    hub: str = "",
    report: Callable[[str], None] = print,
) -> None:
    """Fetches what is missing or damaged, and says what it does.

    Args:
        model_dir: Where to; it is made.
        clip_model: The open_clip name of the model.
        pretrained: The open_clip tag of its weights.
        parts: Of `clip`, `aesthetic`, `nsfw`.
        github: The server of GitHub's raw files, or a mirror.
        hub: The Hugging Face hub, or a mirror; empty for HF_ENDPOINT or the hub itself.
        report: Takes lines of text for a person.

    Raises:
        DownloadError: Something could not be had. The message lists what is missing, from where, and where to put it.
    """
    hub = (hub or os.environ.get("HF_ENDPOINT", "") or HUB).rstrip("/")
    clip_model = clip_model.replace("/", "-")
    jobs = []
    for part in parts:
        if part == CLIP:
            jobs.append(_clip_job(model_dir, clip_model, pretrained, hub))
        elif (part, clip_model.removesuffix("-quickgelu")) in PUBLISHED:
            jobs.append(_head_job(model_dir, part, clip_model.removesuffix("-quickgelu"), github.rstrip("/")))
        else:
            report(f"{part}: no head is published for {clip_model}; choose one with `{part}_head`, or none")
    pending = []
    for job in jobs:
        wrong = job.check()
        if wrong:
            pending.append(job)
            if job.result.exists():
                report(f"{job.name}: {job.result} is fetched again: {wrong}")
        else:
            report(f"{job.name}: {job.result} is there and verified")
    pending.sort(key=lambda job: not job.place.exists())  # first what may need no network
    for number, job in enumerate(pending):
        try:
            job.fetch()
            wrong = job.check()
            if wrong:
                raise DownloadError(f"{job.url}: {wrong}")
        except (DownloadError, HeadError, OSError) as error:
            # The rest is not tried: without a network each file would wait for its own time-out.
            missing = "\n".join(f"  {each.url}\n    -> {each.place}" for each in pending[number:])
            raise DownloadError(
                f"{'no way to' if isinstance(error, UnreachableError) else 'could not fetch'} {error}\n"
                "Get what is missing where there is a network, put it where the arrow points, and run this again (it "
                f"goes on, converts and verifies):\n{missing}"
            ) from error
        report(f"{job.name}: {job.result} is ready and verified")


def _head_job(model_dir: Path, name: str, clip_model: str, github: str) -> _Job:
    published = PUBLISHED[name, clip_model]
    url, source = github + published.path, model_dir / DOWNLOADS / published.file_name
    target = model_dir / HEADS_DIR / f"{STEMS[name, clip_model][0]}.safetensors"

    def fetch() -> None:
        with _bytes_shown(name, source.parent, 0):
            download(url, source, published.sha256)
        convert(source, target)

    return _Job(name, url, source, target, lambda: problem(target, published), fetch)


def _clip_job(model_dir: Path, clip_model: str, pretrained: str, hub: str) -> _Job:
    repository, names = HUB_REPOSITORIES.get((clip_model, pretrained), ""), _HUB_FILES
    if not repository:
        repository, names = _open_clip_record(clip_model, pretrained)
    folder = model_dir / clip_model / pretrained
    there = [folder / name for name in names if (folder / name).exists()]
    result = there[0] if there else folder / names[0]
    return _Job(
        CLIP,
        f"{hub}/{repository}/resolve/main/{names[0]}",
        folder / names[0],
        result,
        lambda: "" if any(is_whole(folder / name) for name in names) else "it is not a whole checkpoint",
        lambda: _from_hub(repository, names, folder, hub),
    )


def _open_clip_record(clip_model: str, pretrained: str) -> tuple[str, tuple[str, ...]]:
    """The hub repository of a model's weights, and the names to try there, as open_clip has them.

    Raises:
        WeightsError: open_clip has no such model.
        DownloadError: It has no such weights of the model, or no place on the hub.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    from beam_curate.clip.config import model_config

    record = get_pretrained_cfg(clip_model, pretrained)
    if not record:
        model_config(clip_model)  # which says that there is no such model
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(clip_model)) or "none"
        raise DownloadError(f"`pretrained` {pretrained} is not a tag of {clip_model} in open_clip; there are: {tags}")
    repository, _, file = record.get("hf_hub", "").rpartition("/")
    if not repository:
        raise DownloadError(
            f"open_clip names no Hugging Face repository for {clip_model} {pretrained}: download "
            f"{record.get('url', 'its file')} and give that file to `pretrained`"
        )
    return repository, (file,) if file else _HUB_FILES


def is_whole(checkpoint: Path) -> bool:
    """Tells whether a file of CLIP weights is complete: its table of contents is there and fits its length."""
    if checkpoint.suffix != ".safetensors":
        return zipfile.is_zipfile(checkpoint)
    try:
        with safe_open(checkpoint, "np") as file:
            return bool(file.keys())
    except (SafetensorError, OSError):
        return False


def _from_hub(repository: str, names: Sequence[str], folder: Path, hub: str) -> None:
    """Gets the first of the files that the repository has; goes on where it stopped, and compares the checksum."""
    _reach(hub)
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # its documentation has it

    disable_progress_bars()  # its bar is for a terminal only, and ours is for all files
    for name in names:
        url = huggingface_hub.hf_hub_url(repository, name, endpoint=hub)
        (folder / name).unlink(missing_ok=True)  # it is damaged, or this would not be called
        try:
            said = huggingface_hub.get_hf_file_metadata(url, timeout=_HUB_TIMEOUT)
            etag = said.etag or ""
            with _bytes_shown(CLIP, folder, said.size or 0):
                got = Path(huggingface_hub.hf_hub_download(repository, name, local_dir=folder, endpoint=hub))
        except EntryNotFoundError:
            continue
        except OSError as error:
            raise DownloadError(f"{url}: {error}") from error
        # Of a large file the hub's ETag is the sha256; of a small one it is a git hash.
        if len(etag) == 64 and file_sha256(got) != etag:
            got.unlink()
            raise DownloadError(
                f"{url}: the file that arrived does not have the sha256 that the hub gives, {etag}; run again"
            )
        return
    raise DownloadError(f"{hub}/{repository} has none of {', '.join(names)}")


def _bytes_shown(name: str, folder: Path, total: int) -> contextlib.AbstractContextManager[None]:
    """Shows how many bytes came to a folder while the block runs, whoever writes them there, and under whatever name.

    Args:
        name: What is fetched.
        folder: Where to.
        total: How many will come; 0 if that is not known.
    """

    def size() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    before = size() if folder.exists() else 0

    def look(seconds: float) -> Seen:
        try:
            return Seen(max(0, size() - before))
        except OSError:  # a file was renamed just now
            return Seen(0)

    return shown(look, total, name)


def _reach(hub: str) -> None:
    """Fails soon where there is no network; the hub's own client would try for half a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=_HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return  # an answer is an answer
    except urllib.error.URLError as error:
        raise UnreachableError(f"{hub}: {error.reason}") from error
    except OSError as error:
        raise UnreachableError(f"{hub}: {error}") from error
