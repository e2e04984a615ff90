"""The application for any ASGI server: `uvicorn --no-proxy-headers dicomweb_cors_proxy.asgi:app`.

For HTTP/2: `granian --interface asgi --no-ws --ssl-certificate … dicomweb_cors_proxy.asgi:app`.

Configured from the environment and the file that `DICOMWEB_PROXY_CONFIG` names. What only `serve`
can keep, such as the deadline for a request's head, is warned about.
"""

from __future__ import annotations

import logging
import sys

from dicomweb_cors_proxy import importing

with importing():
    from dicomweb_cors_proxy.app import create_app
    from dicomweb_cors_proxy.config.issues import ConfigurationError
    from dicomweb_cors_proxy.config.loading import load
    from dicomweb_cors_proxy.observability.log_setup import setup_logging

# uvicorn's supervisor starts a worker again that ends with any other status.
STARTUP_FAILED = 3

ONLY_SERVE = (
    "server.host",
    "server.port",
    "server.workers",
    "server.max_connections",
    "server.tls_cert_file",
    "server.tls_key_file",
    "server.header_timeout",
    "server.write_timeout",
    "server.keepalive_timeout",
    "server.drain_delay",
    "server.shutdown_timeout",
)

try:
    settings = load()
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(STARTUP_FAILED)

setup_logging(settings.logging.level, settings.logging.format, life_cycle=True)
logger = logging.getLogger(__name__)
for warning in settings.warnings():
    logger.warning(warning)
for key in ONLY_SERVE:
    if settings.sources.get(key, "default") != "default":
        logger.warning("%s has no effect here: only `dicomweb-cors-proxy serve` keeps it", key)

app = create_app(settings)
