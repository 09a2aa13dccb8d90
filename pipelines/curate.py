"""Curates image shards: score once, filter, and write WebDataset shards with all of their metadata.

python pipelines/curate.py --input 'data/{00000..00099}.tar' --output out/ --model_dir models/ \
        --min_aesthetic 4.5 --max_nsfw 0.5 --samples_per_shard 1000
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not __package__:
    del sys.path[0]  # the scripts' folder, where `select` is not the standard library's

import dataclasses
import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.curate_options import CurateOptions
from pipelines.dataflow_options import dataflow_arguments, inference_hints, with_gpu_defaults
from pipelines.options import OptionError, fail, leave, parse
from pipelines.outcome import report, write_missing_report

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_curate.heads import EmbeddingScore
    from beam_curate.model_description import ModelDescription
    from beam_curate.records import Shard
    from beam_curate.rules import KeepRule
    from beam_curate.screening import Screening
    from pipelines.own_scores import OwnScores

EPILOG = """Every option of Apache Beam passes through, such as --runner=DataflowRunner; the default runner is Beam's
in-process one. The defaults of the thresholds are those of NeMo Curator's tutorial: an aesthetic score of 0.5 on a scale of
1 to 10 rejects almost nothing. Run once with the rules off, look at the scores, and choose."""


@dataclass(frozen=True)
class Job:
    """All that is known before any work starts: checked options, the input, the model and the heads."""

    options: CurateOptions
    shards: Sequence[Shard]
    model: ModelDescription
    heads: tuple[EmbeddingScore, ...]
    keep: tuple[KeepRule, ...]
    screening: Screening
    own: OwnScores

    @property
    def configuration(self) -> dict[str, Any]:
        """What decides the results: a run is continued only with the same."""
        skipped = ("input", "output", "model_dir", "aesthetic_head", "nsfw_head", "nsfw_chain", "pretrained",
                   "quick_gelu", "device", "dali_device", "decode_threads", "model_copies", "accelerator", "gpu_placement",
                   "layout", "head", "scorer", "resume", "retry_failed", "overwrite")  # fmt: skip
        return {
            **self.options.without(*skipped),
            # The weights' checksum and the activation decide, not the path, tag or option that they came by.
            "model": {
                k: v for k, v in dataclasses.asdict(self.model).items() if k not in ("pretrained", "quick_gelu_by")
            },
            "heads": {head.name: _deciding(head.description) for head in self.heads},
            "scorers": self.own.descriptions,
        }

    @property
    def meaningless(self) -> list[str]:
        """What is random in this job, so that its scores mean nothing."""
        found = ["CLIP weights"] if self.model.random else []
        return found + [
            f"{head.name} {'score' if 'prompts' in head.description else 'head'}"
            for head in self.heads
            if head.description.get("meaningless")
        ]


def _deciding(description: Mapping[str, object]) -> dict[str, object]:
    """What of a score's description decides its values: not where a file lies, nor the last bits of a prompt's matrix."""
    skipped = ("file", "id") if "prompts" in description else ("file",)
    return {name: value for name, value in description.items() if name not in skipped}


def prepare(options: CurateOptions, given: frozenset[str]) -> Job:
    """Lists the input, describes the model and loads the heads; nothing is written.

    Args:
        options: The options.
        given: The names of those that the user gave.

    Raises:
        ValueError: Something does not fit; one line that names it and the remedy.
    """
    from beam_curate.dali_decoding import require_dali
    from beam_curate.head_files import find_heads
    from beam_curate.listing import list_shards
    from beam_curate.model_description import describe_model
    from beam_curate.reasons import DESCRIPTIONS
    from beam_curate.rules import keep_rule
    from beam_curate.screening import parse_screening
    from pipelines.own_scores import load_own_scores, refuse_shared_names

    unknown = [reason for reason in options.retried_reasons if reason not in DESCRIPTIONS]
    if unknown:
        raise OptionError(f"--retry_failed {unknown[0]!r} is no reason; there are: {', '.join(DESCRIPTIONS)}")
    if options.decoder == "dali":
        require_dali(options.dali_device)
    elif "dali_device" in given:
        raise OptionError(f"--dali_device {options.dali_device} is for --decoder dali, not {options.decoder}")
    shards = list_shards(options.input)
    model = describe_model(
        options.clip_model,
        options.pretrained,
        model_dir=options.model_dir or None,
        quick_gelu=options.forced_quick_gelu,
        fetch=True,
    )
    published = find_heads(
        options.model_dir,
        options.clip_model,
        model.embed_dim,
        aesthetic_head=options.aesthetic_head or None,
        nsfw_head=options.nsfw_head or None,
        nsfw_chain=options.nsfw_chain,
    )
    own = load_own_scores(options.head, options.scorer, options.clip_model, model.embed_dim)
    heads: tuple[EmbeddingScore, ...] = (*published, *own.heads, *_prompts(options))
    screening = parse_screening(options.quality, options.screen)
    names = [
        *screening.quality,
        *(head.name for head in heads),
        *(column for scorer in own.scorers for column in scorer.columns),
    ]
    refuse_shared_names(names)
    try:
        keep = keep_rule(options.keep, names)
    except ValueError as error:
        raise OptionError(f"--keep: {error}") from error
    return Job(_without_idle_rules(options, given, set(names)), shards, model, heads, keep, screening, own)


def _prompts(options: CurateOptions) -> tuple[EmbeddingScore, ...]:
    """The scores of --prompt, computed once with the text tower."""
    if not options.prompt.strip():
        return ()
    from beam_curate.prompts import parse_prompts, prompt_scores

    try:
        specs = parse_prompts(options.prompt)
    except ValueError as error:
        raise OptionError(f"--prompt: {error}") from error
    return prompt_scores(
        specs,
        options.clip_model,
        options.pretrained,
        model_dir=options.model_dir or None,
        quick_gelu=options.forced_quick_gelu,
    )


def _without_idle_rules(options: CurateOptions, given: frozenset[str], scores: set[str]) -> CurateOptions:
    """A default threshold on a score that is turned off is no rule; one that the user gave is a mistake."""
    for name, score in (("min_aesthetic", "aesthetic"), ("max_nsfw", "nsfw")):
        if score not in scores and getattr(options, name) is not None:
            if name in given:
                raise OptionError(
                    f"--{name} {getattr(options, name)} needs the {score} score, which --{score}_head none turns off; "
                    f"give a head, or --{name} none"
                )
            changes: dict[str, Any] = {name: None}
            options = dataclasses.replace(options, **changes)
    return options


def build(root: beam.Pipeline, job: Job, output: str, about: dict[str, Any]) -> beam.PCollection[dict[str, Any]]:
    """The main job on a pipeline: what is left of the run in `output`, to shards and summary."""
    from apache_beam.ml.inference.base import RunInference

    from beam_curate.clip_handler import ClipModelHandler
    from beam_curate.clip_weights import for_any_folder
    from beam_curate.images import DecodeOptions
    from beam_curate.records import EmbeddedSample
    from beam_curate.storage import absolute
    from beam_curate.transforms.continue_run import ContinueRun
    from beam_curate.transforms.decode_images import DecodeImages
    from beam_curate.transforms.read_tar_shards import ReadTarShards
    from beam_curate.transforms.score_and_filter import ScoreAndFilter
    from beam_curate.transforms.score_images import ScoreImages
    from beam_curate.transforms.write_layouts import WriteLayouts
    from beam_curate.transforms.write_report import WriteReport
    from beam_curate.transforms.write_webdataset_shards import WriteWebDatasetShards
    from pipelines.launch import runner_name

    options = job.options
    decode = DecodeOptions(
        size=job.model.image_size,
        resize_mode=job.model.resize_mode,
        interpolation=job.model.interpolation,
        decoder=options.decoder,
        apply_exif_orientation=options.exif_orientation == "apply",
        max_pixels=options.max_pixels,
    )
    model = ClipModelHandler(
        options.clip_model,
        for_any_folder(options.clip_model, options.pretrained),
        model_dir=absolute(options.model_dir) if options.model_dir else None,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        model_copies=options.model_copies if options.model_copies > 1 else None,
        quick_gelu=options.forced_quick_gelu,
    )
    hints = inference_hints(options, runner_name(root.options))
    score = ScoreAndFilter(
        job.heads,
        options.min_aesthetic,
        options.max_nsfw,
        options.min_side,
        job.keep,
        (*job.screening.quality, *(column for scorer in job.own.of_images for column in scorer.columns)),
        job.own.of_embeddings,
    )
    run = root | ContinueRun(output, options.retried_reasons)
    return (
        run.pending
        | ReadTarShards(
            image_extension=options.image_extension or None,
            max_member_bytes=options.max_member_bytes,
            max_shard_bytes=options.max_shard_bytes,
        )
        | DecodeImages(decode, options.decode_threads, options.dali_device, job.screening)
        | ScoreImages(job.own.of_images)
        | RunInference(model).with_output_types(EmbeddedSample).with_resource_hints(**hints)
        | score
        | WriteWebDatasetShards(
            output,
            score.score_names,
            job.model.embed_dim,
            options.samples_per_shard,
            options.shuffle_seed,
            run.done,
            about,
        )
        | WriteReport(output)
        | WriteLayouts(output, options.layouts)
    )


def about_run(job: Job, runner: str) -> dict[str, Any]:
    """What summary.json says beside the counts."""
    import platform
    from importlib.metadata import version

    packages = ("apache-beam", "torch", "open_clip_torch", "pillow", "pyarrow", "numpy")
    return {
        "scores_meaningless": bool(job.meaningless),
        "random": job.meaningless,
        "configuration": job.configuration,
        "heads": [head.description for head in job.heads],
        "input": {"pattern": job.options.input, "bytes": sum(shard.size for shard in job.shards)},
        "runner": runner,
        "versions": {
            "beam_curate": version("beam-curate"),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


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
    from beam_curate.retrying import StorageError
    from beam_curate.run_state import prepare_output
    from beam_curate.storage import absolute, clean_temporary, join, read_json
    from beam_curate.summary import SUMMARY
    from pipelines.launch import LOCAL_RUNNER, check_device, pipeline_options, run_pipeline, runner_name

    started = time.monotonic()
    try:
        options = with_gpu_defaults(options, given, rest)
        beam_options = pipeline_options(dataflow_arguments(options, rest), CurateOptions)
        job = prepare(options, given)
        if runner_name(beam_options) == LOCAL_RUNNER:
            check_device(options.device, precision=options.precision)
            if options.decoder == "dali":
                check_device(options.dali_device, "dali_device")
        output = absolute(options.output)
        complete = prepare_output(
            output,
            job.configuration,
            job.shards,
            resume=options.resume,
            overwrite=options.overwrite,
            retry=options.retried_reasons,
        )
    except (ValueError, StorageError) as error:
        return fail(error)
    if complete:
        print(f"the run in {options.output} is complete already; nothing to do")
        write_missing_report(output)
    else:
        announce(job, given)
        about = about_run(job, runner_name(beam_options))
        if not run_pipeline(lambda root: build(root, job, output, about), beam_options, output):
            print(f"the job goes on without this command; when it is done there is {join(options.output, SUMMARY)}")
            return 0
        clean_temporary(output)
    summary = read_json(join(output, SUMMARY))
    return report(summary, options.output, time.monotonic() - started)


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


if __name__ == "__main__":
    leave(main())
