"""What overhead.py compares: functions that read shards and consume every image in them, batch by batch.

Each runs in a process of its own (see `measure`), which loads its model once, before anything is timed.
"""

import functools
import io
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import open_clip
import torch
import webdataset as wds
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from photo_shards import BATCH
from PIL import Image
from plain_limit import run_limit

from beam_curate import ClipModelHandler, DecodeImages, DecodeOptions, ReadTarShards, ScoreAndFilter
from beam_curate import WriteWebDatasetShards as WriteShards
from beam_curate.clip.model_description import choose_precision
from beam_curate.heads.head import random_head
from beam_curate.images.decoding import FAST, decode_image
from beam_curate.records import DecodedImage, EmbeddedSample
from beam_curate.threads import usable_cores

CLIP_MODEL = "ViT-B-32"
STUB_DIM = 768
_SIDE = 224

Paths = Sequence[str]


class Settings(NamedTuple):
    """The decoder of DecodeImages and of the loops that use it, and the precision of the CLIP tower."""

    decoder: str = FAST
    precision: str = "auto"

    @property
    def decode(self) -> DecodeOptions:
        """The options of the decoder."""
        return DecodeOptions(decoder=self.decoder)


class Run(NamedTuple):
    """A timed run: wall seconds, and CPU seconds of the process and its children."""

    wall: float
    cpu: float


class StubModel:
    """A fixed projection of every seventh pixel of every seventh row: it uses the batch and costs next to nothing.

    Each number of the embedding is a weighted sum of four values. No BLAS: its threads would spin beside the decoders.
    """

    def __init__(self) -> None:
        self._weights = np.random.default_rng(0).normal(size=(STUB_DIM, 4)).astype(np.float32)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) or (N, 3, S, S) of any number type to (N, STUB_DIM) float16, L2-normalised."""
        seen = pixels[:, ::7, ::7] if pixels.shape[-1] == 3 else pixels[:, :, ::7, ::7]
        features = (seen.reshape(len(pixels), STUB_DIM, 4) * self._weights).sum(axis=2)
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)


@functools.cache
def stub_model() -> StubModel:
    """The stub of this process."""
    return StubModel()


@functools.cache
def tower(precision: str) -> Any:
    """The visual tower of this process, as the pipeline loads it; random weights."""
    return ClipModelHandler(CLIP_MODEL, "random", precision=precision).load_model()


class StubHandler(ModelHandler[DecodedImage, EmbeddedSample, StubModel]):
    """Runs the stub in RunInference."""

    def __init__(self) -> None:
        super().__init__(min_batch_size=BATCH, max_batch_size=BATCH)

    def load_model(self) -> StubModel:
        """Takes the process's stub."""
        return stub_model()

    def run_inference(self, batch: Sequence[DecodedImage], model: StubModel, inference_args=None):
        """Embeds a batch of good images."""
        pixels = np.frombuffer(b"".join([image.pixels for image in batch]), np.uint8)
        rows = model.embed(pixels.reshape(len(batch), _SIDE, _SIDE, 3))
        return [EmbeddedSample(image.ref, image.facts, row.tobytes()) for image, row in zip(batch, rows, strict=True)]

    def get_num_bytes(self, batch: Sequence[DecodedImage]) -> int:
        """Counts the pixels' bytes."""
        return sum(len(image.pixels) for image in batch)


class WarmClipHandler(ClipModelHandler):
    """The project's handler with a tower that the process holds already: loading is not what is measured."""

    def __init__(self, precision: str) -> None:
        super().__init__(CLIP_MODEL, "random", precision=precision, batch_size=BATCH)
        self._held = precision

    def load_model(self):
        """Takes the process's tower."""
        return tower(self._held)


def _pipeline(paths: Paths, settings: Settings, handler: ModelHandler, dim: int, write: bool) -> None:
    score = ScoreAndFilter((random_head("aesthetic", dim), random_head("nsfw", dim)), min_aesthetic=0.5, max_nsfw=1.0)
    output = tempfile.mkdtemp(prefix="beam-curate-bench-") if write else ""
    try:
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as root:
            rows = (
                root
                | ReadTarShards(",".join(paths))
                | DecodeImages(settings.decode)
                | RunInference(handler).with_output_types(EmbeddedSample)
                | score
            )
            if write:
                _ = rows | WriteShards(output, score.score_names, dim, samples_per_shard=1000)
            else:
                _ = rows | beam.combiners.Count.Globally()
    finally:
        if write:
            shutil.rmtree(output)


def _loop(paths: Paths, decode: Callable[[bytes], Any], collate: Callable[[list[Any]], Any]) -> Iterable[Any]:
    """The plain loop: webdataset in DataLoader workers, one per core, which read, decode and stack; (keys, batch) out."""
    samples = (
        wds.WebDataset(list(paths), shardshuffle=False, empty_check=False)
        .to_tuple("__key__", "jpg")
        .map_tuple(str, decode)
        .batched(BATCH, collation_fn=lambda rows: ([row[0] for row in rows], collate([row[1] for row in rows])))
    )
    return _loader(samples)


def _loader(samples: Any) -> Iterable[Any]:
    # Forked, as is usual on Linux: this process itself was spawned, and its default would be that.
    return torch.utils.data.DataLoader(
        samples, batch_size=None, num_workers=usable_cores(), multiprocessing_context="fork"
    )


def _unzip(rows: list[Any]) -> tuple[list[Any], torch.Tensor]:
    return [row[0] for row in rows], _stack_arrays([row[1] for row in rows])


def _our_decode(settings: Settings) -> Callable[[bytes], np.ndarray]:
    options = settings.decode
    return lambda data: decode_image(data, options)[1]


