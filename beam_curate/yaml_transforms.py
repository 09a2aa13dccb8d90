"""The transforms for Beam YAML: constructors that take what YAML can say, and give PTransforms.

A pipeline file names them in its block `providers` (see examples/curate.yaml and docs/beam-yaml.md):

    providers:
      - type: python
        config: {}
        transforms:
          ReadTarShards: beam_curate.yaml_transforms.read_tar_shards

Beam then imports them in its own process: no expansion service, no virtual environment, no network. The elements between
the steps are the records of `beam_curate.records`, which are rows to Beam, so its own YAML transforms work on them.

A constructor checks every value against its annotation, so that a wrong one is named (`size='32'`, which YAML's quotes make
a text) and not found by what it breaks. It reads what the command reads before it starts: the head files, and for
`curate_images` the model's weights; the input is listed when the job runs. The parameters are those of the classes that
are named above a constructor, and the few that it adds; docs/beam-yaml.md lists them.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import apache_beam as beam

from beam_curate.records import FAILED, EmbeddedSample, ScoredSample, record
from beam_curate.runs.summary import Summary
from beam_curate.storage.files import absolute
from beam_curate.yaml_values import taken, takes_yaml

if TYPE_CHECKING:
    from beam_curate.heads.head import EmbeddingScore

_EMPTY: Final[Mapping[str, Any]] = types.MappingProxyType({})


@record
class FinishedRun:
    """What `write_webdataset_shards` gives when all files are there: the counts of the folder's summary.json."""

    output: str
    input: int
    kept: int
    rejected: int
    failed: int
    output_shards: int
    output_bytes: int


@takes_yaml("transforms.read_tar_shards:ReadTarShards")
def read_tar_shards(input: str, **options: Any) -> beam.PTransform:
    """Reads WebDataset shards: the pipeline in, one row a sample out. See `transforms.read_tar_shards`."""
    from beam_curate.transforms.read_tar_shards import ReadTarShards

    return ReadTarShards(input, **options)


@takes_yaml(
    "images.decoding:DecodeOptions",
    "transforms.decode_images:DecodeImages",
    without=("options", "screening", "second"),
)
def decode_images(*, quality: str = "", screen: str = "", **options: Any) -> beam.PTransform:
    """Decodes, orients, resizes and crops images to what the model sees. See `images.DecodeOptions`."""
    from beam_curate.images.decoding import DecodeOptions
    from beam_curate.scores.screening import parse_screening
    from beam_curate.transforms.decode_images import DecodeImages

    decode = DecodeOptions(**taken(options, DecodeOptions))
    return DecodeImages(decode, screening=parse_screening(quality, screen), **options)


@takes_yaml("clip.handler:ClipModelHandler", without=("embedding_name",))
def embed_images(
    clip_model: str = "ViT-L-14", pretrained: str = "openai", model_dir: str | None = None, **options: Any
) -> beam.PTransform:
    """Embeds decoded images with Beam's RunInference and a CLIP model. See `clip.handler.ClipModelHandler`."""
    from beam_curate.clip.handler import ClipModelHandler
    from beam_curate.clip.weights import for_any_folder
    from beam_curate.inference import RunInference

    folder = absolute(model_dir) if model_dir else None
    handler = ClipModelHandler(clip_model, for_any_folder(clip_model, pretrained), model_dir=folder, **options)
    return RunInference(handler).with_output_types(EmbeddedSample)


@takes_yaml(
    "heads.files:find_heads",
    "transforms.score_and_filter:ScoreAndFilter",
    without=("width", "heads", "rules", "image_scores", "scorers"),
)
def score_and_filter(
    clip_model: str = "ViT-L-14",
    model_dir: str = "",
    *,
    keep: str = "",
    quality: str = "",
    prompt: str = "",
    pretrained: str = "openai",
    quick_gelu: bool | str = "auto",
    **options: Any,
) -> beam.PTransform:
    """Gives every sample its scores and its verdict: kept, rejected or failed. See `transforms.score_and_filter`."""
    from beam_curate.clip.config import model_config
    from beam_curate.heads.files import find_heads
    from beam_curate.scores.rules import keep_rule
    from beam_curate.scores.scales import prompt_scales
    from beam_curate.scores.screening import parse_screening
    from beam_curate.transforms.score_and_filter import ScoreAndFilter

    name, config = model_config(clip_model)
    image_scores = parse_screening(quality, "").quality
    weights = {"model_dir": model_dir or None, "quick_gelu": quick_gelu, "seed": options.get("seed", 0)}
    published = find_heads(model_dir, name, config["embed_dim"], **taken(options, find_heads))
    heads = (*published, *_prompt_scores(prompt, name, pretrained, weights))
    names = [*image_scores, *(head.name for head in heads)]
    for shared in (each for each in names if names.count(each) > 1):
        raise ValueError(f"two scores are named {shared}: give each its own name")
    try:
        rules = keep_rule(keep, names, prompts=prompt_scales(head.description for head in heads))
    except ValueError as error:
        raise ValueError(f"keep={keep!r}: {error}") from error
    return ScoreAndFilter(heads, rules=rules, image_scores=image_scores, **options)


