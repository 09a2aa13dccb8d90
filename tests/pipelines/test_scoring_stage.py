"""The scoring stage of `curate` with a GPU of its own: all of it is one stage, and nothing else asks for the GPU.

For each option that changes the graph, alone and all together, on the pipeline that would be submitted; stages are Beam's own, of
its greedy fusion, which puts steps of different environments into different stages.
"""

import re

import apache_beam as beam
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.pipeline import PipelineVisitor
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from beam_curate.clip.caption_handler import CaptionHandler
from beam_curate.clip.handler import ClipModelHandler
from beam_curate.commands import curate
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.options import OptionError
from beam_curate.commands.parsing import parse
from beam_curate.transforms.decode_images import DecodeImages
from beam_curate.transforms.embed_encoded import EmbedEncoded
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support import curate_changes
from tests.support.models import LARGER_SMALL, MODEL, SECOND_SMALL

HINT = "beam:resources:accelerator:v1"
DATAFLOW = ["--runner=DataflowRunner", "--accelerator=l4", "--project=p", "--region=us-central1", "--temp_location=gs://b/t",
            "--sdk_container_image=r/i:1", "--dry_run=True", "--batch_size=2"]  # fmt: skip
CHANGES = {
    "captions": ["--caption_score"],
    "a second model": [f"--second_model={SECOND_SMALL}=random"],
    "two more models": [f"--second_model={SECOND_SMALL}=random;{LARGER_SMALL}=random"],
    "scores of images": ["--quality=sharpness,entropy", "--screen=width >= 16"],
    "a scorer of images": ["--scorer=red_scorer:Redness"],
    "words": ["--keep=aesthetic >= 0 and width > 3"],
    "the best": ["--top=aesthetic=2"],
    "duplicates": ["--dedup=exact,semantic"],
    "duplicates by pixels": ["--dedup=pixels,perceptual"],
    "a table alone": ["--table_only"],
    "shuffled": ["--shuffle_seed=3"],
    "layouts": ["--layout=datacomp"],
    "failed samples again": ["--retry_failed=truncated_image"],
    "resumed": ["--resume"],
}
TOGETHER = ["captions", "two more models", "scores of images", "a scorer of images", "the best", "duplicates", "shuffled",
            "layouts", "failed samples again"]  # fmt: skip
