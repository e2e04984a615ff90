# docker build --tag dicomweb-cors-proxy .
#
# From a package index of your own: --secret id=pip.conf,src=/etc/pip.conf
ARG BASE=python:3.14-slim

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m venv --without-pip /opt/dicomweb-cors-proxy \
    && pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
    && pip --python /opt/dicomweb-cors-proxy/bin/python install --no-cache-dir --no-compile \
        --require-hashes --only-binary :all: --requirement requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
# A read-only root can't keep bytecode: it is made here, and holds whatever times the files get.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/dicomweb-cors-proxy/bin/python install --no-cache-dir --no-compile \
        --no-deps --no-index dist/*.whl \
    && python -m compileall -fq -j 0 --invalidation-mode unchecked-hash /opt/dicomweb-cors-proxy

FROM ${BASE}
# Nothing that installs, and the standard library's bytecode, which slim images leave out. The
# configuration is empty until one is mounted in its place.
RUN pip uninstall --yes pip setuptools wheel \
    && rm -r "$(python -c 'import ensurepip; print(ensurepip.__path__[0])')" \
    && python -m compileall -fq -j 0 --invalidation-mode unchecked-hash \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && install -D --mode=644 /dev/null /etc/dicomweb-cors-proxy/config.yaml
COPY --from=build /opt/dicomweb-cors-proxy /opt/dicomweb-cors-proxy
ENV PATH=/opt/dicomweb-cors-proxy/bin:$PATH \
    container=oci \
    DICOMWEB_PROXY_CONFIG=/etc/dicomweb-cors-proxy/config.yaml \
    DICOMWEB_PROXY_SERVER__HOST=0.0.0.0
LABEL org.opencontainers.image.title="dicomweb-cors-proxy" \
    org.opencontainers.image.description="Correct CORS for any DICOMweb archive" \
    org.opencontainers.image.licenses="MIT"
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s \
    CMD ["dicomweb-cors-proxy", "healthcheck"]
ENTRYPOINT ["dicomweb-cors-proxy"]
CMD ["serve"]
