# syntax=docker/dockerfile:1
# nc-sweeps with PyTorch's own CUDA wheels: a GPU needs the host's driver alone; without one it runs on the CPU.
# How to build and run it, also on clusters: docs/containers.md
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/nc-sweeps
ENV PATH=/opt/nc-sweeps/bin:$PATH
# Gigabytes first: this layer is rebuilt only when the pins change.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY launch launch
COPY nc_sweeps nc_sweeps
RUN pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim-bookworm
# The step of the flow is compiled for the processor at hand when it is first needed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# The compiled step is kept in the home folder. It and the volumes are open to all, since whoever mounts folders of
# their own runs the container under their own number: docker run --user "$(id -u):$(id -g)".
RUN useradd --create-home --uid 1000 researcher \
    && mkdir /sweeps /data \
    && chown researcher:researcher /sweeps /data \
    && chmod 1777 /home/researcher /sweeps /data
COPY --from=build /opt/nc-sweeps /opt/nc-sweeps
ENV PATH=/opt/nc-sweeps/bin:$PATH \
    HOME=/home/researcher \
    NC_SWEEPS_DATA=/data
USER researcher
# Results are written to the working folder, data sets are read from $NC_SWEEPS_DATA.
WORKDIR /sweeps
VOLUME ["/sweeps", "/data"]
ENTRYPOINT ["nc-train"]
CMD ["--help"]
