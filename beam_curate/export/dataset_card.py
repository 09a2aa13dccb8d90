"""The dataset card of an export: README.md with the YAML front matter that the Hugging Face hub and `datasets` read.

Source: huggingface.co/docs/hub/datasets-cards and datasets-manual-configuration; the YAML is written by huggingface_hub.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from beam_curate.export.files import WEBDATASET, Export, ExportedFile, feature_kinds
from beam_curate.scores.rules_in_force import duplicates, rules, steps
from beam_curate.tars.sample_group import IMAGE_EXTENSIONS

# From which number of samples on which category; the names are the hub's.
_SIZES: Final = (
    (0, "n<1K"), (10**3, "1K<n<10K"), (10**4, "10K<n<100K"), (10**5, "100K<n<1M"), (10**6, "1M<n<10M"),
    (10**7, "10M<n<100M"), (10**8, "100M<n<1B"), (10**9, "1B<n<10B"), (10**10, "10B<n<100B"), (10**11, "100B<n<1T"),
    (10**12, "n>1T"),
)  # fmt: skip


def dataset_card(export: Export, summary: Mapping[str, Any], files: Sequence[ExportedFile]) -> str:
    """The whole file; the same export gives the same text."""
    from huggingface_hub import DatasetCardData

    samples = summary["export"]["exported"]
    data = DatasetCardData(
        license=export.license,
        pretty_name=export.name,
        size_categories=[next(name for least, name in reversed(_SIZES) if samples >= least)],
        tags=["image", export.format, "beam-curate", *(["croissant"] if export.croissant else [])],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": _data_files(export)}]}],
        dataset_info=_info(export, summary, files),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(export, summary)}"


def _data_files(export: Export) -> str:
    """What load_dataset reads: the tars, or the rows beside TFRecord files, of which it has no reader.

    Not both: `datasets` takes one kind of files for all configurations of a data set.
    """
    return "[0-9]*.tar" if export.format == WEBDATASET else "[0-9]*.parquet"


def _info(export: Export, summary: Mapping[str, Any], files: Sequence[ExportedFile]) -> dict[str, Any]:
    if export.format != WEBDATASET:
        return {"features": [{"name": column.name, **hub_type(column.type)} for column in export.table_schema]}
    members = sorted({suffix for file in files for suffix in file.members})
    split = {"name": "train", "num_bytes": summary["output_bytes"], "num_examples": summary["export"]["exported"]}
    return {**_member_features(members), "splits": [split]}


def _member_features(members: Sequence[str]) -> dict[str, Any]:
    """The features of the tars, where the extensions tell them; else nothing, and `datasets` looks into the tars.

    It decodes members such as .json to what is in them, which may differ from sample to sample.
    """
    kinds = {
        suffix: "image" if suffix in IMAGE_EXTENSIONS else "string" if suffix == "txt" else "" for suffix in members
    }
    if not all(kinds.values()):
        return {}
    own = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return {"features": [*({"name": name, "dtype": kind} for name, kind in kinds.items()), *own]}


def hub_type(kind: pa.DataType) -> dict[str, Any]:
    """A column's type as the hub writes it."""
    if pa.types.is_fixed_size_list(kind):
        return {"list": hub_type(kind.value_type)["dtype"], "length": kind.list_size}
    names = {"float": "float32", "double": "float64", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind))}


def _text(export: Export, summary: Mapping[str, Any]) -> str:
    counts, source = summary["export"], summary["source"]
    lines = [
        f"# {export.name}",
        "",
        f"{counts['exported']:,} images in {summary['output_files']:,} {export.format} files, selected and exported with "
        f"beam_curate {summary['versions']['beam_curate']}.",
        "",
        f"License of the images: **{export.license}**. The pipeline does not know whose the images are: check the licenses "
        "of their sources before you share them.",
        "",
        *_loading(export),
        *_columns(export),
        "## Where it comes from",
        "",
        *_provenance(export, counts, source),
    ]
    return "\n".join(lines) + "\n"


def _loading(export: Export) -> list[str]:
    if export.format == WEBDATASET:
        code = [
            "from datasets import load_dataset",
            "",
            'samples = load_dataset("path/of/this/folder", streaming=True)["train"]',
        ]
    else:
        kind = '"gzip"' if export.compressed else "None"
        code = ["from tfrecord import tfrecord_loader", "",
                f'samples = tfrecord_loader("00000.{export.extension}", None, compression_type={kind})']  # fmt: skip
    return ["## Reading it", "", "```python", *code, "```", ""]


def _columns(export: Export) -> list[str]:
    lines = ["`00000.parquet` has a row for each sample of the first file, in its order, and so on: "
             + ", ".join(f"`{name}`" for name in export.table_schema.names) + ".", ""]  # fmt: skip
    if export.reencoding.needed:
        lines += [
            "Where `reencoded` is true the image was made smaller or converted; `original_width`, `original_height` and "
            "`original_sha256` tell of the image before. The others are byte for byte as they were.",
            "",
        ]
    if export.format != WEBDATASET:
        lines += [
            "| feature | kind |",
            "|---|---|",
            *(f"| `{name}` | {kind} |" for name, kind in feature_kinds(export)),
            "",
        ]
    return lines


def _provenance(export: Export, counts: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    funnel = source["funnel"]
    configuration = source["configuration"] or {}
    model = _scoring(configuration).get("model", {})
    lines = ["| samples | |", "|---|---|"]
    lines += [f"| {name} | {funnel[name]:,} |" for name in ("input", "failed", "rejected", "kept")]
    lines += [f"| of these: {reason} | {number:,} |" for reason, number in funnel["reasons"].items()]
    lines += [f"| failed in the export | {counts['failed']:,} |", f"| exported | {counts['exported']:,} |", ""]
    if model:
        lines += [f"- Embeddings: `{model.get('clip_model')}`, weights `{model.get('weights')}`."]
    lines += [
        f"- Score `{head['name']}`: {head.get('kind', head.get('id', 'a head'))}." for head in source["heads"] or []
    ]
    lines += _rules(configuration)
    if source["scores_meaningless"]:
        lines.append(f"- **The scores mean nothing**: random {' and '.join(source['random'])}.")
    shuffled = "in the order of the run" if export.seed is None else f"shuffled by the seed {export.seed}"
    lines.append(f"- Order: {shuffled}.")
    if export.reencoding.needed:
        done = export.reencoding
        lines.append(
            f"- Images: shorter side at most {done.shortest or 'as it was'}, format {done.image_format}, quality {done.quality}; "
            f"{counts['reencoded']:,} were encoded again."
        )
    return lines


def _rules(configuration: Mapping[str, Any]) -> list[str]:
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


def _scoring(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the run that scored."""
    while "source" in configuration:
        configuration = configuration["source"]["configuration"]
    return configuration
