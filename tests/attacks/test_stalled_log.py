"""A `serve` whose standard error is a pipe that nobody reads, a full disk, or closed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.servers import LOOPBACK, free_port
from tests.support.sockets import ORIGIN, Wire, request

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL_DISK = Path("/dev/full")
# Several times the lines that a pipe holds, for each worker.
CONNECTIONS, REQUESTS = 16, 200
SECONDS = 30.0  # until a test is stuck

pytestmark = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])


PREFLIGHT = request("OPTIONS", "/dicom-web/studies", "Access-Control-Request-Method: GET")


@contextmanager
def serve(
    workers: int, stderr: int, *, close: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `serve` and wait until it answers. SIGTERM ends it with status 0 when the block ends."""
    port = free_port()
    flags = ["--upstream", f"http://{LOOPBACK}:9/a", "--allow-origin", ORIGIN.decode()]
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "serve", *flags]
    command += ["--port", str(port), "--workers", str(workers)]
    if close:
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DICOMWEB_PROXY_")}
    with subprocess.Popen(command, stderr=stderr, env=environ) as process:
        root = f"http://{LOOPBACK}:{port}"
        try:
            transport = httpx.HTTPTransport(retries=7)  # with waits of 0.5 s, 1 s, 2 s, …
            with httpx.Client(transport=transport, trust_env=False, timeout=SECONDS) as client:
                assert client.get(f"{root}/healthz").status_code == 200
            yield process, root
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def dropped_lines(root: str) -> float:
    text = httpx.get(f"{root}/metrics", trust_env=False, timeout=SECONDS).text
    name = "dicomweb_proxy_log_lines_dropped_total "
    return next(
        float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)
    )


async def ask(root: str) -> None:
    """Send many preflights and read the responses."""
    host, port = root.removeprefix("http://").split(":")
    async with Wire(*await asyncio.open_connection(host, int(port))) as client:
        await client.send(PREFLIGHT * REQUESTS)
        for _ in range(REQUESTS):
            assert (await client.head()).status == 204


async def attack(root: str) -> None:
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(ask(root) for _ in range(CONNECTIONS)))


def test_a_stderr_that_nobody_reads_stops_nothing(workers: int) -> None:
    reader, end = os.pipe()
    try:
        with serve(workers, end) as (_, root):
            asyncio.run(attack(root))
            answer = httpx.get(f"{root}/healthz", trust_env=False, timeout=SECONDS)
            assert answer.status_code == 200
    finally:
        os.close(reader)
        os.close(end)


@pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full")
def test_a_full_disk_stops_nothing_and_is_counted(workers: int) -> None:
    with FULL_DISK.open("wb") as full, serve(workers, full.fileno()) as (_, root):
        asyncio.run(attack(root))
        while dropped_lines(root) < CONNECTIONS * REQUESTS:  # published every few seconds
            time.sleep(0.1)


def test_a_reader_that_leaves_stops_nothing(workers: int) -> None:
    reader, end = os.pipe()
    try:
        with serve(workers, end) as (_, root):
            os.close(reader)
            asyncio.run(attack(root))
    finally:
        os.close(end)


def test_closed_standard_streams_stop_nothing(workers: int) -> None:
    with serve(workers, subprocess.DEVNULL, close=True) as (process, root):
        asyncio.run(attack(root))
        # No socket has the number of a standard stream, to which anyone might write.
        opened = [str(Path(f"/proc/{process.pid}/fd/{n}").readlink()) for n in range(3)]
        assert opened == [os.devnull] * 3


@pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("port", "status"), [("x", 2), ("1", 1)], ids=["configuration", "bind"])
def test_a_full_disk_changes_no_exit_status(workers: int, port: str, status: int) -> None:
    flags = ["--upstream", f"http://{LOOPBACK}:9/a", "--allow-origin", ORIGIN.decode()]
    flags += ["--host", "192.0.2.1", "--port", port, "--workers", str(workers)]
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "serve", *flags]
    with FULL_DISK.open("wb") as full:
        assert (
            subprocess.run(command, stderr=full, check=False, timeout=SECONDS).returncode == status
        )
