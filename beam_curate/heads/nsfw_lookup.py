"""The categorical lookup at the front of LAION's NSFW models, exactly and vectorised.

Source: MultiCategoryEncoding of AutoKeras (github.com/keras-team/autokeras), as the SavedModels of
github.com/LAION-AI/CLIP-based-NSFW-Detector have it in their graphs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lookup:
    """AutoKeras' categorical encoding of some columns of the embedding, which LAION's NSFW models apply first.

    AutoKeras took a few columns for categories: their value, printed with `%f`, is replaced by its rank in a
    vocabulary, or by 0 if it is not there. It matters: about every fifth value of a float16 embedding is there.

    Attributes:
        columns: By column, the sorted codes of its vocabulary (see `_codes`) and the rank that belongs to each.
        sha256: The hex digest of the file it came from.
    """

    columns: Mapping[int, tuple[npt.NDArray[np.int64], Floats]]
    sha256: str = ""

    @classmethod
    def from_vocabulary(cls, vocabulary: Mapping[int, Mapping[str, int]], sha256: str = "") -> "Lookup":
        """Builds the lookup from a vocabulary: by column, text as `%f` prints it to rank.

        Raises:
            ValueError: A column has no words, or a word is not what `%f` prints.
        """
        columns = {}
        for column, ranks in vocabulary.items():
            if not ranks:
                raise ValueError(f"the lookup vocabulary has no words for column {column}")
            codes = np.array([_code_of_text(word) for word in ranks], np.int64)
            order = np.argsort(codes)
            columns[column] = codes[order], np.array(list(ranks.values()), np.float64)[order]
        return cls(columns, sha256)

    def encode(self, embeddings: Floats) -> Floats:
        """Gives the (N, D) embeddings with the encoded columns replaced by ranks; the input is left alone."""
        out = embeddings.copy()
        for column, (words, ranks) in self.columns.items():
            codes = _codes(embeddings[:, column])
            at = np.minimum(np.searchsorted(words, codes), len(words) - 1)
            out[:, column] = np.where(words[at] == codes, ranks[at], 0.0)
        return out


def _codes(values: Floats) -> npt.NDArray[np.int64]:
    """Gives integers that are equal exactly where `%f` prints the same text.

    Twice the value in millionths, rounded half to even, plus 1 for a minus sign (there is a "-0.000000"). For float32
    values the product is exact in float64 (24 + 14 significant bits), so this rounds exactly as printf does, which
    rounds the exact binary value. What is not finite or beyond 1000 (no embedding is) gets a code that no word has.
    """
    usable = np.abs(values) < 1000.0  # False for NaN
    millionths = np.rint(np.where(usable, values, 0.0) * 1e6)
    codes = 2 * np.abs(millionths).astype(np.int64) + np.signbit(values)
    return np.where(usable, codes, -1)


def _code_of_text(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,3}\.\d{6}", text):
        raise ValueError(f"the lookup vocabulary has {text!r}, which is not a number as %f prints it (like -0.744141)")
    return 2 * int(text.lstrip("-").replace(".", "")) + text.startswith("-")
