"""Turns the members and the damaged spots of a tar into rows, one by one.

Damage in a tar leaves open which sample lost a member: the one before the spot, the one after it, or one that is gone as
a whole. A sample that may have lost a member must not pass for whole. So the sample named in the damaged header fails, if
that is a neighbour which lacks this member; else a neighbour passes only if there is evidence that it is whole: its
extensions are at least those of another sample (an earlier one, or the other neighbour) and none of these has more.
A spot that reaches back into a body costs the sample of this body as well.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

from beam_curate.reasons import CORRUPT_TAR, EMPTY_SHARD, NOT_A_TAR, READ, TRUNCATED_TAR
from beam_curate.records import Failure, Sample, SampleRef, Shard
from beam_curate.tars.events import Damage, TarEntry
from beam_curate.tars.headers import DIRECTORIES as DIRECTORY_TYPES
from beam_curate.tars.links import LINKS, LinkedSample
from beam_curate.tars.member_names import encodable, skipped_as, split_name
from beam_curate.tars.sample_group import SampleGroup
from beam_curate.tars.skipped import DIRECTORIES, FURTHER_IMAGES, SPECIAL_FILES, SkippedMembers, in_order, lost

_MAX_SHAPES = 64  # distinct sets of extensions that are remembered, each of at most so many
_MAX_SHAPE_SIZE = 64
_COMPANIONS = ("txt", "json", "cls")
_NEVER_END_IN_ZEROS = ("png", "apng", "webp", "avif", "jp2", "txt", "json")
"""Extensions of what never ends in a block of zeros if it is whole, and of which a decoder would not notice it (as it does of
a JPEG or GIF, which have an end mark of their own)."""


class Grouping:
    """Turns members and damage into rows.

    At most two samples are under way: the open one, and, if a damaged spot came between them, the one before it, which
    waits until the open one is complete, since only then can be told which of them the damage hit.
    """

    def __init__(
        self, shard: Shard, max_member_bytes: int, image_extension: str | None, skipped: SkippedMembers
    ) -> None:
        self.linked: list[LinkedSample] = []  # complete but for the bytes that links point to
        self._shard = shard
        self._max_member_bytes = max_member_bytes
        self._image_extension = image_extension
        self._skipped = skipped
        self._nameless = ""  # the last file that was skipped
        self._ready: collections.deque[Sample] = collections.deque()
        self._last: LinkedSample | None = None  # kept back, since only the last row of all has shard_rows
        self._rows = 0
        self._keys: set[bytes] = set()
        self._shapes: set[frozenset[str]] = set()
        self._group: SampleGroup | None = None
        self._last_member: tuple[int, str] | None = None  # where the body of the last member lies, and its extension
        self._after: Damage | None = None  # a damaged spot after the open sample
        self._waiting: SampleGroup | None = None
        self._before: Damage | None = None  # a damaged spot before the open sample, after the waiting one
        self._is_witness = (
            False  # whether instead the spot lies before the waiting one, which is the first of the shard
        )

    @property
    def rows(self) -> int:
        """The rows so far."""
        return self._rows

    def ready(self) -> Iterator[Sample]:
        """Hands out the rows that are complete, and forgets them."""
        while self._ready:
            yield self._ready.popleft()

    def split(self, entry: TarEntry) -> tuple[str, str] | None:
        """Key and extension of a member that counts; another one is added to what was skipped."""
        if entry.regular or entry.type in LINKS:
            why = skipped_as(entry.name)
            if why is None:
                return split_name(entry.name)
            self._nameless = entry.name
        else:
            why = DIRECTORIES if entry.type in DIRECTORY_TYPES else SPECIAL_FILES
        self._skipped[why] += 1
        return None

    def enter(self, key: str, offset: int, extension: str) -> SampleGroup:
        """The sample that a member with this key, extension and offset of its body belongs to."""
        self._last_member = offset, extension.lower()
        if self._group is not None and self._group.key == key:
            if self._after is not None:
                self._group.fail(self._after.reason, self._after.message)
                self._after = None
            return self._group
        self._close()
        self._release()
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        group = SampleGroup(key, digest in self._keys, key == self._nameless)
        self._keys.add(digest)
        self._group = group
        return group

    def damage(self, damage: Damage) -> None:
        """Takes a damaged spot up."""
        if self._group is not None and self._last_member is not None and damage.body == self._last_member[0]:
            self._group.fail(damage.reason, damage.message)
            split = None if damage.name is None else split_name(damage.name)
            if split and split[0] == self._group.key:
                return  # what else it hit is of the same sample
        if damage.reason == TRUNCATED_TAR:
            self._truncated(damage)
        elif damage.reason == NOT_A_TAR:
            self._add_row("", damage.reason, damage.message)
        elif self._after is None:
            self._after = damage
        else:
            # Two spots without a sample between them: the names in them no longer tell who was hit.
            self._add_row("", damage.reason, damage.message)
            self._after = self._after._replace(name=None)

    def _truncated(self, damage: Damage) -> None:
        name = damage.name
        split = split_name(name) if name is not None and skipped_as(name) is None else None
        if split is not None:
            self.enter(split[0], damage.offset, split[1]).fail(damage.reason, damage.message)
        elif self._group is not None and not self._is_whole(self._group, None):
            self._group.fail(damage.reason, damage.message)
        else:
            self._close_all()
            self._add_row("", damage.reason, damage.message)

    def end_without_marker(self) -> None:
        """Takes up that the shard ended where a header could be: fine, unless its last sample lacks what others have."""
        if self._group is not None and any(shape > self._group.shape for shape in self._shapes):
            self._group.fail(
                TRUNCATED_TAR, "the shard ends here without an end marker, and the sample has fewer members than others"
            )

    def end_mark(self) -> None:
        """Takes up an end mark, after which another archive follows.

        A hole can look the same. So the last sample is not whole if every other one has members that it lacks.
        """
        if self._group is not None and self._shapes and all(shape > self._group.shape for shape in self._shapes):
            self._group.fail(
                CORRUPT_TAR,
                "an end mark follows in the middle of the shard, and the sample has fewer members than others",
            )
        self._close()

    def end_in_zeros(self, offset: int) -> None:
        """Takes up that the body of the last member, at `offset`, ends in zeros as the shard does."""
        if self._group is not None and self._last_member is not None and self._last_member[0] == offset:
            extension = self._last_member[1]
            if extension.rpartition(".")[2] in _NEVER_END_IN_ZEROS:
                self._group.fail(
                    TRUNCATED_TAR, f"the shard is zeros from inside the member {encodable(extension)!r:.200} on"
                )

    def broken(self, reason: str, message: str, *, whole: bool) -> None:
        """Takes up that nothing can be read from here on: a row of its own, and the end of the open sample.

        Args:
            reason: Why nothing can be read.
            message: The same in words.
            whole: Whether an end mark came before, so that the open sample is complete.
        """
        if self._group is not None and not whole:
            self._group.fail(reason, message)
        self._close_all()
        self._add_row("", reason, message)

    def finish(self) -> None:
        """Completes all rows."""
        self._close_all()
        if not self._rows:
            self._add_row("", EMPTY_SHARD, f"the shard has no sample{_skipped_words(self._skipped)}")
        if self._last is not None:
            sample, group = self._last
            ref = dataclasses.replace(sample.ref, shard_rows=self._rows, skipped=in_order(self._skipped))
            self._last = LinkedSample(dataclasses.replace(sample, ref=ref), group)
            self._release()

    def _close(self) -> None:
        """Ends the open sample: makes it a row, or lets it wait if damage follows it."""
        group, self._group = self._group, None
        if group is not None and self._before is not None:
            if self._waiting is None and not self._shapes and self._after is None:
                # Damage before the shard's first sample: only the next sample can show whether this one is whole.
                self._waiting, self._is_witness = group, True
                return
            self._settle(group)
        if self._after is not None:
            self._waiting, self._before, self._after = group, self._after, None
        elif group is not None:
            self._add_sample(group)

    def _close_all(self) -> None:
        """Ends the open and the waiting sample: no other follows."""
        self._close()
        if self._before is not None:
            self._settle(None)

    def _settle(self, after: SampleGroup | None) -> None:
        """Decides whom the damage between the waiting sample and the one after it hit."""
        before, damage, is_witness = self._waiting, self._before, self._is_witness
        self._waiting, self._before, self._is_witness = None, None, False
        shape = None if after is None else after.shape
        blamed = damage is None or self._blame(damage, before, None if is_witness else after, shape)
        if before is not None:
            self._add_sample(before)
        if damage is not None and not blamed:
            self._add_row("", damage.reason, damage.message)

    def _blame(
        self, damage: Damage, before: SampleGroup | None, after: SampleGroup | None, shape: frozenset[str] | None
    ) -> bool:
        """Fails the neighbours of a damaged spot that may have lost a member; whether there was one.

        `shape` is the shape of the next sample, if any, be it a neighbour or only a witness.
        """
        neighbours = [group for group in (before, after) if group is not None]
        split = None if damage.name is None else split_name(damage.name)
        cut = [group for group in neighbours if split and split[0] == group.key and _lacks(group, split[1])]
        if not cut:
            other = None if before is None else before.shape
            pairs = ((before, shape), (after, other))
            # A text beside an image is not a sample of its own: it was a neighbour's, even if its key is garbled.
            text = split[1] if split and split[1].lower() in _COMPANIONS else None
            cut = [
                group
                for group, witness in pairs
                if group and (not self._is_whole(group, witness) or (text is not None and _lacks(group, text)))
            ]
        for group in cut:
            group.fail(CORRUPT_TAR, damage.message)
        return bool(cut)

    def _is_whole(self, group: SampleGroup, neighbour: frozenset[str] | None) -> bool:
        shapes = self._shapes if neighbour is None else {*self._shapes, neighbour}
        shape = group.shape
        return any(other <= shape for other in shapes) and not any(other > shape for other in shapes)

    def _add_sample(self, group: SampleGroup) -> None:
        sample = group.finish(self._shard, self._rows, self._max_member_bytes, self._image_extension)
        if group.further_images:
            self._skipped[FURTHER_IMAGES] += group.further_images
        cut = sample.failure is not None and sample.failure.reason in (CORRUPT_TAR, TRUNCATED_TAR)
        if not cut and len(self._shapes) < _MAX_SHAPES and len(group.extensions) <= _MAX_SHAPE_SIZE:
            self._shapes.add(group.shape)
        self._push(sample, group)

    def _add_row(self, key: str, reason: str, message: str) -> None:
        ref = SampleRef(self._shard.index, self._shard.path, self._rows, key)
        self._push(Sample(ref, b"", Failure(READ, reason, message)))

    def _push(self, row: Sample, group: SampleGroup | None = None) -> None:
        self._release()
        self._last = LinkedSample(row, group or SampleGroup(""))
        self._rows += 1

    def _release(self) -> None:
        """Hands the last row on: another one follows, or none any more."""
        if self._last is not None:
            if self._last.group.is_linked and self._last.sample.failure is None:
                self.linked.append(self._last)
            else:
                self._ready.append(self._last.sample)
            self._last = None


def _skipped_words(counts: Mapping[str, int]) -> str:
    words = ", ".join(f"{number} {kind}" for kind, number in lost(counts).items())
    return f"; what it has was skipped: {words}" if words else ""


def _lacks(group: SampleGroup, extension: str) -> bool:
    return extension.lower() not in group.extensions
