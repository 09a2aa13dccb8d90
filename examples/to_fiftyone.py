"""The kept samples of a run as a dataset of FiftyOne, with their scores as fields.

    pip install fiftyone
    python examples/to_fiftyone.py curated/ extracted/

FiftyOne wants images as files: they are extracted to the second folder.
"""

import glob
import os
import sys
import tarfile

import fiftyone as fo

import beam_curate

run, folder = (sys.argv[1:] + ["curated", "extracted"][len(sys.argv) - 1 :])[:2]
os.makedirs(folder, exist_ok=True)
for shard in sorted(glob.glob(f"{run}/*.tar")):
    with tarfile.open(shard) as archive:
        archive.extractall(folder, filter="data")
rows = beam_curate.read_score_table(run).to_pylist()
samples = []
for row in rows:
    image = os.path.join(folder, f"{row['key']}.{row['image']}")
    if row["status"] == "kept" and os.path.exists(image):
        samples.append(fo.Sample(filepath=image, aesthetic=row["aesthetic"], nsfw=row["nsfw"], caption=row["caption"]))
dataset = fo.Dataset("curated", overwrite=True)
dataset.add_samples(samples)
fo.launch_app(dataset).wait()
