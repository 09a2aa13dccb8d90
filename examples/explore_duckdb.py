"""What a score table says, with DuckDB: reasons, quantiles, and the shards with the lowest scores.

python examples/explore_duckdb.py curated/
"""

import sys

import duckdb

parts = f"{sys.argv[1] if len(sys.argv) > 1 else 'curated'}/scores/*.parquet"
scores = duckdb.sql(f"FROM '{parts}'")
print(duckdb.sql("SELECT status, reason, count(*) AS samples FROM scores GROUP BY ALL ORDER BY samples DESC"))
print(duckdb.sql("SELECT quantile_cont(aesthetic, [0.01, 0.1, 0.5, 0.9, 0.99]) AS quantiles FROM scores"))
print(
    duckdb.sql(
        "SELECT shard, avg(aesthetic) AS mean, count(*) AS samples FROM scores GROUP BY shard ORDER BY mean LIMIT 5"
    )
)
