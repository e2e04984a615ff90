"""What reaches the log: our own words, and of libraries only where they failed."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.observability import ACCESS_LOGS, configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENT = "Doe^Jane"
OURS = "dicomweb_cors_proxy.gateway"


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What has come to standard error; the loggers are as before afterwards."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    before = [(each, {**vars(each), "handlers": each.handlers[:]}) for each in loggers]
    yield lambda: capsys.readouterr().err
    for logger, attributes in before:
        vars(logger).update(attributes)
        logger.setLevel(logger.level)  # forgets what was cached by level


def fail(name: str, text: str) -> None:
    try:
        int(PATIENT)
    except ValueError:
        logging.getLogger(name).exception(text)


def test_our_messages_are_written(output: Callable[[], str]) -> None:
    configure("info")
    logging.getLogger(OURS).debug("hidden")
    logging.getLogger(OURS).warning("archive %s", "http://a")
    (line,) = output().splitlines()
    assert line.endswith(" WARNING archive http://a")


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio", "httpx", "someone.new"])
def test_of_a_library_only_the_place_of_an_error_is_written(
    name: str, output: Callable[[], str]
) -> None:
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    configure("debug")
    logging.getLogger(name).warning("GET /studies?PatientName=%s", PATIENT)
    assert not output()
    fail(name, f"GET /studies?PatientName={PATIENT}")
    (line,) = output().splitlines()
    assert f"error in {name}: ValueError < fail" in line
    assert PATIENT not in line


@pytest.mark.parametrize("name", ACCESS_LOGS)
def test_access_logs_are_mute(name: str, output: Callable[[], str]) -> None:
    configure("debug")
    logging.getLogger(name).critical("GET /studies")
    assert not output()


def test_an_exceptions_message_is_not_written(output: Callable[[], str]) -> None:
    configure("info")
    fail(OURS, "bug")
    line = output()
    assert "bug: ValueError < fail" in line
    assert PATIENT not in line


def test_a_value_forges_no_line(output: Callable[[], str]) -> None:
    configure("info")
    logging.getLogger(OURS).info("origin %s", "a\r\n\x1b[31mb\u2028c\x9b")
    (line,) = output().splitlines()
    assert line.endswith(R"origin a\x0d\x0a\x1b[31mb\x2028c\x9b")
