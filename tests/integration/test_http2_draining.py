"""The end of `serve`, a reload and a renewed certificate, as clients see them over HTTP/2."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.certificates import Pair, fingerprint
from tests.support.http2 import Client, connected
from tests.support.http2_frames import (
    Code,
    block,
    data,
    head,
    headers,
    request,
    rst_stream,
    window_update,
)
from tests.support.proxy import Proxy, fronting
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

pytestmark = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])

STUDIES = b"/dicom-web/studies"
HALF = STUDIES + b"?half"
SILENT = STUDIES + b"?silent"
FRAME_SIZE = 60_000
STREAMS = 20


class Script:
    """An archive that sends half of a response, and the rest after `go_on`."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.count = 0  # of requests

    async def __call__(self, wire: Wire, asked: Head) -> None:
        self.count += 1
        target = asked.first_line.split()[1]
        if target.endswith(b"?half"):
            await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            await self.go_on.wait()
            await wire.send(b"4\r\nrest\r\n0\r\n\r\n")
        elif target.endswith(b"?silent"):
            self.asked.set()
            await self.go_on.wait()
        else:
            await wire.send(answer(b"x" * FRAME_SIZE))


class Running:
    """A `serve` with a client of it."""

    def __init__(self, running: Proxy, client: Client, script: Script) -> None:
        self.proxy = running
        self.client = client
        self.script = script

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(self.proxy.child.pid, number)

    async def said(self, pattern: str) -> None:
        await asyncio.to_thread(self.proxy.child.wait_for, pattern)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.proxy.child.wait)


def port(running: Proxy) -> int:
    return int(running.root.rpartition(":")[2])


@asynccontextmanager
async def started(
    serve: Callable[..., Proxy],
    workers: int,
    *,
    tls: bool = False,
    access: Mapping[str, object] | None = None,
    upstream: Mapping[str, object] | None = None,
    server: Mapping[str, object] | None = None,
    **more: object,
) -> AsyncIterator[Running]:
    script = Script()
    async with archive(script) as there:
        options = fronting(there.url, ORIGIN.decode(), **upstream or {})
        options |= {
            "server": {"workers": workers, **(server or {}), **more},
            "access": dict(access or {}),
        }
        running = await asyncio.to_thread(serve, options)
        async with connected(port(running), tls=tls) as client:
            try:
                yield Running(running, client, script)
            finally:
                script.go_on.set()


async def begin(client: Client, *streams: int) -> None:
    """Ask for responses, and wait for half of each."""
    for stream in streams:
        client.ask(stream, HALF)
    await client.until(lambda: all(client.responses[stream].size == 4 for stream in streams))


