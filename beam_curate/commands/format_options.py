"""The options of `select` and `export` that say how samples are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from beam_curate.commands.options import CheckedOptions, OptionError, comma_list, number_or_none, option
from beam_curate.export.formats import all_formats, format_names

if TYPE_CHECKING:
    import pyarrow as pa

    from beam_curate.export.prepared import PreparedSamples

IMAGE_FORMATS: Final = ("keep", "jpeg", "webp", "png")
DEFAULT_QUALITY: Final = 95
"""Of JPEG and WebP. Source: img2dataset's default encode_quality."""
OF_FORMATS: Final = (
    "format",
    "compression",
    "resize_shortest",
    "image_format",
    "quality",
    "fields",
)
"""The names of those that decide the files."""
FIELDS: Final = (
    "what to export beside the image: a comma list of columns of 00000.parquet (caption, aesthetic, embedding) and, with a dot "
    "before them, members (.txt, .json). * is all columns but the embeddings, and in webdataset all members"
)


@dataclass(frozen=True, kw_only=True)
class FormatOptions(CheckedOptions):
    """How samples are written: as what, with which fields, and what becomes of their images."""

    format: str = option(
        "webdataset",
        "webdataset: tars with every member as it is, unless an option below asks for something else; tfrecord: files of "
        "tf.train.Example, with index files for DALI; mds: for MosaicML's streaming",
        choices=format_names,
    )
    compression: str = option(
        "none", "compression of tfrecord files; DALI reads only uncompressed ones", choices=("none", "gzip")
    )
    resize_shortest: int | None = option(
        None,
        "make the shorter side of larger images this many pixels, by decoding and encoding them again; smaller ones stay "
        "byte for byte; none: no image is resized",
        type=number_or_none(int),
        least=1,
    )
    image_format: str = option(
        "keep",
        "what images are encoded as. Other than keep: images of other formats are converted, whatever their size. keep: "
        "resized ones stay JPEG, WebP or PNG, and become PNG if they were something else",
        choices=IMAGE_FORMATS,
    )
    quality: int | None = option(
        None,
        f"quality of images that are encoded as JPEG or WebP, 1 to 100; none: {DEFAULT_QUALITY}",
        type=number_or_none(int),
        least=1,
        most=100,
    )
    fields: str = option("*", FIELDS, once=True)
    encode_threads: int = option(0, "threads of a worker process that encode images; 0: one per core", least=0)

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        if not self.names:
            raise OptionError(
                "--fields is empty; give *, or a comma list of columns and .members such as caption,.json"
            )
        if self.quality is not None and (self.image_format == "png" or not self.encodes):
            why = "--image_format png is lossless" if self.image_format == "png" else "no image is encoded"
            raise OptionError(
                f"--quality {self.quality}: {why}; leave it out, or give --resize_shortest or --image_format jpeg or webp"
            )

    @property
    def asks_for_format(self) -> bool:
        """Whether any of the options that decide the files is another one than by default."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return any(getattr(self, name) != defaults[name] for name in OF_FORMATS)

    @property
    def encodes(self) -> bool:
        """Whether any image may be encoded again."""
        return self.resize_shortest is not None or self.image_format != "keep"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of --fields."""
        return comma_list(self.fields)

    def chosen_format(
        self, schema: pa.Schema, suffixes: Iterable[Collection[str]], max_pixels: object
    ) -> PreparedSamples:
        """The format that the options describe.

        Args:
            schema: Columns of the rows that there are.
            suffixes: Extensions of members by shard, to tell a mistake by; see `export.fields.choose_fields`.
            max_pixels: Images of more pixels fail; a number, or the usual limit.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        from beam_curate.export.fields import choose_fields
        from beam_curate.images.decoding import MAX_PIXELS
        from beam_curate.images.reencoding import Reencoding

        kinds = all_formats()
        kind = kinds[self.format]
        compressed = self.compression != "none"
        if compressed and not kind.compresses:
            others = " or ".join(name for name, other in kinds.items() if other.compresses)
            raise OptionError(
                f"--compression {self.compression} is for --format {others}; tars stay plain, so that readers can seek in them"
            )
        names: Sequence[str] = self.names
        try:
            fields = choose_fields(names, schema, suffixes, all_members=kind.all_members)
        except ValueError as error:
            raise OptionError(f"--fields {self.fields}: {error}") from error
        limit = max_pixels if isinstance(max_pixels, int) else MAX_PIXELS
        reencoding = Reencoding(self.resize_shortest, self.image_format, self.quality or DEFAULT_QUALITY, limit)
        return kind(fields, schema, reencoding, compressed, self.encode_threads)

    def check_file_size(self, format: PreparedSamples, option: str, per_file: int, samples: int, size: int) -> None:
        """Refuses files that would be larger than their format allows, by the mean size of a sample.

        Where images are encoded their size is not known before. The limit holds there too: it ends the job.

        Args:
            format: Of the files.
            option: That gives the number of samples in a file.
            per_file: Its value.
            samples: How many samples there are.
            size: Their bytes.

        Raises:
            OptionError: It names the option, its value, and the remedy.
        """
        limit = format.max_file_bytes
        if limit is None or self.encodes or not samples:
            return
        most = limit * samples // max(size, 1)
        if min(per_file, samples) > most:
            raise OptionError(
                f"--{option} {per_file}: files of --format {self.format} hold {limit / 2**30:.0f} GiB at most, and a sample has "
                f"{size / samples / 1e6:.1f} MB on average; give at most {most}, or make the images smaller by --resize_shortest"
            )
