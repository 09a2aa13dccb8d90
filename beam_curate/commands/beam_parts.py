"""Apache Beam without what the commands do not use of it.

`import apache_beam` loads the clients of BigQuery, Pub/Sub and MongoDB, and its RunInference loads scipy's optimizers, for a
manager of several models: 0.5 s before the first image. Here they are loaded by whoever asks for something in them, such as
`apache_beam.io.ReadFromBigQuery` in a user's scorer. (pandas, which takes 0.25 s, is used by `apache_beam.io.textio` at once.)
"""

import importlib
from typing import Any, Final

from beam_curate.deferred import defer_when_imported

_SYSTEMS: Final = ("apache_beam.io.gcp.bigquery", "apache_beam.io.gcp.pubsub", "apache_beam.io.mongodbio")
"""Modules of which `apache_beam.io` has all public names."""


def load_beam() -> None:
    """Loads Beam for a command; a process that has loaded it already keeps it as it is."""
    defer_when_imported({**dict.fromkeys(_SYSTEMS, ()), "scipy.optimize": ["nnls"]})
    import apache_beam.io

    vars(apache_beam.io).setdefault("__getattr__", _of_systems)


def _of_systems(name: str) -> Any:
    """What `apache_beam.io` has by a name of those that are loaded later.

    Raises:
        AttributeError: It has none.
    """
    for path in () if name.startswith("_") else _SYSTEMS:
        module = importlib.import_module(path)
        found = getattr(module, name, None)  # which runs the module
        if found is not None and name in module.__all__:
            return found
    raise AttributeError(f"module 'apache_beam.io' has no attribute {name!r}")
