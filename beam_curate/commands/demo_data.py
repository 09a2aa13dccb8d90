"""Builds a small WebDataset of real photographs, with a few bad samples, to try the pipelines on.

    beam-curate demo-data --output demo/data

The photographs are those inside the scikit-image wheel, read as files: nothing is downloaded. Crops, flips and
rescales of them make 78 good samples in many formats (.jpg, .txt and .json each); five bad ones are added on purpose.
The same library versions give the same bytes.
"""

import argparse
import gzip
import io
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from beam_curate.commands.demo_pictures import ALL, JPEGS, PHOTOS, VIEWS, Photo, jpeg, view_of

MIN_SIDE: Final = 64
"""The `--min_side` under which one sample, 24 x 16 pixels, is rejected and no other."""

_MTIME: Final = 1_704_067_200  # any fixed moment does: the tars must not depend on when they are made


class DemoDataError(ValueError):
    """The data set cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class DemoDataset:
    """What was built, and what a run over it must report.

    `pattern` is the glob for `--input`; `samples` counts every sample, bad ones too. `failures` maps each failure
    reason to its count; `too_small` is the number of samples that `--min_side 64` rejects as `side_below_min`.
    """

    pattern: str
    shards: tuple[Path, ...]
    samples: int
    failures: Mapping[str, int]
    too_small: int


class _DemoSample(NamedTuple):
    key: str
    members: tuple[tuple[str, bytes], ...]  # (suffix, bytes), in tar order


def _photo_folder() -> Path:
    """Where the wheel's photographs lie; looked up without importing scikit-image, which could want to download."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DemoDataError("scikit-image is not installed; its photographs are used: pip install 'beam-curate[demo]'")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [photo.file for photo in PHOTOS if not (folder / photo.file).is_file()]
    if missing:
        raise DemoDataError(f"{folder} lacks {', '.join(missing)}: pip install --force-reinstall 'scikit-image>=0.25'")
    return folder


def _sample(photo: Photo, view: str, suffix: str, data: bytes, size: tuple[int, int]) -> _DemoSample:
    """Puts the caption and the metadata beside the image bytes; `size` is (width, height) as a person sees it."""
    caption = f"{photo.caption}, {view.replace('-', ' ')}."
    facts = {
        "url": f"https://github.com/scikit-image/scikit-image/raw/v0.26.0/src/skimage/data/{photo.file}",
        "caption": caption,
        "original": photo.file,
        "view": view,
        "width": size[0],
        "height": size[1],
        "licence": photo.licence,
        "source": photo.source,
    }
    members = ((suffix, data), ("txt", caption.encode()), ("json", json.dumps(facts, indent=1).encode()))
    return _DemoSample(f"{photo.file.split('.')[0]}-{view}", members)


def _good_samples(folder: Path) -> Iterator[_DemoSample]:
    """Every view of every photograph; photographs change fastest, so that each shard has them all."""
    from PIL import Image

    photos = [(photo, Image.open(folder / photo.file)) for photo in PHOTOS]
    for number, (view, (photo, original)) in enumerate((view, photo) for view in VIEWS for photo in photos):
        image = view_of(original, view)
        encodings = JPEGS if number < 2 * len(photos) else ALL
        encoding = encodings[number % len(encodings)]
        yield _sample(photo, view, encoding.suffix, encoding.encode(image), image.size)


