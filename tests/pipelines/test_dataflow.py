"""Jobs for Dataflow, really submitted: to a service on this machine, with a bucket that is an emulator."""

import importlib
import io
import json
import re
import shlex
import tarfile
import types
from itertools import pairwise

import pytest
import torch
from apache_beam.options.pipeline_options import PipelineOptions

from beam_curate.clip.model_description import choose_batch_size
from beam_curate.commands import curate
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.dataflow_options import dataflow_arguments, scoring_hints, with_gpu_defaults
from beam_curate.commands.dedup_options import DedupOptions
from beam_curate.commands.export_options import ExportOptions
from beam_curate.commands.gpus import GPUS
from beam_curate.commands.options import OptionError
from beam_curate.commands.parsing import parse
from beam_curate.commands.select_options import SelectOptions
from tests.conftest import ROOT, encoded, photo, tar_bytes
from tests.support.dataflow_stub import BUCKET, PROJECT, REGION, dataflow, run_commands
from tests.support.models import MODEL

DATAFLOW = ["--runner=DataflowRunner"]


def settled(*words):
    """The options and Beam's arguments that a command line comes to."""
    options, rest, given = parse(CurateOptions, ["--input=i", "--output=o", *words], "")
    options = with_gpu_defaults(options, given, rest)
    return options, dataflow_arguments(options, rest)


# What follows from the options, without a service.


def test_without_an_accelerator_nothing_changes():
    options, arguments = settled("--runner=DataflowRunner", "--machine_type=n2-standard-4")
    assert arguments == ["--runner=DataflowRunner", "--machine_type=n2-standard-4"]
    assert (options.device, options.batch_size, options.precision, options.gpu_placement) == (
        "auto",
        32,
        "auto",
        "none",
    )
    assert scoring_hints(options, "DataflowRunner") == {}


FLEX = (
    "--dataflow_service_options=worker_accelerator=type:nvidia-h100-80gb;count:1;install-nvidia-driver:5xx;"
    "provisioning_model:FLEX_START"
)


@pytest.mark.parametrize("name", GPUS)
def test_an_accelerator_implies_the_rest_of_its_row(name):
    gpu = GPUS[name]
    options, arguments = settled(*DATAFLOW, f"--accelerator={name}", *([] if gpu.on_demand else [FLEX]))
    assert (options.device, options.batch_size, options.precision) == ("cuda", gpu.batch_size, gpu.precision)
    assert options.gpu_placement == "workers"
    assert f"--machine_type={gpu.machine_type}" in arguments
    assert DATAFLOW[0] in arguments
    assert sum("worker_accelerator" in word for word in arguments) == 1  # the user's own, where there is one
    from beam_curate.clip.handler import ClipModelHandler

    ClipModelHandler(device=options.device, precision=options.precision, batch_size=options.batch_size)


def test_what_the_user_gave_wins():
    options, arguments = settled(
        *DATAFLOW, "--accelerator=l4", "--batch_size=8", "--precision=fp32", "--machine_type=g2-standard-32"
    )
    assert (options.batch_size, options.precision) == (8, "fp32")
    from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

    assert PipelineOptions(arguments).view_as(WorkerOptions).machine_type == "g2-standard-32"


def test_the_machines_of_a_gpu():
    for name, gpu in GPUS.items():
        assert re.fullmatch(gpu.machines, gpu.machine_type), name
    for machine, name in (("n1-highmem-8", "t4"), ("g2-standard-32", "l4")):
        settled(*DATAFLOW, f"--accelerator={name}", f"--machine_type={machine}")


def test_copies_have_a_process_a_core_and_a_decoding_thread_each():
    assert settled(*DATAFLOW, "--accelerator=l4", "--model_copies=4")[0].decode_threads == 1
    assert settled(*DATAFLOW, "--accelerator=l4", "--model_copies=4", "--decode_threads=3")[0].decode_threads == 3
    assert settled(*DATAFLOW, "--accelerator=l4")[0].decode_threads == 0


