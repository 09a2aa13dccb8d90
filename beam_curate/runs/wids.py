"""index.json of tars: where wids finds them, and how many samples each holds."""

from collections.abc import Sequence

from beam_curate.records import WrittenShard


def wids_index(files: Sequence[WrittenShard]) -> dict[str, object]:
    """The index that wids reads; urls are relative to it.

    Source: webdataset, wids-shard-index-v1.
    """
    listed = [{"url": file.name, "md5sum": file.md5, "nsamples": file.samples, "filesize": file.size} for file in files]
    return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}
