"""The options of `curate`."""

from dataclasses import dataclass
from typing import Final, Literal

from beam_curate.commands.duplicate_options import DuplicateOptions, methods_help
from beam_curate.commands.model_options import ModelOptions
from beam_curate.commands.options import OptionError, comma_list, number_or_none, option, required
from beam_curate.commands.selecting_options import SelectingOptions

_MOST_PIXELS: Final = 178_956_970
"""That of DecodeOptions, which `--help` should not wait for."""


@dataclass(frozen=True, kw_only=True)
class CurateOptions(ModelOptions, DuplicateOptions, SelectingOptions):
    """What to read, which model and heads to run, what to keep, and where to write."""

    input: str = required("shards: a glob, {00000..00099} braces, a comma list, or a .txt file of paths")
    output: str = required("folder for the curated shards, the score table and the summary")
    model_dir: str = option(
        "", "folder with the model files (see beam-curate fetch-models; NeMo Curator's layout works)", type=str
    )
    clip_model: str = option("ViT-L-14", "any open_clip model")
    pretrained: str = option(
        "openai", "weights: an open_clip tag, a local file or folder, or random (to try things out)"
    )
    quick_gelu: str = option(
        "auto",
        "activation of the model. OpenAI's weights need QuickGELU (yes). auto: what the model's name, the tag, the folder or "
        "file name, or the configuration beside the weights says; an error if none says it and the model exists with both",
        choices=("auto", "yes", "no"),
    )
    preprocess: str = option(
        "auto",
        "how images are prepared for weights in a file: a pretrained tag that has it (openai, webli), the path of an "
        "open_clip_config.json, or mean=0.5,std=0.5,interpolation=bicubic,resize_mode=squash (channels as 0.48/0.46/0.41). "
        "auto: as the tag or the files beside the weights say, else as all published weights of the model have it; an error "
        "if these differ or there are none",
        metavar="TAG|FILE|VALUES",
    )
    second_model: tuple[str, ...] = option(
        (),
        "a further open_clip model whose embedding goes to a column of its own, embedding_vit_b_16 for "
        "ViT-B-16=laion2b_s34b_b88k; weights as for --pretrained, with ,quick_gelu=no and ,preprocess=TAG behind them where "
        "it must be said; several are separated by ; (on a command line the option may be repeated)",
        action="append",
        metavar="MODEL=WEIGHTS",
    )
    aesthetic_head: str = option("", "file of the aesthetic head; none turns the score off; default: from --model_dir")
    nsfw_head: str = option("", "file of the NSFW head; none turns the score off; default: from --model_dir")
    nsfw_chain: str = option(
        "auto",
        "laion: as published, with its lookup; plain: without it, as NeMo Curator; auto: laion if its file is there",
        choices=("auto", "laion", "plain"),
    )
    prompt: str = option(
        "",
        'scores from words, by the model\'s own text tower: "watermark=a photo with a watermark,a clean photo" is the '
        "probability of the first text against the others, a single text gives its similarity; several are separated by ;",
        metavar="NAME=TEXT,TEXT…",
        once=True,
    )
    min_aesthetic: float | None = option(
        0.5,
        "keep if aesthetic >= this; none turns the rule off. The scale is nominally 1 to 10: 0.5 rejects almost nothing; "
        "4.5 to 6.5 are useful cuts",
        type=number_or_none(float),
    )
    max_nsfw: float | None = option(
        0.5, "keep if the NSFW probability < this; none turns the rule off", type=number_or_none(float)
    )
    dedup: str = option(
        "", f"reject duplicates among what the other rules keep; --top chooses among what is left: {methods_help()}"
    )
    caption_score: bool = option(
        False,
        "add caption_similarity, the cosine of an image with its own caption (.txt, or caption in .json); the text tower runs "
        "beside the visual one",
        action="store_true",
    )
    quality: str = option(
        "",
        "quality scores to compute without the model, a comma list of aspect_ratio, bytes_per_pixel, frames, sharpness, "
        "brightness, brightness_p5, brightness_p99, entropy, border, colourfulness, chroma_p99",
    )
    screen: str = option(
        "",
        "before inference, keep if this holds: a condition as for --keep on the image's facts and the --quality scores; the "
        "model does not see the others",
    )
    table_only: bool = option(
        False,
        "end with the score table and its verdicts, and write no shards: beam-curate select packs it on machines without a GPU, "
        "or the same command with --resume and without this option",
        action="store_true",
    )
    exif_orientation: str = option("apply", "turn images upright before resizing", choices=("apply", "ignore"))
    max_pixels: int = option(
        _MOST_PIXELS, "images with more pixels fail (decompression bombs)", least=1, most=_MOST_PIXELS
    )
    max_member_bytes: int = option(
        1 << 27, "image files with more bytes fail, and samples with 8 times as many", least=1
    )
    max_shard_bytes: int = option(
        1 << 38, "a gzip or zstd shard that expands to more bytes fails from there on", least=1
    )
    image_extension: str = option("", "extension of the image member, such as jpg; default: the first known one")
    retry_failed: str = option(
        "",
        "continue the run in --output and score again the samples that failed for these reasons (a comma list); the limits "
        "--max_pixels and --max_member_bytes may then differ",
    )

    def check(self) -> None:
        """See CheckedOptions."""
        super().check()
        self.check_duplicates("dedup", self.dedup)
        if self.retry_failed and self.overwrite:
            raise OptionError("--retry_failed and --overwrite exclude each other; give one of them")

    @property
    def forced_quick_gelu(self) -> bool | Literal["auto"]:
        """What --quick_gelu says, as the model handler takes it."""
        return "auto" if self.quick_gelu == "auto" else self.quick_gelu == "yes"

    @property
    def retried_reasons(self) -> tuple[str, ...]:
        """The reasons of --retry_failed."""
        return comma_list(self.retry_failed)
