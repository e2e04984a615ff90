"""The command for HTTP/2 of docs/guides/running.md, run."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from tests.integration.test_asgi import environment
from tests.support.guides import command
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CA = trustme.CA()


def trusting(*protocols: str) -> ssl.SSLContext:
    """A client's context that trusts the authority here and offers these protocols (ALPN)."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    context.set_alpn_protocols(list(protocols))
    return context


@dataclass(frozen=True, slots=True)
class Granian:
    """`root` is an https origin."""

    child: Child
    port: int

    @property
    def root(self) -> str:
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/dicom-web"


@contextmanager
def granian(archive: str, origin: str, directory: Path, **variables: str) -> Iterator[Granian]:
    """Run it in front of `archive` for pages of `origin`; its authority is `ca.pem`."""
    documented = command("running", "granian")
    ours = {"UPSTREAM__URL": archive, "CORS__ALLOW_ORIGINS": origin, **variables}
    certificate = CA.issue_cert(LOOPBACK)
    CA.cert_pem.write_to_path(directory / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    port = free_port()
    files = {name: str(directory / name) for name in ("cert.pem", "key.pem")}
    arguments = [files.get(word, word) for word in documented.arguments]
    arguments[arguments.index("--port") + 1] = str(port)
    program = str(Path(sys.executable).with_name("granian"))
    with Child([program, *arguments], env=environment(ours)) as child:
        _wait_until_it_listens(child, port)
        yield Granian(child, port)


def _wait_until_it_listens(child: Child, port: int) -> None:
    """Its own word comes before it does; until then it takes no signal either."""
    for _ in range(600):
        with suppress(ConnectionRefusedError), socket.create_connection((LOOPBACK, port)):
            return
        if child.is_silent:
            return
        time.sleep(0.05)
    raise AssertionError(child.output)
