"""What the counters of a job that runs elsewhere tell of it."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc
from apache_beam.metrics.metric import MetricsFilter
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from beam_curate.progress import Seen

_COUNTERS: Final = {
    "beam_curate.pack/samples": "images packed",
    "beam_curate.read/samples": "samples read",
    "beam_curate.score/kept": "kept",
    "beam_curate.score/rejected": "rejected",
    "beam_curate.score/failed": "failed",
    "beam_curate.table/parts": "reads of parts of the table",
    "beam_curate.duplicates/buckets": "buckets of duplicates to compare",
    "beam_curate.duplicates/compared_buckets": "compared",
    "beam_curate.select/rows": "rows judged",
    "beam_curate.write/samples": "samples written",
}
_COUNTED: Final = tuple(dict.fromkeys(name.partition("/")[0] for name in _COUNTERS))

_NO_ANSWER: Final = (
    OSError,
    RuntimeError,
    ValueError,
    grpc.RpcError,
    grpc.FutureTimeoutError,
    GoogleAPIError,
    GoogleAuthError,
    # A runner that tells nothing, or whose answer Beam's own classes cannot take: Dataflow's fail with a KeyError where a counter
    # has only one of its two values yet (Beam 2.77, dataflow_metrics.py).
    NotImplementedError,
    AttributeError,
    LookupError,
    TypeError,
)


def counters_seen(result: Any) -> Callable[[float], Seen]:
    """Looks at the counters of a job that runs elsewhere, as far as it tells them: samples by what became of them.

    What is under way counts: a job service commits a counter when a piece of work has ended, which may take hours. A counter that
    several steps have is added up. What cannot be told now may be told the next time.

    Args:
        result: What the runner gave for the job.
    """

    def look(seconds: float) -> Seen:
        try:
            found = result.metrics().query(MetricsFilter().with_namespaces(_COUNTED))["counters"]
        except _NO_ANSWER:
            return Seen(0)
        counts: Counter[str] = Counter()
        for each in found:
            so_far = max(each.attempted or 0, each.committed or 0)
            counts[f"{each.key.metric.namespace}/{each.key.metric.name}"] += int(so_far)
        words = [f"{counts[name]:,} {said}" for name, said in _COUNTERS.items() if counts[name]]
        return Seen(0, ", ".join(words))

    return look
