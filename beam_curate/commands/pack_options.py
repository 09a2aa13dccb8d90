"""The options of `pack`."""

from dataclasses import dataclass

from beam_curate.commands.options import comma_list, option, required
from beam_curate.commands.run_options import RunOptions


@dataclass(frozen=True, kw_only=True)
class PackOptions(RunOptions):
    """What to pack, which columns or files say what, and where to write."""

    input: str = required(
        "a folder or glob of images (captions .txt and metadata .json beside them are taken along); or tables: .csv, .tsv, "
        ".jsonl or .parquet with a column of paths, .parquet with image bytes, a .txt file of paths; braces and comma lists work"
    )
    output: str = required("folder for the shards, the tables of their rows and the summary")
    class_folders: bool = option(
        False,
        "the first folder below --input is the class of an image, as in torchvision's ImageFolder: it goes to .cls and .json",
        action="store_true",
    )
    beside: str = option("txt,json", "extensions of the files beside an image that belong to it, a comma list")
    path_column: str = option("", "column with the paths of the images; default: the one that has a usual name")
    image_column: str = option(
        "", "column of a .parquet with the images' bytes; default: the only one that holds bytes"
    )
    key_column: str = option("", "column that names the samples; default: their row's number")
    caption_column: str = option("", "column that becomes the caption .txt; all columns go to .json in any case")
    base: str = option("", "folder that the paths in a table are relative to; default: the folder of the table")
    max_member_bytes: int = option(1 << 27, "images with more bytes fail", least=1)
    samples_per_shard: int = option(1000, "rows of the input for every shard but the last", least=1)

    @property
    def extensions(self) -> tuple[str, ...]:
        """The extensions of --beside, lower case and without dots."""
        return tuple(word.removeprefix(".").lower() for word in comma_list(self.beside))
