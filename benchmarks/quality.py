"""Compares the quality scores with those of cleanvision: the same photographs, whole and degraded, judged by both.

    pip install cleanvision==0.3.7
    python benchmarks/quality.py --json quality.json

Every photograph is degraded once in each way, by a seeded amount, and saved as JPEG. cleanvision judges the decoded file, we
the 224 x 224 pixels that a model sees of it. Printed for each pair of scores, over the originals and their degraded copies:

- corr: Spearman's rank correlation of the two scores;
- AUC: how well the score tells degraded from original (1 always, 0.5 by chance), theirs and ours;
- found, false: the share of degraded images, and of originals, beyond the threshold, theirs and ours (the suggested one);
- ms: the time of the score alone for an image, without decoding, theirs (640 x 480) and ours (224 x 224).

Photographs that are grey anyway are left out where grey is what is to be told. cleanvision's `grayscale` looks at the colour
space of the file and not at its pixels; its `odd_size` is left out: it compares with the whole set, for which the score table
has `width` and `height`.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from photo_shards import photo_jpegs
from PIL import Image, ImageFilter

from beam_curate.images.decoding import DecodeOptions, decode_image
from beam_curate.scores.quality import QUALITY, quality_scores

_QUALITY: Final = 90


def _levels(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    levels = change(np.asarray(image, np.float64))
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(2 * 8 ** rng.uniform()))  # 2 to 16 pixels of 640


def _darkened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(0.05, 0.35)
    return _levels(image, lambda levels: levels * factor)


def _overexposed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(0.02, 0.2)
    return _levels(image, lambda levels: 255 - (255 - levels) * factor)


def _flattened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = rng.uniform(0.0, 0.05)
    return _levels(image, lambda levels: levels.mean(axis=(0, 1)) * (1 - factor) + levels * factor)


def _grey(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.convert("L")


def _grey_rgb(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    height = round(image.width / rng.uniform(2.5, 8))
    top = int(rng.integers(0, image.height - height))
    return image.crop((0, top, image.width, top + height))


def _framed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Bars above and below that add 25 to 100 % of the height, the whole at the size of the photograph."""
    bar, shade = round(image.height * rng.uniform(0.125, 0.5)), int(rng.integers(0, 256))
    page = Image.new("RGB", (image.width, image.height + 2 * bar), (shade, shade, shade))
    page.paste(image, (0, bar))
    return page.resize(image.size, Image.Resampling.LANCZOS)


DEGRADE: Final[Mapping[str, Callable[[Image.Image, np.random.Generator], Image.Image]]] = {
    "blurred": _blurred,
    "darkened": _darkened,
    "overexposed": _overexposed,
    "flattened": _flattened,
    "grey": _grey,
    "grey as RGB": _grey_rgb,
    "cropped": _cropped,
    "framed": _framed,
}


class Pair(NamedTuple):
    """A way to degrade, cleanvision's issue for it (empty if it has none), and our score."""

    degraded: str
    issue: str
    ours: str


PAIRS: Final = (
    Pair("blurred", "blurry", "sharpness"),
    Pair("darkened", "dark", "brightness_p99"),
    Pair("overexposed", "light", "brightness_p5"),
    Pair("flattened", "low_information", "entropy"),
    Pair("flattened", "low_information", "bytes_per_pixel"),
    Pair("grey", "grayscale", "chroma_p99"),
    Pair("grey as RGB", "grayscale", "chroma_p99"),
    Pair("grey as RGB", "grayscale", "colourfulness"),
    Pair("cropped", "odd_aspect_ratio", "aspect_ratio"),
    Pair("framed", "", "border"),
)


class Judged(NamedTuple):
    """What one side says of the images of a set: scores (low is bad), which are beyond the threshold, and its time."""

    scores: np.ndarray
    flagged: np.ndarray
    seconds: float


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's, NaN where one side is constant."""
    if len(set(left)) == 1 or len(set(right)) == 1:
        return float("nan")
    return float(np.corrcoef(ranks(left), ranks(right))[0, 1])


def auc(original: np.ndarray, degraded: np.ndarray) -> float:
    """How often a degraded image has the lower score than an original one; equal scores count half."""
    rank = ranks(np.concatenate([original, degraded]))[: len(original)]
    return float((rank.sum() - len(original) * (len(original) + 1) / 2) / (len(original) * len(degraded)))


def coloured(jpegs: Sequence[bytes]) -> list[int]:
    """Which images are not grey in the first place."""
    levels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int) for data in jpegs]
    return [index for index, image in enumerate(levels) if np.ptp(image, axis=2).max() > 32]


def degraded_sets(count: int, seed: int) -> dict[str, list[bytes]]:
    """JPEGs by the way they were degraded, in the same order; "" has the originals."""
    sets: dict[str, list[bytes]] = {"": photo_jpegs("S")[:count]}
    for number, (name, degrade) in enumerate(DEGRADE.items()):
        sets[name] = []
        for index, data in enumerate(sets[""]):
            buffer = io.BytesIO()
            rng = np.random.default_rng([seed, number, index])
            degrade(Image.open(io.BytesIO(data)).convert("RGB"), rng).save(buffer, "JPEG", quality=_QUALITY)
            sets[name].append(buffer.getvalue())
    return sets


def our_verdict(jpegs: Sequence[bytes], name: str) -> Judged:
    """Scores of ours."""
    images = [decode_image(data, DecodeOptions()) for data in jpegs]
    start = time.perf_counter()
    values = np.array([quality_scores([name], pixels, facts)[name] for facts, pixels in images])
    seconds = time.perf_counter() - start
    low, high = QUALITY[name].suggested_min, QUALITY[name].suggested_max
    if high is not None:
        return Judged(-values, values > high, seconds)
    return Judged(values, values < low if low is not None else np.zeros(len(values), bool), seconds)


