"""The stable names of why a sample failed or was rejected, with what each means to a person.

A reason is part of the score table's contract: names are never renamed or reused. Rules and scorers that a user
adds bring their own names; the ones here are those that the package itself gives.
"""

from typing import Final

READ: Final = "read"
DECODE: Final = "decode"
SCREEN: Final = "screen"
INFER: Final = "infer"
FILTER: Final = "filter"
DEDUP: Final = "dedup"

# --- read: one row for the shard (key is empty) or for the sample named
UNREADABLE_SHARD: Final = "unreadable_shard"
NOT_A_TAR: Final = "not_a_tar"
EMPTY_SHARD: Final = "empty_shard"
TRUNCATED_TAR: Final = "truncated_tar"
CORRUPT_TAR: Final = "corrupt_tar"
CORRUPT_COMPRESSION: Final = "corrupt_compression"
UNSUPPORTED_COMPRESSION: Final = "unsupported_compression"
SHARD_TOO_LARGE: Final = "shard_too_large"
UNSUPPORTED_MEMBER: Final = "unsupported_member"
MEMBER_TOO_LARGE: Final = "member_too_large"
TOO_MANY_MEMBERS: Final = "too_many_members"
UNRESOLVED_LINK: Final = "unresolved_link"
DUPLICATE_KEY: Final = "duplicate_key"
DUPLICATE_MEMBER: Final = "duplicate_member"
NO_IMAGE: Final = "no_image"
# --- decode
NOT_AN_IMAGE: Final = "not_an_image"
TRUNCATED_IMAGE: Final = "truncated_image"
CORRUPT_IMAGE: Final = "corrupt_image"
TOO_MANY_PIXELS: Final = "too_many_pixels"
UNSUPPORTED_IMAGE: Final = "unsupported_image"
# --- infer
INFERENCE_ERROR: Final = "inference_error"
NON_FINITE_EMBEDDING: Final = "non_finite_embedding"
# --- filter (the sample is rejected, not failed)
AESTHETIC_BELOW_MIN: Final = "aesthetic_below_min"
NSFW_ABOVE_MAX: Final = "nsfw_above_max"
SIDE_BELOW_MIN: Final = "side_below_min"
NOT_KEPT_BY_RULE: Final = "not_kept_by_rule"
NOT_KEPT_BY_SCREEN: Final = "not_kept_by_screen"
BELOW_TOP: Final = "below_top"
# --- dedup (likewise)
DUPLICATE_EXACT: Final = "duplicate_exact"
DUPLICATE_PIXELS: Final = "duplicate_pixels"
DUPLICATE_PERCEPTUAL: Final = "duplicate_perceptual"
DUPLICATE_SEMANTIC: Final = "duplicate_semantic"
NOT_IN_OTHER: Final = "not_in_other"


def duplicate(method: str) -> str:
    """The reason of a duplicate, by the name of the method that found it."""
    return f"duplicate_{method}"


REJECTIONS: Final = (
    AESTHETIC_BELOW_MIN,
    NSFW_ABOVE_MAX,
    SIDE_BELOW_MIN,
    NOT_KEPT_BY_RULE,
    NOT_KEPT_BY_SCREEN,
    BELOW_TOP,
    DUPLICATE_EXACT,
    DUPLICATE_PIXELS,
    DUPLICATE_PERCEPTUAL,
    DUPLICATE_SEMANTIC,
    NOT_IN_OTHER,
)
"""The reasons of rows that are rejected, not failed."""

DESCRIPTIONS: Final[dict[str, str]] = {
    UNREADABLE_SHARD: "the shard could not be opened or read at all",
    NOT_A_TAR: "no tar header was found in the shard, compressed or not; the message says what it is, if that is known",
    EMPTY_SHARD: "the shard is a valid tar without any sample in it",
    TRUNCATED_TAR: "the shard ends in the middle of this sample; the samples before it are good",
    CORRUPT_TAR: "a damaged header here, or zeros where members should be; reading went on at the next good header",
    CORRUPT_COMPRESSION: "the gzip or zstd stream is damaged from here on",
    UNSUPPORTED_COMPRESSION: "the shard is compressed with a method that is not read (gzip and zstd are)",
    SHARD_TOO_LARGE: "the compressed shard expands beyond the limit (a decompression bomb), or the shard has too many samples",
    UNSUPPORTED_MEMBER: "a member of this sample is stored sparse, which webdataset readers do not expand, or has a name of more "
    "than 4,096 characters",
    MEMBER_TOO_LARGE: "the image member is larger than the limit, or all members together than 8 times the limit",
    TOO_MANY_MEMBERS: "the sample has more members than any real one (4096)",
    UNRESOLVED_LINK: "a member of this sample is a link, and its target is not a file before it in the shard",
    DUPLICATE_KEY: "an earlier sample of the same shard has this key (members of a key must be adjacent)",
    DUPLICATE_MEMBER: "two members of this sample have the same extension",
    NO_IMAGE: "the sample has no member with a known image extension",
    NOT_AN_IMAGE: "the bytes are not an image in any format that Pillow knows",
    TRUNCATED_IMAGE: "the image data ends early",
    CORRUPT_IMAGE: "the image is damaged",
    TOO_MANY_PIXELS: "the header claims more pixels than max_pixels (a decompression bomb, or a giant)",
    UNSUPPORTED_IMAGE: "the image uses a feature that the decoder does not support",
    INFERENCE_ERROR: "the model raised an error on this sample alone",
    NON_FINITE_EMBEDDING: "the model gave NaN or infinity",
    AESTHETIC_BELOW_MIN: "aesthetic < min_aesthetic",
    NSFW_ABOVE_MAX: "nsfw >= max_nsfw",
    SIDE_BELOW_MIN: "the shorter side in pixels < min_side",
    NOT_KEPT_BY_RULE: "the expression of keep does not hold, or is unknown since a value is missing",
    NOT_KEPT_BY_SCREEN: "the expression of screen does not hold, so the model has not seen the sample",
    BELOW_TOP: "not among the best that top or top_fraction asks for",
    DUPLICATE_EXACT: "a better sample, or one of the other dataset, has the same bytes",
    DUPLICATE_PIXELS: "a better sample, or one of the other dataset, has the same pixels",
    DUPLICATE_PERCEPTUAL: "a better sample, or one of the other dataset, has a perceptual hash that differs in few bits",
    DUPLICATE_SEMANTIC: "a better sample, or one of the other dataset, has a very similar embedding",
    NOT_IN_OTHER: "not found in the other dataset (against_action keep)",
}