CASES = {
    "as it is": [],
    **CHANGES,
    "all": [word for name in TOGETHER for word in CHANGES[name]],
    "all, table alone": [*(word for name in TOGETHER if name != "layouts" for word in CHANGES[name]), "--table_only"],
    "DALI": ["--decoder=dali"],
    "DALI, pixels to the host": ["--decoder=dali", "--dali_device=cpu", *CHANGES["captions"]],
    "DALI beside all": ["--decoder=dali", *(word for name in TOGETHER for word in CHANGES[name])],
    "copies": ["--model_copies=2", *CHANGES["captions"], *CHANGES["a second model"]],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("scoring_stage") / "a.tar"
    path.write_bytes(tar_bytes([(f"{n}.jpg", encoded(photo(n, 64, 48))) for n in range(3)]))
    return path


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch):
    """Beam looks for the bucket, and for credentials, when it checks the options of a Dataflow job."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(PipelineOptionsValidator, "validate", lambda self: [])


def built(source, words):
    """The pipeline that a command line comes to."""
    given = [f"--input={source}", f"--output={source.parent}/out", *MODEL, "--min_aesthetic=none", "--max_nsfw=none"]
    options, rest, named = parse(CurateOptions, [*given, *DATAFLOW, *words], "")
    options, rest = curate.settled(options, named, rest)
    beam_options = PipelineOptions(rest)
    job = curate.prepare(options, named, beam_options)
    root = beam.Pipeline(FnApiRunner(), options=beam_options)
    job.build(root, {})
    return root


def submitted(source, words):
    """The same, as a runner gets it."""
    return built(source, words).to_runner_api()


def leaves(pipeline):
    """The primitive steps by their names; a transform without steps that gives what it gets is none."""
    steps = pipeline.components.transforms.values()
    return {
        each.unique_name: each
        for each in steps
        if not each.subtransforms and not set(each.outputs.values()) <= set(each.inputs.values())
    }


@pytest.mark.parametrize("case", CASES)
def test_the_gpu_is_for_one_stage_from_reading_to_the_table(source, case):
    pipeline = submitted(source, ["--gpu_placement=scoring", *CASES[case]])
    hinted = {name for name, env in pipeline.components.environments.items() if HINT in env.resource_hints}
    assert len(hinted) == 1
    with_gpu = {name for name, each in leaves(pipeline).items() if each.environment_id in hinted}
    (reading,) = [name for name in with_gpu if name.startswith("ReadTarShards")]
    (writing,) = [name for name in with_gpu if "WriteComplete" in name and "ParDo" in name.rpartition("/")[2]]
    models = [name for name in leaves(pipeline) if name.endswith("BeamML_RunInference")]
    assert len(models) == 1 + CASES[case].count("--caption_score") + sum(
        word.count("=random") for word in CASES[case] if word.startswith("--second_model")
    )
    _, stages = FnApiRunner().create_stages(pipeline)
    steps = [{each.unique_name for each in stage.transforms} for stage in stages]
    (stage,) = [names for names in steps if names & with_gpu]
    assert {reading, writing, *models} <= with_gpu
    pardos = {name for name in stage if name in leaves(pipeline)}
    assert pardos == with_gpu  # it has all of them, and nothing else
    payloads = [leaves(pipeline)[name] for name in with_gpu]
    assert {each.spec.urn for each in payloads} == {common_urns.primitives.PAR_DO.urn}
    sides = [beam_runner_api_pb2.ParDoPayload.FromString(each.spec.payload).side_inputs for each in payloads]
    assert not any(sides)  # a side input is waited for


@pytest.mark.parametrize("case", ["as it is", "all"])
def test_a_gpu_on_every_worker_is_no_hint(source, case):
    pipeline = submitted(source, CASES[case])
    assert not [env for env in pipeline.components.environments.values() if HINT in env.resource_hints]
    assert len({each.environment_id for each in leaves(pipeline).values() if each.environment_id}) == 1


class Models(PipelineVisitor):
    """The handlers of all models of a pipeline, and the steps that decode."""

    def __init__(self, root):
        self.handlers, self.decoders = [], []
        root.visit(self)

    def enter_composite_transform(self, node):
        step = node.transform
        if isinstance(step, DecodeImages):
            self.decoders.append(step)
        if isinstance(step, EmbedEncoded):
            self.decoders.append(step)
            self.handlers.append(step.handler)
        elif isinstance(step, RunInference) and isinstance(step._model_handler, ClipModelHandler | CaptionHandler):
            self.handlers.append(step._model_handler)


@pytest.mark.parametrize("gpu", curate_changes.GPUS)
def test_with_a_gpu_each_change_is_refused_or_comes_to_all_models(source, gpu):
    """No pixel can be computed here; where and how each model would run, the handlers tell."""
    for name, words in curate_changes.CHANGES.items():
        given = [*curate_changes.GPUS[gpu], *words]
        if why := curate_changes.REFUSED_WITH_A_GPU.get(name):
            with pytest.raises(OptionError, match=re.escape(why)):
                built(source, given)
            continue
        found = Models(built(source, given))
        assert len(found.handlers) == 1 + (name in ("captions", "a second model")), name
        assert {each._device for each in found.handlers} == {"cuda"}, name
        assert {each._precision for each in found.handlers} == {"bf16"}, name
        assert {each._calls.shape for each in found.handlers} == {3 if name == "batches" else 2}, name
        copies = {getattr(each, "copies", getattr(each, "_copies", None)) for each in found.handlers}
        assert copies == {2 if name == "copies" else 0}, name
        (decoder,) = found.decoders
        assert isinstance(decoder, EmbedEncoded) == (name == "DALI"), name
        assert decoder.dali_device == {"DALI": "cuda", "DALI on the host": "cpu"}.get(name, "auto"), name
        assert decoder.threads == {"copies": 1, "decoding threads": 2}.get(name, 0), name
    with pytest.raises(OptionError, match=re.escape(curate_changes.COPIES_WITH_DALI)):
        built(source, [*curate_changes.GPUS[gpu], *curate_changes.CHANGES["copies"], *curate_changes.CHANGES["DALI"]])