def their_verdicts(jpegs: Sequence[bytes], issues: Sequence[str], properties: Mapping[str, Any]) -> dict[str, Judged]:
    """Scores of cleanvision by issue: from its Imagelab, timed on the functions that it calls for an image."""
    from cleanvision import Imagelab

    judged = {}
    with tempfile.TemporaryDirectory(prefix="beam-curate-quality-") as folder:
        paths = [f"{folder}/{index:04d}.jpg" for index in range(len(jpegs))]
        for path, data in zip(paths, jpegs, strict=True):
            Path(path).write_bytes(data)
        lab = Imagelab(filepaths=paths)
        lab.find_issues({issue: {} for issue in issues}, n_jobs=1, verbose=False)
        rows = lab.issues.loc[paths]
    images = [Image.open(io.BytesIO(data)) for data in jpegs]
    for image in images:
        image.load()
    for issue in issues:
        start = time.perf_counter()
        for image in images:
            properties[issue].calculate(image)
        seconds = time.perf_counter() - start
        scores, flagged = rows[f"{issue}_score"].to_numpy(float), rows[f"is_{issue}_issue"].to_numpy(bool)
        judged[issue] = Judged(scores, flagged, seconds)
    return judged


def _chosen(judged: Judged, indexes: Sequence[int]) -> Judged:
    share = len(indexes) / len(judged.scores)
    return Judged(judged.scores[indexes], judged.flagged[indexes], judged.seconds * share)


def _side(original: Judged, degraded: Judged) -> dict[str, float]:
    return {
        "auc": auc(original.scores, degraded.scores),
        "found": float(degraded.flagged.mean()),
        "false": float(original.flagged.mean()),
        "ms": 1000 * (original.seconds + degraded.seconds) / (len(original.scores) + len(degraded.scores)),
    }


def compare(sets: Mapping[str, Sequence[bytes]]) -> list[dict[str, Any]]:
    """The rows of the table."""
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    properties = ImagePropertyIssueManager().image_properties
    issues = sorted({pair.issue for pair in PAIRS} - {""})
    theirs = {name: their_verdicts(jpegs, issues, properties) for name, jpegs in sets.items()}
    everyone = list(range(len(sets[""])))
    rows = []
    for pair in PAIRS:
        indexes = coloured(sets[""]) if pair.issue == "grayscale" else everyone
        ours = [_chosen(our_verdict(sets[name], pair.ours), indexes) for name in ("", pair.degraded)]
        row: dict[str, Any] = {**pair._asdict(), "our": _side(*ours)}
        if pair.issue:
            their = [_chosen(theirs[name][pair.issue], indexes) for name in ("", pair.degraded)]
            both = (np.concatenate([judged.scores for judged in side]) for side in (their, ours))
            row |= {"their": _side(*their), "correlation": correlation(*both)}
        rows.append(row)
    return rows


def all_ms(jpegs: Sequence[bytes]) -> dict[str, float]:
    """Milliseconds an image of all scores of each side together: cleanvision computes `dark` and `light` at once."""
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    properties = ImagePropertyIssueManager().image_properties
    opened, decoded = (
        [Image.open(io.BytesIO(data)) for data in jpegs],
        [decode_image(data, DecodeOptions()) for data in jpegs],
    )
    for image in opened:
        image.load()
    start = time.perf_counter()
    for image in opened:
        for issue in properties.keys() - {"light"}:
            properties[issue].calculate(image)
    middle = time.perf_counter()
    for facts, pixels in decoded:
        quality_scores(list(QUALITY), pixels, facts)
    end = time.perf_counter()
    return {"their": 1000 * (middle - start) / len(jpegs), "our": 1000 * (end - middle) / len(jpegs)}


def _line(row: Mapping[str, Any]) -> str:
    cells = [f"{row['degraded']:<12}{row['issue'] or '-':<17}{row['ours']:<16}{row.get('correlation', np.nan):6.2f}"]
    for figure, form in (("auc", "6.3f"), ("found", "6.0%"), ("false", "6.0%"), ("ms", "7.2f")):
        cells += [format(row[side][figure], form) if side in row else " " * 5 + "-" for side in ("their", "our")]
    return "  ".join(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status, which does not depend on the figures."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=36, help="how many photographs, at most 36")
    parser.add_argument("--seed", type=int, default=0, help="of the amounts by which they are degraded")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    if not 2 <= options.photos <= 36:
        parser.error(f"--photos is {options.photos}; give 2 to 36")
    if find_spec("cleanvision") is None:
        raise SystemExit(
            "error: cleanvision is not installed; it is what we compare with: pip install cleanvision==0.3.7"
        )
    sets = degraded_sets(options.photos, options.seed)
    rows = compare(sets)
    sides = "".join(f"{figure:>16}" for figure in ("AUC", "found", "false", "ms"))
    print(f"{'degraded':<12}{'cleanvision':<17}{'ours':<16}  corr{sides}  (theirs, ours)")
    for row in rows:
        print(_line(row))
    both = all_ms(sets[""])
    print(f"all scores of an image, ms: {both['their']:.2f} theirs, {both['our']:.2f} ours")
    if options.json:
        options.json.write_text(
            json.dumps({"photos": options.photos, "seed": options.seed, "rows": rows, "all_ms": both}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
