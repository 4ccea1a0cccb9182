# All images of the project. Targets: proxy (the sidecar), greeter-server, greeter-client, proto (regenerates the
# stubs). Without a target DIRECTORY chooses: docker build . --build-arg DIRECTORY=./client -t client
# with ./proxy, ./server or ./client. BASE is any Debian-like image with Python 3.11 and its venv module.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS pip
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip has an environment of its own, so that what it fills below holds the product alone.
RUN python3 -m venv /pip && python3 -m venv --without-pip /app
WORKDIR /src

# The sidecar, its core compiled: a failed compile fails the build.
FROM pip AS proxy-env
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proxy proxy
COPY greeter greeter
COPY compose compose
RUN --mount=type=cache,target=/root/.cache/pip \
    GRPC_SIDECAR_COMPILE=1 /pip/bin/pip wheel --quiet --no-deps --wheel-dir /wheels . \
    && /pip/bin/pip --python /app/bin/python install --quiet /wheels/*.whl \
    && /app/bin/grpc-sidecar --version | grep compiled
COPY compose/image/proxy/ /app/

# The greeter needs no compiler and none of the sidecar.
FROM pip AS greeter-env
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["greeter"], sep="\n")' > requirements.txt \
    && /pip/bin/pip --python /app/bin/python install --quiet --requirement requirements.txt
COPY greeter /app/lib/greeter
RUN echo /app/lib > "$(/app/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/greeter.pth" \
    && /app/bin/python -m compileall -q /app/lib

FROM greeter-env AS server-env
COPY compose/image/server/ /app/

FROM greeter-env AS client-env
COPY compose/image/client/ /app/

FROM pip AS proto
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -c 'import tomllib; print(*(r for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"] if r.startswith("grpcio-tools")))' > requirements.txt \
    && /pip/bin/pip --python /app/bin/python install --quiet --requirement requirements.txt
# protoc gets the path that the generated modules import each other by.
RUN mkdir /work && ln -s /defs /work/greeter
COPY compose/image/proto/ /app/
ENTRYPOINT ["/app/entrypoint"]

# What every running image shares. Nothing is written at run time, so a read-only root file system works.
FROM ${BASE} AS runtime
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /app
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=2 CMD ["/app/health"]
ENTRYPOINT ["/app/entrypoint"]

FROM runtime AS proxy
COPY --from=proxy-env /app /app
EXPOSE 50051 9464

FROM runtime AS greeter-server
COPY --from=server-env /app /app
EXPOSE 50000

FROM runtime AS greeter-client
# Alone in a network a client finds no sidecar on its loopback: the compose file has one under this name.
ENV GREETER_TARGET=greeter-sidecar:50051
COPY --from=client-env /app /app

FROM ${BASE} AS environments
COPY --from=proxy-env /app /environments/proxy
COPY --from=server-env /app /environments/server
COPY --from=client-env /app /environments/client

FROM runtime AS chosen
ARG DIRECTORY=./proxy
ENV GREETER_TARGET=greeter-sidecar:50051
COPY --from=environments /environments/${DIRECTORY} /app
