# The project with torch for CUDA. The host needs NVIDIA's driver and its container toolkit.
#
#   docker build --tag sparseft .
#   docker run --gpus all --volume "$PWD":/study sparseft --configfile my_study.yaml
FROM python:3.11-slim-bookworm

# Triton compiles with gcc, and Snakemake reads modules with git.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9

WORKDIR /sparseft
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY lib lib
RUN uv sync --frozen --no-cache --extra cluster
COPY Snakefile ./
COPY rules rules
COPY workflow workflow
COPY config config
COPY envs envs
COPY profiles profiles

ENV PATH=/sparseft/.venv/bin:$PATH
WORKDIR /study
ENTRYPOINT ["snakemake", "--snakefile", "/sparseft/Snakefile"]
