"""The parts of gpu.py: which measurements each is made of, and what becomes of one that fails."""

import argparse
import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import gpu_copies
import gpu_decoding
import gpu_runs
import gpu_speeds
import torch

from beam_curate.clip.checkpoint import WeightsError

Line: TypeAlias = dict[str, Any]

# What a machine may do to a measurement; all else is an error of this program. torch raises RuntimeError and its subclasses
# OutOfMemoryError and AcceleratorError, DALI RuntimeError and MemoryError (ImportError and OSError where its libraries do not
# load), Beam RuntimeError with the text of what a step raised; OSError is a full disk, WeightsError a file that does not fit.
EXPECTED: Final = (RuntimeError, MemoryError, ImportError, OSError, WeightsError)


class Job(NamedTuple):
    """A measurement: what it is of, for the line of one that fails, and how to get its lines."""

    of: Line
    run: Callable[[], Iterable[Line]]

    def lines(self) -> Iterator[Line]:
        """The lines; where the measurement fails, the last one says why, and the next measurement goes on."""
        try:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # raises after an error that has left CUDA unusable for this process
            yield from self.run()
        except EXPECTED as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            return
        yield {**self.of, "failed": failure, "passed": False}


def jobs(part: str, options: argparse.Namespace, settings: gpu_runs.Settings, folder: Path) -> Iterator[Job]:
    """The measurements of a part, in order; `folder` is for the pipeline's input."""
    largest = max(options.batch_sizes)
    if part == "decode":
        yield from _decoding(options, settings)
        return
    precisions = options.precisions
    decoders = list(options.decoders)
    if part == "pipeline" and "dali" in decoders and (problem := gpu_decoding.dali_problem(options.device)):
        decoders.remove("dali")
        yield _without_dali(problem, asked=True)
    for model in options.models:
        if part == "embeddings":
            compared = (precisions, options.compared)
            yield Job({"model": model}, partial(gpu_runs.compare_embeddings, settings, model, *compared))
        elif part == "memory":
            of = {"model": model, "batch_size": largest}
            yield Job(of, partial(gpu_runs.out_of_memory, settings, *of.values()))
        for precision in precisions:
            of = {"model": model, "precision": precision}
            if part == "neighbours":
                yield Job(of, partial(gpu_runs.compare_neighbours, settings, *of.values(), options.batch_sizes))
            elif part == "model":
                yield Job(of, partial(gpu_speeds.model_speeds, settings, *of.values(), options.batch_sizes))
            elif part == "copies" and precision == options.fastest:
                for count in options.copies:
                    more = {**of, "batch_size": largest, "copies": count}
                    yield Job(more, partial(gpu_copies.check_copies, settings, *more.values()))
            elif part == "pipeline" and precision == options.fastest:
                for choice in itertools.product(options.batch_sizes, decoders):
                    more = {**of, **dict(zip(("batch_size", "decoder"), choice, strict=True))}
                    yield Job(more, partial(_pipeline, options, settings, folder, *more.values()))


def _pipeline(options: argparse.Namespace, settings: gpu_runs.Settings, folder: Path, *choice: Any) -> Iterator[Line]:
    shards = gpu_speeds.photo_tars(folder, options.images, settings.threads)
    return gpu_speeds.pipeline_speed(settings, *choice, shards)


def _decoding(options: argparse.Namespace, settings: gpu_runs.Settings) -> Iterator[Job]:
    for size in ("S", "M"):
        yield Job({"size": size}, partial(gpu_decoding.host_speeds, size, options.images))
    if problem := gpu_decoding.dali_problem(options.device):
        yield _without_dali(problem, asked="dali" in options.decoders)
        return
    for size in ("S", "M"):
        of = {"decoder": f"dali on {options.device}", "size": size}
        yield Job(of, partial(gpu_decoding.dali_speed, settings, size, options.images))
    of = {"decoder": f"dali on {options.device}", "size": "S"}
    yield Job(of, partial(gpu_decoding.bad_jpeg, settings))
    yield Job(of, partial(gpu_decoding.who_decodes, settings))


def _without_dali(problem: str, asked: bool) -> Job:
    """A line that says why DALI is left out, which is a failure if it was asked for."""
    line = {"decoder": "dali", "not_run": problem}
    return Job(line, lambda: [{**line, "passed": False} if asked else line])
