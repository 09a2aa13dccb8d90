"""Beam YAML: the example file and the page's pipeline as a user runs them, against the command; the page's tables; errors."""

import inspect
import json
import re

import apache_beam as beam
import pytest
import yaml
from apache_beam.yaml import main as beam_yaml
from apache_beam.yaml.yaml_provider import InlineProvider

from beam_curate import yaml_transforms
from beam_curate.commands import curate, select
from beam_curate.records import Failure, Sample, SampleRef, ScoredSample
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.part_marks import without_mark

EXAMPLE = ROOT / "examples" / "curate.yaml"
PAGE = (ROOT / "docs" / "beam-yaml.md").read_text()
CONSTRUCTORS = {
    name: getattr(yaml_transforms, path.rpartition(".")[2])
    for name, path in re.findall(r"^### (\w+)\n\n`(beam_curate\.yaml_transforms\.\w+)`", PAGE, re.M)
}
MODEL = "ViT-S-32-alt"
RANDOM = {"clip_model": "ViT-S-32-alt", "pretrained": "random", "aesthetic_head": "random", "nsfw_head": "random"}
SCORES = {"quality": "border,frames", "screen": "side >= 64 and width != 84", "prompt": "cat=a photo of a cat,a dog"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two shards, 12 + 7 samples, of which one is no image."""
    folder = tmp_path_factory.mktemp("yaml")
    (folder / "data").mkdir()
    for name, numbers in (("a", range(12)), ("b", range(20, 26))):
        members = [(f"{n:03d}.{suffix}", data) for n in numbers for suffix, data in (
            ("jpg", encoded(photo(n, width=60 + 4 * n))), ("txt", b"caption %d" % n)
        )]  # fmt: skip
        members += [("bad.jpg", b"no image")] if name == "b" else []
        (folder / "data" / f"{name}.tar").write_bytes(tar_bytes(members))
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """What the command writes."""
    arguments = [f"--input={folder}/data/*.tar", f"--output={folder}/command", f"--clip_model={MODEL}"]
    arguments += ["--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random", "--min_aesthetic=4"]
    arguments += [f"--{name}={value}" for name, value in SCORES.items()]
    assert curate.main([*arguments, "--max_nsfw=0.9", "--keep=width > 70", "--samples_per_shard=4"]) == 0
    found = files(folder / "command")
    assert len([name for name in found if name.endswith(".tar")]) > 1
    funnel = json.loads(found["summary.json"])["funnel"]
    assert funnel["rejected"] > funnel["reasons"]["not_kept_by_screen"] == 2
    return found


def files(folder):
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found | {name: without_mark(data) for name, data in found.items() if name.startswith("scores/")}


def assert_same_run(found, expected):
    """The same files but for the report and the mark of a run that can be continued; what tells of its options may differ."""
    assert found.keys() == expected.keys() - {"run.json", "input_shards.parquet", "report.html"}
    assert [name for name in found if found[name] != expected[name] and name not in ("summary.json", "README.md")] == []
    assert json.loads(found["summary.json"])["funnel"] == json.loads(expected["summary.json"])["funnel"]


def run_example(**variables):
    flags = ["--runner=FnApiRunner", f"--yaml_pipeline_file={EXAMPLE}", f"--jinja_variables={json.dumps(variables)}"]
    beam_yaml.run(flags)


def test_the_example_writes_what_the_command_writes(folder, expected):
    run_example(
        input=f"{folder}/data/*.tar",
        output=f"{folder}/example",
        min_aesthetic=4,
        max_nsfw=0.9,
        keep="width > 70",
        score_names=["border", "frames", "aesthetic", "nsfw", "cat"],
        samples_per_shard=4,
        **SCORES,
    )
    assert_same_run(files(folder / "example"), expected)
    assert json.loads((folder / "example" / "summary.json").read_text())["scores_meaningless"] is True
    (failed,) = folder.glob("example-failed.txt-*")
    assert re.fullmatch(r".*/data/b\.tar bad: not_an_image: .*\n", failed.read_text())


def test_the_pipeline_of_the_page_writes_what_the_command_writes(folder, expected, capsys):
    spec = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S).group(1))
    (composite, _, lines) = (transform["config"] for transform in spec["pipeline"]["transforms"])
    composite |= {"input": f"{folder}/data/*.tar", "output": f"{folder}/page", "model_dir": ""}
    composite["decode"] |= {name: SCORES[name] for name in ("quality", "screen")}
    composite["embed"] |= {"clip_model": MODEL, "pretrained": "random"}
    composite["score"] |= {"min_aesthetic": 4, "max_nsfw": 0.9, "keep": "width > 70", "prompt": SCORES["prompt"]}
    composite["score"] |= {"aesthetic_head": "random", "nsfw_head": "random"}
    composite["write"] |= {"samples_per_shard": 4, "about": {"note": "mine"}}
    lines["path"] = f"{folder}/page-done.txt"
    beam_yaml.run(["--runner=FnApiRunner", f"--yaml_pipeline={yaml.safe_dump(spec)}"])
    assert_same_run(files(folder / "page"), expected)
    summary = json.loads((folder / "page" / "summary.json").read_text())
    random = ["CLIP weights", "aesthetic head", "nsfw head", "cat score"]
    assert (summary["random"], summary["note"]) == (random, "mine")
    (done,) = folder.glob("page-done.txt-*")
    funnel = summary["funnel"]
    assert done.read_text() == f"{funnel['kept']} of {funnel['input']} samples are in {folder}/page\n"
    # As the page says: the commands neither continue nor select from what a file has written.
    before = files(folder / "page")
    capsys.readouterr()
    command = [
        f"--input={folder}/data/*.tar",
        f"--output={folder}/page",
        f"--clip_model={MODEL}",
        "--pretrained=random",
    ]
    assert curate.main([*command, "--aesthetic_head=none", "--nsfw_head=none", "--resume"]) == 2
    assert select.main([f"--scores={folder}/page", f"--output={folder}/never"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert files(folder / "page") == before


def test_an_error_in_a_file_names_the_step_the_option_and_the_value(folder):
    for variables, message in (
        ({"image_size": "224"}, r"\"DecodeImages\" at line \d+: size='224': give a whole number"),
        ({"image_size": 3000}, r"\"DecodeImages\" at line \d+: size is 3000: use .* 1 to 2048"),
        ({"keep": "beauty > 3"}, r"\"ScoreAndFilter\" at line \d+: keep='beauty > 3': .*beauty"),
        ({"clip_model": "ViT-S-32-alternative"}, r"\"ScoreAndFilter\" at line \d+: clip_model='ViT-S-32-alternative'"),
        ({"samples_per_shard": 0}, r"\"WriteWebDatasetShards\" at line \d+: samples_per_shard is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            run_example(input=f"{folder}/data/*.tar", output=f"{folder}/wrong", **variables)
    assert not (folder / "wrong").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ReadTarShards", {"input": ["a.tar"]}, r"input=\['a\.tar'\]: give a text"),
        ("ReadTarShards", {"input": "a.tar", "max_member_bytes": 0}, "max_member_bytes is 0; give at least 1"),
        ("DecodeImages", {"sise": 32}, "there is no option 'sise'; did you mean size. there are: size, resize_mode"),
        ("DecodeImages", {"extract_exif": 1}, "extract_exif=1: give true or false"),
        ("DecodeImages", {"threads": True}, "threads=True: give a whole number"),
        ("DecodeImages", {"size": 224.5}, r"size=224\.5: give a whole number"),
        ("DecodeImages", {"quality": "sharpnes"}, "^`quality`: 'sharpnes' is not a quality score; did you mean sharpness"),
        ("DecodeImages", {"screen": "border < 1"}, "^`screen`: there is no column 'border'.* Ask for quality scores"),
        ("ScoreAndFilter", {"clip_model": MODEL, "quality": ["border"]}, r"quality=\['border'\]: give a text"),
        ("ScoreAndFilter", {**RANDOM, "prompt": "cat"}, "prompt='cat': the prompt score 'cat' has no '='"),
        ("ScoreAndFilter", {**RANDOM, "prompt": "side=a"}, "prompt='side=a': .*'side'"),
        ("ScoreAndFilter", {**RANDOM, "quality": "border", "prompt": "border=a"}, "two scores are named border"),
        ("EmbedImages", {"batch_size": 0}, "batch_size=0: give a whole number of at least 1"),
        ("EmbedImages", {"model_copies": "two"}, "model_copies='two': give a whole number or null"),
        ("EmbedImages", {"quick_gelu": "maybe"}, "quick_gelu='maybe': give 'auto', True or False"),
        ("ScoreAndFilter", {"min_aesthetic": "none"}, "min_aesthetic='none': give a number or null"),
        ("ScoreAndFilter", {"clip_model": MODEL}, "no aesthetic head is published for ViT-S-32-alt"),
        ("WriteWebDatasetShards", {"output": "o", "score_names": [1]}, r"score_names=\[1\]: give a list"),
        ("WriteWebDatasetShards", {"output": "o", "score_names": "nsfw"}, "score_names='nsfw': give a list"),
        ("WriteWebDatasetShards", {"output": "o", "about": "me"}, "about='me': give a map"),
        ("CurateImages", {"input": "i", "output": "o", "embed": {"bath_size": 3}}, "embed: .*'bath_size'.* batch_size"),
        ("CurateImages", {"input": "i", "output": "o", "embed": {"seed": "3"}}, "embed: seed='3': give a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        CONSTRUCTORS[name](**options)


def test_a_missing_option_is_named():
    for name, missing in (("ReadTarShards", "input"), ("WriteWebDatasetShards", "output"), ("CurateImages", "output")):
        given = {"input": "i"} if name == "CurateImages" else {}
        with pytest.raises(TypeError, match=f"missing a required argument: '{missing}'"):
            CONSTRUCTORS[name](**given)


def test_what_the_model_decides_cannot_be_given_to_the_composite():
    heads = {"aesthetic_head": "random", "nsfw_head": "none"}
    options = {"input": "i", "output": "o", "embed": {"clip_model": MODEL, "pretrained": "random"}, "score": heads}
    yaml_transforms.curate_images(**options)
    with pytest.raises(ValueError, match="decode: size=32: leave it out"):
        yaml_transforms.curate_images(**options, decode={"size": 32})
    with pytest.raises(ValueError, match="write: embedding_dim=7: leave it out"):
        yaml_transforms.curate_images(**options, write={"embedding_dim": 7})
    with pytest.raises(ValueError, match="score: rule nsfw_above_max needs the score 'nsfw'"):
        yaml_transforms.curate_images(**{**options, "score": {**heads, "max_nsfw": 0.5}})


def test_numbers_may_be_whole_where_any_number_is_wanted():
    heads = {"clip_model": MODEL, "aesthetic_head": "random", "nsfw_head": "none"}
    assert yaml_transforms.score_and_filter(min_aesthetic=4, **heads).min_aesthetic == 4


def test_scores_that_are_not_the_tables_columns_stop_the_job(tmp_path):
    ref = SampleRef(0, "s", 0, "k", shard_rows=1)
    scored = ScoredSample(ref, None, b"", {"aesthetic": 5.0}, "kept")
    failed = ScoredSample(ref, None, b"", {}, "failed", "decode", "not_an_image", "no")
    with pytest.raises(Exception, match=r"score_names=\['aesthetic', 'nsfw'\], but the samples have .*\['aesthetic'\]"):
        write(scored, tmp_path / "out")
    write(failed, tmp_path / "failed")
    assert json.loads((tmp_path / "failed" / "summary.json").read_text())["funnel"]["failed"] == 1


def test_quality_scores_that_only_one_step_knows_stop_the_job(folder):
    names = {"score_names": ["aesthetic", "nsfw"]}
    text = EXAMPLE.read_text()
    for line, message in (
        ("        quality: {{ quality | tojson }} # as in DecodeImages\n", r"image_scores=\[\], but .* \['border'\]"),
        ("        quality: {{ quality | tojson }}\n", r"image_scores=\['border'\], but .* \[\]"),
    ):
        assert line in text
        variables = {"input": f"{folder}/data/*.tar", "output": f"{folder}/one-{len(line)}", "quality": "border"}
        flags = [f"--jinja_variables={json.dumps({**variables, **names})}"]
        with pytest.raises(ValueError, match=message):
            beam_yaml.run(["--runner=FnApiRunner", f"--yaml_pipeline={text.replace(line, '')}", *flags])


def write(row, output):
    with beam.Pipeline("FnApiRunner") as root:
        rows = root | beam.Create([row]).with_output_types(ScoredSample)
        _ = rows | yaml_transforms.write_webdataset_shards(str(output), embedding_dim=4)


def test_every_parameter_is_on_the_page_with_its_default():
    exported = {name for name, value in vars(yaml_transforms).items() if hasattr(value, "__wrapped__")}
    assert {constructor.__name__ for constructor in CONSTRUCTORS.values()} == exported
    assert len(exported) == 6
    for name, constructor in CONSTRUCTORS.items():
        section = PAGE.split(f"### {name}\n")[1].split("\n## ")[0].split("\n### ")[0]
        told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.M))
        parameters = inspect.signature(constructor).parameters
        assert told == {
            each.name: "required" if each.default is each.empty else f"`{json.dumps(each.default, default=dict)}`"
            for each in parameters.values()
        }


def test_the_files_name_the_constructors_of_the_page():
    names = {name: f"beam_curate.yaml_transforms.{made.__name__}" for name, made in CONSTRUCTORS.items()}
    for text in (EXAMPLE.read_text(), PAGE):
        named = dict(re.findall(r"^ +(\w+): (beam_curate\.yaml_transforms\.\w+)$", text, re.M))
        assert named
        assert named.items() <= names.items()


def test_the_variables_that_are_shown_are_those_of_the_file():
    text = EXAMPLE.read_text()
    known = re.findall(r"^{% set (\w+) = \1 \| default", text, re.M)
    for shown in (PAGE, re.sub(r"^# ?", "", text, flags=re.M)):
        given = json.loads(re.search(r"--jinja_variables='(.*?)'", shown, re.S).group(1))
        assert set(known) == set(given)


def test_beam_can_describe_the_options():
    provider = InlineProvider(CONSTRUCTORS)
    for name, constructor in CONSTRUCTORS.items():
        fields = [field.name for field in provider.config_schema(name).fields]
        assert fields == list(inspect.signature(constructor).parameters)
        assert provider.description(name) == inspect.getdoc(constructor)


def test_a_filter_between_the_steps_is_found_out(folder):
    text = EXAMPLE.read_text().replace("      input: EmbedImages\n", "      input: Some\n")
    some = """
    - type: Filter
      name: Some
      input: EmbedImages
      config: {language: python, keep: "ref.index != 3"}
"""
    text = text.replace("    # The shards of the kept samples", some + "\n    # The shards of the kept samples")
    flags = [f"--jinja_variables={json.dumps({'input': f'{folder}/data/*.tar', 'output': f'{folder}/less'})}"]
    with pytest.raises(RuntimeError, match="11 rows came to the score table, 12 were read"):
        beam_yaml.run(["--runner=FnApiRunner", f"--yaml_pipeline={text}", *flags])


def test_records_are_rows_to_beam():
    from apache_beam.typehints.schemas import named_fields_from_element_type

    assert [name for name, _ in named_fields_from_element_type(Sample)] == ["ref", "data", "failure"]
    assert [name for name, _ in named_fields_from_element_type(Failure)] == ["step", "reason", "message"]
