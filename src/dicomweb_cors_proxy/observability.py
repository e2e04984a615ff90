"""Logging that can't name a patient.

Only messages of this package are written as they are. A library's message may hold a URL, and so a
patient's name: of those, only errors are shown, by the type of the exception and its place.
"""

from __future__ import annotations

import logging
import sys
import traceback

PACKAGE = "dicomweb_cors_proxy"

# Access logs of servers that may run the application: all of them print whole URLs.
ACCESS_LOGS = ("uvicorn.access", "gunicorn.access", "hypercorn.access", "daphne", "_granian.access")


def place(exc: BaseException) -> str:
    """Type and frames of an exception, innermost first, without its message and values."""
    frames = traceback.extract_tb(exc.__traceback__)
    return " < ".join(
        [type(exc).__name__]
        + [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)]
    )


class Formatter(logging.Formatter):
    """`time level message`, one line each."""

    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] == PACKAGE:
            message = record.getMessage()
        else:
            message = f"error in {record.name}"
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message}: {place(record.exc_info[1])}"
        record.message = message.translate(_CONTROLS)
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)


# A line break or an escape sequence in a value must not forge a line or drive a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def configure(level: str) -> None:
    """Send our log to standard error, and let no library add to it but with its errors.

    Args:
        level: `debug`, `info`, `warning` or `error`; for our own messages.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    ours = logging.getLogger(PACKAGE)
    ours.setLevel(level.upper())
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] != PACKAGE:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.ERROR)
    for name in ACCESS_LOGS:
        logging.getLogger(name).disabled = True
