# syntax=docker/dockerfile:1
#
# One image for Dataflow: the launcher of the Flex Template and the workers, with or without GPUs.
#
#   docker build -t IMAGE .
#   docker build -t IMAGE --build-arg CLIP_MODEL=ViT-L-14 --build-arg PRETRAINED=openai .      # weights and heads in /models
#   docker build -t IMAGE-export --build-arg TEMPLATE=export .    # its Flex Template starts export.py instead of curate.py
#   docker build -t IMAGE --target portable .                     # not root: a worker pool for Flink, Spark or Kubernetes
#
# The base is Python's own slim image, not one of CUDA: torch's wheels bring CUDA 12.8, cuDNN and NCCL at the versions of
# requirements.lock, so that a CUDA base would add a second set that nothing loads. DALI, for --decoder dali, is the one for
# CUDA 12, and boto3 reads s3:// paths: the extras dali-cuda12 and s3 of setup.py. The driver comes from the worker's
# machine, mounted at /usr/local/nvidia. Launcher and workers need the same Python minor, and so does whoever submits a job
# with this image from elsewhere: 3.11. The Python and Beam versions here, in setup.py and in requirements.lock are held
# together by tests/pipelines/test_docker.py.

FROM apache/beam_python3.11_sdk:2.77.0 AS beam
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:flex_templates_base_image_release_20260112_RC00 AS launcher

# The packages go to a folder of their own, which the next stage copies over its Python: the image keeps neither pip's cache
# nor the sources. Every dependency is in the lock and checked by its hash; nothing is resolved (--no-deps: with a package's extras
# pip would look for its newest release, which has no hash), and nothing compiled.
FROM python:3.11-slim-bookworm AS packages
WORKDIR /build
COPY docker/build.lock requirements.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes --only-binary=:all: -r build.lock \
    && pip install --no-cache-dir --prefix=/packages --no-deps --require-hashes --no-build-isolation \
      --only-binary=:all: --no-binary=google-apitools,tfrecord -r requirements.lock
COPY setup.py pyproject.toml README.md ./
COPY beam_curate beam_curate
RUN pip install --no-cache-dir --prefix=/packages --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm AS runtime
COPY --from=packages /packages /usr/local
# A missing or unfitting package is an error of the build, not of a job.
RUN pip check && python -c "import apache_beam, apache_beam.io.aws.clients.s3.boto3_client, open_clip, simplejpeg, nvidia.dali" \
    && python -c "import beam_curate.commands.curate, tfrecord.example_pb2"
COPY --from=beam /opt/apache/beam /opt/apache/beam
# The paths of the driver; and all packages are here, so Beam's boot needs no virtual environment for each process.
ENV PATH=/usr/local/nvidia/bin:${PATH} \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 \
    OMP_WAIT_POLICY=PASSIVE \
    MKL_CBWR=AUTO \
    PYTHONUNBUFFERED=1

# Model files, fetched and verified when the image is built; an empty folder without the build argument.
FROM runtime AS models
ARG CLIP_MODEL=""
ARG PRETRAINED=openai
RUN mkdir /models && if [ -n "${CLIP_MODEL}" ]; then \
      beam-curate fetch-models --model_dir /models --clip_model "${CLIP_MODEL}" --pretrained "${PRETRAINED}"; \
    fi

# For the worker pools of other runners, which need no root.
FROM runtime AS portable
COPY --from=models /models /models
RUN useradd --create-home --uid 1000 beam
USER 1000
WORKDIR /home/beam
ENTRYPOINT ["/opt/apache/beam/boot"]

# For Dataflow. It starts the container as root, mounts the driver and its own folders and writes to them, so the user stays.
FROM runtime AS dataflow
COPY --from=models /models /models
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
# The scripts in a folder of their own, and none in the working directory, which the workers look for modules in: select.py
# would be taken for the standard library's `select`.
WORKDIR /template
COPY pipelines pipelines
# The command that the Flex Template of this image starts; the workers are the same for all of them.
ARG TEMPLATE=curate
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/pipelines/${TEMPLATE}.py
RUN test -f "${FLEX_TEMPLATE_PYTHON_PY_FILE}"
LABEL org.opencontainers.image.title="beam-curate" \
      org.opencontainers.image.description="Curates image datasets with Apache Beam on Dataflow, with GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.apache.beam.version="2.77.0"
ENTRYPOINT ["/opt/apache/beam/boot"]
