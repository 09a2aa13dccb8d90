"""What tells the content of a finished run from that of another one in the same folder."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from beam_curate.runs.state_files import read_index


def run_identity(folder: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that starts from another one notes of it: its configuration, its counts, and a digest of its table.

    The same run gives the same at any time and in any folder, packed or not. The digest is of the footprints of the table's
    parts, as its end noted it; in runs of version 0.1.0, whose end did not, of the names, sizes and md5 of the output shards.

    Args:
        folder: The folder of the finished run.
        summary: Its summary.json.
    """
    content = summary.get("table")
    if content is None:
        content = hashlib.sha256(json.dumps(read_index(folder), sort_keys=True).encode()).hexdigest()
    return {
        "configuration": summary.get("configuration", {}),
        "funnel": summary["funnel"],
        "content": content,
    }
