"""Croissant metadata of an export: JSON-LD that names its files and describes the rows beside them.

The records are those of the Parquet tables; the files with the images are named as file sets.
Source: MLCommons, Croissant Format Specification 1.0 (docs.mlcommons.org/croissant/docs/croissant-spec.html).
"""

from typing import Final

import pyarrow as pa

from beam_curate.export.prepared import PreparedSamples
from beam_curate.runs.summary import ExportSummary
from beam_curate.version import __version__

_CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""As the specification has it, appendix 1."""

_DESCRIPTIONS: Final = {
    "key": "the sample's key: the name of its members up to their first dot",
    "shard": "the shard that the sample was scored from",
    "index": "its place there",
    "image": "extension of the image",
    "caption": "text of the .txt member, or the caption in the .json one",
    "sha256": "of the image as it is here",
    "reencoded": "whether the image was made smaller or converted",
}


def croissant(name: str, license: str, format: PreparedSamples, summary: ExportSummary) -> dict[str, object]:
    """The metadata as JSON-LD.

    Args:
        name: Of the data set.
        license: Of its images.
        format: Of the files.
        summary: Of the export.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{summary.export.exported} images in {summary.output_files} {format.name} files, curated with "
        f"beam_curate {summary.versions.get('beam_curate', __version__)}",
        "license": license,
        "version": "1.0.0",
        "distribution": [
            _files("samples", "the images with their members", f"[0-9]*.{format.extension}", format.mime),
            _files("tables", "a row for each sample, in the files' order", "[0-9]*.parquet", "application/x-parquet"),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": "the facts and scores of the samples",
                "key": {"@id": "rows/key"},
                "field": [_field(column) for column in format.table_schema],
            }
        ],
    }


def _files(name: str, description: str, pattern: str, mime: str) -> dict[str, object]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": description,
        "encodingFormat": mime,
        "includes": pattern,
    }


def _field(column: pa.Field) -> dict[str, object]:
    many = pa.types.is_fixed_size_list(column.type)
    return {
        "@type": "cr:Field",
        "@id": f"rows/{column.name}",
        "name": column.name,
        "description": _DESCRIPTIONS.get(column.name, column.name.replace("_", " ")),
        "dataType": _data_type(column.type.value_type if many else column.type),
        **({"repeated": True} if many else {}),
        "source": {"fileSet": {"@id": "tables"}, "extract": {"column": column.name}},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
