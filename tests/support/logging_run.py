"""Runs the main job with a model that writes down every sample it embeds: `python -m tests.support.logging_run LOG ARGS…`.

For tests that kill the process and then want to know which samples cost inference twice.
"""

from beam_curate.commands import interruption

if __name__ == "__main__":
    interruption.listen()  # first of all, as the commands do

import functools
import os
import sys
import time

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

import beam_curate.clip.handler
from beam_curate.commands import curate
from beam_curate.commands.endings import run_command
from beam_curate.records import EmbeddedSample
from tests.support import quick_beam
from tests.support.stubs import stub_embedding

DIM = 256  # as ViT-S-32-alt, which the job is told to use
SECONDS_A_BATCH = 0.05


class LoggingHandler(ModelHandler):
    """Embeds by stub_embedding, and appends each sample's key to a file, one write a batch."""

    def __init__(self, log, *arguments, batch_size=32, **options):
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._log = log

    def load_model(self):
        return type("Stub", (), {})()

    def run_inference(self, batch, model, inference_args=None):
        keys = [f"{image.ref.shard_index}/{image.ref.key}\n" for image in batch if not image.failure]
        file = os.open(self._log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(file, "".join(keys).encode())
        os.close(file)
        time.sleep(SECONDS_A_BATCH)
        for image in batch:
            embedding = b"" if image.failure else np.resize(stub_embedding(image.pixels), DIM).tobytes()
            yield EmbeddedSample(image.ref, image.facts, embedding, image.failure)

    def load_ahead(self):
        """There is nothing to load."""

    def get_num_bytes(self, batch):
        return len(batch)


if __name__ == "__main__":
    quick_beam.quicken()
    beam_curate.clip.handler.ClipModelHandler = functools.partial(LoggingHandler, sys.argv[1])
    run_command(lambda: curate.main(sys.argv[2:]))