def _stack_arrays(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


def _open_clip_decode() -> Callable[[bytes], torch.Tensor]:
    transform = open_clip.image_transform(_SIDE, is_train=False)
    return lambda data: transform(Image.open(io.BytesIO(data)))


def pipeline_stub(paths: Paths, settings: Settings, write: bool) -> None:
    """Curates with the stub."""
    _pipeline(paths, settings, StubHandler(), STUB_DIM, write)


def loop_stub(paths: Paths, settings: Settings) -> None:
    """The plain loop with the pipeline's decoder."""
    for _, batch in _loop(paths, _our_decode(settings), _stack_arrays):
        stub_model().embed(batch.numpy())


def loop_stub_write(paths: Paths, settings: Settings) -> None:
    """The plain loop with the pipeline's decoder that writes the samples to shards again."""
    decode, members = _our_decode(settings), ("__key__", "jpg", "txt", "json")
    samples = wds.WebDataset(list(paths), shardshuffle=False, empty_check=False).to_tuple(*members)
    samples = samples.map(lambda sample: (sample, decode(sample[1]))).batched(BATCH, collation_fn=_unzip)
    with (
        tempfile.TemporaryDirectory(prefix="beam-curate-bench-") as output,
        wds.ShardWriter(f"{output}/%05d.tar", maxcount=1000, verbose=0) as writer,
    ):
        for rows, batch in _loader(samples):
            stub_model().embed(batch.numpy())
            for row in rows:
                writer.write(dict(zip(members, row, strict=True)))


def limit(paths: Paths, settings: Settings) -> None:
    """The least that a file needs."""
    del settings  # it has the decoder that it is about
    run_limit(paths, lambda images: stub_model().embed(images))


def open_clip_stub(paths: Paths, settings: Settings) -> None:
    """The plain loop with open_clip's own transform (Pillow)."""
    for _, batch in _loop(paths, _open_clip_decode(), torch.stack):
        stub_model().embed(batch.numpy())


def pipeline_clip(paths: Paths, settings: Settings, write: bool) -> None:
    """Curates with CLIP."""
    dim = tower(settings.precision).describe().embed_dim
    _pipeline(paths, settings, WarmClipHandler(settings.precision), dim, write)


@functools.cache
def _decoded(path: str, settings: Settings) -> tuple[np.ndarray, ...]:
    """The batches of a shard, decoded; whole batches only if the shard's size is a multiple of the batch's."""
    samples = wds.WebDataset([path], shardshuffle=False, empty_check=False).to_tuple("jpg")
    images = list(map(_our_decode(settings), (data for (data,) in samples)))
    return tuple(np.stack(images[at : at + BATCH]) for at in range(0, len(images), BATCH))


def model_alone(paths: Paths, settings: Settings) -> None:
    """The bare model loop on batches that are decoded already."""
    for path in paths:
        for batch in _decoded(path, settings):
            tower(settings.precision).embed(batch)


@functools.cache
def _open_clip_model() -> Any:
    return open_clip.create_model(CLIP_MODEL).eval()


def user_loop(paths: Paths, settings: Settings) -> None:
    """What one writes without this project: webdataset, open_clip's transform, open_clip's model, fp32, eager."""
    model = _open_clip_model()
    with torch.inference_mode():
        for _, batch in _loop(paths, _open_clip_decode(), torch.stack):
            features = torch.nn.functional.normalize(model.encode_image(batch), dim=-1)
            features.numpy()


class Contender(NamedTuple):
    """A function to time, what the table calls it, and whether it runs the real model."""

    run: Callable[[Paths, Settings], None]
    title: str
    clip: bool


CONTENDERS: dict[str, Contender] = {
    "pipeline_stub": Contender(
        functools.partial(pipeline_stub, write=False), "pipeline, stub model, scores counted", False
    ),
    "pipeline_stub_write": Contender(
        functools.partial(pipeline_stub, write=True), "pipeline, stub model, table and shards written", False
    ),
    "loop_stub": Contender(loop_stub, "webdataset + DataLoader, our decoder, stub model", False),
    "loop_stub_write": Contender(loop_stub_write, "the same, with shards written", False),
    "limit": Contender(
        limit, "tarfile, hashlib, simplejpeg, torchvision, pyarrow, a process per core, stub model", False
    ),
    "open_clip_stub": Contender(open_clip_stub, "webdataset + DataLoader, open_clip transform, stub model", False),
    "pipeline_clip": Contender(functools.partial(pipeline_clip, write=False), "pipeline, CLIP, scores counted", True),
    "pipeline_clip_write": Contender(
        functools.partial(pipeline_clip, write=True), "pipeline, CLIP, table and shards written", True
    ),
    "model_alone": Contender(model_alone, "CLIP alone, on decoded batches", True),
    "user_loop": Contender(user_loop, "webdataset + DataLoader + open_clip, fp32", True),
}


def measure(name: str, paths: Paths, *settings: str) -> Run:
    """Runs a contender in this process and times it; `settings` are those of `Settings`, in order."""
    start, cpu = time.perf_counter(), _cpu_seconds()
    CONTENDERS[name].run(paths, Settings(*settings))
    return Run(time.perf_counter() - start, _cpu_seconds() - cpu)


def threads(_: str) -> int:
    """Torch's threads within an operation, as every contender uses them."""
    return torch.get_num_threads()


def multiplies_bf16(_: str) -> bool:
    """Whether the processor does: else the pipeline's model is fp32, as the user's loop."""
    return choose_precision("auto", torch.device("cpu")) == torch.bfloat16


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
