"""What tells the content of a finished run from that of another one in the same folder."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from beam_curate.runs.state_files import read_index


def run_identity(folder: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that starts from another one notes of it: its configuration, its counts, and a digest of its shards.

    The same run gives the same at any time and in any folder. The digest is of the names, sizes and md5 of the output
    shards; what else there is of a sample, the scores and the embedding, follows from it and from the configuration.

    Args:
        folder: The folder of the finished run.
        summary: Its summary.json.
    """
    listed = read_index(folder)
    return {
        "configuration": summary.get("configuration", {}),
        "funnel": summary["funnel"],
        "content": hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest(),
    }