async def test_goaway_then_the_responses_then_the_end(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with started(serve, workers) as running:
        client = running.client
        await begin(client, 1, 3)
        running.signal()
        await client.until(lambda: client.goaways)
        await client.step()
        assert client.goaways[-1] == (3, Code.NO_ERROR)
        client.ask(5)
        await client.step()
        running.script.go_on.set()
        for response in await client.done(1, 3):
            assert response.is_ended
            assert response.body == b"halfrest"
        assert await client.closed() == Code.NO_ERROR
        assert client.responses[5].status == 0
        assert await running.ended() == 0


async def test_frames_of_later_streams_are_ignored_after_goaway(
    serve: Callable[..., Proxy], workers: int
) -> None:
    """They may have been on their way; RFC 9113 §6.8."""
    async with started(serve, workers, access={"mode": "read-write"}) as running:
        client = running.client
        await begin(client, 1)
        running.signal()
        await client.until(lambda: client.goaways)
        client.send(request(3, b"POST", STUDIES, end=False), data(3, b"x" * 1000))
        client.send(window_update(3, 1), data(3, end=True), request(5), rst_stream(5))
        await client.step()
        running.script.go_on.set()
        assert (await client.answer(1)).body == b"halfrest"
        assert await client.closed() == Code.NO_ERROR
        assert await running.ended() == 0


async def test_idle_connection_is_told_and_closed(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with started(serve, workers) as running:
        client = running.client
        client.ask(1)
        assert (await client.answer(1)).size == FRAME_SIZE
        running.signal()
        assert await client.closed() == Code.NO_ERROR
        assert client.goaways[-1][0] == 1
        assert await running.ended() == 0


async def test_delay_serves_on(serve: Callable[..., Proxy], workers: int) -> None:
    async with started(serve, workers, drain_delay=3600) as running:
        client = running.client
        await begin(client, 1)
        running.signal()
        await running.said("draining")
        client.ask(3)
        assert (await client.answer(3)).status == 200
        assert not client.goaways
        running.signal()  # ends the delay
        await client.until(lambda: client.goaways)
        running.script.go_on.set()
        assert (await client.answer(1)).body == b"halfrest"
        assert await running.ended() == 0


async def test_response_that_takes_longer_is_cut(serve: Callable[..., Proxy], workers: int) -> None:
    async with started(serve, workers, shutdown_timeout=0.2) as running:
        client = running.client
        await begin(client, 1)
        running.signal()
        await client.closed()
        assert not client.responses[1].is_ended
        assert await running.ended() == 0
    assert "after 0.2 s (server.shutdown_timeout)" in running.proxy.child.output
    assert "Traceback" not in running.proxy.child.output


async def test_request_that_waits_for_the_archive_gets_a_503(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with started(serve, workers, shutdown_timeout=0.2) as running:
        client = running.client
        client.ask(1, SILENT)
        await running.script.asked.wait()
        running.signal()
        response = await client.answer(1)
        assert response.status == json.loads(response.body)["status"] == 503
        assert response.get(b"access-control-allow-origin") == ORIGIN
        await client.closed()
        assert await running.ended() == 0


async def test_requests_that_wait_for_others_are_refused(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with started(
        serve, workers, upstream={"max_connections": 2}, shutdown_timeout=0.2
    ) as running:
        client = running.client
        for stream in (1, 3, 5, 7):
            client.ask(stream, SILENT)
        client.send(rst_stream(5, Code.CANCEL))
        await running.script.asked.wait()
        await client.step()
        running.signal()
        await client.closed()
        assert client.responses[1].status == 503
        # The archive has not seen these requests, so the client may repeat them.
        assert [client.responses[stream].reset for stream in (3, 7)] == [Code.REFUSED_STREAM] * 2
        assert await running.ended() == 0
    assert running.script.count == 1
    assert "Traceback" not in running.proxy.child.output
    assert "pending" not in running.proxy.child.output


class Load:
    """A client that always has `STREAMS` requests open, until it is told to stop."""

    def __init__(self, client: Client, scheme: bytes = b"http") -> None:
        self._client = client
        self._scheme = scheme
        self._next = 1
        self._stops = False
        self.whole = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(STREAMS):
                tasks.create_task(self._ask_on())

    def stop(self) -> None:
        self._stops = True

    async def until(self, whole: int) -> None:
        await self._client.until(lambda: self.whole >= whole)

    async def _ask_on(self) -> None:
        client = self._client
        while not self._stops and not client.goaways:
            stream, self._next = self._next, self._next + 2
            client.send(headers(stream, block(head(scheme=self._scheme))))
            response = client.responses[stream]
            await client.until(
                lambda: response.is_done or any(last < stream for last, _ in client.goaways)  # noqa: B023
            )
            if any(last < stream for last, _ in client.goaways):
                assert response.status == 0
            else:
                assert (response.status, response.size) == (200, FRAME_SIZE)
                self.whole += 1


async def test_end_under_load_loses_no_response(serve: Callable[..., Proxy], workers: int) -> None:
    async with started(serve, workers) as running:
        load = Load(running.client)
        loading = asyncio.create_task(load.run())
        await load.until(200)
        running.signal()
        await loading
        assert await running.client.closed() == Code.NO_ERROR
        assert await running.ended() == 0
    assert "Traceback" not in running.proxy.child.output


async def test_reload_under_load_loses_no_response(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with started(serve, workers) as running:
        load = Load(running.client)
        loading = asyncio.create_task(load.run())
        file = running.proxy.file
        for age in range(10, 15):
            await load.until(load.whole + 50)
            settings = yaml.safe_load(file.read_text())
            settings["cors"]["max_age"] = age
            file.write_text(yaml.safe_dump(settings))
            said = running.proxy.child.output.count("read again")
            running.signal(signal.SIGHUP)
            await running.said(f"(?s)(read again.*){{{said + 1}}}")
        await load.until(load.whole + 50)
        load.stop()
        await loading
        assert not running.client.goaways
        client = running.client
        client.send(
            request(100_001, b"OPTIONS", STUDIES, (b"access-control-request-method", b"GET"))
        )
        assert (await client.answer(100_001)).get(b"access-control-max-age") == b"14"


async def test_renewed_certificate_under_load_loses_no_response(
    serve: Callable[..., Proxy], workers: int, tmp_path: Path
) -> None:
    pair = Pair(tmp_path)
    async with started(serve, workers, tls=True, server=pair.server) as running:
        load = Load(running.client, b"https")
        loading = asyncio.create_task(load.run())
        await load.until(50)
        renewed = pair.issue()
        async with asyncio.timeout(30):
            while True:
                async with connected(port(running.proxy), tls=True) as other:
                    tunnel: ssl.SSLObject = other.writer.get_extra_info("ssl_object")
                    if fingerprint(tunnel.getpeercert(binary_form=True)) == renewed:
                        break
        await load.until(load.whole + 50)
        load.stop()
        await loading
        assert not running.client.goaways
