"""What the commands know of the methods to find duplicates: each file here is one, and is known by being here.

Only the standard library is imported, so that `--help` answers at once; `MethodOptions.method` loads the method itself.
"""

from collections.abc import Sequence

from beam_curate.commands.method_options import MethodOptions
from beam_curate.kinds import kinds_in


def all_options() -> Sequence[type[MethodOptions]]:
    """The options classes of the methods, surest first."""
    return sorted(kinds_in(__name__, MethodOptions), key=lambda kind: kind.place)
