"""The dataset card of a run or an export: README.md with the YAML front matter that the Hugging Face hub and `datasets` read.

Source: huggingface.co/docs/hub/datasets-cards and datasets-manual-configuration; the YAML is written by huggingface_hub.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from beam_curate.records import WrittenShard
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.output_files import Format
from beam_curate.runs.run import Run
from beam_curate.runs.summary import ExportSummary, Summary, WrittenCounts
from beam_curate.scores.rules_in_force import duplicates, rules, steps
from beam_curate.tars.sample_group import IMAGE_EXTENSIONS
from beam_curate.version import __version__

# From which number of samples on which category; the names are the hub's.
_SIZES: Final = (
    (0, "n<1K"), (10**3, "1K<n<10K"), (10**4, "10K<n<100K"), (10**5, "100K<n<1M"), (10**6, "1M<n<10M"),
    (10**7, "10M<n<100M"), (10**8, "100M<n<1B"), (10**9, "1B<n<10B"), (10**10, "10B<n<100B"), (10**11, "100B<n<1T"),
    (10**12, "n>1T"),
)  # fmt: skip

_KINDS: Final = {"txt": "string", "json": "json", "cls": "int64"}
"""Features of members, as `datasets` decodes them. `json`, since its version 4.7, holds any value."""


@dataclass(frozen=True)
class Card:
    """What a card says beside what the files and the summary tell.

    Attributes:
        name: Of the data set.
        license: Of the images.
        seed: That the order was shuffled by.
        croissant: Whether there is croissant.json.
    """

    name: str
    license: str
    seed: int | None
    croissant: bool


def dataset_card(
    card: Card,
    format: Format,
    summary: Summary | ExportSummary,
    source: Summary,
    files: Sequence[WrittenShard],
    counts: WrittenCounts,
) -> str:
    """The whole file; the same run or export gives the same text.

    Args:
        card: What it says of its own.
        format: How samples were written.
        summary: Of the run or export.
        source: The summary of the run that judged the samples.
        files: All files.
        counts: What became of the samples.
    """
    from huggingface_hub import DatasetCardData

    samples = counts.exported
    path, info = _configuration(format, summary, files, samples)
    data = DatasetCardData(
        license=card.license,
        pretty_name=card.name,
        size_categories=[next(name for least, name in reversed(_SIZES) if samples >= least)],
        tags=["image", format.name, Run.card_tag, *(["croissant"] if card.croissant else [])],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": path}]}],
        dataset_info=info,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(card, format, summary, source, len(files), counts)}"


def _configuration(
    format: Format, summary: Summary | ExportSummary, files: Sequence[WrittenShard], samples: int
) -> tuple[str, dict[str, object] | None]:
    """What load_dataset reads, and the features of it.

    That is the tars, if their extensions tell the features, or if `datasets` may look for them: it demands that all samples have
    the same extensions, and takes the fields of the first five .json members for those of all. Else the rows beside them, as
    beside TFRecord files, of which it has no reader. Not both: `datasets` takes one kind of files for all configurations of a
    data set.
    """
    members = sorted({suffix for file in files for suffix in file.members})
    features = _member_features(members)
    alike = all(file.alike and file.members == members for file in files if file.samples)
    if format.indexed and (features or (alike and "json" not in map(_last, members))):
        split = {"name": "train", "num_bytes": summary.output_bytes, "num_examples": samples}
        return f"[0-9]*.{format.extension}", {**features, "splits": [split]}
    schema = format.table_schema
    if schema is None:
        return "[0-9]*.parquet", None
    return "[0-9]*.parquet", {"features": [{"name": column.name, **hub_type(column.type)} for column in schema]}


def _member_features(members: Sequence[str]) -> dict[str, object]:
    """The features of the tars, where the extensions tell them; else nothing, and `datasets` looks into the tars.

    It calls a member by its extension as that stands there, in capitals or not, and decodes it by what is behind the last dot.

    Args:
        members: Extensions.
    """
    kinds = {
        suffix: "image" if _last(suffix) in IMAGE_EXTENSIONS else _KINDS.get(_last(suffix), "") for suffix in members
    }
    if not all(kinds.values()):
        return {}
    own = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return {"features": [*({"name": name, "dtype": kind} for name, kind in kinds.items()), *own]}


def _last(suffix: str) -> str:
    return suffix.rpartition(".")[2].lower()


def hub_type(kind: pa.DataType) -> dict[str, object]:
    """A column's type as the hub writes it."""
    if pa.types.is_fixed_size_list(kind):
        return {"list": hub_type(kind.value_type)["dtype"], "length": kind.list_size}
    names = {"float": "float32", "double": "float64", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind))}


def _text(
    card: Card,
    format: Format,
    summary: Summary | ExportSummary,
    source: Summary,
    files: int,
    counts: WrittenCounts,
) -> str:
    version = summary.versions.get("beam_curate", __version__)
    lines = [
        f"# {card.name}",
        "",
        f"{counts.exported:,} images in {files:,} {format.name} files, selected and exported with "
        f"beam_curate {version}.",
        "",
        f"License of the images: **{card.license}**. The pipeline does not know whose the images are: check the licenses "
        "of their sources before you share them.",
        "",
        *["## Reading it", "", "```python", *format.reading, "```", ""],
        *format.described,
        "## Where it comes from",
        "",
        *_provenance(card, format, counts, source),
    ]
    return "\n".join(lines) + "\n"


def _provenance(card: Card, format: Format, counts: WrittenCounts, source: Summary) -> list[str]:
    funnel, model = source.funnel, source.configuration.scored.model
    lines = ["| samples | |", "|---|---|"]
    lines += [f"| {name} | {getattr(funnel, name):,} |" for name in ("input", "failed", "rejected", "kept")]
    lines += [f"| of these: {reason} | {number:,} |" for reason, number in funnel.reasons.items()]
    if format.prepared:
        lines += [f"| failed in the export | {counts.failed:,} |", f"| exported | {counts.exported:,} |"]
    lines += [""]
    if model:
        lines += [f"- Embeddings: `{model.clip_model}`, weights `{model.weights}`."]
    lines += [f"- Score `{head['name']}`: {head.get('kind', head.get('id', 'a head'))}." for head in source.heads or ()]
    lines += _rules(source.configuration)
    if source.scores_meaningless:
        said = ", ".join(source.random or ["weights"])
        lines.append(f"- **The scores mean nothing**: random {said}.")
    shuffled = "in the order of the run" if card.seed is None else f"shuffled by the seed {card.seed}"
    lines.append(f"- Order: {shuffled}.")
    return lines + [f"- {line} {counts.reencoded:,} were encoded again." for line in format.images]


def _rules(configuration: Configuration) -> list[str]:
    """The rules of all steps whose verdicts count, and what they took for duplicates."""
    lines = []
    for step in steps(configuration):
        lines += [f"- Rule `{name}`: `{value}`." for name, value in rules(step).items()]
        found = duplicates(step)
        action = found.pop("against_action", "")
        options = ", ".join(f"`{name}` `{value}`" for name, value in found.items())
        if action:
            done = "only these are kept" if action == "keep" else "these were dropped"
            lines.append(f"- Compared with another dataset for samples that are there too ({options}): {done}.")
        elif found:
            lines.append(f"- Of duplicates the best one of a group is kept: {options}.")
    return lines or ["- No rule was set."]
