"""Measures what this project and its peers from PyPI take for the same job: CPU time an image, in turns.

    python -m venv peers && peers/bin/pip install imagededup img2dataset && peers/bin/pip install --no-deps clip-retrieval
    python benchmarks/peers.py --python peers/bin/python

The peers have an environment of their own, and are no dependencies. Each run has a process of its own, warms up, then takes a
quarter of the shards and all of them: the difference is the marginal cost, in which start-up has no part.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final, NamedTuple

_SHARDS: Final = 8
_SIDE: Final = 224


def _jpegs(paths: Sequence[str]) -> Iterator[bytes]:
    """The images of shards; all that decode in this process read them in the same way."""
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    yield archive.extractfile(member).read()


def _resized_by_img2dataset(paths: Sequence[str]) -> None:
    from img2dataset.resizer import Resizer

    resizer = Resizer(_SIDE, "center_crop", False)
    for jpeg in _jpegs(paths):
        assert resizer(io.BytesIO(jpeg))[-1] is None  # the error


def _decoded_here(paths: Sequence[str]) -> None:
    from beam_curate.images.decoding import DecodeOptions, decode_image

    for jpeg in _jpegs(paths):
        decode_image(jpeg, DecodeOptions(size=_SIDE))


def _hashed_by_imagededup(paths: Sequence[str]) -> None:
    import numpy as np
    from imagededup.methods import PHash
    from PIL import Image

    hasher = PHash(verbose=False)
    for jpeg in _jpegs(paths):
        assert hasher.encode_image(image_array=np.asarray(Image.open(io.BytesIO(jpeg))))


def _hashed_here(paths: Sequence[str]) -> None:
    from beam_curate.duplicates.image_hashes import hash_image
    from beam_curate.images.decoding import MAX_PIXELS

    for jpeg in _jpegs(paths):
        hash_image(jpeg, MAX_PIXELS)


def _read_by_clip_retrieval(paths: Sequence[str]) -> None:
    from torchvision import transforms as tv

    prepare = tv.Compose(
        [
            tv.Resize(_SIDE, interpolation=tv.InterpolationMode.BICUBIC),
            tv.CenterCrop(_SIDE),
            lambda image: image.convert("RGB"),
            tv.ToTensor(),
            tv.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    # By its file: the package's __init__ loads its server, which is not installed.
    folder = find_spec("clip_retrieval").submodule_search_locations[0]
    spec = spec_from_file_location("clip_retrieval_reader", f"{folder}/clip_inference/reader.py")
    reader = module_from_spec(spec)
    spec.loader.exec_module(reader)
    batches = reader.WebdatasetReader(
        lambda source: source, prepare, None, list(paths), 32, 2, enable_text=False, enable_metadata=False
    )
    for batch in batches:
        batch["image_tensor"][:, :, ::7, ::7].sum()


def _piped_here(paths: Sequence[str]) -> None:
    import contenders

    contenders.pipeline_stub(paths, contenders.Settings(), write=False)


class _Peer(NamedTuple):
    """A package, what it does with shards, what this project does in its place, and what differs."""

    package: str
    theirs: Callable[[Sequence[str]], None]
    ours: Callable[[Sequence[str]], None]
    jobs: str


PEERS: Final = {
    "img2dataset": _Peer("img2dataset", _resized_by_img2dataset, _decoded_here,
                         "resize and crop to 224; it encodes the result, here it is checked and hashed"),
    "imagededup": _Peer("imagededup", _hashed_by_imagededup, _hashed_here,
                        "pHash; here also that of the mirror image and a digest of all pixels"),
    "clip-retrieval": _Peer("clip-retrieval", _read_by_clip_retrieval, _piped_here,
                            "shards to batches of pixels; here also RunInference, scores and verdicts"),
}  # fmt: skip


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _run(name: str, side: str, per_shard: int, paths: Sequence[str]) -> dict[str, Any]:
    """What an image costs in this process, in CPU milliseconds, and the version of who does it."""
    peer = PEERS[name]
    work = peer.theirs if side == "theirs" else peer.ours
    used = []
    few = paths[: len(paths) // 4]
    for some in (few, few, paths):
        start = _cpu()
        work(some)
        used.append(_cpu() - start)
    images = (len(paths) - len(few)) * per_shard
    return {"cpu_ms": 1000 * (used[2] - used[1]) / images, "version": version(peer.package) if side == "theirs" else ""}


def _measured(python: str, name: str, side: str, per_shard: int, paths: Sequence[Path]) -> dict[str, Any]:
    command = [python, __file__, "--run", name, side, str(per_shard), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {name} ({side}) failed with {python}: {done.stderr[-1500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--python", required=True, help="the Python of the peers' environment")
    parser.add_argument("--images", type=int, default=512, help="of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=("S", "M"), default="S", help="S: 640 x 480, M: 1024 x 768")
    parser.add_argument("--only", default=",".join(PEERS), help="a comma list of peers")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    options.names = options.only.split(",")
    unknown = sorted(set(options.names) - set(PEERS))
    if unknown:
        parser.error(f"--only has {', '.join(unknown)}; choose from {', '.join(PEERS)}")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give at least 1")
    if options.images < _SHARDS:
        parser.error(f"--images is {options.images}; give at least {_SHARDS}, one per shard")
    return options


def _summary(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    ratios = [one["ours"]["cpu_ms"] / one["theirs"]["cpu_ms"] for one in rounds]
    costs = {side: statistics.median(one[side]["cpu_ms"] for one in rounds) for side in ("ours", "theirs")}
    return {
        "version": rounds[0]["theirs"]["version"],
        **{f"{side}_cpu_ms": cost for side, cost in costs.items()},
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, which does not depend on the figures."""
    from photo_shards import write_shards

    options = _arguments(argv)
    per_shard = -(-options.images // _SHARDS)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.names}
    with tempfile.TemporaryDirectory(prefix="beam-curate-peers-") as folder:
        paths = write_shards(Path(folder), options.size, _SHARDS, per_shard)
        for _ in range(options.rounds):
            for name, found in rounds.items():
                pythons = {"ours": sys.executable, "theirs": options.python}
                found.append(
                    {side: _measured(python, name, side, per_shard, paths) for side, python in pythons.items()}
                )
    result = {name: _summary(found) for name, found in rounds.items()}
    print(f"{'peer':<16}{'version':>9}{'its CPU ms':>12}{'ours':>8}{'ratio':>8}{'(low':>8}{'high)':>8}")
    for name, one in result.items():
        costs = f"{one['theirs_cpu_ms']:>12.2f}{one['ours_cpu_ms']:>8.2f}"
        print(f"{name:<16}{one['version']:>9}{costs}{one['ratio']:>8.2f}{one['low']:>8.2f}{one['high']:>8.2f}")
        print(f"    {PEERS[name].jobs}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(_run(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])))
        sys.exit(0)
    sys.exit(main())
