"""The kept samples as Parquet with image bytes, as the Hugging Face hub shows them.

python examples/to_huggingface.py curated/
"""

import sys

import datasets

folder = sys.argv[1] if len(sys.argv) > 1 else "curated"
rows = datasets.load_dataset(folder, split="train", streaming=True)
images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
if not images:
    sys.exit(f"{folder}: datasets reads no images there; its README.md names the rows")
rows = rows.select_columns([name for name in rows.features if name in ("__key__", *images, "txt", "json")])
features = rows.features
for name in images:  # else datasets would decode and encode them again
    rows = rows.cast_column(name, datasets.Image(decode=False))
datasets.Dataset.from_generator(lambda: iter(rows), features=features).to_parquet(f"{folder.rstrip('/')}-hub.parquet")
