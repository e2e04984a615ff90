#!/usr/bin/env python3
"""What log and metrics cost: the application's time a request with them, and without.

The archive answers at once from memory and the server is a loop of calls, so that nothing else is
in the figures; the log is formatted and written to /dev/null, and the garbage collector set, as
`serve` does it. Rounds are interleaved, and of each
case the fastest counts: what else the machine does only ever adds.

    bench/observability.py [--requests 5000] [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import redirect_stderr
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import httpx
import uvloop

from dicomweb_cors_proxy import Settings, create_app
from dicomweb_cors_proxy.observability.log_setup import Format, setup_logging
from dicomweb_cors_proxy.observability.records import RequestRecord
from dicomweb_cors_proxy.operations.memory import settle
from dicomweb_cors_proxy.proxy.context import CONTEXT, RequestContext

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUDGET = 25.0  # µs
ORIGIN = b"https://viewer.example"
CASES = {
    "preflight": (
        "OPTIONS",
        [(b"access-control-request-method", b"GET"), (b"access-control-request-headers", b"range")],
    ),
    "search": ("GET", [(b"accept", b"application/dicom+json")]),
}


class Archive(httpx.AsyncBaseTransport):
    """Answers with 2 KB."""

    async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, headers=[(b"content-length", b"2048")], stream=httpx.ByteStream(bytes(2048))
        )


class Without:
    """In the place of `AccessLog`: the record that the application completes, and nothing more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(method="GET", request_id="", client=None)
        scope[CONTEXT] = RequestContext(record, started=0.0)
        await self._app(scope, receive, send)


def application() -> Any:  # noqa: ANN401
    """Return the proxy below Starlette's router, whose work is the same in either case."""
    settings = Settings(
        upstream={"url": "http://archive.example/dicom-web"},
        cors={"allow_origins": [ORIGIN.decode()]},
    )
    return create_app(settings, transport=Archive()).router.default


def scope(method: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    """Return a request as the server makes it."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/dicom-web/studies",
        "raw_path": b"/dicom-web/studies",
        "query_string": b"PatientName=Doe",
        "headers": [(b"host", b"proxy.example"), (b"origin", ORIGIN), *headers],
        "client": ("192.0.2.1", 50000),
    }


async def seconds(app: ASGIApp, case: str, requests: int) -> float:
    """CPU time of a number of requests."""
    left = asyncio.Event()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None: ...

    start = process_time()
    for _ in range(requests):
        await app(scope(*CASES[case]), receive, send)
    return process_time() - start


def measure(case: str, log_format: Format, requests: int, rounds: int) -> tuple[float, float]:
    """µs a request without and with log and metrics."""
    with Path("/dev/null").open("w", buffering=1, encoding="utf-8") as null, redirect_stderr(null):
        setup_logging("info", log_format)
        full = application()
        bare = Without(full.app)
        settle()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            timed = [
                [runner.run(seconds(app, case, requests)) for app in (bare, full)]
                for _ in range(rounds)
            ]
    without, having = (min(column) / requests * 1e6 for column in zip(*timed, strict=True))
    return without, having


def main() -> None:
    """Print a table; exit with 1 if a figure is over the budget."""
    parser = argparse.ArgumentParser(description="Cost of log and metrics.")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(f"{'':10} {'log':8} {'without':>10} {'with':>10} {'cost':>10} {'ratio':>6}")
    worst = 0.0
    for case in CASES:
        for log_format in ("console", "json"):
            without, having = measure(case, log_format, arguments.requests, arguments.rounds)
            worst = max(worst, having - without)
            print(
                f"{case:10} {log_format:8} {without:7.1f} µs {having:7.1f} µs "
                f"{having - without:7.1f} µs {having / without:6.2f}"
            )
    if worst > BUDGET:
        sys.exit(f"over the budget of {BUDGET:g} µs a request")


if __name__ == "__main__":
    main()
