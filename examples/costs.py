"""How much of each thing that costs money a run takes, from what you measured; multiply it with your own prices.

Dollars for a million images, with the prices of an hour of the workers that you name:

    python examples/costs.py g2-standard-8=1.00 a2-highgpu-1g=3.67
"""

import math
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Measured(NamedTuple):
    """What a run on a few shards of yours has shown, or what you assume."""

    images: int
    image_bytes: float  # of a sample in the tar: index.json or the size of a shard, by its samples
    shard_bytes: float
    kept: float  # the share that passes your rules: funnel in summary.json
    images_per_second: float  # of one worker that scores
    packed_per_second: float  # of one worker without a GPU
    row_bytes: float = 1500  # of the score table
    samples_per_shard: int = 1000


def quantities(run: Measured) -> dict[str, float]:
    """What the pass through the model and the packing take; each is to be multiplied with its price."""
    kept = run.images * run.kept
    read, written = run.images * run.image_bytes, kept * run.image_bytes
    shards, outputs = math.ceil(read / run.shard_bytes), math.ceil(kept / run.samples_per_shard)
    ranges = 8 * 2**20  # bytes that are asked for at once
    files = shards + 3 * outputs  # a part of the table for each shard; tar, rows and counts of each output shard
    return {
        "hours of a worker that scores": run.images / run.images_per_second / 3600,
        "hours of a worker that packs": kept / run.packed_per_second / 3600,
        "GB read": (read + written) / 1e9,
        "GB of the score table": run.images * run.row_bytes / 1e9,
        "GB of curated shards": written / 1e9,
        "read requests": math.ceil(read / ranges) + math.ceil(written / ranges) + 8 * shards,
        "write requests": 2 * files,
    }


def dollars_per_million(dollars_per_hour: float, images_per_second: float) -> float:
    """What a million images cost on a worker, from its speed and the price of its hour (all of it)."""
    return dollars_per_hour * 1e6 / images_per_second / 3600


WORKERS = {  # images a second, of 1024x768 and of 12 megapixels: the estimates of docs/dataflow.md, or what you measured
    "n1-standard-4": (147, 49),  # with a T4
    "g2-standard-8": (292, 99),
    "a2-highgpu-1g": (1143, 148),
    "a2-ultragpu-1g": (1143, 148),
    "a3-highgpu-1g": (1900, 322),
}


def million(prices: Mapping[str, float]) -> Iterator[str]:
    """What a million images take on each worker: hours, and dollars where the price of an hour is given."""
    for machine in sorted({*WORKERS, *prices}, key=[*WORKERS, *prices].index):
        if machine not in WORKERS:
            raise SystemExit(f"error: {machine} is none of {', '.join(WORKERS)}")
        for size, speed in zip(("1024x768", "12 megapixels"), WORKERS[machine], strict=True):
            hours = dollars_per_million(1, speed)
            dollars = f"{hours * prices[machine]:>9.2f} $" if machine in prices else ""
            yield f"{machine:<15} {size:<14} {hours:>6.2f} hours {dollars}".rstrip()


if __name__ == "__main__":
    example = Measured(10**6, 100e3, 1e9, 0.3, 292, 1000)  # that of docs/costs.md
    for run in (example, example._replace(images=10**9)):
        print(f"{run.images:,} images")
        for name, number in quantities(run).items():
            print(f"  {number:>14,.1f} {name}")
    print("A million images through the model")
    for line in million({name: float(price) for name, _, price in (word.partition("=") for word in sys.argv[1:])}):
        print(f"  {line}")
