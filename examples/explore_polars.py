"""How many samples a threshold would keep, with Polars.

python examples/explore_polars.py curated/
"""

import sys

import polars as pl

table = pl.scan_parquet(f"{sys.argv[1] if len(sys.argv) > 1 else 'curated'}/scores/*.parquet")
scores = table.filter(pl.col("status") != "failed").select("aesthetic", "nsfw")
for threshold in (4.0, 4.5, 5.0, 5.5):
    kept = scores.filter((pl.col("aesthetic") >= threshold) & (pl.col("nsfw") < 0.5))
    print(threshold, kept.select(pl.len()).collect().item())
