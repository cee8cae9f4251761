# edgebuild with ONNX Runtime and OpenVINO, for ONNX models on x86-64 and Arm. docs/docker.md says how to build, use
# and extend it. PyTorch is left out: its default Linux wheels bring several gigabytes of CUDA.

FROM debian:bookworm-slim AS build

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

# The constraints hold for the build backend too.
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# What edgebuild is installed with; docs/docker.md says how to add PyTorch.
ARG EXTRAS=onnxruntime,openvino

WORKDIR /source
COPY . .
# pip works from outside, so that what ships holds only what edgebuild needs. And edgebuild sends nothing anywhere:
# without openvino-telemetry, which they need for nothing else, OpenVINO and NNCF can't either.
RUN python3 -m venv /pip \
 && python3 -m venv --without-pip /opt/edgebuild \
 && /pip/bin/pip --python /opt/edgebuild/bin/python install ".[$EXTRAS]" \
 && /pip/bin/pip --python /opt/edgebuild/bin/python check \
 && /pip/bin/pip --python /opt/edgebuild/bin/python uninstall -y openvino-telemetry


FROM debian:bookworm-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log \
 && useradd --uid 1000 --create-home edgebuild \
 && install -d -o edgebuild -g edgebuild /work

COPY --from=build /opt/edgebuild /opt/edgebuild

# ONNX Runtime's official wheels report usage unless they are told not to.
ENV PATH=/opt/edgebuild/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1

USER edgebuild
WORKDIR /work
ENTRYPOINT ["edgebuild"]
CMD ["--help"]
