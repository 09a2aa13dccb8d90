"""Two scorers as an example: of images and of embeddings. See docs/scorers.md."""

import numpy as np
import numpy.typing as npt


class Redness:
    """The share of red in an image's light: 1 for pure red, a third for grey, no score for black."""

    columns = ("redness",)

    def score_images(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float64]]:
        """Takes (N, S, S, 3) pixels, gives N numbers."""
        light = pixels.sum(axis=(1, 2), dtype=np.int64)  # (N, 3): whole numbers, so exact
        total = light.sum(axis=1)
        return {"redness": np.where(total > 0, light[:, 0] / np.maximum(total, 1), np.nan)}


class Likeness:
    """The cosine of an image with an example, whose embedding (D,) lies in an .npy file."""

    columns = ("likeness",)

    def __init__(self, example: str) -> None:
        self.example = example

    def setup(self) -> None:
        """Reads the example, on each worker."""
        vector = np.load(self.example).astype(np.float64)
        self.direction = vector / np.linalg.norm(vector)

    def score_embeddings(self, embeddings: npt.NDArray[np.float16]) -> dict[str, npt.NDArray[np.float64]]:
        """Takes (N, D) embeddings of length 1, gives N numbers."""
        return {"likeness": (embeddings.astype(np.float64) * self.direction).sum(axis=1)}
