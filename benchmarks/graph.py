"""Shows the graph of a command's job: its steps, and the stages that Beam's in-process runner makes of them.

    python benchmarks/graph.py select --scores scored --output selected --keep 'aesthetic >= 5'

The words are a command line of `beam-curate`, which is carried out. Of each job that it runs it tells the composite transforms
with the number of their primitive steps, and then the stages: a stage is a bundle at least, whatever the number of rows.
"""

import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from beam_curate.commands.cli import COMMANDS

_PRIMITIVES = common_urns.primitives


@dataclass(frozen=True)
class Graph:
    """What a job is made of.

    Attributes:
        composites: By the name of a composite transform the number of primitive steps in it, outermost first.
        kinds: By the last part of a primitive's URN the number of such steps.
        side_inputs: The number of side inputs of all steps.
        stages: The names of the steps of each fused stage, in their order.
    """

    composites: dict[str, int]
    kinds: dict[str, int]
    side_inputs: int
    stages: list[list[str]]

    @property
    def steps(self) -> int:
        """The number of primitive steps."""
        return sum(self.kinds.values())

    @property
    def counts(self) -> dict[str, int]:
        """What a limit can be set on."""
        groups = sum(number for kind, number in self.kinds.items() if kind.startswith("group_by_key"))
        return {
            "steps": self.steps,
            "stages": len(self.stages),
            "groups": groups,
            "impulses": self.kinds.get("impulse:v1", 0),
            "side_inputs": self.side_inputs,
        }


def graph_of(pipeline: beam_runner_api_pb2.Pipeline) -> Graph:
    """The graph of a pipeline, as it is handed to a runner."""
    transforms = pipeline.components.transforms
    composites: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    sides = 0

    def walk(name: str, above: list[str]) -> None:
        nonlocal sides
        transform = transforms[name]
        if transform.subtransforms:
            composites.setdefault(transform.unique_name, 0)
            for child in transform.subtransforms:
                walk(child, [*above, transform.unique_name])
        elif transform.spec.urn:
            kinds[transform.spec.urn.rpartition("transform:")[2]] += 1
            for each in above:
                composites[each] += 1
            if transform.spec.urn == _PRIMITIVES.PAR_DO.urn:
                payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
                sides += len(payload.side_inputs)

    for root in pipeline.root_transform_ids:
        walk(root, [])
    _, stages = FnApiRunner().create_stages(pipeline)
    names = [[each.unique_name for each in stage.transforms] for stage in stages]
    return Graph({name: number for name, number in composites.items() if name}, dict(kinds), sides, names)


@contextmanager
def graphs() -> Iterator[list[Graph]]:
    """Collects the graphs of the jobs that are run in process meanwhile."""
    found: list[Graph] = []
    run = FnApiRunner.run_via_runner_api

    def seen(self: FnApiRunner, pipeline: beam_runner_api_pb2.Pipeline, *more: Any) -> Any:
        found.append(graph_of(pipeline))
        return run(self, pipeline, *more)

    FnApiRunner.run_via_runner_api = seen
    try:
        yield found
    finally:
        FnApiRunner.run_via_runner_api = run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, and shows the graphs of its jobs."""
    command, *words = sys.argv[1:] if argv is None else argv
    with graphs() as found:
        status = importlib.import_module(COMMANDS[command].module).main(words)
    for graph in found:
        print("\ncomposite transforms, and primitive steps in each")
        for name, number in graph.composites.items():
            if name.count("/") < 3:
                print(f"{number:5}  {name}")
        print("\nstages")
        for number, names in enumerate(graph.stages, 1):
            print(f"{number:3}. {names[0]}")
            for name in names[1:]:
                print(f"     {name}")
        print("\nprimitive steps by kind")
        for kind, number in sorted(graph.kinds.items()):
            print(f"{number:5}  {kind}")
        print(", ".join(f"{number} {name}" for name, number in graph.counts.items()))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
