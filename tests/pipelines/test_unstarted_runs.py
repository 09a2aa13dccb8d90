"""Wrong options of Beam are refused before the first write, and a run that never started is no run."""

import os
import signal
import socket
import subprocess

import apache_beam as beam
import pytest

from beam_curate.commands import curate, launch
from beam_curate.commands.curate_options import CurateOptions
from beam_curate.commands.launch import (
    LOCAL_RUNNER,
    NotStartedError,
    build_pipeline,
    pipeline_options,
    run_pipeline,
    runner_name,
)
from beam_curate.commands.options import OptionError
from beam_curate.records import Shard
from beam_curate.runs.configuration import Configuration
from beam_curate.runs.run import Run
from beam_curate.runs.wanted import WantedRun
from beam_curate.storage.retrying import StorageError
from tests.conftest import encoded, photo, tar_bytes

MODEL = ["--clip_model=ViT-S-32-alt", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
IMAGE = "--sdk_container_image=image"


@pytest.fixture
def data(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"{n}.jpg", encoded(photo(n))) for n in range(3)]))
    return tmp_path / "a.tar"


WRONG = [
    *(
        ([f"--image_extension={text}"], f"--image_extension is {text!r}; give one extension")
        for text in ("..", "*.jpg", "jpg,png", "a/b")
    ),
    (["--runner=DirctRunner"], "--runner DirctRunner is not known; did you mean DirectRunner"),
    (["--runner=no.such.Runner"], "--runner no.such.Runner cannot be loaded"),
    (["--runner=os.getcwd"], "--runner os.getcwd is not a runner of Beam"),
    (["-runner=DirectRunner"], "unknown option -runner; did you mean --runner"),
    (["--direct_running_mode=foo"], "direct_running_mode: invalid choice: 'foo'"),
    (["--direct_num_workers=-3"], "--direct_num_workers is -3; give at least 0"),
    (["--direct_runner_bundle_repeat=-1"], "--direct_runner_bundle_repeat is -1"),
    (["--environment_type=foo"], "--environment_type foo is not known; give one of DOCKER"),
    (["--environment_type=loopback"], "--environment_type loopback is not known"),
    (["--environment_type=PROCESS"], "process_command"),
    (["--flink_version=9"], "flink_version: invalid choice"),
    (["--num_workers=many"], "num_workers: invalid int value"),
    (["--experiments"], "experiments: expected one argument"),
    (["--resource_hint=foo=1"], "Unknown resource hint: foo"),
    (["--runner=DataflowRunner", IMAGE], "Missing required option: project"),
    (["--runner=DataflowRunner", IMAGE, "--project=my-project", "--region=r", "--temp_location=/tmp/t"],
     "--temp_location /tmp/t: Dataflow needs a place in a bucket"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value)[:50])
def test_a_wrong_option_of_beam_is_one_line_and_writes_nothing(words, message, data, tmp_path, capsys):
    output = tmp_path / "out"
    assert curate.main([f"--input={data}", f"--output={output}", *MODEL, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert (error[:7], error.count("\n")) == ("error: ", 1)
    assert not output.exists()


@pytest.mark.parametrize("name", ["DirectRunner", "direct", "directrunner", "SwitchingDirectRunner", "fnapirunner"])
def test_every_name_of_the_in_process_runner_means_the_same(name):
    assert runner_name(pipeline_options([f"--runner={name}"], CurateOptions)) == LOCAL_RUNNER


def test_an_unknown_word_of_a_templates_launcher_is_no_error_but_a_wrong_value_is():
    words = ["--template_location=gs://b/t", "--newer_than_this_beam=1"]
    pipeline_options(words, CurateOptions)
    with pytest.raises(OptionError, match="num_workers"):
        pipeline_options([*words, "--num_workers=many"], CurateOptions)


def test_a_job_service_that_refuses_leaves_no_run(data, tmp_path, capsys):
    with socket.socket() as probe:  # bound, but nobody listens
        probe.bind(("127.0.0.1", 0))
        service = ["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{probe.getsockname()[1]}"]
        command = [f"--input={data}", f"--output={tmp_path / 'out'}", *MODEL]
        with pytest.raises(NotStartedError, match=r"--job_endpoint 127\.0\.0\.1:.* did not take the job"):
            curate.main([*command, *service, "--job_server_timeout=1"])
    assert "the run did not start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert curate.main(command) == 0


def test_a_scorer_that_cannot_be_set_up_leaves_no_run(data, tmp_path, monkeypatch):
    (tmp_path / "own_scorer.py").write_text("""
import numpy as np
class Own:
    columns = ("own",)
    def setup(self):
        raise ValueError("no such file")
    def score_embeddings(self, embeddings):
        return {"own": np.zeros(len(embeddings), np.float32)}
""")
    monkeypatch.syspath_prepend(tmp_path)
    command = [f"--input={data}", f"--output={tmp_path / 'out'}", *MODEL]
    with pytest.raises(ValueError, match="no such file"):
        curate.main([*command, "--scorer=own_scorer:Own"])
    assert not (tmp_path / "out").exists()
    assert curate.main(command) == 0


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    Run(str(folder)).begin(WantedRun(Configuration(), [Shard(0, "/d/0.tar", 10)]))
    return folder


def failing(error):
    def fail(_):
        raise error

    return lambda root: root | beam.Create([1]) | beam.Map(fail)


def run(error, output, new=True):
    with pytest.raises(type(error)):
        run_pipeline(build_pipeline(failing(error), pipeline_options([], CurateOptions)), str(output), new=new)


def test_a_job_that_fails_before_anything_is_done_is_undone(output):
    run(TypeError("a wrong class"), output)
    assert not list(output.iterdir())


def test_a_job_that_is_undone_ends_its_own_processes_and_no_other(output):
    noted = output.parent / "own"

    def fail(_):
        noted.write_text(str(os.posix_spawnp("sleep", ["sleep", "600"], os.environ)))
        raise TypeError("a wrong class")

    with subprocess.Popen(["sleep", "600"]) as another:
        with pytest.raises(TypeError):
            root = build_pipeline(
                lambda root: root | beam.Create([1]) | beam.Map(fail), pipeline_options([], CurateOptions)
            )
            run_pipeline(root, str(output), new=True)
        assert not list(output.iterdir())
        assert another.poll() is None
        another.kill()
    _, status = os.waitpid(int(noted.read_text()), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_a_run_with_something_finished_stays(output):
    (output / "scores").mkdir()
    (output / "scores" / "part-00000.parquet").write_bytes(b"rows")
    run(TypeError("later"), output)
    assert (output / "run.json").exists()
    assert (output / "input_shards.parquet").exists()


def test_a_run_in_which_something_is_scored_stays(output, monkeypatch):
    def build(root):
        def fail(_):
            launch.PROGRESS.add(samples=1)
            raise TypeError("later")

        return root | beam.Create([1]) | beam.Map(fail)

    with pytest.raises(TypeError):
        run_pipeline(build_pipeline(build, pipeline_options([], CurateOptions)), str(output), new=True)
    assert (output / "run.json").exists()


@pytest.mark.parametrize("new", [True, False])
def test_storage_that_fails_is_a_reason_to_go_on_later(output, new):
    run(StorageError("opening failed"), output, new)
    assert (output / "run.json").exists()


def test_a_run_that_was_continued_is_never_undone(output):
    run(TypeError("a bug"), output, new=False)
    assert (output / "run.json").exists()
