"""The GPUs that Dataflow's workers may have, and what each is good for."""

from dataclasses import dataclass
from typing import Final

NONE: Final = "none"
"""The name of no GPU."""


@dataclass(frozen=True)
class Gpu:
    """One GPU of a kind on a worker.

    Attributes:
        type: Dataflow's name of it.
        machine_type: The smallest machine that has one and can decode for it.
        machines: What machines have one of them, and no more, as a regular expression.
        memory_gb: The GPU's own memory, in GB as its maker counts them.
        precision: The fastest precision of its tensor cores that keeps the embeddings (see docs/dataflow.md).
        batch_size: Images in a call of the model.
        threads: Bundles that a worker process works on at a time: while one waits for the GPU, others read and decode.
        on_demand: Whether its machine is to be had without a provisioning model.

    Source: types, machines and memory: Google Cloud, "GPU machine types" (docs.cloud.google.com/compute/docs/gpus); T4s
    are attached to N1 machines, the others come with theirs. Precision: NVIDIA's data sheets (Turing has no bf16).
    Batch size and threads are estimates, not measurements: large enough to fill the GPU with ViT-L-14, small enough that
    `threads` batches at a time take a few GB beside the model.
    """

    type: str
    machine_type: str
    machines: str
    memory_gb: int
    precision: str
    batch_size: int
    threads: int
    on_demand: bool = True


GPUS: Final = {
    "t4": Gpu("nvidia-tesla-t4", "n1-standard-4", r"n1-.*", 16, "fp16", 64, 4),
    "l4": Gpu("nvidia-l4", "g2-standard-8", r"g2-(standard-(4|8|12|16|32)|custom-.*)", 24, "bf16", 128, 4),
    "a100": Gpu("nvidia-tesla-a100", "a2-highgpu-1g", r"a2-highgpu-1g", 40, "bf16", 256, 6),
    "a100-80gb": Gpu("nvidia-a100-80gb", "a2-ultragpu-1g", r"a2-ultragpu-1g", 80, "bf16", 256, 6),
    "h100": Gpu("nvidia-h100-80gb", "a3-highgpu-1g", r"a3-highgpu-1g", 80, "bf16", 256, 8, on_demand=False),
}
ACCELERATORS: Final = (NONE, *GPUS)
