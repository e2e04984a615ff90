"""The archive of the bench: answers from memory, drops what is stored.

    python -m bench.archive PORT LONG

LONG is the size in bytes of the study at `LONG_STUDY`. Others have frames; the strict ones of them
are served as some archives do it: without quotes in Accept 406, without credentials 401. There is
also a page, at `/series.html`, that loads a series.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from dicomweb_cors_proxy.http.chunked import ChunkedDecoder

BASE_PATH: Final = "/dicom-web"
NAME: Final = "http://pacs.internal:8042/dicom-web"  # by which the archive's responses call it
STUDY: Final = "1.2.826.0.1.3680043.8.498.1"
LONG_STUDY: Final = f"{STUDY}.9"
# By their names in tables, in KB: an image of a CT as it is, and compressed.
FRAME_SIZES: Final = {512: 512 * 512 * 2, 60: 60_000}
LARGEST: Final = 512
SEARCHES: Final = {"SMALL": 2_000, "LARGE": 100_000}

PAGE: Final = Path(__file__).with_name("series.html")
READ: Final = 1 << 18
WRITE: Final = 1 << 19


def match(number: int) -> dict[str, Any]:
    """One match of a search for studies: no patient's, in the shape that archives answer with."""
    study = f"{STUDY}.{number}"
    return {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080020": {"vr": "DA", "Value": ["20240102"]},
        "00080030": {"vr": "TM", "Value": ["101112.123000"]},
        "00080050": {"vr": "SH", "Value": [f"A{number:06}"]},
        "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
        "00080090": {"vr": "PN", "Value": [{"Alphabetic": "M\u00fcller^Anna"}]},
        "00081030": {"vr": "LO", "Value": ["CHEST W/O CONTRAST"]},
        "00081190": {"vr": "UR", "Value": [f"{NAME}/studies/{study}"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": f"Phantom^{number}"}]},
        "00100020": {"vr": "LO", "Value": [f"P{number:06}"]},
        "0020000D": {"vr": "UI", "Value": [study]},
        "00200010": {"vr": "SH", "Value": [str(number)]},
        "00201206": {"vr": "IS", "Value": ["4"]},
        "00201208": {"vr": "IS", "Value": ["312"]},
    }


@cache
def search(size: int) -> bytes:
    """Return a search's response, of the size or less by at most one match."""
    text = "["
    number = 0
    while len(text) + len(item := json.dumps(match(number))) < size:
        text += item + ","
        number += 1
    return (text.removesuffix(",") + "]").encode()


@cache
def noise(size: int) -> bytes:
    """Bytes that look random and are always the same."""
    return hashlib.shake_128(b"bench").digest(size)


def _multipart(media_type: str) -> str:
    return f'multipart/related; type="{media_type}"; boundary=b'


@cache
def frame(size: int = LARGEST) -> bytes:
    """Return a frame's body, of one of `FRAME_SIZES`."""
    head = b"\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\n"
    return head + noise(FRAME_SIZES[size]) + b"\r\n--b--"


def study_of(size: int, *, strict: bool = False) -> str:
    """Return the study whose frames have that size; a strict one needs quotes and credentials."""
    return f"{STUDY}.{size}.406" if strict else f"{STUDY}.{size}"


def long_chunks(size: int) -> list[memoryview]:
    """Return the pieces of `size` bytes of the long study, without copies."""
    block = memoryview(noise(8 << 20))
    return [block[at % len(block) :][: min(WRITE, size - at)] for at in range(0, size, WRITE)]


def frame_path(study: str, number: int | str) -> str:
    """Path of a frame below the DICOMweb root."""
    return f"/studies/{study}/series/{study}.1/instances/{study}.1.1/frames/{number}"


def _answer(status: str, media_type: str, body: bytes, *more: str) -> bytes:
    return _head(status, media_type, len(body), *more) + body


def _head(status: str, media_type: str, length: int, *more: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Server: bench",
        "Date: Tue, 02 Jan 2024 10:11:12 GMT",
        f"Content-Type: {media_type}",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Answers:
    """Everything that is sent, made before the first request."""

    def __init__(self, long: int) -> None:
        self.long_head = _head("200 OK", _multipart("application/dicom"), long)
        self.long_chunks = long_chunks(long)
        # Without no-store the browser would keep the frames: only its preflight cache is of
        # interest. Without Timing-Allow-Origin it would not say by which protocol they came.
        frames = {
            size: _answer(
                "200 OK",
                _multipart("application/octet-stream"),
                frame(size),
                "Cache-Control: no-store",
                "Timing-Allow-Origin: *",
            )
            for size in FRAME_SIZES
        }
        self.fixed = {
            f"{BASE_PATH}/studies?PatientName={name}".encode(): _answer(
                "200 OK", "application/dicom+json", search(size)
            )
            for name, size in SEARCHES.items()
        } | {b"/series.html": _answer("200 OK", "text/html; charset=utf-8", PAGE.read_bytes())}
        self.long_path = f"{BASE_PATH}/studies/{LONG_STUDY}".encode()
        self.frames, self.strict_frames = (
            {
                f"{BASE_PATH}{frame_path(study_of(size, strict=strict), '')}".encode(): answer
                for size, answer in frames.items()
            }
            for strict in (False, True)
        )
        self.refusals = {
            status: _answer(status, "text/plain", b"")
            for status in ("401 Unauthorized", "404 Not Found", "406 Not Acceptable")
        }


class Archive(asyncio.BufferedProtocol):
    """A connection: one request after another, no pipelining."""

    _buffer: Final = memoryview(bytearray(READ))  # of all connections: it is read at once

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._head = b""
        self._left = 0  # bytes of a request's body
        self._decoder: ChunkedDecoder | None = None  # of a body without a length
        self._read = 0
        self._hash: Any = None
        self._chunks = iter(answers.long_chunks[:0])
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.WriteTransport", transport
        )  # uvloop's is of no class of asyncio
        self._transport.set_write_buffer_limits(high=2 * WRITE)

    def get_buffer(self, _: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        data = self._buffer[:size]
        if self._left:
            self._store(data)
            return
        if self._decoder:
            self._store_chunks(bytes(data), self._decoder)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        self._head = b""
        if head.startswith(b"POST"):
            self._hash = hashlib.sha256() if b"?hash" in head.partition(b"\r")[0] else None
            length = re.search(rb"\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
            if length:
                self._read = self._left = int(length[1])
                self._store(rest)
            else:
                self._read = 0
                self._decoder = ChunkedDecoder()
                self._store_chunks(rest, self._decoder)
        else:
            self._answer(head)

    def _store(self, data: bytes | memoryview) -> None:
        self._left -= len(data)
        if self._hash:
            self._hash.update(data)
        if not self._left:
            self._confirm()

    def _store_chunks(self, data: bytes, decoder: ChunkedDecoder) -> None:
        at = 0
        while at < len(data) and not decoder.complete:
            content, at = decoder.decode(data, at)
            self._read += len(content)
            if self._hash:
                self._hash.update(content)
        if decoder.complete:
            self._decoder = None
            self._confirm()

    def _confirm(self) -> None:
        stored = {"bytes": self._read, "sha256": self._hash and self._hash.hexdigest()}
        body = json.dumps(stored).encode()
        self._transport.write(_answer("200 OK", "application/dicom+json", body))

    def _answer(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        series = target[: target.rfind(b"/") + 1]
        answers = self._answers
        if found := answers.fixed.get(target.partition(b"&")[0]) or answers.frames.get(series):
            self._transport.write(found)
        elif target == answers.long_path:
            self._transport.write(answers.long_head)
            self._chunks = iter(answers.long_chunks)
            self._send()
        elif found := answers.strict_frames.get(series):
            self._transport.write(self._refusal(head) or found)
        else:
            self._transport.write(answers.refusals["404 Not Found"])

    def _refusal(self, head: bytes) -> bytes | None:
        """Return what a strict study answers without credentials or quotes."""
        if not re.search(rb"\nauthorization: *Bearer ", head, re.IGNORECASE):
            return self._answers.refusals["401 Unauthorized"]
        if not re.search(rb'\naccept: [^\n]*type="', head, re.IGNORECASE):
            return self._answers.refusals["406 Not Acceptable"]
        return None

    def _send(self) -> None:
        for chunk in self._chunks:
            self._transport.write(chunk)
            if not self._writable:
                return

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._send()


async def _serve(port: int, long: int) -> None:
    answers = Answers(long)
    server = await asyncio.get_running_loop().create_server(
        lambda: Archive(answers), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(*map(int, sys.argv[1:])))