@pytest.mark.parametrize(("gigabytes", "name"), [(15.8, "t4"), (23.6, "l4"), (42.3, "a100"), (85.0, "h100")])
def test_a_gpu_of_this_machine_has_the_batch_size_of_its_kind(monkeypatch, gigabytes, name):
    memory = types.SimpleNamespace(total_memory=int(gigabytes * 1e9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    assert choose_batch_size(torch.device("cuda")) == GPUS[name].batch_size
    assert choose_batch_size(torch.device("cpu")) == 32


def test_hints_are_for_dataflow_alone():
    options, arguments = settled(*DATAFLOW, "--accelerator=a100", "--gpu_placement=scoring")
    assert scoring_hints(options, "FnApiRunner") == scoring_hints(options, "PrismRunner") == {}
    expected = "type:nvidia-tesla-a100;count:1;machine_type:a2-highgpu-1g;install-nvidia-driver:5xx"
    assert scoring_hints(options, "DataflowRunner") == {"accelerator": expected}
    assert not [word for word in arguments if "worker_accelerator" in word or "machine_type" in word]


WRONG = {
    "--accelerator l4 is for --runner=DataflowRunner, not for FnApiRunner": ["--runner=FnApiRunner", "--accelerator=l4"],
    "not for the in-process runner": ["--accelerator=l4"],
    "--device cuda, but the workers have no GPU": [*DATAFLOW, "--device=cuda"],
    "--dali_device cuda, but the workers have no GPU": [*DATAFLOW, "--decoder=dali", "--dali_device=cuda"],
    "--gpu_placement workers needs a GPU": [*DATAFLOW, "--gpu_placement=workers"],
    "--gpu_placement scoring needs a GPU": ["--gpu_placement=scoring"],
    "asks for a GPU and for no GPU": [*DATAFLOW, "--accelerator=l4", "--gpu_placement=none"],
    "--device cpu would leave the GPU idle": [*DATAFLOW, "--accelerator=l4", "--device=cpu"],
    "would have a DALI of its own": [*DATAFLOW, "--accelerator=l4", "--model_copies=4", "--decoder=dali"],
    "--machine_type n1-standard-4 has no nvidia-l4": [*DATAFLOW, "--accelerator=l4", "--machine_type=n1-standard-4"],
    "--machine_type g2-standard-24 has no nvidia-l4, or more than one": [
        *DATAFLOW, "--accelerator=l4", "--worker_machine_type=g2-standard-24"],
    "it is for the workers without one": [
        *DATAFLOW, "--accelerator=l4", "--gpu_placement=scoring", "--machine_type=g2-standard-8"],
    "a3-highgpu-1g is available only as Spot or flex-start": [*DATAFLOW, "--accelerator=h100"],
    "--accelerator h100: a3-highgpu-1g is": [*DATAFLOW, "--accelerator=h100", "--gpu_placement=scoring"],
    "is one nvidia-l4 a worker": [
        *DATAFLOW, "--accelerator=l4", "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:2"],
    "add use_nvidia_mps": [
        *DATAFLOW, "--accelerator=l4", "--model_copies=2",
        "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"],
    "a T4 has no bf16": [*DATAFLOW, "--accelerator=t4", "--precision=bf16"],
    "both ask for GPUs": [*DATAFLOW, "--accelerator=l4", "--gpu_placement=scoring",
        "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"],
    "--resource_hint accelerator=… both": [*DATAFLOW, "--accelerator=l4", "--resource_hint=accelerator=type:x;count:1"],
    "which FlexRS refuses": [
        *DATAFLOW, "--accelerator=l4", "--gpu_placement=scoring", "--flexrs_goal=COST_OPTIMIZED"],
    "not for Dataflow Prime": [*DATAFLOW, "--accelerator=l4", "--dataflow_service_options=enable_prime"],
    "which Dataflow Prime does not have": [
        *DATAFLOW, "--accelerator=l4", "--gpu_placement=scoring", "--model_copies=2", "--experiments=enable_prime"],
    "needs several processes": [
        *DATAFLOW, "--accelerator=l4", "--model_copies=2", "--experiments=no_use_multiple_sdk_containers"],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_work_is_refused(message):
    with pytest.raises(OptionError, match=message.replace("(", r"\(")) as caught:
        settled(*WRONG[message])
    assert "\n" not in str(caught.value)


def test_fp16_without_a_gpu_is_refused_but_for_packing(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", encoded(photo(1, 64, 48)))]))
    given = [f"--input={tmp_path}/a.tar", f"--output={tmp_path}/out", *MODEL, "--min_aesthetic=none", "--max_nsfw=none"]

    def prepared(*words):
        options, rest, named = parse(CurateOptions, [*given, *DATAFLOW, *words], "")
        options, rest = curate.settled(options, named, rest)
        return curate.prepare(options, named, PipelineOptions(rest))

    with pytest.raises(OptionError, match=r"--precision fp16, but the workers have no GPU, .* give --accelerator t4, "):
        prepared("--precision=fp16")
    assert not (tmp_path / "out").exists()
    for words in (["--precision=bf16"], ["--precision=fp16", "--accelerator=t4"]):
        assert not prepared(*words).has_table
    assert curate.main([*given, "--table_only"]) == 0
    assert prepared("--precision=fp16", "--resume").has_table  # nothing is left for the model


OWN = ("--dataflow_service_options=worker_accelerator=type:{};count:1", "--resource_hint=accelerator=type:{};count:1")


@pytest.mark.parametrize("words", OWN)
@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_in_beams_words_alone_is_refused_with_its_name_here(name, words):
    with pytest.raises(OptionError, match=f"also give --accelerator {name}(,|$)"):
        settled(*DATAFLOW, words.format(GPUS[name].type))


@pytest.mark.parametrize("words", OWN)
@pytest.mark.parametrize("kind", ["nvidia-h200-141gb", "nvidia-rtx-pro-6000", "nvidia-tesla-v100", "NVIDIA-L4"])
def test_a_gpu_that_is_not_known_is_for_those_who_say_that_the_model_runs_on_it(kind, words):
    with pytest.raises(OptionError, match=f"asks for {kind}, of which nothing is known here; give --device cuda"):
        settled(*DATAFLOW, words.format(kind))
    options, arguments = settled(*DATAFLOW, words.format(kind), "--device=cuda", "--batch_size=200")
    assert (options.device, options.batch_size) == ("cuda", 200)
    assert arguments == [*DATAFLOW, words.format(kind)]


@pytest.mark.parametrize("name", ["nvidia-l4", "L4", "h200", "nvidia-rtx-pro-6000", "a100_80gb", ""])
def test_other_names_of_a_gpu_are_refused_with_those_that_there_are(name):
    with pytest.raises(OptionError, match=f"--accelerator.*{name}.*{', '.join(map(repr, GPUS))}"):
        settled(*DATAFLOW, f"--accelerator={name}")


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ([*DATAFLOW, "--accelerator=l4", "--decoder=dali"], "cuda"),
        ([*DATAFLOW, "--accelerator=l4", "--decoder=dali", "--dali_device=auto"], "cuda"),
        ([*DATAFLOW, "--accelerator=l4", "--decoder=dali", "--dali_device=cpu"], "cpu"),
        ([*DATAFLOW, "--accelerator=l4"], "auto"),
        ([*DATAFLOW, "--decoder=dali"], "auto"),
    ],
)
def test_a_worker_with_a_gpu_decodes_on_it_with_dali(words, device):
    assert settled(*words)[0].dali_device == device


NEEDED = {
    "curate": ["--input=absent/*.tar"],
    "select": ["--scores=absent"],
    "dedup": ["--scores=absent"],
    "export": ["--input=absent", "--format=webdataset"],
}
STOCK = "error: --sdk_container_image is missing: the workers would have Beam's stock image, without torch and this package; "


@pytest.mark.parametrize("command", NEEDED)
@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ([], "give the image of docs/dataflow.md or, in a checkout, --setup_file ./setup.py"),
        (["--template_location=gs://b/job"], "give the template's own image, as the parameter sdk_container_image"),
        (["--template_location=gs://b/job", "--setup_file=./setup.py"], "give the template's own image"),
    ],
)
def test_workers_without_this_package_are_refused(command, words, remedy, capsys):
    run = importlib.import_module(f"beam_curate.commands.{command}").main
    assert run([*NEEDED[command], "--output=out", *DATAFLOW, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(STOCK + remedy)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [*DATAFLOW, "--sdk_container_image=r/i:1"],
        [*DATAFLOW, "--sdk_container_image=r/i:1", "--template_location=gs://b/job"],
        [*DATAFLOW, "--setup_file=./setup.py"],
        ["--runner=FnApiRunner"],
        [],
    ],
)
def test_workers_with_this_package_are_not_refused(words):
    from beam_curate.commands.launch import pipeline_options

    pipeline_options(words, CurateOptions)


