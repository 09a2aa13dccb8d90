"""Sums that tell the bits of rows apart."""

from typing import Final

import torch

_NUMBERS_AT_ONCE: Final = 1 << 20


def row_sums(values: torch.Tensor) -> torch.Tensor:
    """Sums the bits of each row of (N, ...) as integers, and these with weights.

    They are the bits of numbers, not the numbers: NaN is then equal to itself.

    Returns:
        (N, 2) int64 on the device of the values; equal rows have equal sums.
    """
    rows = values.reshape(len(values), -1)
    bits = rows.view({2: torch.int16, 4: torch.int32}[rows.element_size()])
    weights = torch.arange(rows.shape[1], device=rows.device)
    sums = []
    for part in torch.split(bits, max(1, _NUMBERS_AT_ONCE // max(1, rows.shape[1]))):
        long = part.to(torch.int64)
        sums.append(torch.stack([long.sum(1), (long * weights).sum(1)], dim=1))
    return torch.cat(sums)
