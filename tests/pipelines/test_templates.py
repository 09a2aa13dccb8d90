"""The metadata of the Flex Templates: what the options say, in the form that Dataflow takes."""

import dataclasses
import json
import re
from typing import NamedTuple

import pytest

from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.options import option, option_fields, required
from beam_curate.commands.pack_options import PackOptions
from beam_curate.commands.parsing import parse
from beam_curate.commands.select_options import SelectOptions
from pipelines import template_metadata
from tests.conftest import ROOT

CURATE = json.loads((ROOT / "templates" / "curate.json").read_text())
PARAMETERS = {parameter["name"]: parameter for parameter in CURATE["parameters"]}
OWN = {field.name: field for field in option_fields(CurateOptions)}
NEEDED = ["--input=gs://b/*.tar", "--output=gs://b/out"]
COMMANDS = {
    "curate": (CurateOptions, {"input": "gs://b/*.tar", "output": "gs://b/out"}),
    "select": (SelectOptions, {"scores": "gs://b/scored", "output": "gs://b/out"}),
    "dedup": (DedupOptions, {"scores": "gs://b/scored", "output": "gs://b/out"}),
    "export": (ExportOptions, {"input": "gs://b/run", "output": "gs://b/out", "format": "tfrecord"}),
    "pack": (PackOptions, {"input": "gs://b/photos/", "output": "gs://b/out"}),
}
LOCAL = {"dry_run"}
IMAGE = "sdk_container_image"
COMPANIONS = {"against_action": {"against": "gs://b/other"}}
"""What an option is of no use without."""


class Template(NamedTuple):
    parameters: dict
    options: type
    own: dict
    needed: dict

    def parse(self, **more):
        words = [f"--{name}={value}" for name, value in {**self.needed, **more}.items()]
        return parse(self.options, words, "")


@pytest.fixture(params=COMMANDS)
def template(request):
    options, needed = COMMANDS[request.param]
    found = json.loads((ROOT / "templates" / f"{request.param}.json").read_text())
    own = {field.name: field for field in option_fields(options) if field.name not in LOCAL}
    return Template({parameter["name"]: parameter for parameter in found["parameters"]}, options, own, needed)


def matches(parameter, value):
    return all(re.search(regex, value) for regex in parameter.get("regexes", []))


def test_the_files_are_what_the_options_say(capsys):
    assert template_metadata.main(["--check"]) == 0, capsys.readouterr().err


def test_a_drift_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(template_metadata, "FOLDER", tmp_path)
    assert template_metadata.main(["--check"]) == 1
    assert template_metadata.main(["--write"]) == 0
    assert template_metadata.main(["--check"]) == 0
    written = tmp_path / "curate.json"
    written.write_text(written.read_text().replace("gpu_placement", "gpu_place"))
    capsys.readouterr()
    assert template_metadata.main(["--check"]) == 1
    error = capsys.readouterr().err
    assert '+      "name": "gpu_placement",' in error
    assert "run make templates" in error


@pytest.mark.parametrize("name", COMMANDS)
def test_dataflow_takes_the_metadata(name):
    from google.cloud.dataflow_v1beta3 import TemplateMetadata
    from google.protobuf import json_format

    found = json.loads((ROOT / "templates" / f"{name}.json").read_text())
    message = json_format.ParseDict(found, TemplateMetadata.pb()())
    assert [parameter.name for parameter in message.parameters] == [each["name"] for each in found["parameters"]]
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(found | {"paramters": []}, TemplateMetadata.pb()())


def test_every_command_with_a_template_is_here():
    assert {f"{name}.json" for name in COMMANDS} == set(template_metadata.templates())
    assert {path.name for path in (ROOT / "templates").iterdir()} == set(template_metadata.templates())


def test_every_option_is_a_parameter_and_every_parameter_an_option(template):
    from beam_curate.commands.launch import pipeline_options

    beam = [name for name in template.parameters if name not in template.own]
    assert template.own.keys() <= template.parameters.keys()
    assert beam
    assert not LOCAL & template.parameters.keys()
    words = [f"--{name}={'7' if template.parameters[name]['paramType'] == 'NUMBER' else 'x/y'}" for name in beam]
    pipeline_options(words, template.options)


def test_names_and_texts_are_there(template):
    for parameter in template.parameters.values():
        assert re.fullmatch(r"[a-zA-Z][\w-]*", parameter["name"])
        assert parameter["label"]
        assert parameter["helpText"]
        assert parameter["groupName"]


def test_required_options_are_required_parameters(template):
    required = {name for name, parameter in template.parameters.items() if not parameter["isOptional"]}
    assert required == {*template.needed, IMAGE}
    assert "the template's own image" in template.parameters[IMAGE]["helpText"]


def test_defaults_agree_with_the_options_and_with_their_own_rules(template):
    parameters = template.parameters
    defaults = {
        name: parameter["defaultValue"] for name, parameter in parameters.items() if "defaultValue" in parameter
    }
    options, rest, _ = template.parse(**defaults)
    plain, _, _ = template.parse()
    assert options == plain
    assert rest == []
    for parameter in parameters.values():
        if "defaultValue" in parameter:
            assert matches(parameter, parameter["defaultValue"])
        if "defaultValue" in parameter and parameter["paramType"] == "ENUM":
            assert parameter["defaultValue"] in [choice["value"] for choice in parameter["enumOptions"]]
    missing = {name for name in template.own if parameters[name]["isOptional"] and name not in defaults}
    chosen = {"batch_size", "precision"} & template.own.keys()
    assert missing == {name for name, field in template.own.items() if field.default in ("", ())} - {"output"} | chosen


