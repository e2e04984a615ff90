"""Set up logging for the process."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

from dicomweb_cors_proxy.observability.log_format import (
    PACKAGE,
    ConsoleFormatter,
    JSONFormatter,
    is_life_cycle,
    is_ours,
)
from dicomweb_cors_proxy.observability.log_writer import FLUSH_SECONDS, Writer
from dicomweb_cors_proxy.observability.records import RequestLine, traceback_summary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

__all__ = ["ACCESS_LOGS", "Format", "dropped_lines", "flush", "print_lines", "setup_logging"]

# Access logs of servers that may run the application: all of them print whole URLs.
ACCESS_LOGS: Final = (
    "uvicorn.access",
    "gunicorn.access",
    "hypercorn.access",
    "daphne",
    "_granian.access",
)

Format = Literal["console", "json"]

_writer: Final = Writer()
atexit.register(_writer.flush)


class _Handler(logging.Handler):
    """A handler that leaves the writing to a thread, because a write may block."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as exc:  # noqa: BLE001  (a bug in a message is no reason to fail)
            # logging itself would print the message and its arguments.
            failure = _message(
                logging.ERROR, "a log line of %s fails: %s", record.name, traceback_summary(exc)
            )
            line = self.format(failure)
        _writer.put(f"{line}\n")
        if is_life_cycle(record):
            # uvicorn ends itself by a signal after its last line.
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


def setup_logging(
    level: str = "info", log_format: Format = "console", *, life_cycle: bool = False
) -> None:
    """Send our log to standard error, and only the errors of libraries.

    Later changes to the levels of loggers do not change that.

    Args:
        level: `debug`, `info`, `warning` or `error`; for our own messages.
        log_format: `console` for people, coloured on a terminal; `json` for machines.
        life_cycle: show uvicorn's messages about its own start and end.
    """

    def shown(record: logging.LogRecord) -> bool:
        return (
            isinstance(record, RequestLine)
            or record.levelno >= logging.ERROR
            or is_ours(record)
            or (life_cycle and is_life_cycle(record))
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
        # Our lines show no thread or process, so they need not be collected (logging HOWTO,
        # "Optimization"). The lines of another server may show them.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable


def _is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; None stands for a descriptor that was closed."""
    return stream is not None and not stream.closed and stream.isatty()


def _log_uncaught(_: object, exc: BaseException, __: object) -> None:
    """Log an exception that ends the process, without its message, which may hold a name."""
    logging.getLogger(PACKAGE).critical("fails: %s", traceback_summary(exc))


def _log_unraisable(unraisable: Any) -> None:  # noqa: ANN401  (sys.UnraisableHookArgs)
    """Log an exception that Python ignores, without its message."""
    if unraisable.exc_value is not None:
        logging.getLogger(PACKAGE).error("not raised: %s", traceback_summary(unraisable.exc_value))