def test_a_refusal_is_one_line_before_any_work(tmp_path, capsys):
    output = tmp_path / "out"
    assert curate.main([f"--input={tmp_path}/*.tar", f"--output={output}", "--accelerator=l4"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --accelerator l4 is for --runner=DataflowRunner")
    assert error.count("\n") == 1
    assert not output.exists()


# What the documentation says.

DOCS = (ROOT / "docs" / "dataflow.md").read_text()
COMMANDS = [
    shlex.split(command)
    for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
    if command
]


def test_the_documented_command_is_right():
    (command,) = [words for words in COMMANDS if words[:2] == ["beam-curate", "curate"]]
    options, arguments = settled(*command[2:])
    assert options.accelerator == "l4"
    from beam_curate.commands.launch import pipeline_options

    pipeline_options(arguments, CurateOptions)


def test_the_documented_launches_are_right():
    launches = [words for words in COMMANDS if words[:4] == ["gcloud", "dataflow", "flex-template", "run"]]
    seen = set()
    for words in launches:
        (place,) = [value for name, value in pairwise(words) if name == "--template-file-gcs-location"]
        command = place.rpartition("/")[2].removesuffix(".json")
        metadata = json.loads((ROOT / "templates" / f"{command}.json").read_text())
        pairs = [pair for name, value in pairwise(words) if name == "--parameters" for pair in value.split(",")]
        given = dict(pair.split("=", 1) for pair in pairs)
        assert given.keys() <= {parameter["name"] for parameter in metadata["parameters"]}
        assert given["sdk_container_image"] == ("$IMAGE" if command == "curate" else f"$IMAGE-{command}")
        own = [f"--{name}={value}" for name, value in given.items() if name != "sdk_container_image"]
        if command == "curate":
            options, _ = settled(*DATAFLOW, *own)
            if options.resume:
                assert "--worker-machine-type" in words  # it packs what a run with a GPU has scored
                seen.add("pack")
                continue
            seen.add((options.accelerator, options.gpu_placement))
        else:
            parse({"select": SelectOptions, "dedup": DedupOptions, "export": ExportOptions}[command], own, "")
            seen.add(command)
    gpus = {("l4", "workers"), ("a100", "workers"), ("a100", "scoring"), ("h100", "workers")}
    assert seen == {*gpus, "pack", "select", "dedup", "export"}


def test_what_a_shell_would_change_is_quoted():
    for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL):
        bare = re.sub(r"""'[^']*'|"[^"]*\"""", "", block)
        assert not set("*?;{") & set(bare), block


def test_the_documented_images_are_those_of_their_templates():
    builds = [words for words in COMMANDS if words[:2] == ["docker", "build"]]
    found = {words[words.index("-t") + 1]: words for words in builds}
    assert found.keys() == {"$IMAGE", "$IMAGE-select", "$IMAGE-dedup", "$IMAGE-export"}
    for command in ("select", "dedup", "export"):
        assert f"TEMPLATE={command}" in found[f"$IMAGE-{command}"]
        (words,) = [each for each in COMMANDS if f"templates/{command}.json" in each]
        assert words[words.index("--image") + 1] == f"$IMAGE-{command}"


def test_each_template_is_named():
    (named,) = re.findall(r"that a Flex Template of this image starts: (.*?)\.", DOCS, re.DOTALL)
    assert {f"{name}.json" for name in re.findall(r"`(\w+)`", named)} == {
        path.name for path in (ROOT / "templates").iterdir()
    }
    (cheap,) = re.findall(r"^(.*) need no GPU and no models", DOCS, re.MULTILINE)
    assert {"curate", *re.findall(r"`(\w+)`", cheap)} == set(re.findall(r"`(\w+)`", named))


def test_the_documented_table_is_the_one_in_force():
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (\d+) GB \| (\S+) \| (\d+) \| (\d+) \|$", DOCS, re.MULTILINE)
    table = {(name, gpu.machine_type, str(gpu.memory_gb), gpu.precision, str(gpu.batch_size), str(gpu.threads))
             for name, gpu in GPUS.items()}  # fmt: skip
    assert set(rows) == table


# Jobs that are submitted.

IMAGE = "us-docker.pkg.dev/stub-project/images/beam-curate:1"
CASES = {
    "run": ["--setup_file=./setup.py", "--labels=stub=run"],
    "workers": ["--accelerator=l4", "--no_wait_until_finish", f"--service_account_email=w@{PROJECT}.iam.gserviceaccount.com",
                "--subnetwork=regions/us-central1/subnetworks/private", "--no_use_public_ips"],
    "scoring": ["--accelerator=a100", "--gpu_placement=scoring", "--machine_type=n2-standard-8", "--caption_score",
                "--second_model=ViT-S-32-alt=random", "--dedup=exact", "--no_wait_until_finish"],
    "copies": ["--accelerator=l4", "--model_copies=4", "--machine_type=g2-standard-16", "--batch_size=16",
               "--no_wait_until_finish"],
    "template": ["--accelerator=h100", FLEX, f"--template_location=gs://{BUCKET}/launch/job_object"],
}  # fmt: skip
MEMBERS = [
    [(f"{shard}/{n:03d}.{name}", data) for n in range(5) for name, data in (
        ("jpg", encoded(photo(10 * shard + n))), ("txt", f"caption {n}".encode()))]
    for shard in range(2)
]  # fmt: skip


class Submitted:
    """The jobs of all cases, submitted once by one process."""

    def __init__(self, service, statuses, log):
        self.bucket = service.bucket
        self.statuses = statuses
        self.log = log
        self.bodies = {job["body"]["name"]: job["body"] for job in service.jobs}
        self.tokens = service.tokens

    def body(self, case):
        return self.bodies[f"case-{case}"]

    def pool(self, case):
        (pool,) = self.body(case)["environment"]["workerPools"]
        return pool

    def pipeline(self, case):
        """The staged pipeline."""
        from apache_beam.portability.api import beam_runner_api_pb2

        url = self.body(case)["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
        return beam_runner_api_pb2.Pipeline.FromString(self.bucket.read(url.removeprefix(f"gs://{BUCKET}/")))

    def accelerated(self, case):
        """The steps with an accelerator, to what they ask for."""
        proto = self.pipeline(case).components
        hints = {
            name: env.resource_hints.get("beam:resources:accelerator:v1") for name, env in proto.environments.items()
        }
        return {
            step.unique_name: hints[step.environment_id].decode()
            for step in proto.transforms.values()
            if hints.get(step.environment_id)
        }

    def fn(self, case, name):
        """The DoFn of a step as it would come to life on a worker."""
        from apache_beam.internal import pickler
        from apache_beam.portability.api import beam_runner_api_pb2

        for step in self.pipeline(case).components.transforms.values():
            if step.unique_name.endswith(name):
                payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
                return pickler.loads(payload.do_fn.payload)[0]
        raise AssertionError(f"there is no {name}")

    def handler(self, case):
        """The model handler as it would come to life on a worker."""
        return self.fn(case, "RunInference/BeamML_RunInference")._model_handler


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataflow")
    with dataflow(folder) as service:
        for number, members in enumerate(MEMBERS):
            service.bucket.write(f"in/{number:05d}.tar", tar_bytes(members))
        common = [
            f"--input=gs://{BUCKET}/in/*.tar", "--clip_model=ViT-S-32-alt", "--pretrained=random",
            "--aesthetic_head=random", "--nsfw_head=random", "--min_aesthetic=none", "--max_nsfw=none",
            "--samples_per_shard=4", *DATAFLOW, f"--project={PROJECT}", f"--region={REGION}",
            f"--temp_location=gs://{BUCKET}/tmp", f"--staging_location=gs://{BUCKET}/staging",
            f"--dataflow_endpoint={service.endpoint}", f"--sdk_container_image={IMAGE}",
        ]  # fmt: skip
        cases = [
            ("curate", [*common, f"--output=gs://{BUCKET}/{name}", f"--job_name=case-{name}", *words])
            for name, words in CASES.items()
        ]
        statuses, log = run_commands(service, folder, cases)
        workers = "".join(path.read_text() for path in folder.glob("*/log"))
        yield Submitted(service, statuses, f"{log}\n{workers}")


def test_every_submission_succeeds(submitted):
    assert submitted.statuses == [0] * len(CASES), submitted.log
    assert submitted.bodies.keys() == {f"case-{name}" for name in CASES if name != "template"}
    assert submitted.tokens > 0  # the throwaway key was used


def test_the_submitted_job_runs_from_what_was_staged(submitted):
    summary = json.loads(submitted.bucket.read("run/summary.json"))
    assert summary["funnel"] == {"input": 10, "failed": 0, "rejected": 0, "kept": 10, "reasons": {}}
    assert summary["runner"] == "DataflowRunner"
    written = []
    for number in range(3):
        with tarfile.open(fileobj=io.BytesIO(submitted.bucket.read(f"run/{number:05d}.tar"))) as archive:
            written += [(info.name, archive.extractfile(info).read()) for info in archive]
    assert written == [member for members in MEMBERS for member in members]
    assert "input     10 samples in 2 shards" in submitted.log  # the command reads the summary from the bucket
    assert not [name for name in submitted.bucket.names("run/") if "_temporary" in name]


def test_the_staged_package_is_whole(submitted):
    packages = {package["name"]: package["location"] for package in submitted.pool("run")["packages"]}
    location = packages["workflow.tar.gz"].removeprefix(f"storage.googleapis.com/{BUCKET}/")
    with tarfile.open(fileobj=io.BytesIO(submitted.bucket.read(location))) as archive:
        staged = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for package in ("beam_curate", "beam_curate/transforms", "beam_curate/commands"):
        assert {f"{package}/__init__.py"} <= staged
    assert {"beam_curate/commands/curate.py", "beam_curate/py.typed", "README.md"} <= staged
    assert not [name for name in staged if name.startswith("pipelines")]


def test_a_job_without_a_gpu_asks_for_none(submitted):
    environment = submitted.body("run")["environment"]
    assert "serviceOptions" not in environment
    assert "use_multiple_sdk_containers" in environment["experiments"]
    assert submitted.accelerated("run") == {}
    assert submitted.pool("run")["workerHarnessContainerImage"] == IMAGE
    assert submitted.body("run")["labels"] == {"stub": "run"}


def test_a_gpu_on_every_worker(submitted):
    environment, pool = submitted.body("workers")["environment"], submitted.pool("workers")
    assert environment["serviceOptions"] == ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("g2-standard-8", 100, 4)
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert submitted.accelerated("workers") == {}  # one environment: everything stays fused
    assert environment["serviceAccountEmail"] == f"w@{PROJECT}.iam.gserviceaccount.com"
    assert pool["subnetwork"] == "regions/us-central1/subnetworks/private"
    handler = submitted.handler("workers")
    assert (handler._device, handler._precision, handler._calls.shape) == ("cuda", "bf16", 128)


STAGE = ("ReadTarShards", "DecodeImages", "Embed_vit_s_32_alt", "RunInference", "Captions", "ScoreAndFilter")


@pytest.mark.parametrize("case", CASES)
def test_a_worker_whose_gpu_hangs_is_ended_in_the_end(submitted, case):
    """By Beam, which ends a worker process; without an accelerator nothing is said."""
    if case == "template":
        environment = json.loads(submitted.bucket.read("launch/job_object"))["environment"]
    else:
        environment = submitted.body(case)["environment"]
    limit = environment["sdkPipelineOptions"]["options"].get("element_processing_timeout_minutes")
    assert limit == (None if case == "run" else 120)


def test_a_gpu_on_the_scoring_stage_alone(submitted):
    environment, pool = submitted.body("scoring")["environment"], submitted.pool("scoring")
    assert "serviceOptions" not in environment
    steps = submitted.accelerated("scoring")
    assert set(steps.values()) == {
        "type:nvidia-tesla-a100;count:1;machine_type:a2-highgpu-1g;install-nvidia-driver:5xx"
    }
    assert pool["machineType"] == "n2-standard-8"  # of the other stages
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
    assert len(pool["sdkHarnessContainerImages"]) == 2
    assert submitted.handler("scoring")._device == "cuda"
    places = {name.split("/")[0] for name in steps}
    assert places == {*STAGE, "ContinueRun", "WriteWebDatasetShards"}
    others = [name for name in steps if name.split("/")[0] not in STAGE]
    assert all(re.search("LookAgain|StillPending|WriteComplete", name) for name in others), others


def test_the_scoring_stage_is_one_stage(submitted):
    """From the last shuffle of names to the table: elementwise steps of one environment, so that pixels stay in the process."""
    proto = submitted.pipeline("scoring").components
    makers = {
        output: step for step in proto.transforms.values() if not step.subtransforms for output in step.outputs.values()
    }
    (step,) = [step for step in proto.transforms.values() if step.unique_name.endswith("WriteComplete")]
    (step,) = [step] if not step.subtransforms else [proto.transforms[name] for name in step.subtransforms]
    hinted, path = step.environment_id, []
    while step.spec.urn == "beam:transform:pardo:v1" and step.environment_id == hinted:
        path.append(step.unique_name)
        (before,) = step.inputs.values()  # neither side inputs, which would be a barrier, nor several inputs
        step = makers[before]
    assert path[-1].endswith("LookAgain") or "LookAgain" in path[-1], path
    assert "SpreadPending" in step.unique_name  # the shuffle of names before the stage
    for name in STAGE:
        assert any(each.startswith(name) for each in path), name


def test_copies_of_the_model_share_a_gpu(submitted):
    environment, pool = submitted.body("copies")["environment"], submitted.pool("copies")
    assert environment["serviceOptions"] == [
        "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx;use_nvidia_mps"
    ]
    assert "use_multiple_sdk_containers" in environment["experiments"]
    assert "no_use_multiple_sdk_containers" not in environment["experiments"]
    assert (pool["machineType"], pool["numThreadsPerWorker"]) == ("g2-standard-16", 1)
    handler = submitted.handler("copies")
    assert (handler.copies, handler._calls.shape) == (4, 16)


def test_decoding_runs_ahead_of_the_accelerators_batch(submitted):
    assert submitted.handler("workers")._calls.shape == 128
    assert submitted.fn("workers", "DecodeImages/ParDo(_Decode)")._most == 256


def test_a_template_is_written_and_no_job_created(submitted):
    job = json.loads(submitted.bucket.read("launch/job_object"))
    (pool,) = job["environment"]["workerPools"]
    assert pool["machineType"] == "a3-highgpu-1g"
    assert job["environment"]["serviceOptions"] == [FLEX.removeprefix("--dataflow_service_options=")]
    assert "template/run.json" in submitted.bucket.names()  # the run is prepared, and
    assert "template/summary.json" not in submitted.bucket.names()  # starts when the template is launched


def test_the_run_is_prepared_before_the_job_starts(submitted):
    configuration = json.loads(submitted.bucket.read("workers/run.json"))["configuration"]
    scoring = configuration["scoring"]
    assert (scoring["batch_size"], scoring["precision"]) == (128, "bf16")
    assert not {"accelerator", "gpu_placement", "device"} & {*configuration, *scoring}
