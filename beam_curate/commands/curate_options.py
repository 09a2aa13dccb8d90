"""The options of `curate.py`."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from beam_curate.commands.dataflow_options import ACCELERATORS, PLACEMENTS
from beam_curate.commands.duplicate_options import (
    DuplicateOptions,
    border_option,
    eps_option,
    keep_by_option,
    max_comparisons_option,
    max_distance_option,
    methods_help,
    mirrored_option,
    n_clusters_option,
)
from beam_curate.commands.options import OptionError, comma_list, dependent, number_or_none, once, option, required
from beam_curate.commands.selecting_options import (
    SelectingOptions,
    head_option,
    keep_option,
    layout_option,
    scorer_option,
    top_fraction_option,
    top_option,
)

_MOST_IMAGES: Final = (
    8192  # of ClipModelHandler, and of DecodeOptions: said there, and written here for `--help` to be quick
)
_MOST_PIXELS: Final = 178_956_970


@dataclass(frozen=True)
class CurateOptions(DuplicateOptions, SelectingOptions):
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
        "activation of the model. OpenAI's weights need QuickGELU (yes). auto: as the model's name, the tag, the folder or "
        "file name, or the configuration beside the weights says; an error if none does and the model exists with both",
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
    prompt: str = once(
        "",
        'scores from words, by the model\'s own text tower: "watermark=a photo with a watermark,a clean photo" is the '
        "probability of the first text against the others, one text alone its similarity; several are separated by ;",
        metavar="NAME=TEXT,TEXT…",
    )
    head: tuple[str, ...] = head_option()
    scorer: tuple[str, ...] = scorer_option()
    min_aesthetic: Any = option(
        0.5,
        "keep if aesthetic >= this, or none. The scale is nominally 1 to 10: 0.5 rejects almost nothing; 4.5 to 6.5 are "
        "useful cuts",
        type=number_or_none(float),
    )
    max_nsfw: Any = option(0.5, "keep if the NSFW probability < this, or none", type=number_or_none(float))
    min_side: Any = option(None, "keep if the shorter side in pixels >= this, or none", type=number_or_none(int))
    keep: str = keep_option()
    top: str = top_option()
    top_fraction: str = top_fraction_option()
    dedup: str = option(
        "", f"reject duplicates among what the other rules keep; --top chooses among what is left: {methods_help()}"
    )
    keep_by: str = keep_by_option()
    eps: float = eps_option()
    n_clusters: int = n_clusters_option()
    border: float = border_option()
    max_distance: int = max_distance_option()
    mirrored: bool = mirrored_option()
    max_comparisons: float = max_comparisons_option()
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
    layout: str = layout_option()
    samples_per_shard: int = option(1000, "samples in every output shard but the last")
    shuffle_seed: Any = option(
        None, "shuffle all kept samples by this seed; none: source order", type=number_or_none(int)
    )
    batch_size: int = dependent(
        32,
        "images of an inference batch; default: 32, and where the command itself runs on a GPU 64, 128 or 256 by its memory",
    )
    device: str = option("auto", "where the model runs; auto: cuda if there is one", choices=("auto", "cpu", "cuda"))
    precision: str = dependent("auto", "of the model's weights", choices=("auto", "bf16", "fp16", "fp32"))
    model_copies: int = option(1, "copies of the model on a worker, in processes of their own")
    decoder: str = option(
        "fast",
        "pillow: the reference; fast: within 2 levels of it; scaled: faster, large JPEGs at a fraction of their size, "
        "within 4 levels on camera photographs; dali: JPEGs in batches with NVIDIA DALI, for workers with a GPU",
        choices=("fast", "pillow", "scaled", "dali"),
    )
    dali_device: str = option(
        "auto",
        "where --decoder dali decodes; auto: cuda if there is one, and with --accelerator always",
        choices=("auto", "cpu", "cuda"),
    )
    decode_threads: int = option(0, "decoding threads of a worker process; 0: one per core")
    exif_orientation: str = option("apply", "turn images upright before resizing", choices=("apply", "ignore"))
    max_pixels: int = option(_MOST_PIXELS, "images with more pixels fail (decompression bombs)")
    max_member_bytes: int = option(1 << 27, "image files with more bytes fail, and samples with 8 times as many")
    max_shard_bytes: int = option(1 << 38, "a gzip or zstd shard that expands to more bytes fails from there on")
    image_extension: str = option("", "extension of the image member, such as jpg; default: the first known one")
    accelerator: str = option(
        "none",
        "GPU of the Dataflow workers; chooses their machine, disk, threads and processes, --device and --dali_device, and "
        "--batch_size and --precision where not given. h100: its machine with one GPU is to be had as Spot or flex-start "
        "alone: give it with a provisioning_model in --dataflow_service_options, see docs/dataflow.md",
        choices=ACCELERATORS,
    )
    gpu_placement: str = option(
        "auto",
        "workers: a GPU on every worker; scoring: on the workers that read, decode, embed, score and write the score table, by "
        "resource hints, and none on those that pack shards or look for duplicates; auto: workers if there is an --accelerator",
        choices=PLACEMENTS,
    )
    resume: bool = option(False, "continue the run in --output", action="store_true")
    retry_failed: str = option(
        "",
        "continue the run in --output and score again the samples that failed for these reasons (a comma list); the limits "
        "--max_pixels and --max_member_bytes may then differ",
    )
    overwrite: bool = option(False, "delete an earlier run's files in --output first", action="store_true")

    def __post_init__(self) -> None:
        self.check_selecting()
        self.check_duplicates("dedup", self.dedup)
        for name, low in (
            ("samples_per_shard", 1), ("batch_size", 1), ("model_copies", 1), ("decode_threads", 0), ("max_pixels", 1),
            ("max_member_bytes", 1), ("max_shard_bytes", 1),
        ):  # fmt: skip
            if getattr(self, name) < low:
                raise OptionError(f"--{name} is {getattr(self, name)}; give at least {low}")
        for name, high in (("batch_size", _MOST_IMAGES), ("max_pixels", _MOST_PIXELS)):
            if getattr(self, name) > high:
                raise OptionError(f"--{name} is {getattr(self, name)}; give at most {high}")
        if self.table_only and self.layout:
            raise OptionError(f"--layout {self.layout} is of shards, which --table_only does not write; leave one out")
        if (self.resume or self.retry_failed) and self.overwrite:
            raise OptionError("--resume or --retry_failed and --overwrite exclude each other; give one of them")

    @property
    def forced_quick_gelu(self) -> bool | Literal["auto"]:
        """What --quick_gelu says, as the model handler takes it."""
        return "auto" if self.quick_gelu == "auto" else self.quick_gelu == "yes"

    @property
    def retried_reasons(self) -> tuple[str, ...]:
        """The reasons of --retry_failed."""
        return comma_list(self.retry_failed)
