"""Who holds a claim, and whether he is alive: a process of this machine, or a job of Dataflow."""

import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from beam_curate.processes import pid_namespace, process_started

STARTING_SECONDS: Final = 600.0
"""For so long a job of a Dataflow template may still be about to start, after the launcher has ended."""

Holder = Mapping[str, Any]
"""What a claim says of who made it."""


def this_process() -> dict[str, object]:
    """What the claim of this process says of it."""
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "process_started": process_started(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": int(time.time()),
    }


def _machine() -> str:
    """What tells where a process number means something: this boot of this kernel, and in it this namespace of processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} pid:[{pid_namespace()}]"
    except OSError:
        return ""


def is_alive(holder: Holder, mine: Holder) -> bool | None:
    """Whether the job that holds a claim is alive; None if that cannot be told from here.

    Args:
        holder: What its claim says.
        mine: What this process would write.
    """
    launcher: bool | None = None
    if holder.get("machine") and holder.get("machine") == mine["machine"]:
        pid = holder.get("pid")
        launcher = isinstance(pid, int) and process_started(pid) == holder.get("process_started")
    job = holder.get("job")
    if not isinstance(job, dict):
        return launcher
    if launcher:
        return True
    active = _is_active(job)
    if active is False and job.get("template"):
        begun = holder.get("seconds")
        return not isinstance(begun, int) or time.time() - begun < STARTING_SECONDS
    return active


def _is_active(job: Mapping[str, Any]) -> bool | None:
    """Whether Dataflow has an active job of this name; None if it does not say."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        return job.get("name") in active_jobs(str(job.get("project")), str(job.get("region")), job.get("endpoint"))
    except (GoogleAPIError, GoogleAuthError, OSError, ValueError):
        return None


def active_jobs(project: str, region: str, endpoint: str | None = None) -> list[str]:
    """The names of Dataflow's jobs that are not at their end; no two of them have the same name."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from google.cloud import dataflow_v1beta3 as dataflow

    words = [f"--project={project}", f"--region={region}", *([f"--dataflow_endpoint={endpoint}"] if endpoint else [])]
    client = DataflowApplicationClient(PipelineOptions(words).view_as(GoogleCloudOptions))._jobs_client
    request = dataflow.ListJobsRequest(
        project_id=project, location=region, filter=dataflow.ListJobsRequest.Filter.ACTIVE
    )
    return [job.name for job in client.list_jobs(request)]
