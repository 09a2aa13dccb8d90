"""The counters of a job elsewhere, through Beam's own classes for Dataflow and the answers that the service gives."""

from types import SimpleNamespace

import pytest
from apache_beam.metrics.execution import MetricKey
from apache_beam.metrics.metric import MetricName, MetricResult
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.dataflow_metrics import DataflowMetrics
from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
from google.api_core.exceptions import ServiceUnavailable
from google.cloud import dataflow_v1beta3 as dataflow

from beam_curate.commands.job_counters import counters_seen
from beam_curate.progress import Seen

GRAPH = beam_runner_api_pb2.Pipeline()
GRAPH.components.transforms["ref_7"].unique_name = "Read/Samples"


def update(namespace, name, value, step="ref_7", *, tentative, origin="user"):
    """A counter in an answer of projects.locations.jobs.getMetrics, which has a tentative and a committed value of each."""
    context = {"namespace": namespace, "step": step, **({"tentative": "true"} if tentative else {})}
    return {"name": {"origin": origin, "name": name, "context": context}, "scalar": value}


def both(namespace, name, so_far, committed, step="ref_7"):
    return [
        update(namespace, name, so_far, step, tentative=True),
        update(namespace, name, committed, step, tentative=False),
    ]


class Client:
    """Beam's client of the service, as far as metrics ask for it."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def get_job_metrics(self, job_id):
        self.asked.append(job_id)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dataflow.JobMetrics.from_json(dataflow.JobMetrics.to_json(dataflow.JobMetrics({"metrics": answer})))


def job(*answers, state=dataflow.JobState.JOB_STATE_RUNNING):
    """A submitted job, whose service gives these answers, one after the other."""
    client = Client(*answers)
    result = DataflowPipelineResult(dataflow.Job(id="2026-1", current_state=state), SimpleNamespace())
    result.metric_results = DataflowMetrics(client, result, SimpleNamespace(proto_pipeline=GRAPH, proto=dataflow.Job()))
    return client, result


def test_what_a_running_job_tells():
    answer = [
        *both("beam_curate.read", "samples", 12_345, 0),
        *both("beam_curate.score", "kept", 4_321, 4_000),
        *both("beam_curate.score", "rejected", 0, 0),
        *both("beam_curate.write", "samples", 10, 10, "ref_8"),
        *both("beam_curate.write", "samples", 7, 3, "a step that the graph does not have"),
        *both("beam_curate.read", "shards", 3, 3),
        *both("of_others", "kept", 99, 99),
        update("beam_curate.read", "samples", 55, tentative=True, origin="dataflow/v1b3"),
        # The service tells of a distribution twice: as one, and as four numbers.
        *both("beam_curate.read", "samples_MAX", 1, 1),
        {
            **update("beam_curate.read", "image_bytes", None, tentative=True),
            "distribution": {"count": 2, "min": 1, "max": 3, "sum": 4},
        },
        {
            **update("beam_curate.read", "image_bytes", None, tentative=False),
            "distribution": {"count": 2, "min": 1, "max": 3, "sum": 4},
        },
    ]
    for entry in answer:
        if entry["scalar"] is None:
            del entry["scalar"]
    client, result = job(answer)
    assert counters_seen(result)(60.0) == Seen(0, "12,345 samples read, 4,321 kept, 17 samples written")
    assert client.asked == ["2026-1"]


def test_an_answer_that_beam_cannot_take_and_one_that_fails_are_looked_for_again():
    half = [update("beam_curate.read", "samples", 5, tentative=False)]
    whole = both("beam_curate.read", "samples", 8, 5)
    _, result = job(half, ServiceUnavailable("busy"), [], whole, half)
    look = counters_seen(result)
    assert [look(60.0).words for _ in range(4)] == ["", "", "", "8 samples read"]
    with pytest.raises(KeyError):  # when this does not fail any more, Beam takes it
        result.metrics().query()


def test_an_ended_job_is_asked_once():
    client, result = job(both("beam_curate.read", "samples", 8, 8), state=dataflow.JobState.JOB_STATE_DONE)
    look = counters_seen(result)
    assert look(1.0) == look(2.0) == Seen(0, "8 samples read")
    assert len(client.asked) == 1


def test_a_job_that_was_not_submitted_tells_nothing():
    assert counters_seen(DataflowPipelineResult(None, SimpleNamespace()))(1.0) == Seen(0)


def test_runners_that_know_only_one_of_the_values():
    def counter(name, committed, attempted):
        return MetricResult(MetricKey("step", MetricName("beam_curate.read", name)), committed, attempted)

    query = SimpleNamespace(
        query=lambda wanted: {"counters": [counter("samples", 7, None), counter("samples", None, 2)]}
    )
    assert counters_seen(SimpleNamespace(metrics=lambda: query))(1.0) == Seen(0, "9 samples read")
