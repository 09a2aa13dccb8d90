"""Curates image shards: score once, filter, and write WebDataset shards with all of their metadata.

beam-curate curate --input 'data/{00000..00099}.tar' --output out/ --model_dir models/ \
        --min_aesthetic 4.5 --max_nsfw 0.5 --samples_per_shard 1000
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_curate.commands.curate_job import Job, check_weights, prepare
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dataflow_options import dataflow_arguments, scoring_hints, with_gpu_defaults
from beam_curate.commands.options import OptionError, fail, gives_back, parse

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.images.decoding import DecodeOptions
    from beam_curate.runs.summary import Summary

EPILOG = """Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's
in-process one. The defaults of the thresholds are those of NeMo Curator's tutorial: an aesthetic score of 0.5 on a scale of
1 to 10 rejects almost nothing. Run once with the rules off, look at the scores, and choose."""


def build(root: beam.Pipeline, job: Job, output: str, about: dict[str, Any]) -> beam.PCollection[Summary]:
    """The main job on a pipeline: what is left of the run in `output`, to shards and summary."""
    from apache_beam.ml.inference.base import RunInference

    from beam_curate.clip.caption_handler import CaptionHandler
    from beam_curate.clip.handler import ClipModelHandler
    from beam_curate.clip.second_models import widths
    from beam_curate.clip.weights import for_any_folder
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

    options = job.options
    weights: dict[str, Any] = {
        "clip_model": options.clip_model,
        "pretrained": for_any_folder(options.clip_model, options.pretrained),
        "model_dir": absolute(options.model_dir) if options.model_dir else None,
        "device": options.device,
        "quick_gelu": job.model.quick_gelu,  # as it was decided here, whatever lies beside the weights there
    }
    running: dict[str, Any] = {
        "precision": options.precision,
        "batch_size": options.batch_size,
        "model_copies": options.model_copies if options.model_copies > 1 else None,
    }
    decode = _decoding(job)
    hints = scoring_hints(options, runner_name(root.options))
    score = ScoreAndFilter(
        job.heads,
        options.min_aesthetic,
        options.max_nsfw,
        options.min_side,
        job.keep,
        job.image_scores,
        job.own.of_embeddings,
    )
    run = root | ContinueRun(output, options.retried_reasons, scoring_hints=hints)
    samples = run.pending | ReadTarShards(
        image_extension=options.image_extension or None,
        max_member_bytes=options.max_member_bytes,
        max_shard_bytes=options.max_shard_bytes,
    ).with_resource_hints(**hints)
    model = ClipModelHandler(**weights, **running, preprocess=job.model.preprocess)
    if in_process(root.options) and not (options.resume or options.retry_failed):  # these may have nothing to embed
        model.load_ahead()
    if job.on_one_device:
        one = EmbedEncoded(model, decode, options.dali_device, options.decode_threads)
        embedded = samples | one.with_resource_hints(**hints)
    else:
        decoded = (
            samples
            | DecodeImages(
                decode,
                options.decode_threads,
                options.dali_device,
                job.screening,
                {name: second.description.target for name, second in job.second.items()},
                ahead_of(options.batch_size),
            ).with_resource_hints(**hints)
            | ScoreImages(job.own.of_images).with_resource_hints(**hints)
        )
        for name, second in job.second.items():
            own = {
                "clip_model": second.description.clip_model,
                "pretrained": second.pretrained,
                "quick_gelu": second.description.quick_gelu,
                "preprocess": second.description.preprocess,
            }
            handler = ClipModelHandler(**{**weights, **own, **running}, embedding_name=name)
            infer = RunInference(handler).with_output_types(DecodedImage).with_resource_hints(**hints)
            decoded = decoded | f"Embed_{name}" >> infer
        embedded = decoded | RunInference(model).with_output_types(EmbeddedSample).with_resource_hints(**hints)
    duplicates = None
    if options.dedup:
        from beam_curate.commands.duplicate_options import say_what_it_costs

        say_what_it_costs()
        duplicates = options.search(options.dedup, Selection(TablePlace(output), None))
    if options.caption_score:
        captions = CaptionHandler(**weights, **running)
        compare = RunInference(captions).with_output_types(EmbeddedSample).with_resource_hints(**hints)
        embedded = embedded | "Captions" >> compare
    return (
        embedded
        | score.with_resource_hints(**hints)
        | WriteWebDatasetShards(
            output,
            score.score_names,
            job.model.embed_dim,
            options.samples_per_shard,
            options.shuffle_seed,
            run.done,
            about,
            job.top,
            widths(job.second),
            duplicates,
            options.table_only,
            hints,
        )
        | WriteReport(output)
        | WriteLayouts(output, options.layouts)
    )


def _decoding(job: Job) -> DecodeOptions:
    from beam_curate.images.decoding import DecodeOptions

    options = job.options
    return DecodeOptions(
        size=job.model.image_size,
        resize_mode=job.model.resize_mode,
        interpolation=job.model.interpolation,
        decoder=options.decoder,
        apply_exif_orientation=options.exif_orientation == "apply",
        max_pixels=options.max_pixels,
    )


def pack(root: beam.Pipeline, job: Job, output: str, about: dict[str, Any]) -> beam.PCollection[Summary]:
    """What is left of a run in `output` that has ended with its table: neither sources to score nor a model to load."""
    from beam_curate.runs.run import Run
    from beam_curate.transforms.list_parts import ListParts
    from beam_curate.transforms.pack_shards import PackShards
    from beam_curate.transforms.write_layouts import WriteLayouts
    from beam_curate.transforms.write_report import WriteReport

    options = job.options
    packed = (
        root | ListParts(Run(output).table) | PackShards(output, options.samples_per_shard, options.shuffle_seed, about)
    )
    return packed | WriteReport(output) | WriteLayouts(output, options.layouts)


def about_run(job: Job, runner: str) -> dict[str, Any]:
    """What summary.json says beside the counts."""
    import platform
    from importlib.metadata import version

    from beam_curate.runs.summary import About, Input

    packages = ("apache-beam", "torch", "open_clip_torch", "pillow", "pyarrow", "numpy")
    return About(
        scores_meaningless=bool(job.meaningless),
        random=job.meaningless,
        heads=[head.description for head in job.heads],
        configuration=job.configuration,
        input=Input(pattern=job.options.input, bytes=sum(shard.size for shard in job.shards)),
        runner=runner,
        versions={
            "beam_curate": version("beam-curate"),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    ).to_json()


@gives_back
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status.

    0: done. 1: no sample could be processed, or samples were lost. 2: a wrong option, before any work.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        options, rest, given = parse(CurateOptions, argv, str(__doc__).splitlines()[0], EPILOG)
    except OptionError as error:
        return fail(error)
    # Before torch is loaded: on a CPU its threads and the decoders' share the cores, and a thread that spins while it waits
    # takes them from the others (with B/32 in bf16 2 to 3 ms of CPU time an image). OpenMP's standard variable; the user's wins.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from beam_curate.commands.launch import (
        LOCAL_RUNNER,
        build_pipeline,
        check_device,
        pipeline_options,
        runner_name,
        service_job,
        usual_batch_size,
    )
    from beam_curate.commands.outcome import finish_complete, finish_run, report
    from beam_curate.runs.claims import claim
    from beam_curate.runs.run import Run
    from beam_curate.storage.files import absolute
    from beam_curate.storage.retrying import StorageError

    started = time.monotonic()
    try:
        options = with_gpu_defaults(options, given, rest)
        beam_options = pipeline_options(dataflow_arguments(options, rest), CurateOptions)
        if runner_name(beam_options) == LOCAL_RUNNER and "batch_size" not in given:
            options = dataclasses.replace(options, batch_size=usual_batch_size(options.device))
        job = prepare(options, given)
        if runner_name(beam_options) == LOCAL_RUNNER:
            check_device(options.device, precision=options.precision)
            if options.decoder == "dali":
                check_device(options.dali_device, "dali_device")
            check_weights(job)
        output = absolute(options.output)
        about = about_run(job, runner_name(beam_options))
        steps = functools.partial(build, job=job, output=output, about=about)
        root = build_pipeline(steps, beam_options)
        claim(output, service_job(beam_options))
        complete = Run(output).begin(
            job.configuration,
            job.shards,
            resume=options.resume,
            overwrite=options.overwrite,
            retry=options.retried_reasons,
            reads=job.reads,
            table_only=options.table_only,
        )
        if complete:
            finish_complete(output, options.output, options.layouts, beam_options)
    except (ValueError, StorageError) as error:
        return fail(error)
    if not complete:
        announce(job, given)
        new = not (options.resume or options.retry_failed)
        if Run(output).is_finished:  # of a run that is not complete: it has ended with its table
            root = build_pipeline(functools.partial(pack, job=job, output=output, about=about), beam_options)
        if not finish_run(root, output, options.output, new=new):
            return 0
    return report(output, options.output, time.monotonic() - started)


def announce(job: Job, given: frozenset[str]) -> None:
    """Says on standard error what a user should know before the run."""
    options = job.options
    if job.meaningless:
        print(f"warning: random {' and '.join(job.meaningless)}: the scores are meaningless", file=sys.stderr)
    if options.min_aesthetic is not None and options.min_aesthetic < 1 and "min_aesthetic" not in given:
        print(
            f"note: --min_aesthetic {options.min_aesthetic} on a scale of 1 to 10 rejects almost nothing; useful cuts are "
            "4.5 to 6.5",
            file=sys.stderr,
        )
