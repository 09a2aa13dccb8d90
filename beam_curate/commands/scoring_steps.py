"""The pipelines of `curate`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.commands.scoring_plan import ScoringPlan
    from beam_curate.images.decoding import DecodeOptions
    from beam_curate.runs.summary import Summary


def score_and_pack(
    root: beam.Pipeline, plan: ScoringPlan, output: str, about: Mapping[str, object], retry: Sequence[str] = ()
) -> beam.PCollection[Summary]:
    """What is left of the run, to shards and summary.

    Args:
        root: The pipeline.
        plan: What is scored by what.
        output: The run's folder.
        about: What to add to the summary.
        retry: Reasons of failure: the samples that failed for one of them are scored again.
    """
    from apache_beam.ml.inference.base import RunInference

    from beam_curate.clip.caption_handler import CaptionHandler
    from beam_curate.clip.handler import ClipModelHandler
    from beam_curate.clip.second_models import widths
    from beam_curate.clip.weights import for_any_folder
    from beam_curate.commands.dataflow_options import scoring_hints
    from beam_curate.commands.duplicate_options import say_what_it_costs
    from beam_curate.commands.launch import in_process, runner_name
    from beam_curate.records import DecodedImage, EmbeddedSample
    from beam_curate.runs.table_parts import TablePlace
    from beam_curate.selection.rejudging import Selection
    from beam_curate.storage.files import absolute
    from beam_curate.transforms.continue_run import ContinueRun
    from beam_curate.transforms.decode_images import DecodeImages, ahead_of
    from beam_curate.transforms.embed_encoded import EmbedEncoded
    from beam_curate.transforms.read_tar_shards import ReadTarShards
    from beam_curate.transforms.score_and_filter import ScoreAndFilter
    from beam_curate.transforms.score_images import ScoreImages
    from beam_curate.transforms.write_layouts import WriteLayouts
    from beam_curate.transforms.write_report import WriteReport
    from beam_curate.transforms.write_webdataset_shards import WriteWebDatasetShards

    options = plan.options
    handler = functools.partial(
        ClipModelHandler,
        clip_model=options.clip_model,
        pretrained=for_any_folder(options.clip_model, options.pretrained),
        model_dir=absolute(options.model_dir) if options.model_dir else None,
        device=options.device,
        quick_gelu=plan.model.quick_gelu,  # as it was decided here, whatever lies beside the weights there
        precision=options.precision,
        batch_size=options.batch_size,
        model_copies=options.model_copies if options.model_copies > 1 else None,
    )
    decode = _decoding(plan)
    hints = scoring_hints(options, runner_name(root.options))
    judge = ScoreAndFilter(
        plan.heads,
        options.min_aesthetic,
        options.max_nsfw,
        options.min_side,
        plan.keep,
        plan.image_scores,
        plan.own.of_embeddings,
    )
    run = root | ContinueRun(output, retry, scoring_hints=hints)
    samples = run.pending | ReadTarShards(
        image_extension=options.image_extension or None,
        max_member_bytes=options.max_member_bytes,
        max_shard_bytes=options.max_shard_bytes,
    ).with_resource_hints(**hints)
    model = handler(preprocess=plan.model.preprocess)
    if in_process(root.options) and not (options.resume or options.retry_failed):  # these may have nothing to embed
        model.load_ahead()
    if plan.on_one_device:
        one = EmbedEncoded(model, decode, options.dali_device, options.decode_threads)
        embedded = samples | one.with_resource_hints(**hints)
    else:
        decoded = (
            samples
            | DecodeImages(
                decode,
                options.decode_threads,
                options.dali_device,
                plan.screening,
                {name: second.description.target for name, second in plan.second.items()},
                ahead_of(options.batch_size),
            ).with_resource_hints(**hints)
            | ScoreImages(plan.own.of_images).with_resource_hints(**hints)
        )
        for name, second in plan.second.items():
            second_model = handler(
                clip_model=second.description.clip_model,
                pretrained=second.pretrained,
                quick_gelu=second.description.quick_gelu,
                preprocess=second.description.preprocess,
                embedding_name=name,
            )
            infer = RunInference(second_model).with_output_types(DecodedImage).with_resource_hints(**hints)
            decoded = decoded | f"Embed_{name}" >> infer
        embedded = decoded | RunInference(model).with_output_types(EmbeddedSample).with_resource_hints(**hints)
    duplicates = None
    if options.dedup:
        say_what_it_costs()
        duplicates = options.search(options.dedup, Selection(TablePlace(output), None))
    if options.caption_score:
        captions = CaptionHandler(**handler.keywords)
        compare = RunInference(captions).with_output_types(EmbeddedSample).with_resource_hints(**hints)
        embedded = embedded | "Captions" >> compare
    return (
        embedded
        | judge.with_resource_hints(**hints)
        | WriteWebDatasetShards(
            output,
            judge.score_names,
            plan.model.embed_dim,
            options.samples_per_shard,
            options.shuffle_seed,
            run.done,
            about,
            plan.top,
            widths(plan.second),
            duplicates,
            options.table_only,
            hints,
        )
        | WriteReport(output)
        | WriteLayouts(output, options.layouts)
    )


def _decoding(plan: ScoringPlan) -> DecodeOptions:
    from beam_curate.images.decoding import DecodeOptions

    options = plan.options
    return DecodeOptions(
        size=plan.model.image_size,
        resize_mode=plan.model.resize_mode,
        interpolation=plan.model.interpolation,
        decoder=options.decoder,
        apply_exif_orientation=options.exif_orientation == "apply",
        max_pixels=options.max_pixels,
    )


def pack(root: beam.Pipeline, plan: ScoringPlan, output: str, about: Mapping[str, object]) -> beam.PCollection[Summary]:
    """What is left of a run that has ended with its table: neither sources to score nor a model to load."""
    from beam_curate.runs.run import Run
    from beam_curate.transforms.list_parts import ListParts
    from beam_curate.transforms.pack_shards import PackShards
    from beam_curate.transforms.write_layouts import WriteLayouts
    from beam_curate.transforms.write_report import WriteReport

    options = plan.options
    packed = root | ListParts(Run(output).table) | PackShards(output, options.division, about)
    return packed | WriteReport(output) | WriteLayouts(output, options.layouts)
