"""How many samples each reason rejects, and the best of those that are kept, with Daft.

python examples/explore_daft.py curated/
"""

import sys

import daft
from daft import col

folder = (sys.argv[1] if len(sys.argv) > 1 else "curated").rstrip("/")  # Daft does not take `//`
scores = daft.read_parquet(f"{folder}/scores/*.parquet")
scores.groupby("status", "reason").agg(col("key").count().alias("samples")).sort("samples", desc=True).show()
kept = scores.where(col("status") == "kept").select("key", "aesthetic", "width", "height")
kept.sort("aesthetic", desc=True).show(5)
