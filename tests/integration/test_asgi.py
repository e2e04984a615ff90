"""The application under the plain `uvicorn` command."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import create_subprocess_exec
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Child
from tests.support.sockets import ORIGIN, Wire, answer, archive, request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.sockets import Head

UVICORN = (sys.executable, "-m", "uvicorn", "dicomweb_cors_proxy.asgi:app")
SEARCH = "/dicom-web/studies?PatientName=Doe"


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's variables, with `variables` for those of ours."""
    ours = {f"DICOMWEB_PROXY_{name}": value for name, value in variables.items()}
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("DICOMWEB_PROXY_")
    }
    return others | ours


@dataclass
class Plain:
    child: Child
    address: tuple[str, int]

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection(*self.address))


@contextmanager
def uvicorn(archive: str, *flags: str, **variables: str) -> Iterator[Plain]:
    """uvicorn on a socket that listens already, so that nobody has to wait for it."""
    env = {"UPSTREAM__URL": archive, "CORS__ALLOW_ORIGINS": ORIGIN.decode(), **variables}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [*UVICORN, "--fd", str(fd), *flags]
        with Child(command, env=environment(env), pass_fds=[fd]) as child:
            yield Plain(child, listener.getsockname())


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("root_path", ["", "/behind"])
async def test_it_serves_and_keeps_urls_to_itself(http: str, root_path: str) -> None:
    async with archive(hello) as a:
        with uvicorn(a.url, "--http", http, "--root-path", root_path) as plain:
            async with await plain.connect() as client:
                await client.send(request("GET", SEARCH))
                head = await client.head()
                assert (head.status, await client.body(head)) == (200, b"hello")
                assert head.get(b"access-control-allow-origin") == ORIGIN
                await client.send(request("GET", "/dicom-web/patients/Doe"))
                head = await client.head()
                assert (head.status, head.get(b"access-control-allow-origin")) == (404, ORIGIN)
        assert a.requests[0].first_line == b"GET /pacs/studies?PatientName=Doe HTTP/1.1"
        assert "Doe" not in plain.child.output
        assert "/patients" not in plain.child.output


async def test_a_cut_response_is_seen_as_cut() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        wire.writer.close()

    async with archive(handle) as a:
        with uvicorn(a.url) as plain:
            async with await plain.connect() as client:
                await client.send(request("GET", SEARCH))
                await client.head()
                assert await client.chunk() == b"half"
                assert await client.reader.read() == b""
        assert "Traceback" not in plain.child.output


async def test_a_client_that_leaves_cancels_the_archives_request() -> None:
    asked = asyncio.Event()
    cancelled = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        assert await wire.closed()
        cancelled.set()

    async with archive(handle) as a:
        with uvicorn(a.url) as plain:
            async with await plain.connect() as client:
                await client.send(request("GET", SEARCH))
                await asked.wait()
            async with asyncio.timeout(1):
                await cancelled.wait()


async def test_of_two_framings_the_archive_gets_one() -> None:
    async def handle(wire: Wire, head: Head) -> None:
        assert head.get(b"content-length") is None
        assert await wire.body(head) == b"body"
        await wire.send(answer(b"stored"))

    async with archive(handle) as a:
        with uvicorn(a.url, "--http", "h11", ACCESS__MODE="read-write") as plain:
            async with await plain.connect() as client:
                framings = ["Content-Length: 9", "Transfer-Encoding: chunked"]
                head = request("POST", "/dicom-web/studies", *framings)
                await client.send(head, b"4\r\nbody\r\n0\r\n\r\n")
                assert (await client.head()).status == 200


async def test_a_stderr_that_nobody_reads_stops_nothing() -> None:
    reader, end = os.pipe()
    preflight = request("OPTIONS", SEARCH, "Access-Control-Request-Method: GET")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = {"UPSTREAM__URL": "http://a/b", "CORS__ALLOW_ORIGINS": ORIGIN.decode()}
        fd = listener.fileno()
        command = [*UVICORN, "--fd", str(fd)]
        env = environment(variables)
        process = await create_subprocess_exec(*command, env=env, stderr=end, pass_fds=[fd])
        try:
            async with asyncio.timeout(30):
                wire = Wire(*await asyncio.open_connection(*listener.getsockname()))
                async with wire as client:
                    for _ in range(2000):  # several times what a pipe holds
                        await client.send(preflight)
                        assert (await client.head()).status == 204
                process.terminate()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            os.close(reader)
            os.close(end)


def test_what_only_serve_can_keep_is_warned_of() -> None:
    with uvicorn("http://a", SERVER__HEADER_TIMEOUT="5", SERVER__BODY_TIMEOUT="5") as plain:
        plain.child.wait_for("server.header_timeout has no effect here: only .* serve")
    assert "body_timeout" not in plain.child.output


@pytest.mark.parametrize("flags", [[], ["--workers", "2"]], ids=["", "workers"])
def test_a_bad_configuration_is_refused_in_sentences(flags: list[str]) -> None:
    variables = environment({"CORS__MAX_AGE": "1000000", "SERVER__PROT": "80"})
    with Child([*UVICORN, *flags, "--port", "0"], env=variables) as child:
        status = child.wait()
    assert "upstream.url: is missing" in child.output
    assert "cors.max_age" in child.output
    assert "SERVER__PORT" in child.output
    assert "Traceback" not in child.output
    assert flags or status == 3
