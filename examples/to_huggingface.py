"""The kept samples as Parquet with image bytes, as the Hugging Face hub shows them.

python examples/to_huggingface.py curated/
"""

import sys

import datasets

folder = sys.argv[1] if len(sys.argv) > 1 else "curated"
rows = datasets.load_dataset(folder, split="train", streaming=True)
rows = rows.select_columns(
    [name for name in rows.column_names if name in ("__key__", "jpg", "png", "webp", "txt", "json")]
)
datasets.Dataset.from_generator(lambda: iter(rows), features=rows.features).to_parquet(
    f"{folder.rstrip('/')}-hub.parquet"
)
