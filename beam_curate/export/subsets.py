"""The file of all uids of a layout: sorted bucket by bucket, so that no worker holds all of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np

from beam_curate.runs.layout import SUBSET
from beam_curate.storage.files import BUCKET, TEMPORARY, join, read_bytes, write_atomic

UID: Final = np.dtype([("f0", "<u8"), ("f1", "<u8")])
"""DataComp's uid as its tools sort it: the upper and the lower 16 hex digits; the same as np.dtype("u8,u8")."""

# A sorted subset is made bucket by bucket: a billion uids are 16 GB, and a bucket of them 250 MB.
_BUCKET_BITS: Final = 6


def uid_buckets(found: Sequence[str]) -> dict[int, bytes]:
    """Uids by bucket, each sorted: one bucket's uids come before those of the next."""
    numbers = np.array([divmod(int(uid, 16), 1 << 64) for uid in found], UID)
    bucket_of = numbers["f0"] >> np.uint64(64 - _BUCKET_BITS)
    return {int(bucket): np.sort(numbers[bucket_of == bucket]).tobytes() for bucket in np.unique(bucket_of)}


def write_bucket(folder: str, bucket: int, several: Iterable[bytes]) -> int:
    """Sorts the uids of a bucket, leaves each once, and puts them where `write_subset` finds them; returns how many they are."""
    found = np.unique(np.frombuffer(b"".join(several), UID))
    write_atomic(folder, _bucket_name(bucket), lambda stream: stream.write(found.tobytes()))
    return len(found)


def write_subset(folder: str, buckets: Mapping[int, int]) -> int:
    """Writes the file of all uids, sorted: (N,) of dtype UID, as DataComp's resharder takes it.

    Args:
        folder: The layout's folder, with the buckets.
        buckets: How many different uids there are in each bucket.

    Returns:
        N: how many different uids there are. Two samples of a pool may have the same.
    """
    total = sum(buckets.values())
    header: dict[str, Any] = {"descr": UID.descr, "fortran_order": False, "shape": (total,)}

    def write(stream: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(stream, header)
        for bucket in sorted(buckets):
            stream.write(read_bytes(join(folder, _bucket_name(bucket))))

    write_atomic(folder, SUBSET, write)
    return total


def _bucket_name(bucket: int) -> str:
    return f"{TEMPORARY}/{BUCKET}-{bucket:02d}"
