# syntax=docker/dockerfile:1
# Dockerfile - images with the daemon, its libraries, and nothing else: no shell, no package manager.
#
#   docker build -t inferd .                       CPUs
#   docker build -t inferd:cuda --target cuda .    NVIDIA GPUs of 8.x to 12.x (and CPUs); with
#                                                  --build-arg CUDA_ARCHS=90a for Hopper alone, sooner
#
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges -p 127.0.0.1:8080:8080 \
#     -v /srv/models:/models:ro -v /srv/inferd-keys:/keys:ro \
#     inferd serve --model /models/MODEL.gguf --api-key-file /keys
#
# It runs as uid 65532, which must be able to read the model and the file of keys (its own, mode 0400).
# Options may also come as INFERD_MODEL=... and so on.  The cuda image wants a container runtime that mounts
# the driver (`--gpus all`); of the CUDA toolkit it has no library, since the module links what it uses.  It has
# NCCL, which carries what GPUs cannot write into each other's memory; that one wants --shm-size=1g.

# ---- what a build needs ----
FROM debian:12-slim AS tools
# Versions are Debian 12's, so that a rebuild brings its security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ make cmake ninja-build pkg-config \
        libc6-dev libuv1-dev libcjson-dev libutf8proc-dev nettle-dev ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*

# ---- libmicrohttpd: Debian 12 has 0.9.75, whose parser takes requests that two readers could read apart ----
FROM tools AS microhttpd
# The checksum is that of the release that its maintainer signed (key D842 3BCB 326C 7907 0339 29C7 939E 6BE1
# E29F C3CC).  No TLS: that is a proxy's work here.
ADD --checksum=sha256:04bfe8ef75db7d629a33de767599765cecadc56274a39822d5d081030d577685 \
    https://ftp.gnu.org/gnu/libmicrohttpd/libmicrohttpd-1.0.10.tar.gz /src/libmicrohttpd.tar.gz
WORKDIR /src/libmicrohttpd
RUN tar xzf ../libmicrohttpd.tar.gz --strip-components=1 \
    && ./configure --prefix=/usr/local --disable-static --disable-https --disable-doc \
        --disable-examples --disable-tools --disable-curl --disable-dauth --disable-bauth \
        --disable-postprocessor --disable-httpupgrade CFLAGS="-O2 -fstack-protector-strong" \
    && make -j "$(nproc)" && make install && ldconfig

FROM microhttpd AS build
WORKDIR /src/inferd
COPY . .
RUN cmake --preset release -DBUILD_TESTING=OFF -DINFERD_CUDA=OFF -DCMAKE_INSTALL_PREFIX=/usr \
    && cmake --build --preset release \
    && DESTDIR=/image cmake --install build/release --strip --component program \
    && deploy/image-root.sh /image

# ---- the compiler of the CUDA module, from NVIDIA's Python packages ----
FROM microhttpd AS build-cuda
RUN python3 -m venv /opt/cuda && /opt/cuda/bin/pip install --no-cache-dir nvidia-cuda-nvcc==13.0.88 \
        nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-cccl==13.0.85 nvidia-nccl-cu13==2.28.9 \
    && ln -s /opt/cuda/lib/python3.11/site-packages/nvidia/cu13 /usr/local/cuda \
    && ln -s lib /usr/local/cuda/lib64
WORKDIR /src/inferd
COPY . .
ARG CUDA_ARCHS=all
RUN cmake --preset release -DBUILD_TESTING=OFF -DCMAKE_INSTALL_PREFIX=/usr -DINFERD_CUDA_ARCHS="$CUDA_ARCHS" \
    && cmake --build --preset release --target inferd inferd_cuda \
    && DESTDIR=/image cmake --install build/release --strip --component program \
    && deploy/image-root.sh /image cuda /opt/cuda/lib/python3.11/site-packages

# ---- images ----
FROM scratch AS cuda
LABEL org.opencontainers.image.title="inferd" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build-cuda /image /
# For the container runtime: which devices, and of the driver what computing needs.
ENV INFERD_HOST=0.0.0.0 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m CMD ["/usr/bin/inferd", "health"]
ENTRYPOINT ["/usr/bin/inferd"]
CMD ["serve"]

FROM scratch AS cpu
LABEL org.opencontainers.image.title="inferd" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
ENV INFERD_HOST=0.0.0.0
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m CMD ["/usr/bin/inferd", "health"]
ENTRYPOINT ["/usr/bin/inferd"]
CMD ["serve"]
