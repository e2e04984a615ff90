"""The log, which can't name a patient.

Of a request it tells what `Record` holds, in one line. Of other messages only this package's own
are written as they are. A library's may hold a URL, and so a patient's name: of those, only errors
are shown, by the type of the exception and its place.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final, Literal

from dicomweb_cors_proxy.observability.log_writer import FLUSH_SECONDS, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

__all__ = [
    "ACCESS_LOGS",
    "OTHER",
    "REQUEST",
    "UNMATCHED",
    "Format",
    "Record",
    "configure",
    "dropped_lines",
    "flush",
    "place",
    "print_lines",
    "request_id",
]

PACKAGE: Final = "dicomweb_cors_proxy"

# Access logs of servers that may run the application: all of them print whole URLs.
ACCESS_LOGS: Final = (
    "uvicorn.access",
    "gunicorn.access",
    "hypercorn.access",
    "daphne",
    "_granian.access",
)

Format = Literal["console", "json"]

PLACE_FRAMES: Final = 30

REQUEST: Final = "request"  # the event of a request that ended as it should
UNMATCHED: Final = "unmatched"  # the resource of a path that is none
OTHER: Final = "OTHER"  # a method that nobody has heard of

# The id of the request that is being served, for whatever is logged meanwhile.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@dataclass(init=False)
class Record:
    """All that log and metrics may tell of a request; filled in by whoever learns of it.

    Attributes:
        method: one of HTTP's, else `OTHER`.
        client: the address it came from, or for which a trusted proxy speaks.
        event: `REQUEST`, or in a sentence of ours what became of it.
        resource: the template of the path, `studies/{study}/series`, else `UNMATCHED`.
        status: that the client was sent; 499 if it left before.
        upstream_status: the archive's; None if it was not asked, or never answered.
        upstream_error: the kind of its failure; see `proxy.UPSTREAM_ERRORS`.
        origin: of the page, if there is one and it is well-formed.
        cors: what the policy said.
        duration: seconds until the last byte was handed to the server.
        ttfb: seconds until the archive's head was here, waiting for a connection included.
        bytes_in: of the request's body, as far as it was read.
        bytes_out: of the answer's body, as far as it was sent.
    """

    method: str
    request_id: str
    client: str | None
    event: str = REQUEST
    resource: str = UNMATCHED
    status: int = 0
    upstream_status: int | None = None
    upstream_error: str | None = None
    origin: str | None = None
    cors: str = "none"
    duration: float = 0.0
    ttfb: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0

    def __init__(
        self,
        *,
        method: str,
        request_id: str,
        client: str | None,
        **others: Any,  # noqa: ANN401
    ) -> None:
        # What is not known yet stays with the class: most requests never learn half of it.
        self.method = method
        self.request_id = request_id
        self.client = client
        if others:
            vars(self).update(others)

    def log(self, logger: logging.Logger, level: int) -> None:
        """Write the line."""
        if logger.isEnabledFor(level):
            logger.handle(_Line(logger.name, level, self))


_BLANK: Final = vars(logging.LogRecord("", 0, "", 0, "", None, None))


class _Line(logging.LogRecord):
    """A request's. What else a logger finds out, such as the place in the code, costs as much."""

    def __init__(self, name: str, level: int, request: Record) -> None:
        created = time.time()
        self.__dict__.update(
            _BLANK,
            name=name,
            levelno=level,
            levelname=logging.getLevelName(level),
            created=created,
            msecs=created % 1 * 1000,
            msg=request.event,
            request=request,
        )


def place(exc: BaseException) -> str:
    """Type and frames of an exception, innermost first, without its message and values."""
    if isinstance(exc, BaseExceptionGroup):
        return ", ".join(map(place, exc.exceptions))
    # A recursion without end has a thousand frames, of which the innermost tell enough.
    frames = traceback.extract_tb(exc.__traceback__, limit=-PLACE_FRAMES)
    return " < ".join(
        [type(exc).__name__]
        + [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)]
    )


# A line break or an escape sequence in a value must not forge a line or drive a terminal.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)
}


def _event(record: logging.LogRecord) -> str:
    """Return the message, if it can hold nothing of a request, else where it came from."""
    if _is_ours(record) or _is_life_cycle(record):
        event = record.getMessage()
    else:
        event = f"error in {record.name}"
    if record.exc_info and record.exc_info[1] is not None:
        event = f"{event}: {place(record.exc_info[1])}"
    return event


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == PACKAGE


def _is_life_cycle(record: logging.LogRecord) -> bool:
    """Whether uvicorn tells of itself: these modules of it never see a request.

    What has several lines is a traceback in the clothes of a message.
    """
    return (
        record.name == "uvicorn.error"
        and record.module in ("server", "on")  # lifespan.on
        and "\n" not in record.getMessage()
    )


