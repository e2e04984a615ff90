"""A client that speaks HTTP/2 over a socket, sends what it is told, and judges what it receives."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import hpack

from tests.support.attacks import PATIENCE
from tests.support.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADER_BYTES,
    PADDED,
    PREFACE,
    PRIORITIZED,
    WINDOW,
    Code,
    Frame,
    Kind,
    Setting,
    data,
    frame,
    ping,
    request,
    rst_stream,
    settings,
    window_update,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.http2_frames import Line

# RFC 9113 §8.2.2.
CONNECTION_HEADERS = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
)


class UnmetError(AssertionError):
    """A condition that did not come true in time."""


class EndedError(UnmetError, ConnectionError):
    """A condition that cannot come true any more, because the connection has ended."""


@dataclass
class Response:
    """The response on one stream, as far as it has arrived."""

    window: int  # bytes that the server may still send
    head_only: bool = False
    status: int = 0
    headers: list[Line] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list, repr=False)
    size: int = 0  # of the body
    is_ended: bool = False  # by END_STREAM
    reset: int | None = None
    is_cancelled: bool = False  # by the client, which may get more of it nevertheless

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def is_done(self) -> bool:
        return self.is_ended or self.reset is not None


class Client:
    """One end of a connection.

    Attributes:
        takes: True to open the windows again for each byte received.
        acknowledges: True to acknowledge SETTINGS as soon as they arrive.
        judges: True to raise at the end for each fault of the server.
        patience: seconds to wait for anything.
        frames: the latest frames received, except DATA.
        counts: how many frames of each type were received.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        takes: bool = True,
    ) -> None:
        self.takes = takes
        self.judges = True
        self.patience = PATIENCE
        self.acknowledges = True
        self.writer = writer
        self.frames: deque[Frame] = deque(maxlen=100)
        self.counts: dict[int, int] = {}
        self.responses: dict[int, Response] = {}
        self.settings: dict[int, int] | None = None  # of the server
        self.goaways: list[tuple[int, int]] = []  # last stream, error code
        self.pongs: list[bytes] = []
        self.faults: list[str] = []
        self.is_closed = False
        self.window = WINDOW  # bytes that the server may still send on the connection
        self.upload_window = WINDOW
        self.upload_windows: dict[int, int] = {}  # beyond the initial window
        self.acknowledged = 0
        self._initial_window = WINDOW
        self._settings_sent: deque[int | None] = deque()
        self._decoder = hpack.Decoder(max_header_list_size=2**24)
        self._block: tuple[int, int, bytes] | None = None  # stream, flags, beginning
        self._reader = reader
        self._news = asyncio.Event()
        self._ping = 0
        self._reading = asyncio.create_task(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.leave()
        if kind is None and self.judges:
            assert not self.faults, self.faults

    async def leave(self) -> None:
        """Close the connection without a word."""
        self.writer.transport.abort()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    # Sending

    def send(self, *frames: bytes) -> None:
        """Send bytes, without waiting until they have left. Each argument is one frame."""
        self.expect(*frames)
        if not self.writer.transport.is_closing():
            self.writer.write(b"".join(frames))

    def expect(self, *frames: bytes) -> None:
        """Keep account of frames that are sent in another way."""
        for each in frames:
            self._note(each)

    async def push(self, *frames: bytes) -> None:
        """Send bytes, and wait for room. Raises ConnectionError."""
        self.send(*frames)
        async with asyncio.timeout(self.patience):
            await self.writer.drain()

    def ask(
        self, stream: int, path: bytes = b"/dicom-web/studies", *lines: Line, method: bytes = b"GET"
    ) -> None:
        """Send a request without a body."""
        self.send(request(stream, method, path, *lines))
        self.responses[stream].head_only = method == b"HEAD"

    def cancel(self, stream: int) -> None:
        """Reset a stream, and expect nothing more of it."""
        if not self.responses[stream].is_done:
            self.send(rst_stream(stream))

    def room(self, stream: int) -> int:
        """Return how many bytes may be sent on a stream."""
        assert self.settings is not None
        initial = self.settings.get(Setting.INITIAL_WINDOW_SIZE, WINDOW)
        return min(self.upload_window, initial + self.upload_windows.get(stream, 0))

    async def upload(self, stream: int, content: bytes, *, end: bool = True) -> None:
        """Send a body as the windows allow, until all is sent or the response has ended."""
        response = self.responses[stream]
        at = 0
        while at < len(content):
            await self.until(lambda: self.room(stream) > 0 or response.is_done, "window")
            if response.is_done:
                return
            part = content[at : at + min(self.room(stream), FRAME_BYTES)]
            at += len(part)
            await self.push(data(stream, part, end=end and at == len(content)))

    def _note(self, sent: bytes) -> None:
        """Keep account of the windows, streams and settings."""
        if len(sent) < HEADER_BYTES or len(sent) != HEADER_BYTES + int.from_bytes(sent[:3], "big"):
            return
        kind, stream, payload = sent[3], int.from_bytes(sent[5:9], "big") & 0x7FFFFFFF, sent[9:]
        if kind == Kind.HEADERS and stream not in self.responses:
            self.responses[stream] = Response(self._initial_window)
        elif kind == Kind.DATA:
            self.upload_window -= len(payload)
            self.upload_windows[stream] = self.upload_windows.get(stream, 0) - len(payload)
        elif kind == Kind.RST_STREAM and stream in self.responses:
            self.responses[stream].is_cancelled = True
        elif kind == Kind.WINDOW_UPDATE and len(payload) == 4:
            increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
            if stream == 0:
                self.window += increment
            elif stream in self.responses:
                self.responses[stream].window += increment
        elif kind == Kind.SETTINGS and not sent[4] & ACK:
            pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
            sizes = [
                int.from_bytes(pair[2:], "big")
                for pair in pairs
                if int.from_bytes(pair[:2], "big") == Setting.INITIAL_WINDOW_SIZE
            ]
            self._settings_sent.append(sizes[-1] if sizes else None)
            if sizes and sizes[-1] > self._initial_window:  # may be used at once
                self._resize_windows(sizes[-1])

    def _resize_windows(self, size: int) -> None:
        for response in self.responses.values():
            response.window += size - self._initial_window
        self._initial_window = size

    # Waiting

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait until a condition about what has arrived is true."""
        try:
            async with asyncio.timeout(self.patience):
                while not condition():
                    if self.is_closed:
                        raise EndedError(f"closed before: {what} {self!r}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise UnmetError(f"waited in vain: {what} {self!r}") from None

    async def done(self, *streams: int) -> list[Response]:
        """Wait until these streams have ended."""
        responses = [self.responses[stream] for stream in streams]
        await self.until(lambda: all(each.is_done for each in responses), f"end of {streams}")
        return responses

    async def answer(self, stream: int) -> Response:
        """Return a response that is complete."""
        [response] = await self.done(stream)
        assert response.is_ended, response
        return response

    async def step(self) -> None:
        """Wait until the server has handled all that was sent, or has closed the connection."""
        self._ping += 1
        mark = self._ping.to_bytes(8, "big")
        self.send(ping(mark))
        await self.until(lambda: self.is_closed or mark in self.pongs, "PING")

    async def closed(self) -> int | None:
        """Wait until the connection is closed; return the error code of the last GOAWAY."""
        await self.until(lambda: self.is_closed, "close")
        return self.goaways[-1][1] if self.goaways else None

    def __repr__(self) -> str:
        return (
            f"closed={self.is_closed} goaways={self.goaways} responses={self.responses!r:.1000} "
            f"frames={list(self.frames)[-5:]!r:.1000}"
        )

    # Receiving

    async def _read(self) -> None:
        try:
            while True:
                start = await self._reader.readexactly(HEADER_BYTES)
                payload = await self._reader.readexactly(int.from_bytes(start[:3], "big"))
                self._take(Frame(start[3], start[4], int.from_bytes(start[5:], "big"), payload))
                self._news.set()
        except (asyncio.IncompleteReadError, OSError):
            pass
        except hpack.HPACKError as exc:
            self.faults.append(f"a header block that cannot be decoded: {exc!r}")
        finally:
            self.is_closed = True
            self._news.set()

    def _fault(self, what: str, received: Frame) -> None:
        self.faults.append(f"{what}: {received!r:.300}")

    def _take(self, received: Frame) -> None:
        kind, flags, _, payload = received
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind != Kind.DATA:
            self.frames.append(received)
        if len(payload) > FRAME_BYTES:
            self._fault("a frame that is too long", received)
        if (self._block is not None) != (kind == Kind.CONTINUATION):
            self._fault("a header block in pieces that are not together", received)
        if self.settings is None and (kind != Kind.SETTINGS or flags & ACK):
            self._fault("no SETTINGS first", received)
        if self.goaways and self.goaways[-1][1]:
            self._fault("a frame after GOAWAY with an error", received)
        take: dict[int, Callable[[Frame], None]] = {
            Kind.SETTINGS: self._take_settings,
            Kind.PING: self._take_ping,
            Kind.GOAWAY: self._take_goaway,
            Kind.WINDOW_UPDATE: self._take_window_update,
            Kind.HEADERS: self._take_block,
            Kind.CONTINUATION: self._take_block,
            Kind.DATA: self._take_data,
            Kind.RST_STREAM: self._take_reset,
        }
        if kind in take:
            take[kind](received)
        else:
            self._fault("a frame that no server sends", received)

    def _take_ping(self, received: Frame) -> None:
        if received.flags & ACK:
            self.pongs.append(received.payload)
        else:
            self.send(frame(Kind.PING, ACK, 0, received.payload))

    def _take_goaway(self, received: Frame) -> None:
        payload = received.payload
        last, code = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
        if self.goaways and last > self.goaways[-1][0]:
            self._fault("a last stream that is later than the one before", received)
        self.goaways.append((last, code))

    def _take_window_update(self, received: Frame) -> None:
        increment = int.from_bytes(received.payload, "big")
        if received.stream == 0:
            self.upload_window += increment
        else:
            window = self.upload_windows.get(received.stream, 0)
            self.upload_windows[received.stream] = window + increment

    def _take_reset(self, received: Frame) -> None:
        response = self._stream(received)
        response.reset = int.from_bytes(received.payload, "big")

    def _take_settings(self, received: Frame) -> None:
        if received.flags & ACK:
            self.acknowledged += 1
            size = self._settings_sent.popleft() if self._settings_sent else None
            if size is not None:
                self._resize_windows(size)
            return
        payload = received.payload
        pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
        self.settings = (self.settings or {}) | {
            int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs
        }
        if self.acknowledges:
            self.send(frame(Kind.SETTINGS, ACK, 0))

    def _stream(self, received: Frame) -> Response:
        """Return the response that a frame belongs to."""
        response = self.responses.get(received.stream)
        if response is None:
            self._fault("a stream that nothing was asked on", received)
            response = self.responses[received.stream] = Response(self._initial_window)
        if response.is_cancelled:
            pass  # it may have been on its way
        elif response.reset is not None:
            self._fault("a frame after RST_STREAM", received)
        elif response.is_ended and received.kind != Kind.RST_STREAM:
            self._fault("a frame after END_STREAM", received)
        return response

    def _take_block(self, received: Frame) -> None:
        stream, flags, start = self._block or (received.stream, received.flags, b"")
        payload = received.payload
        if received.kind == Kind.HEADERS:
            payload = _without_padding(received)
            if flags & PRIORITIZED:
                payload = payload[5:]
        if stream != received.stream:
            self._fault("a header block of two streams", received)
        if not received.flags & END_HEADERS:
            self._block = stream, flags, start + payload
            return
        self._block = None
        lines: list[Line] = [
            (name, value) for name, value in self._decoder.decode(start + payload, raw=True)
        ]
        response = self._stream(received)
        if response.status >= 200:
            self._fault("trailers", received)
        self._judge_head(lines, received)
        response.status = int(dict(lines).get(b":status", b"0"))
        response.headers = lines[1:]
        if response.status < 200 and (response.status != 100 or flags & END_STREAM):
            self._fault("an interim response", received)
        if flags & END_STREAM:
            self._end(response, received)

    def _judge_head(self, lines: list[Line], received: Frame) -> None:
        names = [name for name, _ in lines]
        if names[:1] != [b":status"] or any(name.startswith(b":") for name in names[1:]):
            self._fault(f"pseudo-headers {names}", received)
        if any(name != name.lower() or name in CONNECTION_HEADERS for name in names):
            self._fault(f"names {names}", received)

    def _take_data(self, received: Frame) -> None:
        response = self._stream(received)
        size = len(received.payload)
        self.window -= size
        response.window -= size
        if size and (self.window < 0 or response.window < 0):
            self._fault("more than the window", received)
        if response.status < 200:
            self._fault("DATA without a head", received)
        content = _without_padding(received)
        response.parts.append(content)
        response.size += len(content)
        if received.flags & END_STREAM:
            self._end(response, received)
        if self.takes and size:
            self.send(window_update(0, size))
            if not response.is_done:
                self.send(window_update(received.stream, size))

    def _end(self, response: Response, received: Frame) -> None:
        response.is_ended = True
        length = response.get(b"content-length")
        bodyless = response.head_only or response.status in (204, 304)
        expected = 0 if bodyless else None if length is None else int(length)
        if expected is not None and response.size != expected:
            self._fault(f"a body of {response.size} bytes, not {expected}", received)


def _without_padding(received: Frame) -> bytes:
    payload = received.payload
    if received.flags & PADDED:
        return payload[1 : len(payload) - payload[0]]
    return payload


def offering(*protocols: str) -> ssl.SSLContext:
    """Return a context that offers protocols by ALPN, and accepts any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols([*protocols])
    return context


async def open_client(
    port: int,
    *options: tuple[int, int],
    tls: ssl.SSLContext | None = None,
    takes: bool = True,
) -> Client:
    """Connect, and exchange settings. `tls` has to offer HTTP/2."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    if tls is not None:
        tunnel: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert tunnel.selected_alpn_protocol() == "h2"
    client = Client(reader, writer, takes=takes)
    client.writer.write(PREFACE)
    client.send(settings(*options))
    try:
        await client.until(lambda: client.settings is not None and client.acknowledged, "SETTINGS")
    except BaseException:
        await client.leave()
        raise
    return client


@asynccontextmanager
async def connected(
    port: int, *options: tuple[int, int], tls: bool = False, takes: bool = True
) -> AsyncIterator[Client]:
    """Connect, and exchange settings."""
    context = offering("h2") if tls else None
    async with await open_client(port, *options, tls=context, takes=takes) as client:
        yield client


@asynccontextmanager
async def bare(port: int, *, tls: bool = False) -> AsyncIterator[Client]:
    """Connect without sending anything, not even the preface."""
    context = offering("h2") if tls else None
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    async with Client(reader, writer) as client:
        yield client


def name_of(code: int | None) -> str:
    """Return the name of an error code."""
    return "none" if code is None else Code(code).name if code in [*Code] else str(code)
