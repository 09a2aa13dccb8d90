"""Where samples that are not kept come from: counts by source shard and by the domain of their url.

A part gives a count for each of its origins; those of one origin are added up, and of all of them the worst are shown.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_curate.records import KEPT
from beam_curate.report.table import Rows

MAX_ORIGINS: Final = 12
"""Of a kind: those with the most samples that are not kept."""
SHARD: Final = "shard"
DOMAIN: Final = "domain"
COLUMNS: Final = ("shard", "url")
"""What is read of the rows."""

# Scheme, user, and what follows the name are left out (RFC 3986, section 3.2).
_HOST: Final = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>[^/?#:]+)"

Outcomes = Counter[str]
"""Samples by what became of them: KEPT, or the reason why not."""
Origin = tuple[str, str]
"""Its kind, and its name."""


class Counted(NamedTuple):
    """An origin, and what became of its samples."""

    name: str
    outcomes: Outcomes

    @property
    def worth(self) -> tuple[int, str]:
        """By what it is shown before others: samples that are not kept; of equal ones that with the last name."""
        return self.outcomes.total() - self.outcomes[KEPT], self.name


def origins(rows: Rows) -> list[tuple[Origin, Outcomes]]:
    """What became of the samples of a part, by each of its origins."""
    outcome = [reason or status for reason, status in zip(rows.group.reason, rows.group.status, strict=True)]
    found = []
    for kind, names in ((SHARD, rows.table.column("shard")), (DOMAIN, domains(rows.table.column("url")))):
        by_name: dict[str, Outcomes] = {}
        for (name, word), number in Counter(zip(names.to_pylist(), outcome, strict=True)).items():
            if name is not None:
                by_name.setdefault(name, Counter())[word] = number
        found += [((kind, name), outcomes) for name, outcomes in by_name.items()]
    return found


def domains(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """The domain of each url, in small letters and without `www.`; null for none."""
    host = pc.utf8_lower(pc.struct_field(pc.extract_regex(urls, _HOST), "host"))
    return pc.replace_substring_regex(host, r"^www\.", "")


def add_outcomes(several: Iterable[Outcomes]) -> Outcomes:
    """The sum; new, as its parts may be used again."""
    total: Outcomes = Counter()
    for some in several:
        total.update(some)
    return total


def worst(counted: Mapping[Origin, Outcomes]) -> dict[str, Sequence[Counted]]:
    """By kind the origins with the most samples that are not kept."""
    kinds = {
        kind: [Counted(name, found) for (of, name), found in counted.items() if of == kind] for kind in (SHARD, DOMAIN)
    }
    return {kind: sorted(some, key=lambda each: each.worth, reverse=True)[:MAX_ORIGINS] for kind, some in kinds.items()}
