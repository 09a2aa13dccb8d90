"""The images of a run with their scores, as FiftyOne takes them: `python examples/to_fiftyone.py curated/ for-fiftyone/`."""

import hashlib
import json
import math
import pathlib
import sys

import beam_curate
from beam_curate.tars.sources import SourceReader

folder, target = sys.argv[1], pathlib.Path(sys.argv[2])
most = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
with beam_curate.Run(folder).table.open(0) as part:
    scores = [field.name for field in part.schema if str(field.type) == "float"]
places = ["key", "shard", "shard_index", "index", "image", "members", "sha256", "status", "reason"]
table = beam_curate.read_score_table(folder, [*places, "caption", "url", *scores])
labels = {}
with SourceReader() as source:
    for row in table.filter(table["status"].to_numpy() != "failed").slice(0, most).to_pylist():
        (span,) = (member for member in row["members"] if member["suffix"] == row["image"])
        data = source.read(row["shard"], span["offset"], span["size"])
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            sys.exit(f"{row['shard']} is no longer as it was scored: {row['key']} is another image now")
        name = f"{row['shard_index']}/{row['index']}"  # two shards may have the same keys
        path = target / "data" / f"{name}.{row['image']}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        values = {"key": row["key"], "caption": row["caption"] or "", "url": row["url"] or ""}
        values |= {name: row[name] for name in scores if row[name] is not None and math.isfinite(row[name])}
        labels[name] = {"label": row["reason"] or row["status"], "attributes": values}
(target / "labels.json").write_text(json.dumps({"classes": None, "labels": labels}))