def test_what_a_template_is_said_to_write_is_all_that_it_can():
    found = template_metadata.templates()["export.json"]
    (formats,) = [each["enumOptions"] for each in found["parameters"] if each["name"] == "format"]
    assert [each["value"] for each in formats if each["value"] not in found["description"].lower()] == []


def test_a_large_default_reads_as_in_the_help():
    assert PARAMETERS["max_comparisons"]["defaultValue"] == "1e14"
    assert PARAMETERS["eps"]["defaultValue"] == "0.01"


def test_choices_are_enums_and_all_are_taken(template):
    enums = {name: parameter for name, parameter in template.parameters.items() if parameter["paramType"] == "ENUM"}
    assert enums.keys() == {name for name, field in template.own.items() if "choices" in field.metadata}
    for name, parameter in enums.items():
        for choice in parameter["enumOptions"]:
            template.parse(**{name: choice["value"]}, **COMPANIONS.get(name, {}))


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("input", "gs://bucket/data/{00000..00099}.tar", True),
        ("input", "gs://bucket/a-*.tar,gs://bucket/b-*.tar", True),
        ("input", "data/*.tar", False),
        ("output", "gs://bucket/out/", True),
        ("output", "gs://bucket", False),
        ("output", "/tmp/out", False),
        ("min_aesthetic", "4.5", True),
        ("min_aesthetic", "-1", True),
        ("min_aesthetic", "none", True),
        ("min_aesthetic", "high", False),
        ("samples_per_shard", "1000", True),
        ("samples_per_shard", "1e3", False),
        ("resume", "true", True),
        ("resume", "yes", False),
        ("sdk_container_image", "us-docker.pkg.dev/p/images/beam-curate:1", True),
        ("disk_size_gb", "200", True),
    ],
)
def test_regexes_let_through_what_fits(name, value, fits):
    assert matches(PARAMETERS[name], value) is fits
    if fits and name in OWN:
        words = {"input": "gs://b/i", "output": "gs://b/o"} | {name: value}
        options, _, _ = parse(CurateOptions, [f"--{word}={text}" for word, text in words.items()], "")
        assert getattr(options, name) is not None or value == "none"


def test_a_launcher_gives_every_parameter_a_value():
    options, _, given = parse(CurateOptions, [*NEEDED, "--resume=true", "--overwrite=false"], "")
    assert (options.resume, options.overwrite) == (True, False)
    assert given == {"input", "output", "resume"}


def test_a_default_counts_as_given_only_where_other_options_choose_it():
    words = [*NEEDED, "--eps=0.010", "--max_nsfw=.5", "--min_side=none", "--batch_size=32", "--precision=auto"]
    _, _, given = parse(CurateOptions, words, "")
    assert given == {"input", "output", "batch_size", "precision"}
    _, _, given = parse(CurateOptions, [*NEEDED, "--eps=0.02", "--max_nsfw=none"], "")
    assert given == {"input", "output", "eps", "max_nsfw"}


SEVERAL = {
    "second_model": ("ViT-B-16=openai; ViT-B-32=laion2b_s34b_b79k ;", ("ViT-B-16=openai", "ViT-B-32=laion2b_s34b_b79k")),
    "head": ("gs://b/a.json;gs://b/c.json", ("gs://b/a.json", "gs://b/c.json")),
    "scorer": (
        r'm:A {"text": "x; \"y;\"", "n": {"k": 1}};m:B', (r'm:A {"text": "x; \"y;\"", "n": {"k": 1}}', "m:B")),
}  # fmt: skip


def test_a_parameter_can_have_several_values(template):
    names = {name for name, field in template.own.items() if field.metadata.get("action") == "append"}
    assert names <= SEVERAL.keys()
    assert ("scorer" in names) == (template.options in (CurateOptions, SelectOptions))
    for name in names:
        text, values = SEVERAL[name]
        assert "several are separated by ;" in template.parameters[name]["helpText"]
        assert getattr(template.parse(**{name: text})[0], name) == values
        words = [f"--{key}={value}" for key, value in template.needed.items()]
        repeated = parse(template.options, [*words, *(f"--{name}={value}" for value in values)], "")[0]
        assert getattr(repeated, name) == values
        assert getattr(template.parse(**{name: ""})[0], name) == ()


def test_a_new_option_appears_by_itself():
    @dataclasses.dataclass(frozen=True)
    class More(CurateOptions):
        brightness: float = option(0.5, "how bright")

    found = template_metadata.metadata(More, "n", "d")["parameters"]
    (new,) = [parameter for parameter in found if parameter["name"] == "brightness"]
    assert new == {"name": "brightness", "label": "Brightness", "helpText": "how bright", "isOptional": True,
                   "paramType": "TEXT", "defaultValue": "0.5", "groupName": "More"}  # fmt: skip


def test_required_comes_from_the_option():
    @dataclasses.dataclass(frozen=True)
    class Small:
        where: str = required("a place")

    (parameter, *_) = template_metadata.metadata(Small, "n", "d")["parameters"]
    assert not parameter["isOptional"]
    assert "defaultValue" not in parameter
