# Two images of one server:
#
#   docker build --target cpu  --tag registry.example.com/retouch:0.1.0-cpu .
#   docker build --target cuda --tag registry.example.com/retouch:0.1.0-cuda .
#
# Both hold bash and wget, by which KubeRay asks its pods how they are.
FROM python:3.11.15-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba AS base
# Debian keeps one version of a package, so that naming it would break the build at the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 retouch \
    && useradd --uid 10001 --gid 10001 --create-home retouch
ENV PATH=/opt/retouch/bin:$PATH \
    PYTHONUNBUFFERED=1

# The packages that the server needs, which change less often than the server.
FROM base AS dependencies
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
COPY pyproject.toml constraints.txt ./
RUN python -m venv /opt/retouch \
    && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > requirements.txt

FROM dependencies AS cpu-build
# Where PyTorch lies without CUDA's libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" --requirement requirements.txt
COPY . .
RUN pip install --constraint constraints.txt --no-deps . \
    && retouch build-engines

FROM dependencies AS cuda-build
RUN pip install --constraint constraints.txt --requirement requirements.txt
# Plans run in the version that built them: for a Triton server, name the one that it has.
ARG TENSORRT=10.16.1.11
RUN pip install --constraint constraints.txt "tensorrt==$TENSORRT"
COPY . .
RUN pip install --constraint constraints.txt --no-deps .

FROM base AS cpu
COPY --from=cpu-build /opt/retouch /opt/retouch
USER 10001:10001
WORKDIR /home/retouch
CMD ["retouch", "serve"]

FROM base AS cuda
COPY --from=cuda-build /opt/retouch /opt/retouch
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /home/retouch
CMD ["retouch", "serve"]
