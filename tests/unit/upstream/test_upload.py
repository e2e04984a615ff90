"""Uploads: how the parts of a body are written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from dicomweb_cors_proxy.upstream.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class Transport:
    """A transport that notes what it is given, call by call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.calls.append(b"".join(parts))


class UvloopTransport(Transport):
    __module__ = "uvloop.loop"

    def write(self, data: bytes) -> None:
        assert data == b"0\r\n\r\n"
        super().write(data)


@pytest.mark.parametrize("transport", [Transport(), UvloopTransport()])
async def test_a_chunk_is_written_with_its_size_in_one_call(transport: Transport) -> None:
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def body() -> AsyncIterator[bytes]:
        yield b"hello"
        yield b"world!"

    upload = Upload(
        cast("asyncio.WriteTransport", transport),
        length=None,
        timeout=None,
        is_reading_paused=lambda: False,
        on_end=ended.set_result,
    )
    upload.start(body())
    assert await ended is None
    assert transport.calls == [b"5\r\nhello\r\n", b"6\r\nworld!\r\n", b"0\r\n\r\n"]
