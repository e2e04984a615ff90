"""Log lines for people and for machines."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Final

from dicomweb_cors_proxy.observability.records import (
    EVENT_REQUEST,
    RequestRecord,
    request_id,
    traceback_summary,
)

__all__ = ["is_life_cycle", "is_ours"]

PACKAGE: Final = "dicomweb_cors_proxy"

# A line break or an escape sequence in a value must not forge a line or drive a terminal.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
}


def _event(record: logging.LogRecord) -> str:
    """Return the message if it holds no data of a request, otherwise the name of its logger."""
    if is_ours(record) or is_life_cycle(record):
        event = record.getMessage()
    else:
        event = f"error in {record.name}"
    if record.exc_info and record.exc_info[1] is not None:
        event = f"{event}: {traceback_summary(record.exc_info[1])}"
    return event


def is_ours(record: logging.LogRecord) -> bool:
    """Return whether a log record comes from this package."""
    return record.name.partition(".")[0] == PACKAGE


def is_life_cycle(record: logging.LogRecord) -> bool:
    """Return whether uvicorn reports its own start or end, from modules that see no request.

    A message of several lines is a traceback, which may hold data of a request.
    """
    return (
        record.name == "uvicorn.error"
        and record.module in ("server", "on")  # lifespan.on
        and "\n" not in record.getMessage()
    )


class JSONFormatter(logging.Formatter):
    """A formatter of one JSON object a line (RFC 8259), in ASCII without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        begin = (
            f'{{"time":"{_utc(second)}.{milliseconds:03}Z",'
            f'"level":"{record.levelname.lower()}","event":'
        )
        request: RequestRecord | None = getattr(record, "request", None)
        if request is None:
            return f'{begin}{_json(_event(record))},"request_id":{_json(request_id.get())}}}'
        return (
            f"{begin}{_json(request.event)},"
            f'"method":"{request.method}",'
            f'"http_version":"{request.http_version}",'
            f'"resource":{_json(request.resource)},'
            f'"status":{request.status},'
            f'"upstream_status":{request.upstream_status or "null"},'
            f'"origin":{_json(request.origin)},'
            f'"cors":"{request.cors}",'
            f'"duration_ms":{request.duration * 1000:.1f},'
            f'"ttfb_ms":{"null" if request.ttfb is None else f"{request.ttfb * 1000:.1f}"},'
            f'"bytes_in":{request.bytes_in},'
            f'"bytes_out":{request.bytes_out},'
            f'"request_id":"{request.request_id}",'
            f'"client":{_json(request.client)}}}'
        )


def _json(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


@lru_cache(maxsize=2)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(maxsize=2)
def _local(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


class ConsoleFormatter(logging.Formatter):
    """A formatter of lines for people: time, level, and the message or the columns of a request.

    Args:
        colour: add colours, for a terminal.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        begin = f"{_local(second)}.{milliseconds:03} {record.levelname:<7} "
        if self._colour:
            begin = f"\x1b[{_LEVELS.get(record.levelno, _DIM)}m{begin}\x1b[0m"
        request: RequestRecord | None = getattr(record, "request", None)
        if request is not None:
            return begin + self._request(request)
        line = begin + _event(record).translate(_CONTROLS)
        identity = request_id.get()
        return line if identity is None else f"{line}  {identity}"

    def _request(self, request: RequestRecord) -> str:
        status: object = request.status
        if self._colour:
            status = f"\x1b[{_STATUSES.get(request.status // 100, _RED)}m{status}\x1b[0m"
        if request.upstream_status is None or request.ttfb is None:
            archive = _NOT_ASKED
        else:
            archive = f"archive {request.upstream_status} {request.ttfb * 1000:7.1f} ms"
        line = (
            f"{request.method:<7} {status} {request.duration * 1000:7.1f} ms "
            f"{_size(request.bytes_out)}  {archive}  {request.cors:<17}  {request.resource}  "
            f"{request.origin or '-'}  {request.client or '-'}  {request.request_id}"
        )
        if request.bytes_in:
            line += f"  took {_size(request.bytes_in).lstrip()}"
        if request.event != EVENT_REQUEST:
            line += f"  {request.event.translate(_CONTROLS)}"
        return line


_NOT_ASKED: Final = " " * len("archive 200     1.0 ms")

# SGR parameters, ECMA-48 §8.3.117.
_DIM, _RED, _GREEN, _YELLOW, _CYAN = 2, 31, 32, 33, 36
_LEVELS: Final = {logging.WARNING: _YELLOW, logging.ERROR: _RED, logging.CRITICAL: _RED}
_STATUSES: Final = {2: _GREEN, 3: _CYAN, 4: _YELLOW}


def _size(count: float) -> str:
    """Return a number of bytes in eight columns, with an SI prefix."""
    if count < 1000:
        return f"{count:5}  B"
    count /= 1000
    for unit in ("kB", "MB"):
        if count < 999.95:
            return f"{count:5.1f} {unit}"
        count /= 1000
    return f"{count:5.1f} GB"
