"""ListTarShards and ReadTarShards: from a pattern to the samples of its shards."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam.metrics import Metrics

from beam_curate.progress import PROGRESS
from beam_curate.records import Sample, Shard
from beam_curate.storage.files import open_read
from beam_curate.storage.listing import list_shards
from beam_curate.storage.retrying import StorageError
from beam_curate.tars.samples import DEFAULT_MAX_MEMBER_BYTES, DEFAULT_MAX_SHARD_BYTES, read_samples
from beam_curate.tars.skipped import SkippedMembers, lost
from beam_curate.tars.sources import SourceChangedError

# With or without the dot before it. A name can hold a comma or a star after its first dot, but who gives one means several.
_EXTENSION: Final = re.compile(r"\.?[^./*,\s][^/*,]*")


@dataclass(eq=False)
class ListTarShards(beam.PTransform):
    """Lists the shards that a pattern names, sorted by path, and spreads them over the workers.

    In: the pipeline. Out: PCollection[Shard]. The pattern is expanded on a worker when the job runs, so a job graph
    stays small with a million shards. Only names are reshuffled, never bytes.

    Attributes:
        input: Globs, `{00000..00099}` braces, a comma list, or a `.txt` file of paths, on any Beam file system.

    Raises:
        InputError: When the job runs, if nothing matches or a named shard is missing.
    """

    input: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pipeline: beam.pvalue.PBegin) -> beam.PCollection[Shard]:
        """Lists on one worker, then spreads."""
        return (
            pipeline
            | "Input" >> beam.Create([self.input])
            | "List" >> beam.FlatMap(list_shards).with_output_types(Shard)
            | "Spread" >> beam.Reshuffle()
        )


@dataclass(eq=False)
class ReadTarShards(beam.PTransform):
    """Reads WebDataset shards: one shard is one unit of work, streamed and never held whole.

    In: the pipeline (with `input`), or a PCollection[Shard]. Out: PCollection[Sample], in the order of each shard, but for those
    with links to earlier members, which come at its end (`tars.links`). A shard gives at least one row, and that with the last
    index says how many there are. Bad samples and damaged spots are failed rows. Of a shard with `rows` only these come, and
    the last one to come says how many they are.

    Attributes:
        input: The pattern, as in ListTarShards; None when applied to a PCollection[Shard].
        image_extension: The extension of the image member, such as `jpg` or `seg.png`; None takes the first member with
            a known image extension.
        max_member_bytes: Image members larger than this are failed rows and are not read, and so are samples whose members
            have more than 8 times as much in all.
        max_shard_bytes: A compressed shard that expands to more ends there, with a failed row.

    Raises:
        OSError: When the job runs, if a shard cannot be opened or read; it names the shard.
    """

    input: str | None = None
    image_extension: str | None = None
    max_member_bytes: int = DEFAULT_MAX_MEMBER_BYTES
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES

    def __post_init__(self) -> None:
        super().__init__()
        for name in ("max_member_bytes", "max_shard_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.image_extension is not None and not _EXTENSION.fullmatch(self.image_extension):
            raise ValueError(
                f"`image_extension` is {self.image_extension!r}; give one extension, such as jpg or seg.png"
            )

    def expand(self, source: "beam.pvalue.PBegin | beam.PCollection[Shard]") -> "beam.PCollection[Sample]":
        """Lists the shards if a pattern was given, and reads them."""
        shards = source if self.input is None else source | ListTarShards(self.input)
        read = _ReadShard(self.image_extension, self.max_member_bytes, self.max_shard_bytes)
        return shards | "Read" >> beam.ParDo(read).with_output_types(Sample)


def only_rows(samples: Iterator[Sample], shard: Shard) -> Iterator[Sample]:
    """The samples that a shard's `rows` ask for, all if it asks for none.

    Raises:
        SourceChangedError: The shard has no such row any more.
    """
    if not shard.rows:
        yield from samples
        return
    wanted = set(shard.rows)
    for sample in samples:
        if sample.ref.index in wanted:
            wanted.remove(sample.ref.index)
            number = 0 if wanted else len(shard.rows)
            yield dataclasses.replace(sample, ref=dataclasses.replace(sample.ref, shard_rows=number, again=True))
    if wanted:
        raise SourceChangedError(
            f"{shard.path} changed after it was scored: it has no rows {sorted(wanted)[:5]} any more"
        )


class _ReadShard(beam.DoFn):
    def __init__(self, image_extension: str | None, max_member_bytes: int, max_shard_bytes: int) -> None:
        self._image_extension = image_extension
        self._max_member_bytes = max_member_bytes
        self._max_shard_bytes = max_shard_bytes
        self._shards = Metrics.counter("beam_curate.read", "shards")
        self._samples = Metrics.counter("beam_curate.read", "samples")
        self._failures = Metrics.counter("beam_curate.read", "failures")
        self._skipped = Metrics.counter("beam_curate.read", "skipped_members")
        self._image_bytes = Metrics.distribution("beam_curate.read", "image_bytes")

    def process(self, shard: Shard) -> Iterator[Sample]:
        skipped = SkippedMembers()
        seen = 0
        try:
            with open_read(shard.path) as stream:
                samples = read_samples(
                    stream,
                    shard,
                    image_extension=self._image_extension,
                    max_member_bytes=self._max_member_bytes,
                    max_shard_bytes=self._max_shard_bytes,
                    skipped=skipped,
                )
                for sample in only_rows(samples, shard):
                    self._samples.inc()
                    if sample.failure is None:
                        self._image_bytes.update(len(sample.data))
                    else:
                        self._failures.inc()
                    position = max(seen, stream.tell())  # it goes back where links are read
                    PROGRESS.add(input_bytes=position - seen)
                    seen = position
                    yield sample
        except OSError as error:
            raise StorageError(f"shard {shard.path} cannot be read: {error}") from error
        self._shards.inc()
        self._skipped.inc(sum(lost(skipped).values()))
        PROGRESS.add(input_bytes=shard.size - seen)
