"""Small pictures of samples for a report, read back from the source shards; what cannot be read is a reason, not an error."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from PIL import Image

from beam_curate.images.decoding import MAX_PIXELS, DecodeOptions, open_image
from beam_curate.images.errors import ImageError
from beam_curate.images.reencoding import load_at_size
from beam_curate.report.rows import Row
from beam_curate.report.table import Place
from beam_curate.storage.retrying import StorageError
from beam_curate.tars.sources import SourceChangedError, SourceReader, check_sha256

SIDE: Final = 240  # pixels of a thumbnail's longer side, at most
QUALITY: Final = 70


class Thumbnail(NamedTuple):
    """A picture as a data: URI with its size in pixels; or, if `uri` is empty, why there is none."""

    uri: str
    width: int = 0
    height: int = 0
    problem: str = ""


def make_thumbnails(rows: Iterable[Row], max_pixels: int = MAX_PIXELS) -> dict[Place, Thumbnail]:
    """The pictures of samples by their place; each sample is read once, a shard forward.

    A shard that cannot be read is not tried again for its other samples.
    """
    ordered = sorted(
        {row.place: row for row in rows}.values(), key=lambda row: (row.other, row.shard_index, row.offset)
    )
    options = DecodeOptions(extract_exif=False, max_pixels=min(max_pixels, MAX_PIXELS))
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in ordered:
        if row.size >= 0:
            spans[row.shard].append((row.offset, row.size))
    unreadable: set[str] = set()
    found: dict[Place, Thumbnail] = {}
    with SourceReader() as source:
        for shard, members in spans.items():
            source.expect(shard, members)
        for row in ordered:
            if row.size < 0:
                found[row.place] = Thumbnail("", problem="no image")
            elif row.shard in unreadable:
                found[row.place] = Thumbnail("", problem="source not readable")
            else:
                try:
                    data = source.read(row.shard, row.offset, row.size)  # the digest tells more than the member's name
                    check_sha256(data, row.sha256, row.key, row.shard)
                    found[row.place] = _thumbnail(data, options)
                except StorageError:
                    unreadable.add(row.shard)
                    found[row.place] = Thumbnail("", problem="source not readable")
                except SourceChangedError:
                    found[row.place] = Thumbnail("", problem="source changed")
                except ImageError as error:
                    found[row.place] = Thumbnail("", problem=error.reason)
    return found


def _thumbnail(data: bytes, options: DecodeOptions) -> Thumbnail:
    """Brings the longer side down to SIDE pixels, with Pillow alone: a process that makes a report loads no torch."""
    opened = open_image(data, options)
    facts = opened.facts
    longest = max(facts.width, facts.height)
    scale = min(SIDE, longest) / longest
    size = max(1, round(facts.width * scale)), max(1, round(facts.height * scale))
    picture = load_at_size(opened, size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), *size)
