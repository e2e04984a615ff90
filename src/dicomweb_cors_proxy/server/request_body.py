"""Received bytes, and the body of a request read from them on demand."""

from __future__ import annotations

from dicomweb_cors_proxy.http.chunked import ChunkedDecoder, ChunkedError
from dicomweb_cors_proxy.http.replies import HTTPProblem


class ReceivedBytes:
    """Bytes that have arrived and are not used yet.

    Attributes:
        data: the bytes; those before `at` are used.
        is_stopped: True once the connection ignores its input.
    """

    __slots__ = ("at", "data", "is_stopped")

    def __init__(self) -> None:
        self.data = b""
        self.at = 0
        self.is_stopped = False

    def add(self, data: bytes) -> None:
        """Append bytes that have just arrived."""
        self.data = self.data[self.at :] + data if self.data else data
        self.at = 0

    def use(self, end: int) -> None:
        """Mark the bytes before `end` as used."""
        if end >= len(self.data):
            self.data = b""
            self.at = 0
        elif end > len(self.data) // 2:  # copies each byte once at most, on average
            self.data = self.data[end:]
            self.at = 0
        else:
            self.at = end

    def stop(self) -> None:
        """Drop all bytes, and ignore further ones."""
        self.is_stopped = True
        self.data = b""
        self.at = 0


class RequestBody:
    """The body of the current request of a connection, decoded only when it is read.

    Attributes:
        more: True until the end of the body is read.
        is_laborious: True if the last `read` left bytes undecoded because they are in many chunks.
    """

    __slots__ = ("_decoder", "_left", "_problem", "_received", "is_laborious", "more")

    def __init__(self, received: ReceivedBytes) -> None:
        self.more = False
        self.is_laborious = False
        self._received = received
        self._left = 0  # bytes of a body that is not chunked
        self._decoder: ChunkedDecoder | None = None
        self._problem: HTTPProblem | None = None

    def begin(self, length: int, *, is_chunked: bool) -> None:
        """Expect the body that a head announced."""
        self._decoder = ChunkedDecoder() if is_chunked else None
        self._left = length

    @property
    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not used yet."""
        return bool(self._received.data)

    def may_be_whole(self) -> bool:
        """Return whether the end of the body may have arrived. Decode nothing."""
        if self._decoder is None:
            return len(self._received.data) - self._received.at >= self._left
        return self._received.data.endswith(b"\r\n\r\n")

    def reject(self) -> None:
        """Ignore further input, and have the next `read` raise an error for malformed framing."""
        self._received.stop()
        self.is_laborious = False
        self._problem = HTTPProblem(400, "The chunked framing of the request's body is malformed.")

    def read(self) -> bytes:
        """Return the content that has arrived, with bounded work; b"" if none has.

        Raises:
            HTTPProblem: the framing is malformed. Later calls return b"".
        """
        content = self._decode() if self._received.data else b""
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        return content

    def _decode(self) -> bytes:
        received = self._received
        if self._decoder is None:
            content = received.data[received.at : received.at + self._left]
            self._left -= len(content)
            received.use(received.at + len(content))
            self.more = bool(self._left)
            return content
        try:
            content, at = self._decoder.decode(received.data, received.at)
        except ChunkedError:
            self.reject()
            return b""
        received.use(at)
        self.more = not self._decoder.complete
        self.is_laborious = bool(received.data) and self.more
        return content
