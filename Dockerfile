# ganduel on CUDA. PyTorch's wheels bring CUDA's libraries; the host needs NVIDIA's driver and container toolkit.
#
#     docker build -t ganduel .
#     docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/workspace" ganduel gan-train data=mnist
#
# Data and runs land in the mounted folder. Several GPUs: ganduel torchrun --nproc-per-node=8 -m ganduel.train ...

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
# First what changes seldom: 5 GB that a change of the code does not download again.
RUN pip install --no-cache-dir "torch>=2.6" "torchvision>=0.21"
COPY --from=build /wheels /wheels
# hadolint ignore=DL3013
RUN wheel="$(echo /wheels/ganduel-*.whl)" && pip install --no-cache-dir "${wheel}[stream,lsun]"
RUN useradd --create-home --uid 1000 ganduel && mkdir /workspace && chown 1000 /workspace
# Caches (Inception's weights, compiled code) must be writable for whoever --user names.
ENV TORCH_HOME=/workspace/.cache/torch XDG_CACHE_HOME=/workspace/.cache OMP_WAIT_POLICY=passive
USER 1000
WORKDIR /workspace
CMD ["gan-train", "--help"]
