"""The proxies that are measured, each set up to do the same job."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trustme
from tests.support.servers import free_port

from bench.archive import BASE_PATH, NAME
from bench.processes import PROXY_CORES, Process, running
from dicomweb_cors_proxy.config.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES: Final = Path(__file__).with_name("peer")
CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dicomweb-cors-proxy-bench"
)
# The bench, and the package of the same checkout, wherever another one is installed.
IMPORTS: Final = os.pathsep.join(str(FILES.parents[1] / name) for name in (".", "src"))
TOKEN: Final = "bench"  # noqa: S105  (the archive takes any)


@dataclass(frozen=True, slots=True)
class Site:
    """What a peer stands between, and where it may put its files.

    Attributes:
        port: on which it listens.
        archive: port of the archive.
        origin: of the page that may read its responses.
        directory: for its configuration.
        tls: whether it serves https, by `cert.pem` and `key.pem` in that directory.
    """

    port: int
    archive: int
    origin: str
    directory: Path
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy.

    Attributes:
        key: for `--peers`.
        title: for tables.
        version: says which one it is; None where it isn't installed.
        command: writes the configuration and returns what to run.
        takes_url: whether the archive's URL stands in the path.
        rewrites: whether URLs are rewritten in its responses.
        http2: whether it is reached by https, and so by HTTP/2.
    """

    key: str
    title: str
    version: Callable[[], str | None]
    command: Callable[[Site], list[str | Path]]
    takes_url: bool = False
    rewrites: bool = False
    http2: bool = False

    @property
    def is_ours(self) -> bool:
        return self.key.startswith(OURS)


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that answers at `root`, the DICOMweb root's URL, to pages of `origin`.

    `process` is None for no proxy.
    """

    peer: Peer
    origin: str
    port: int
    path: str
    process: Process | None

    @property
    def root(self) -> str:
        return self.root_at(self.port)

    def root_at(self, port: int) -> str:
        """Return the root as it is reached through another port."""
        scheme = "https" if self.peer.http2 else "http"
        return f"{scheme}://127.0.0.1:{port}{self.path}"


@cache
def certificate() -> trustme.LeafCert:
    """Return the certificate of all peers."""
    return trustme.CA().issue_cert("127.0.0.1")


@contextmanager
def serving(peer: Peer, archive: int, origin: str) -> Iterator[Running]:
    """Start a peer; it may not answer yet."""
    if peer.key == NO_PROXY.key:
        yield Running(peer, origin, archive, BASE_PATH, None)
        return
    path = f"/http://127.0.0.1:{archive}{BASE_PATH}" if peer.takes_url else BASE_PATH
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's worker is not root
        site = Site(free_port(), archive, origin, directory, tls=peer.http2)
        if site.tls:
            leaf = certificate()
            leaf.cert_chain_pems[0].write_to_path(directory / "cert.pem")
            leaf.private_key_pem.write_to_path(directory / "key.pem")
        env = {
            "NODE_PATH": str(CACHE / "node_modules"),
            "NODE_NO_WARNINGS": "1",
            "XDG_CONFIG_HOME": name,
            "XDG_DATA_HOME": name,
            "ARCHIVE": f"http://127.0.0.1:{archive}",
            "ORIGIN": origin,
            "PYTHONPATH": IMPORTS,
            "PYTHONDONTWRITEBYTECODE": "",  # an installed package has its bytecode
        }
        with running(peer.command(site), cores=PROXY_CORES, env=env) as process:
            yield Running(peer, origin, site.port, path, process)


def _said(pattern: str, *command: str) -> str | None:
    """Return what matches in a command's output; None without the command."""
    if not shutil.which(command[0], path=_PATH):
        return None
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": _PATH}
    )
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "?"


_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _filled(name: str, site: Site, **more: str) -> Path:
    """Write a configuration from its template."""
    text = (FILES / name).read_text(encoding="utf-8")
    values = {
        "PORT": str(site.port),
        "ARCHIVE": str(site.archive),
        "ORIGIN": site.origin,
        "DIRECTORY": str(site.directory),
        **more,
    }
    file = site.directory / name
    file.write_text(re.sub("@([A-Z]+)@", lambda m: values[m[1]], text), encoding="utf-8")
    return file


LARGE_BUFFERS: Final = (
    "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;"
    " proxy_max_temp_file_size 0; proxy_request_buffering off; client_body_buffer_size 64k;"
)


def _nginx(buffers: str) -> Callable[[Site], list[str | Path]]:
    def command(site: Site) -> list[str | Path]:
        tls = "ssl_certificate cert.pem; ssl_certificate_key key.pem;" if site.tls else ""
        listen = "ssl http2" if site.tls else ""
        file = _filled("nginx.conf", site, BUFFERS=buffers, LISTEN=listen, TLS=tls)
        return [_program("nginx"), "-e", "stderr", "-p", site.directory, "-c", file]

    return command


def _caddy(site: Site) -> list[str | Path]:
    scheme = "https" if site.tls else "http"
    tls = f"tls {site.directory}/cert.pem {site.directory}/key.pem" if site.tls else ""
    file = _filled("Caddyfile", site, SCHEME=scheme, TLS=tls)
    return [_program("caddy"), "run", "--adapter", "caddyfile", "--config", file]


def _node(script: str) -> Callable[[Site], list[str | Path]]:
    return lambda site: [
        "node",
        FILES / script,
        str(site.port),
        str(site.archive),
        site.origin,
    ]


