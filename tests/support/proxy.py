"""The real `dicomweb-cors-proxy serve`, in a process of its own."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import yaml

from tests.support.processes import Child
from tests.support.transport import TRANSPORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: `root` is its origin, `url` its DICOMweb root, `file` its settings."""

    child: Child
    root: str
    url: str
    file: Path


def fronting(archive: str, origin: str, **upstream: object) -> dict[str, dict[str, Any]]:
    """Return the settings of a proxy in front of `archive` that lets `origin` in."""
    return {"upstream": {"url": archive, **upstream}, "cors": {"allow_origins": [origin]}}


@contextmanager
def serving(
    settings: Mapping[str, Mapping[str, Any]],
    directory: Path,
    *flags: str,
    env: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """Run `serve` on a free port with `settings` as its file.

    `env` is added to an environment that has no setting of ours but the transport. When the block
    ends, SIGTERM must end the process with status 0.
    """
    file = directory / f"{uuid4()}.yaml"
    file.write_text(yaml.safe_dump(dict(settings)))
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "serve", "--config", str(file)]
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("DICOMWEB_PROXY_")
    }
    inherited["DICOMWEB_PROXY_UPSTREAM__TRANSPORT"] = TRANSPORT
    with Child([*command, "--port", "0", *flags], env=inherited | dict(env or {})) as child:
        url = child.wait_for(r"""\bat +(https?://[^/\s]+)(/[^\s"]*)""")  # a quote ends it in JSON
        root, base_path = url.groups()
        httpx.get(f"{root}/healthz", verify=False, trust_env=False).raise_for_status()
        yield Proxy(child, root, root + base_path.rstrip("/"), file)
        child.terminate()
        assert child.wait() == 0, child.output
