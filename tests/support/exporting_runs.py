"""Runs to export, made once: of the demo's photographs, and of made pictures of every awkward kind."""

import json

from beam_curate.commands import curate
from tests.conftest import encoded, photo, tar_bytes
from tests.support.models import MODEL

OFF = ["--min_aesthetic=none", "--max_nsfw=none"]


def curated(pattern, output, *flags):
    """A finished run that keeps all that is good."""
    assert curate.main([f"--input={pattern}", f"--output={output}", *MODEL, *OFF, *flags]) == 0
    return output


def as_of_0_1_0(run):
    """A finished run as version 0.1.0 left it: its end did not note the table."""
    summary = json.loads((run / "summary.json").read_text())
    del summary["table"]
    (run / "summary.json").write_text(json.dumps(summary))


def awkward(folder):
    """Three shards of 7 samples: large and small, JPEG, PNG, WebP and GIF, a side that WebP cannot have, a second image."""
    data = folder / "awkward"
    data.mkdir()
    for shard in range(3):
        members = []
        for n in range(7):
            key = f"{shard}{n}"
            image = photo(10 * shard + n, 120, 90)
            kinds = {1: ("png", "PNG"), 2: ("webp", "WEBP"), 3: ("gif", "GIF")}
            suffix, kind = kinds.get(n, ("jpg", "JPEG"))
            if n == 4:
                image = photo(n, 40, 30)
            if n == 5 and shard == 1:
                image = photo(n, 17000, 20)
            members += [(f"{key}.{suffix}", encoded(image, kind)), (f"{key}.txt", f"caption {key}".encode())]
            members.append((f"{key}.json", b'{"n": %d}' % n))
            if n == 6:
                members.append((f"{key}.webp", b"another member"))
        (data / f"{shard}.tar").write_bytes(tar_bytes(members))
    return str(data / "*.tar")
