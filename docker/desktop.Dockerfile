# tokexport with PyTorch, ONNX Runtime, TensorRT 10.14 and the plugins, for a desktop GPU. Linted with hadolint; NOT BUILT by us yet,
# because we have no access to its base image.
#
#   docker build -f docker/desktop.Dockerfile -t tokexport .
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/work" tokexport model ./checkpoint --method kcenter_merge --ratio 0.85 --device rtx-4090 -o b
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/work" tokexport build b
FROM nvcr.io/nvidia/tensorrt:25.11-py3

# The GPUs that the plugins are compiled for.
ARG ARCHITECTURES="86;89;120"

# The versions of Debian's packages are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ libsndfile1 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/tokexport
COPY . .
# TensorRT for Python is the base image's own. torch goes first and by its exact version, as in the Makefile.
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir "$(grep '^torch==' constraints.txt)" \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[export,ort,audio]" cuda-bindings

# Whoever runs it may use the plugins, and write the cache beside them.
ENV PATH="/opt/venv/bin:$PATH" XDG_CACHE_HOME=/opt/cache
RUN tokexport plugins build --architectures "$ARCHITECTURES" && chmod -R a+rwX /opt/cache

USER 1000
WORKDIR /work
ENTRYPOINT ["tokexport"]
