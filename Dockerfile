# syntax=docker/dockerfile:1
# nc-sweeps with PyTorch's own CUDA wheels. A GPU needs only the driver of the host; without a GPU, the CPU trains.
# docs/containers.md says how to build and run the image, also on clusters.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/nc-sweeps
ENV PATH=/opt/nc-sweeps/bin:$PATH
# The largest packages come first: this layer is rebuilt only when the pins change.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY launch launch
COPY nc_sweeps nc_sweeps
RUN pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim-bookworm
# The training step of the flow is compiled for the CPU at hand when it is first needed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# The home folder, which keeps the compiled step, and the volumes are open to every user, because a container with
# mounted folders runs as their owner: docker run --user "$(id -u):$(id -g)".
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
