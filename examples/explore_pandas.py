"""The samples nearest to the first one by their embeddings, with pandas and NumPy.

python examples/explore_pandas.py curated/
"""

import sys

import numpy as np

import beam_curate

folder = sys.argv[1] if len(sys.argv) > 1 else "curated"
table = beam_curate.read_score_table(folder).to_pandas()
embeddings = np.stack(table["embedding"]).astype(np.float32)
there = embeddings.any(axis=1)  # zeros where there is none: of failed samples, and of those that --screen rejects
table, embeddings = table[there].reset_index(drop=True), embeddings[there]
table["similarity"] = embeddings @ embeddings[0]
print(table.sort_values("similarity", ascending=False)[["key", "similarity", "aesthetic", "caption"]].head(10))
