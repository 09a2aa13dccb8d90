"""The stable names of why a row of the input is in no shard, beside those of `beam_curate.reasons`."""

from typing import Final

PACK: Final = "pack"
"""The step, as `Failure.step` names it."""

MISSING_FILE: Final = "missing_file"
"""There is no such file."""
EMPTY_FILE: Final = "empty_file"
"""The file, or the image in the row, has no bytes."""
NO_PATH: Final = "no_path"
"""The row names no image: its cell is empty, or has no text."""
IS_URL: Final = "is_url"
"""The row names a page of the web."""
BAD_ROW: Final = "bad_row"
"""The row cannot be read: it has other fields than the header, is not a JSON object, or is not UTF-8; or a column is missing."""
UNREADABLE_TABLE: Final = "unreadable_table"
"""A table in Parquet is damaged: the row stands in what cannot be read, or for the whole table."""
NO_CLASS: Final = "no_class"
"""The image lies in no class folder."""
