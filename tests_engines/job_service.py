"""Beam's job service, with one worker on each of several hosts.

    python -m tests_engines.job_service --port 8099 --pools worker-1:50000,worker-2:50000

Beam's own `local_job_service_main` asks one worker pool for one worker. This one asks itself for as many as there are pools,
and deals the requests out to them.
"""

import argparse
import itertools
import threading
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, beam_job_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import RunnerResult
from apache_beam.runners.portability.local_job_service import BeamJob, LocalJobServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance


class PoolOfPools(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """A worker pool that hands each request for a worker to the next of several pools."""

    def __init__(self, pools: Sequence[str]) -> None:
        stubs = [beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(grpc.insecure_channel(pool)) for pool in pools]
        self._turns = itertools.cycle(stubs)
        self._holders: dict[str, beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub] = {}

    def StartWorker(
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Starts a worker at the next pool."""
        pool = self._holders[request.worker_id] = next(self._turns)
        return pool.StartWorker(request)

    def StopWorker(
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Stops a worker where it was started."""
        return self._holders.pop(request.worker_id).StopWorker(request)


def job_type(workers: int) -> type[BeamJob]:
    """Beam's job, on a number of workers that its service has no option for."""

    class Job(BeamJob):
        def _invoke_runner(self) -> RunnerResult:
            self.set_state(beam_job_api_pb2.JobState.RUNNING)
            runner = FnApiRunner(provision_info=self._provision_info)
            runner._num_workers = workers
            return runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options())

    return Job


def main() -> None:
    """Serves until the process is stopped."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--port", type=int, required=True, help="of the job service; the pool's is the next one")
    parser.add_argument("--pools", required=True, help="addresses of the worker pools, with commas")
    arguments = parser.parse_args()
    pools = arguments.pools.split(",")
    server = grpc.server(shared_unbounded_instance())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(PoolOfPools(pools), server)
    server.add_insecure_port(f"localhost:{arguments.port + 1}")
    server.start()
    LocalJobServicer(beam_job_type=job_type(len(pools))).start_grpc_server(arguments.port)
    threading.Event().wait()


if __name__ == "__main__":
    main()
