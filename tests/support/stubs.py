"""A model that needs no weights, for tests of everything around it."""

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from beam_curate.heads.head import random_head
from beam_curate.records import DecodedImage, EmbeddedSample

DIM = 16


def stub_embedding(pixels: bytes) -> np.ndarray:
    """(DIM,) float16: mean colours of a grid of the picture, normalised."""
    side = round((len(pixels) // 3) ** 0.5)
    grid = np.frombuffer(pixels, np.uint8).reshape(side, side, 3)[:: side // 4, :: side // 4].astype(np.float32)
    vector = np.resize(grid.reshape(-1), DIM) + 1
    return (vector / np.linalg.norm(vector)).astype("<f2")


class StubHandler(ModelHandler[DecodedImage, EmbeddedSample, object]):
    """Embeds by `stub_embedding`; failed images pass through."""

    def load_model(self):
        return type("Stub", (), {})()

    def run_inference(self, batch, model, inference_args=None):
        for image in batch:
            embedding = b"" if image.failure else stub_embedding(image.pixels).tobytes()
            yield EmbeddedSample(image.ref, image.facts, embedding, image.failure)

    def get_num_bytes(self, batch):
        return sum(len(image.pixels) for image in batch)


def stub_heads():
    return (random_head("aesthetic", DIM), random_head("nsfw", DIM))
