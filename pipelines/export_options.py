"""The options of `export.py`."""

from dataclasses import dataclass
from typing import Any, Final

from pipelines.options import OptionError, number_or_none, option, required

FORMATS: Final = ("webdataset", "tfrecord")
IMAGE_FORMATS: Final = ("keep", "jpeg", "webp", "png")
DEFAULT_QUALITY: Final = 95
"""Of JPEG and WebP. Source: img2dataset's default encode_quality."""


@dataclass(frozen=True)
class ExportOptions:
    """Which run to export, to which format, and where to write."""

    input: str = required("folder of a finished run: the --output of curate.py or select.py")
    output: str = required("folder for the exported files, their rows and the summary")
    format: str = required(
        "webdataset: tars, as in the run; tfrecord: files of tf.train.Example, with index files for DALI",
        choices=FORMATS,
    )
    samples_per_file: int = option(1000, "samples in every file but the last")
    shuffle_seed: Any = option(
        None, "shuffle all samples of the run by this seed; none: in the order of the run", type=number_or_none(int)
    )
    compression: str = option(
        "none", "of tfrecord files; DALI reads none but uncompressed ones", choices=("none", "gzip")
    )
    resize_shortest: Any = option(
        None,
        "make the shorter side of larger images this many pixels, by decoding and encoding them again; smaller ones stay "
        "byte for byte; none: no image is resized",
        type=number_or_none(int),
    )
    image_format: str = option(
        "keep",
        "what images are encoded as. Other than keep: images of other formats are converted, whatever their size. keep: "
        "resized ones stay JPEG, WebP or PNG, and become PNG if they were something else",
        choices=IMAGE_FORMATS,
    )
    quality: Any = option(
        None, f"of images encoded as JPEG or WebP, 1 to 100; none: {DEFAULT_QUALITY}", type=number_or_none(int)
    )
    fields: str = option(
        "*",
        "what to export beside the image: a comma list of columns of 00000.parquet (caption, aesthetic, embedding) and, with "
        "a dot before them, members (.txt, .json). * is all columns but the embedding, and in webdataset all members",
    )
    license: str = option("unknown", "for the dataset card: the images' license by its name on the Hugging Face hub")
    dataset_name: str = option("", "for the dataset card; default: the name of the --output folder")
    card: str = option("yes", "write the dataset card README.md", choices=("yes", "no"))
    croissant: str = option("yes", "write the Croissant metadata croissant.json", choices=("yes", "no"))
    encode_threads: int = option(0, "threads of a worker process that encode images; 0: one per core")
    resume: bool = option(False, "continue the export in --output", action="store_true")
    overwrite: bool = option(False, "delete an earlier run's files in --output first", action="store_true")

    def __post_init__(self) -> None:
        for name, low in (("samples_per_file", 1), ("encode_threads", 0), ("resize_shortest", 1), ("quality", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise OptionError(f"--{name} is {value}; give at least {low}")
        if self.quality is not None and self.quality > 100:
            raise OptionError(f"--quality is {self.quality}; give 1 to 100")
        if self.quality is not None and (self.image_format == "png" or not self.encodes):
            why = "--image_format png is lossless" if self.image_format == "png" else "no image is encoded"
            raise OptionError(
                f"--quality {self.quality}: {why}; leave it out, or give --resize_shortest or --image_format jpeg or webp"
            )
        if self.compression != "none" and self.format != "tfrecord":
            raise OptionError(
                f"--compression {self.compression} is for --format tfrecord; tars stay plain, so that readers can seek in them"
            )
        if not self.names:
            raise OptionError(
                "--fields is empty; give *, or a comma list of columns and .members such as caption,.json"
            )
        if self.resume and self.overwrite:
            raise OptionError("--resume and --overwrite exclude each other; give one of them")

    @property
    def encodes(self) -> bool:
        """Whether any image may be encoded again."""
        return self.resize_shortest is not None or self.image_format != "keep"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of --fields."""
        return tuple(name.strip() for name in self.fields.split(",") if name.strip())
