"""CPU of the bare client engine per 2 KB search, beside Caddy: `python -m bench.engine --help`.

The engine stands behind our server, with nothing in between: no CORS, no resources, no log. Caddy
does the whole job. All are on one core; wrk and the archive, nginx with a file, on the others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx
import uvloop
from tests.support.servers import free_port

from bench import archive
from bench.peers import PEERS, REFERENCE, serving
from bench.processes import OTHER_CORES, PROXY_CORES, Process, listens, running
from dicomweb_cors_proxy.config.fields import ServerSettings
from dicomweb_cors_proxy.operations.memory import settle, tune_allocator
from dicomweb_cors_proxy.server.listening import bind
from dicomweb_cors_proxy.server.uvicorn_server import Server, ServerConfig
from dicomweb_cors_proxy.upstream.httpx_adapter import HTTPXUpstream
from dicomweb_cors_proxy.upstream.interface import Endpoint, Request, Timeouts
from dicomweb_cors_proxy.upstream.native import NativeTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from dicomweb_cors_proxy.upstream.interface import Upstream

ORIGIN: Final = "https://viewer.example"
PATH: Final = "/dicom-web/studies"
LUA: Final = Path(__file__).with_name("wrk.lua")

TITLES: Final = {
    REFERENCE: "Caddy, the whole job",
    "server": "our server alone: an application that answers at once",
    "native": "our engine behind it",
    "httpx": "httpx's own transport behind it (`upstream.transport: httpx`)",
}

NGINX: Final = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; open_file_cache max=10; types {{ }}
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi; default_type application/dicom+json;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location {path} {{ alias {directory}/search.json; }}
  }}
}}
"""


class Target(NamedTuple):
    """What is loaded."""

    key: str
    port: int
    process: Process


def try_preflight() -> ASGIApp:
    """Return an application that replies to a search itself."""
    body = archive.search(2000)
    headers = [
        (b"server", b"nginx"),
        (b"date", b"Tue, 02 Jan 2024 10:11:12 GMT"),
        (b"content-type", b"application/dicom+json"),
        (b"content-length", b"%d" % len(body)),
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def engine(upstream: Upstream, port: int) -> ASGIApp:
    """Return an application that passes requests without a body on."""
    origin = Endpoint("http", "127.0.0.1", port)
    host = (b"host", b"127.0.0.1:%d" % port)
    timeouts = Timeouts(5, 60, 10)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        headers = [host, *(header for header in scope["headers"] if header[0] != b"host")]
        method = scope["method"].encode()
        response = await upstream.send(
            Request(origin, method, scope["raw_path"], headers), None, timeouts
        )
        try:
            names = [(name.lower(), value) for name, value in response.headers]
            head = {"type": "http.response.start", "status": response.status, "headers": names}
            await send(head)
            while (data := await response.read()) and not response.complete:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await response.aclose()
        await send({"type": "http.response.body", "body": data})

    return app


def _http_only(app: ASGIApp) -> ASGIApp:
    async def http_only(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)
        else:
            raise NotImplementedError  # there is no lifespan

    return http_only


async def _serve(key: str, port: int, archive_port: int) -> None:
    match key:
        case "server":
            app = try_preflight()
        case "native":
            app = engine(NativeTransport(), archive_port)
        case _:
            app = engine(HTTPXUpstream(httpx.AsyncHTTPTransport(trust_env=False)), archive_port)
    config = ServerConfig(app, ServerSettings())
    config.lifespan = "off"
    server = Server(config)
    settle()
    await server.serve(bind("127.0.0.1", port))


@contextmanager
def _nginx(directory: Path, port: int) -> Iterator[None]:
    directory.chmod(0o755)  # nginx's worker is not root
    (directory / "search.json").write_bytes(archive.search(2000))
    file = directory / "nginx.conf"
    file.write_text(NGINX.format(directory=directory, port=port, path=PATH), encoding="utf-8")
    command: list[str | Path] = ["nginx", "-e", "stderr", "-p", directory, "-c", file]
    env = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"}
    with running(command, cores=OTHER_CORES, env=env) as process:
        process.wait_until(lambda: listens(port))
        yield


@contextmanager
def _target(key: str, archive_port: int) -> Iterator[Target]:
    if key == REFERENCE:
        with serving(PEERS[REFERENCE], archive_port, ORIGIN) as caddy:
            assert caddy.process is not None  # noqa: S101
            caddy.process.wait_until(lambda: listens(caddy.port))
            yield Target(key, caddy.port, caddy.process)
        return
    port = free_port()
    command = [sys.executable, "-m", "bench.engine", "--serve", key, str(port), str(archive_port)]
    with running(command, cores=PROXY_CORES) as process:
        process.wait_until(lambda: listens(port))
        yield Target(key, port, process)


def _load(target: Target, connections: int, seconds: float) -> float:
    """Microseconds of the target's CPU per request."""
    command = ["taskset", "--cpu-list", ",".join(map(str, OTHER_CORES))]
    command += ["wrk", f"-c{connections}", "-t1", f"-d{seconds:g}s", "-s", str(LUA)]
    command += [f"http://127.0.0.1:{target.port}{PATH}", "--", "GET", "Origin", ORIGIN]
    command += ["Accept", "application/dicom+json"]
    before = target.process.cpu()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    time.sleep(0.03)  # the connections are closed at the target's, too
    after = target.process.cpu()
    seen = json.loads(done.stdout.splitlines()[-1])
    if seen["status"] or seen["socket"] or not seen["requests"]:
        raise SystemExit(f"{target.key}: {seen}")
    return float((after - before) / seen["requests"] * 1e6)


def measure(keys: list[str], connections: int, rounds: int, seconds: int) -> dict[str, float]:
    """Microseconds per request: medians of interleaved rounds."""
    seen: dict[str, list[float]] = {key: [] for key in keys}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        archive_port = free_port()
        stack.enter_context(_nginx(directory, archive_port))
        targets = [stack.enter_context(_target(key, archive_port)) for key in keys]
        for target in targets:  # compilers and caches get warm
            _load(target, connections, 1)
        for turn in range(rounds):
            start = turn % len(targets)
            for target in targets[start:] + targets[:start]:
                seen[target.key].append(_load(target, connections, seconds))
    return {key: statistics.median(values) for key, values in seen.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine", description="CPU of the bare engine, beside Caddy."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load, each round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        key, port, archive_port = options.serve
        tune_allocator()
        uvloop.run(_serve(key, int(port), int(archive_port)))
        return
    keys = [REFERENCE, *(key for key in options.only if key != REFERENCE)]
    seen = measure(keys, options.connections, options.rounds, options.seconds)
    print(f"| 2 KB search, {options.connections} connections | µs of CPU | of Caddy's |")
    print("|---|---|---|")
    for key, microseconds in seen.items():
        print(f"| {TITLES[key]} | {microseconds:.0f} | {microseconds / seen[REFERENCE]:.2f} |")


if __name__ == "__main__":
    main()
