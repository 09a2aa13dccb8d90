"""Whether the files that a finished run names are all there: by listing folders, no file is opened but the lists."""

from collections.abc import Mapping, Sequence

from beam_curate.runs.beginning import LOOKED_INTO
from beam_curate.runs.configuration import Files
from beam_curate.runs.part_files import table_digest
from beam_curate.runs.parts import part_paths
from beam_curate.runs.run_files import FAILURES, INDEX, SIZES, SUMMARY
from beam_curate.runs.score_table import FOLDER, VERDICTS, ScoreTableError, part_name
from beam_curate.runs.state_files import input_shards, read_index, read_sizes, repeat_remedy
from beam_curate.runs.table_parts import TablePlace, moved_remedy
from beam_curate.storage.files import files_under, join
from beam_curate.threads import in_threads


class MissingFileError(ValueError):
    """A finished run lacks a file; the message says which, and what to do."""


def check_table(table: TablePlace, digest: str | None = None) -> None:
    """Checks that a table has a part, and one of its verdicts, for each input shard, and names no other files.

    Args:
        table: Where it lies.
        digest: That of the table with which the run ended, see `part_files.table_digest`. It is compared where all parts are
            looked into: a larger table is compared by nobody.

    Raises:
        ScoreTableError: The first part that is missing, damaged, or has a row that names another file than its input shard, or
            one of them is not the one with which the run ended; with what to do.
    """
    numbers = check_parts(table)
    footprints = list(in_threads(lambda number: _checked(table, number), numbers[:LOOKED_INTO]))
    if (
        digest is None
        or len(footprints) < len(numbers)
        or table_digest(zip(numbers, footprints, strict=True)) == digest
    ):
        return
    run, name = table.verdicts or table.scores, VERDICTS if table.verdicts else FOLDER
    raise ScoreTableError(
        f"a part in {join(run, name)} was changed after the run had ended, or is of another run: restore it, or delete the "
        f"part (all of them, if it is not known which) and {join(run, SUMMARY)}, and repeat the command of that run with `resume`"
    )


def _checked(table: TablePlace, number: int) -> str:
    """The footprint of a part that names no other file than its input shard."""
    with table.open(number) as part:
        part.check_sources()
        return part.counts.footprint


def check_parts(table: TablePlace) -> list[int]:
    """The indexes of the input shards, ascending; each has a part of the table, and of the verdicts if there are any.

    Raises:
        ScoreTableError: The first part that is missing, with what to do.
    """
    numbers = [shard.index for shard in input_shards(table.verdicts or table.scores)]
    for folder, name in ((table.verdicts, VERDICTS), (table.scores, FOLDER)):
        found = part_paths(folder, name) if folder else numbers
        missing = next((number for number in numbers if number not in found), None)
        if missing is not None:
            own = folder == (table.verdicts or table.scores)
            remedy = repeat_remedy(folder) if own else moved_remedy(table)
            raise ScoreTableError(f"{join(folder, part_name(missing, name))} is missing: {remedy}")
    return numbers


def check_files(run: str, files: Files, output_bytes: int, ends: Sequence[str]) -> None:
    """Checks that the output files of a finished run, export or packing are there, with what lies beside each.

    Args:
        run: The folder.
        files: How they are named.
        output_bytes: How large they are in sum, by its summary.
        ends: The ends of the names of all files of a number.

    Raises:
        MissingFileError: The first file that is missing or empty, or has another size, with what to do.
        DamagedFileError: A list of the files is damaged.
    """
    listed = {path.rpartition("/")[2]: size for path, size in files_under(run, "*").items()}
    _check_there(run, SIZES, listed)
    names = list(read_sizes(run))
    for name in names:
        stem = name.removesuffix(f".{files.extension}")
        for end in ends:
            _check_there(run, f"{stem}{end}", listed)
    for name in (*files.lists, *([FAILURES] if files.format is not None else [])):
        _check_there(run, name, listed)
    if files.indexed:
        _check_there(run, INDEX, listed)
        for entry in read_index(run):
            _check_there(run, entry.url, listed)
            if listed[entry.url] != entry.filesize:
                raise MissingFileError(
                    f"{join(run, entry.url)} has {listed[entry.url]} bytes, and {INDEX} says {entry.filesize}: "
                    f"{repeat_remedy(run)}"
                )
    found = sum(listed[name] for name in names)
    if found != output_bytes:
        raise MissingFileError(
            f"{len(names)} files in {run} have {found} bytes, and {SUMMARY} says {output_bytes}: {repeat_remedy(run)}"
        )


def _check_there(run: str, name: str, listed: Mapping[str, int]) -> None:
    if name not in listed:
        raise MissingFileError(f"{join(run, name)} is missing: {repeat_remedy(run)}")
    if not listed[name] and name.endswith((".parquet", ".json")):
        raise MissingFileError(f"{join(run, name)} is empty: {repeat_remedy(run)}")
