# The live detector as a service: docs/deployment.md says how to run it. No compiler: kernels are compiled by numba.
#
#     docker build -t perception .
#     docker build -t perception --build-arg TORCH=https://download.pytorch.org/whl/cu130 .     # for a GPU
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /source
COPY pyproject.toml constraints.txt MANIFEST.in README.md LICENSE CHANGELOG.md CITATION.cff ./
COPY perception perception
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON}
ARG TORCH=https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
# A build of torch for a GPU wants its own version of triton.
RUN sed -i '/^triton==/d' /wheels/constraints.txt \
    && pip install --no-cache-dir -c /wheels/constraints.txt --extra-index-url ${TORCH} \
        /wheels/*.whl eclipse-zenoh==1.10.2 \
    && rm -r /wheels \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin perception
COPY docs/examples/zenoh_node.py /opt/zenoh_node.py

# All that is written goes below /tmp, which is to be a tmpfs: the root file system may be read-only.
ENV HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=20s --start-period=120s --retries=3 \
    CMD ["python", "/opt/zenoh_node.py", "--check"]
ENTRYPOINT ["python", "/opt/zenoh_node.py"]
CMD ["--rig", "/etc/perception/rig.yaml"]
