"""What the commands know of the methods to find duplicates: each file here is one, and is known by being here.

Only the standard library is imported, so that `--help` answers at once; `MethodOptions.method` loads the method itself.
"""

import importlib
import pkgutil
from collections.abc import Sequence

from beam_curate.commands.method_options import MethodOptions


def all_options() -> Sequence[type[MethodOptions]]:
    """The options classes of the methods, surest first."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    kinds = (kind for module in modules for kind in vars(module).values() if isinstance(kind, type))
    return sorted({kind for kind in kinds if issubclass(kind, MethodOptions) and kind is not MethodOptions}, key=_place)


def _place(kind: type[MethodOptions]) -> int:
    return kind.place