def _prompt_scores(
    prompt: str, clip_model: str, pretrained: str, weights: Mapping[str, Any]
) -> "tuple[EmbeddingScore, ...]":
    """The scores of prompts, whose texts are embedded here."""
    from beam_curate.clip.prompts import parse_prompts, prompt_scores
    from beam_curate.scores.scorers import column_problem

    try:
        specs = parse_prompts(prompt) if prompt.strip() else ()
        for problem in filter(None, (column_problem(spec.name) for spec in specs)):
            raise ValueError(problem)
    except ValueError as error:
        raise ValueError(f"prompt={prompt!r}: {error}") from error
    return prompt_scores(specs, clip_model, pretrained, **weights)


@takes_yaml(
    "transforms.write_webdataset_shards:WriteWebDatasetShards",
    without=("done", "top", "second_embeddings", "duplicates", "scoring_hints"),
)
def write_webdataset_shards(
    output: str, score_names: Sequence[str] = ("aesthetic", "nsfw"), **options: Any
) -> beam.PTransform:
    """Writes the score table of all samples and WebDataset shards of the kept ones; gives one `FinishedRun`."""
    from beam_curate.transforms.write_webdataset_shards import WriteWebDatasetShards

    folder, names = absolute(output), tuple(score_names)
    check = beam.Map(_with_scores, names).with_output_types(ScoredSample)
    write = WriteWebDatasetShards(folder, names, **options)
    counts = beam.Map(_finished, folder).with_output_types(FinishedRun)
    return _named("WriteWebDatasetShards", "CheckScores" >> check | write | "Counts" >> counts)


@takes_yaml()
def curate_images(
    input: str,
    output: str,
    model_dir: str = "",
    read: Mapping[str, Any] = _EMPTY,
    decode: Mapping[str, Any] = _EMPTY,
    embed: Mapping[str, Any] = _EMPTY,
    score: Mapping[str, Any] = _EMPTY,
    write: Mapping[str, Any] = _EMPTY,
) -> beam.PTransform:
    """All five steps as one, from the pipeline to one `FinishedRun`; what must fit the model is taken from the model.

    The weights are looked for, and a tag's downloaded, when the pipeline is built. What is random is told in summary.json.
    """
    from beam_curate.clip.model_description import describe_model
    from beam_curate.transforms.decode_images import ahead_of

    embedding = _step("embed", embed_images, embed, model_dir=model_dir)
    bound = inspect.signature(embed_images).bind(**embed)
    bound.apply_defaults()
    names = ("clip_model", "pretrained", "seed", "quick_gelu", "preprocess")
    model = describe_model(model_dir=model_dir or None, fetch=True, **{name: bound.arguments[name] for name in names})
    geometry = {"size": model.image_size, "resize_mode": model.resize_mode, "interpolation": model.interpolation}
    ahead = {"ahead": ahead_of(bound.arguments["batch_size"])}
    decoding = _step("decode", decode_images, {**ahead, **decode}, **geometry)
    same = {"pretrained": bound.arguments["pretrained"], "quick_gelu": bound.arguments["quick_gelu"]}
    same |= {"clip_model": model.clip_model, "quality": decode.get("quality", "")}
    scoring = _step("score", score_and_filter, score, model_dir=model_dir, **same)
    random = ["CLIP weights"] if model.random else []
    random += [
        f"{head.name} {'score' if 'prompts' in head.description else 'head'}"
        for head in scoring.heads
        if head.description.get("meaningless")
    ]
    about = {
        "scores_meaningless": bool(random),
        "random": random,
        "model": dataclasses.asdict(model),
        "heads": [head.description for head in scoring.heads],
        **write.get("about", {}),
    }
    writing = _step(
        "write",
        write_webdataset_shards,
        {name: value for name, value in write.items() if name != "about"},
        output=output,
        score_names=scoring.score_names,
        embedding_dim=model.embed_dim,
        about=about,
    )
    reading = _step("read", read_tar_shards, read, input=input)
    return _named("CurateImages", reading | decoding | embedding | scoring | writing)


# It reads by itself, which Beam takes from a name that begins with Read, or from this.
vars(curate_images)["_yaml_requires_inputs"] = False


def _step(name: str, constructor: Callable[..., Any], options: Mapping[str, Any], **fixed: Any) -> Any:
    """Makes a step of `curate_images` from its map of options and what is decided elsewhere."""
    try:
        for taken in options.keys() & fixed.keys():
            raise ValueError(f"{taken}={options[taken]!r}: leave it out, curate_images sets it")
        return constructor(**options, **fixed)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _named(label: str, transform: beam.PTransform) -> beam.PTransform:
    transform.label = label
    return transform


def _with_scores(row: ScoredSample, names: tuple[str, ...]) -> ScoredSample:
    """A row whose scores are the table's columns: a column that no head fills would be null without a word."""
    if row.status != FAILED and set(row.scores) != set(names):
        raise ValueError(f"score_names={list(names)}, but the samples have the scores {list(row.scores)}: give these")
    return row


def _finished(summary: Summary, output: str) -> FinishedRun:
    counts = {name: getattr(summary.funnel, name) for name in ("input", "kept", "rejected", "failed")}
    return FinishedRun(output, **counts, output_shards=summary.output_shards, output_bytes=summary.output_bytes)
