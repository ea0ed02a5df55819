# The service and its checkpoints, on a CPU or a GPU: which of the two is a matter of the torch wheel that pip finds.
#
#   docker build -t vampprior .
#       takes torch from the default index. For Linux on x86-64 that is the CUDA build: it needs no GPU, but adds
#       several GB to the image.
#   docker build -t vampprior --build-arg PIP_EXTRA_INDEX_URL=<address> .
#       also looks in another index. With the one that PyTorch's installation page names for "CPU", pip prefers its
#       CPU build, and the image stays near 1 GB.
#
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp vampprior

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# The dependencies are by far the largest layer, so they come first and change only with pyproject.toml. torch brings
# headers and tests for those who build C++ against it, 150 MB that nothing here reads.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extras = p['optional-dependencies']; \
        print(*p['dependencies'], *extras['service'], *extras['otel'], sep='\n')" > requirements.txt \
    && python -m venv /venv \
    && /venv/bin/python -m pip install --requirement requirements.txt \
    && /venv/bin/python -m pip uninstall --yes pip \
    && rm -rf /venv/lib/python3*/site-packages/torch/include /venv/lib/python3*/site-packages/torch/test

# Readable by every user, whatever the permissions of the clone are: the service does not run as root.
COPY . ./
RUN python -m pip install --no-deps --target /app . \
    && chmod -R a+rX /app model_store

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="vampprior" \
      org.opencontainers.image.description="Hierarchical VAEs with a VampPrior, served over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin vampprior

COPY --from=builder /venv /venv
COPY --from=builder /src/model_store /models
COPY --from=builder /app /app

# Nothing is written while it runs: pip compiled every module above, and /tmp is the only place a library may want.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VAMP_HOST=0.0.0.0 \
    VAMP_PORT=8000 \
    VAMP_MODEL_STORE=/models
WORKDIR /app
USER 10001:10001

EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; \
c = http.client.HTTPConnection('127.0.0.1', int(os.environ['VAMP_PORT']), timeout=4); \
c.request('GET', '/health/ready'); \
sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
