# tokexport for a Jetson with JetPack 6: what builds and runs bundles, with TensorRT 10.3, CUDA 12.6 and the plugins, without PyTorch.
# Linted with hadolint; NOT BUILT by us yet, because we have no access to its base image, nor a Jetson.
#
#   docker build -f docker/l4t.Dockerfile -t tokexport-l4t .        # on the Jetson
#   docker run --rm --runtime nvidia --user "$(id -u)" --group-add video -v "$PWD:/work" tokexport-l4t build small
#   docker run --rm --runtime nvidia --user "$(id -u)" --group-add video -v "$PWD:/work" tokexport-l4t verify small --runtime tensorrt
FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel

# The versions of Ubuntu's packages are those of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ libsndfile1 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/tokexport
COPY . .
# TensorRT for Python is the base image's own. cuda-bindings must be those of CUDA 12.
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --constraint constraints-py310.txt ".[ort]" "cuda-bindings~=12.6"

# Whoever runs it may use the plugins, and write the cache beside them.
ENV PATH="/opt/venv/bin:$PATH" XDG_CACHE_HOME=/opt/cache
# 87 is every Orin.
RUN tokexport plugins build --architectures 87 && chmod -R a+rwX /opt/cache

USER 1000
WORKDIR /work
ENTRYPOINT ["tokexport"]