def _node_version(package: str) -> Callable[[], str | None]:
    def version() -> str | None:
        node = _said(r"v(\S+)", "node", "--version")
        file = CACHE / "node_modules" / package / "package.json"
        if node is None or not (file.exists() or _install()):
            return None
        found = json.loads(file.read_text(encoding="utf-8"))["version"]
        return f"{found}, Node {node}"

    return version


def _install() -> bool:
    """Fetch the peers that npm has, once; False if that does not work."""
    if not shutil.which("npm"):
        return False
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copy(FILES / "package.json", CACHE)
    done = subprocess.run(
        ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"],  # noqa: S607
        cwd=CACHE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"npm install failed: {done.stderr.strip()}", file=sys.stderr)
    return not done.returncode


def _naive(site: Site) -> list[str | Path]:
    arguments = ["--no-access-log", "--log-level", "warning", "--port", str(site.port)]
    return [sys.executable, "-m", "uvicorn", "bench.naive:app", *arguments]


def _ours(**changes: Any) -> Callable[[Site], list[str | Path]]:  # noqa: ANN401
    def command(site: Site) -> list[str | Path]:
        upstream = {
            "url": f"http://127.0.0.1:{site.archive}{BASE_PATH}",
            "aliases": [NAME],
        }
        tls = {
            "tls_cert_file": f"{site.directory}/cert.pem",
            "tls_key_file": f"{site.directory}/key.pem",
        }
        settings = {
            "upstream": upstream | changes.get("upstream", {}),
            "cors": {"allow_origins": [site.origin]},
            "access": {"mode": "read-write"},
            "server": {"port": site.port} | (tls if site.tls else {}),
            "logging": {"level": "warning"},  # no line for a request that ended well
        }
        known = Settings.model_fields
        settings |= {k: v for k, v in changes.items() if k != "upstream" and k in known}
        file = site.directory / "config.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        return [sys.executable, "-m", "dicomweb_cors_proxy", "serve", "--config", file]

    return command


def _our_version() -> str:
    git = ["git", "-C", str(FILES), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)  # noqa: S603
    commit = f" ({done.stdout.strip()})" if done.stdout else ""
    versions = f"uvicorn {metadata.version('uvicorn')}, {_python()}"
    return f"{metadata.version('dicomweb-cors-proxy')}{commit}, {versions}"


def _python() -> str:
    """Return the version of Python, and who built it if the system did: that makes a difference."""
    version = f"Python {platform.python_version()}"
    if Path(sys.base_prefix) != Path("/usr"):
        return version
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return version
    return f"{version} of {system['PRETTY_NAME']}"


def _naive_version() -> str:
    versions = {name: metadata.version(name) for name in ("starlette", "httpx", "uvicorn")}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


NO_PROXY: Final = Peer("none", "no proxy", lambda: "", lambda _: [])
REFERENCE: Final = "caddy"
REFERENCE_HTTP2: Final = "caddy-h2"
OURS: Final = "ours"
OURS_PLAIN: Final = "ours-plain"
OURS_LOGGING: Final = "ours-log"
OURS_HTTP2: Final = "ours-h2"
_HTTP1_PEERS: Final = {
    peer.key: peer
    for peer in (
        Peer(
            "nginx",
            "nginx, default buffers",
            lambda: _said(r"nginx/(\S+)", "nginx", "-v"),
            _nginx(""),
        ),
        Peer(
            "nginx-64k",
            "nginx, 64 KB buffers",
            lambda: _said(r"nginx/(\S+)", "nginx", "-v"),
            _nginx(LARGE_BUFFERS),
        ),
        Peer(
            "haproxy",
            "HAProxy",
            lambda: _said(r"version (\S+)", "haproxy", "-v"),
            lambda site: [_program("haproxy"), "-db", "-f", _filled("haproxy.cfg", site)],
        ),
        Peer(
            "caddy",
            "Caddy",
            lambda: _said(r"v?(\d\S+)", "caddy", "version"),
            _caddy,
        ),
        Peer("http-proxy", "http-proxy", _node_version("http-proxy"), _node("http_proxy.js")),
        Peer(
            "cors-anywhere",
            "cors-anywhere",
            _node_version("cors-anywhere"),
            _node("cors_anywhere.js"),
            takes_url=True,
        ),
        Peer("naive", "Starlette + httpx, naive", _naive_version, _naive),
        Peer(OURS, "**this proxy**", _our_version, _ours(), rewrites=True),
        # Answers pass as the archive made them: what the others do.
        Peer(
            OURS_PLAIN,
            "**this proxy**, rewriting and compression off",
            _our_version,
            _ours(rewrite_urls=False, compress=False),
        ),
        Peer(
            OURS_LOGGING,
            "**this proxy**, a JSON line for each request",
            _our_version,
            _ours(logging={"level": "info", "format": "json"}),
            rewrites=True,
        ),
    )
}
PEERS: Final = _HTTP1_PEERS | {
    peer.key: peer
    for peer in (
        replace(_HTTP1_PEERS["nginx-64k"], key="nginx-h2", title="nginx, HTTP/2", http2=True),
        replace(_HTTP1_PEERS["caddy"], key=REFERENCE_HTTP2, title="Caddy, HTTP/2", http2=True),
        replace(_HTTP1_PEERS[OURS], key=OURS_HTTP2, title="**this proxy, HTTP/2**", http2=True),
    )
}


def signing_in(peer: Peer) -> Peer:
    """Return the peer as it signs in for viewers that do not, if it can."""
    if not peer.is_ours:
        return peer
    return replace(peer, command=_ours(upstream={"auth": {"type": "bearer", "token": TOKEN}}))
