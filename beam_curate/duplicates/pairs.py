"""Pairs of samples that a report shows: of several similarities, on both sides of what makes duplicates."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from beam_curate.duplicates.candidates import Ids, Places, firsts, scattered
from beam_curate.duplicates.edges import Edges

PAIR: Final = np.dtype([("method", "u1"), ("similarity", "<f4"), ("first", "<u8"), ("second", "<u8")])
Pairs = npt.NDArray[np.void]
"""(P,) of PAIR: ids, and how similar they are by a method, see `edges`."""

EACH: Final = 4
"""Pairs that are shown of each band."""
_COPIES: Final = 8
"""So many times a pair of a few rows and of others may be there: both are among both, as they are and mirrored."""
FEW: Final = 32
"""Rows of a bucket that are compared with all of it to find pairs to show."""


def no_pairs() -> Pairs:
    """None."""
    return np.zeros(0, PAIR)


def pairs_of(
    first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], similarity: npt.NDArray[np.float32]
) -> Pairs:
    """Pairs of ids; the method is still to be said. A row is not a pair with itself."""
    pairs = np.zeros(len(first), PAIR)
    pairs["first"], pairs["second"] = np.minimum(first, second), np.maximum(first, second)
    pairs["similarity"] = similarity
    return pairs[first != second]


def pairs_of_edges(edges: Edges) -> Pairs:
    """Edges as pairs."""
    pairs = pairs_of(edges["row"], edges["of"], edges["similarity"])
    pairs["method"] = edges["method"]
    return pairs


def choose_pairs(pairs: Pairs, bands: Mapping[int, Sequence[float]]) -> Pairs:
    """Of each band EACH, drawn by their ids; a pair that was found several times is one.

    Choosing among chosen ones is choosing among all: so it can be done in any order.

    Args:
        pairs: (P,)
        bands: By method the similarities, falling, between which bands lie, the lower one included: pairs outside are left out.
    """
    chosen = [no_pairs()]
    for method, limits in bands.items():
        mine = pairs[pairs["method"] == method]
        chosen.append(mine[chosen_places(mine, limits)])
    return np.concatenate(chosen)


def chosen_places(pairs: Pairs, limits: Sequence[float]) -> Places:
    """Where the pairs stand that are chosen of one method's, see `choose_pairs`; by ids and bands alone."""
    order = np.lexsort((pairs["similarity"], pairs["second"], pairs["first"]))
    place = order[firsts(pairs["first"][order], pairs["second"][order])]
    band = _bands(pairs[place], limits)
    inside = (band > 0) & (band < len(limits))
    place, band = place[inside], band[inside]
    order = np.lexsort((_drawn(pairs[place]), band))
    place, band = place[order], band[order]
    found: Places = place[np.arange(len(band)) - np.searchsorted(band, band) < EACH]
    return found


def chosen_of_few(pairs: Pairs, limits: Sequence[float]) -> Places:
    """As `chosen_places`, of pairs of FEW rows with others: of a crowd very many are in a band, and few of them are sorted."""
    band, drawn = _bands(pairs, limits), _drawn(pairs)
    found = [np.zeros(0, np.int64)]
    for number in range(1, len(limits)):
        place = np.flatnonzero(band == number)
        if len(place) > EACH * _COPIES:
            last = np.partition(drawn[place], EACH * _COPIES - 1)[EACH * _COPIES - 1]
            place = place[drawn[place] <= last]
        found.append(place)
    few = np.concatenate(found)
    return few[chosen_places(pairs[few], limits)]


def _bands(pairs: Pairs, limits: Sequence[float]) -> Places:
    """The band of each pair: limits[k - 1] > similarity >= limits[k] in the band k; 0 or all of them for one in none."""
    found: Places = np.searchsorted(-np.asarray(limits, np.float32), -pairs["similarity"], side="left")
    return found


def _drawn(pairs: Pairs) -> Ids:
    """In which order pairs are chosen, by their ids."""
    return scattered(pairs["first"] ^ scattered(pairs["second"]))


def some_rows(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """FEW of rows, by their ids alone: the same in whatever order they come, and of some of some ones as well."""
    return rows[np.argsort(scattered(rows["id"]), kind="stable")[:FEW]]