def _with_bad_samples(good: list[_DemoSample], folder: Path) -> list[_DemoSample]:
    """Puts four bad samples among the good ones (the fifth, a duplicate key, is made when the shards are cut)."""
    from PIL import Image

    photo, chelsea = PHOTOS[3], Image.open(folder / PHOTOS[3].file)
    whole = jpeg(85)(chelsea)
    small = jpeg(85)(chelsea.resize((24, 16), Image.Resampling.LANCZOS))
    page = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>No such image.</body></html>\n"
    no_image = _sample(photo, "no-image", "jpg", b"", chelsea.size)
    bad = {
        8: _sample(photo, "truncated", "jpg", whole[: len(whole) * 3 // 5], chelsea.size),
        17: _sample(photo, "error-page", "jpg", page, chelsea.size),
        37: _sample(photo, "thumbnail", "jpg", small, (24, 16)),
        60: no_image._replace(members=no_image.members[1:]),
    }
    samples = list(good)
    for place, sample in bad.items():  # ascending, so that each lands at its place
        samples.insert(place, sample)
    return samples


def _tar_bytes(samples: Sequence[_DemoSample]) -> bytes:
    """A ustar archive; written with tarfile, for webdataset's writer sorts members and stamps the time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            for suffix, data in sample.members:
                info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                info.size, info.mtime, info.mode = len(data), _MTIME, 0o644
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def build_demo_dataset(folder: Path, *, samples_per_shard: int = 28) -> DemoDataset:
    """Writes the shards `00000.tar`, `00001.tar`, …, the last one as `.tar.gz`, and says what is in them.

    The first shard holds one sample more than `samples_per_shard`: its last one repeats the key of its first. Shards
    of an earlier call stay as they are.

    Raises:
        DemoDataError: `samples_per_shard` is below 2, a photograph is missing, or the folder has other tars: of these
            names, or of others, which the pattern would match.
    """
    if samples_per_shard < 2:
        raise DemoDataError(f"samples_per_shard must be at least 2, not {samples_per_shard}")
    from beam_curate import reasons  # imports Beam with the package, hence after every cheap check

    photos = _photo_folder()
    samples = _with_bad_samples(list(_good_samples(photos)), photos)
    cuts = [samples[start : start + samples_per_shard] for start in range(0, len(samples), samples_per_shard)]
    cuts[0] = [*cuts[0], cuts[0][1]._replace(key=cuts[0][0].key)]
    shards = [folder / f"{number:05d}.tar" for number in range(len(cuts))]
    shards[-1] = shards[-1].with_suffix(".tar.gz")
    others = sorted(path.name for path in folder.glob("*.tar*") if path not in shards)
    if others:
        raise DemoDataError(f"{folder} has other tars ({', '.join(others[:3])}); name an empty folder by --output")
    contents = {shard: _tar_bytes(cut) for shard, cut in zip(shards, cuts, strict=True)}
    contents[shards[-1]] = gzip.compress(contents[shards[-1]], mtime=0)
    for shard, data in contents.items():
        if shard.exists() and shard.read_bytes() != data:
            raise DemoDataError(f"{shard} is there, with other data than the demo's; name an empty folder by --output")
    folder.mkdir(parents=True, exist_ok=True)
    for shard, data in contents.items():
        shard.write_bytes(data)
    names = (reasons.TRUNCATED_IMAGE, reasons.NOT_AN_IMAGE, reasons.DUPLICATE_KEY, reasons.NO_IMAGE)
    return DemoDataset(
        pattern=str(folder / "*.tar*"),
        shards=tuple(shards),
        samples=sum(len(cut) for cut in cuts),
        failures=dict.fromkeys(names, 1),
        too_small=1,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the data set named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Build a small WebDataset of real photographs to try the pipelines on."
    )
    parser.add_argument("--output", type=Path, default=Path("demo/data"), help="folder for the shards (%(default)s)")
    parser.add_argument("--samples_per_shard", type=int, default=28, help="28 gives three shards")
    options = parser.parse_args(argv)
    try:
        demo = build_demo_dataset(options.output, samples_per_shard=options.samples_per_shard)
    except DemoDataError as error:
        print(f"demo_data: {error}", file=sys.stderr)
        return 2
    size = sum(shard.stat().st_size for shard in demo.shards) / 1e6
    print(f"{demo.samples} samples in {len(demo.shards)} shards ({size:.1f} MB): {demo.pattern}")
    bad = ", ".join(f"{count} {reason}" for reason, count in demo.failures.items())
    print(f"bad on purpose: {bad}; too small for --min_side {MIN_SIDE}: {demo.too_small}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
