"""The stable names of why a row of the input is in no shard, beside those of `beam_curate.reasons`."""

from typing import Final

from beam_curate.reasons import DUPLICATE_KEY, MEMBER_TOO_LARGE, NOT_AN_IMAGE

PACK: Final = "pack"
"""The step, as `Failure.step` names it."""

MISSING_FILE: Final = "missing_file"
EMPTY_FILE: Final = "empty_file"
NO_PATH: Final = "no_path"
IS_URL: Final = "is_url"
BAD_ROW: Final = "bad_row"
NO_CLASS: Final = "no_class"

DESCRIPTIONS: Final[dict[str, str]] = {
    MISSING_FILE: "there is no such file",
    EMPTY_FILE: "the file, or the image in the row, has no bytes",
    NO_PATH: "the row names no image: its cell is empty",
    IS_URL: "the row names a page of the web; download such images with img2dataset, whose shards need no packing",
    BAD_ROW: "the row cannot be read: it has other fields than the header, is no JSON object, or is not UTF-8",
    NO_CLASS: "the image lies in no class folder",
    DUPLICATE_KEY: "an earlier image has this key: its name without the extension, or the value of --key_column",
    MEMBER_TOO_LARGE: "the image has more bytes than --max_member_bytes",
    NOT_AN_IMAGE: "the bytes in the row are no image in a format that is known, so it has no extension",
}