class JSONFormatter(logging.Formatter):
    """One JSON object a line (RFC 8259), in ASCII, so that no control character is left."""

    def format(self, record: logging.LogRecord) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        begin = (
            f'{{"time":"{_utc(second)}.{milliseconds:03}Z",'
            f'"level":"{record.levelname.lower()}","event":'
        )
        request: Record | None = getattr(record, "request", None)
        if request is None:
            return f'{begin}{_json(_event(record))},"request_id":{_json(request_id.get())}}}'
        return (
            f"{begin}{_json(request.event)},"
            f'"method":"{request.method}",'
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
    """A line for people, in columns: `time level` and the message, or what became of a request.

    Args:
        colour: whether a terminal shows it.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        begin = f"{_local(second)}.{milliseconds:03} {record.levelname:<7} "
        if self._colour:
            begin = f"\x1b[{_LEVELS.get(record.levelno, _DIM)}m{begin}\x1b[0m"
        request: Record | None = getattr(record, "request", None)
        if request is not None:
            return begin + self._request(request)
        line = begin + _event(record).translate(_CONTROLS)
        identity = request_id.get()
        return line if identity is None else f"{line}  {identity}"

    def _request(self, request: Record) -> str:
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
        if request.event != REQUEST:
            line += f"  {request.event.translate(_CONTROLS)}"
        return line


_NOT_ASKED: Final = " " * len("archive 200     1.0 ms")

# SGR parameters, ECMA-48 §8.3.117.
_DIM, _RED, _GREEN, _YELLOW, _CYAN = 2, 31, 32, 33, 36
_LEVELS: Final = {logging.WARNING: _YELLOW, logging.ERROR: _RED, logging.CRITICAL: _RED}
_STATUSES: Final = {2: _GREEN, 3: _CYAN, 4: _YELLOW}


def _size(count: float) -> str:
    """Bytes in eight columns, with an SI prefix."""
    if count < 1000:
        return f"{count:5}  B"
    count /= 1000
    for unit in ("kB", "MB"):
        if count < 999.95:
            return f"{count:5.1f} {unit}"
        count /= 1000
    return f"{count:5.1f} GB"


_writer: Final = Writer()
atexit.register(_writer.flush)


class _Handler(logging.Handler):
    """A handler that leaves the writing to a thread, because a write may block."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as exc:  # noqa: BLE001  (a bug in a message is no reason to fail)
            # logging itself would print the message and its arguments.
            failure = _message(logging.ERROR, "a log line of %s fails: %s", record.name, place(exc))
            line = self.format(failure)
        _writer.put(f"{line}\n")
        if _is_life_cycle(record):
            # uvicorn ends itself by a signal behind its last line.
            _writer.flush()


def _message(level: int, text: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord(PACKAGE, level, "", 0, text, values, None)


def flush(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait until the lines so far are written. Return whether they were, in time."""
    return _writer.flush(seconds)


def dropped_lines() -> int:
    """Return how many lines this process has dropped, because they could not be written."""
    return _writer.dropped


def print_lines(lines: Iterable[str]) -> None:
    """Write lines as they are to standard error, in order with those of the log."""
    _writer.attach(sys.stderr)
    for line in lines:
        _writer.put(f"{line}\n")


def configure(
    level: str = "info", log_format: Format = "console", *, life_cycle: bool = False
) -> None:
    """Send our log to standard error, and let no library add to it but with its errors.

    That holds whatever anyone does to the levels of loggers later.

    Args:
        level: `debug`, `info`, `warning` or `error`; for our own messages.
        log_format: `console` for people, coloured on a terminal; `json` for machines.
        life_cycle: show what uvicorn says of its own start and end.
    """

    def shown(record: logging.LogRecord) -> bool:
        return (
            isinstance(record, _Line)
            or record.levelno >= logging.ERROR
            or _is_ours(record)
            or (life_cycle and _is_life_cycle(record))
        )

    def notice(text: str) -> str | None:
        if not logging.getLogger(PACKAGE).isEnabledFor(logging.WARNING):
            return None
        return f"{formatter.format(_message(logging.WARNING, text))}\n"

    formatter: logging.Formatter = JSONFormatter()
    if log_format != "json":
        colour = _is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
        formatter = ConsoleFormatter(colour=colour)
    _writer.attach(sys.stderr, notice)
    handler = _Handler()
    handler.setFormatter(formatter)
    handler.addFilter(shown)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    logging.getLogger(PACKAGE).setLevel(level.upper())
    for name in list(root.manager.loggerDict):
        if name.partition(".")[0] != PACKAGE:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    for name in ACCESS_LOGS:
        logging.getLogger(name).disabled = True
    if life_cycle:
        logging.getLogger("uvicorn.error").setLevel(level.upper())
    else:
        # What no line of ours shows need not be collected (logging HOWTO, "Optimization"); another
        # server's lines may show it.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable


def _is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; None stands for a descriptor that was closed."""
    return stream is not None and not stream.closed and stream.isatty()


def _log_uncaught(_: object, exc: BaseException, __: object) -> None:
    """What ends the process, and what Python itself would print with the exception's message."""
    logging.getLogger(PACKAGE).critical("fails: %s", place(exc))


def _log_unraisable(unraisable: Any) -> None:  # noqa: ANN401  (sys.UnraisableHookArgs)
    """What Python itself would print with the exception's message."""
    if unraisable.exc_value is not None:
        logging.getLogger(PACKAGE).error("not raised: %s", place(unraisable.exc_value))
