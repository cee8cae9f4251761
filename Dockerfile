# edgebuild with ONNX Runtime and OpenVINO, for ONNX models on x86-64 and Arm, and with --target farm the server of a
# farm. docs/docker.md says how to build, use and extend them. PyTorch is left out: its default Linux wheels bring several gigabytes of CUDA.

FROM debian:bookworm-slim AS build

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

# The constraints hold for the build backend too.
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# What edgebuild is installed with; docs/docker.md says how to add PyTorch.
ARG EXTRAS=onnxruntime,openvino,farm,postgresql

WORKDIR /source
COPY . .
# pip works from outside, so that what ships holds only what edgebuild needs. And edgebuild sends nothing anywhere:
# without openvino-telemetry, which they need for nothing else, OpenVINO and NNCF can't either.
RUN python3 -m venv /pip \
 && python3 -m venv --without-pip /opt/edgebuild \
 && /pip/bin/pip --python /opt/edgebuild/bin/python install ".[$EXTRAS]" \
 && /pip/bin/pip --python /opt/edgebuild/bin/python check \
 && /pip/bin/pip --python /opt/edgebuild/bin/python uninstall -y openvino-telemetry


FROM debian:bookworm-slim AS runtime

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


FROM runtime AS farm

ENV EDGEBUILD_FARM_HOME=/farm

USER root
RUN install -d -m 0700 -o edgebuild -g edgebuild /farm
USER edgebuild

VOLUME /farm
EXPOSE 8443
HEALTHCHECK --interval=1m --timeout=10s --start-period=30s CMD ["python", "-c", "import http.client, ssl, sys; \
trusted = ssl.create_default_context(cafile='/farm/ca.pem'); \
farm = http.client.HTTPSConnection('127.0.0.1', 8443, timeout=5, context=trusted); \
farm.request('GET', '/healthz'); \
sys.exit(farm.getresponse().status != 200)"]
ENTRYPOINT ["edgebuild", "farm"]
CMD ["serve", "--listen", "0.0.0.0:8443"]


# The last one is what is built unless --target says otherwise.
FROM runtime

ENTRYPOINT ["edgebuild"]
CMD ["--help"]
