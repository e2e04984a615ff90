"""What reaches the log: our own words, and of libraries only where they failed."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from dicomweb_cors_proxy.observability import log_writer
from dicomweb_cors_proxy.observability.log_setup import (
    ACCESS_LOGS,
    dropped_lines,
    flush,
    setup_logging,
)
from dicomweb_cors_proxy.observability.records import RequestRecord, request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENT = "Doe^Jane"
OURS = "dicomweb_cors_proxy.proxy.outgoing"


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What has come to standard error; the loggers are as before afterwards."""
    hooks = sys.excepthook, sys.unraisablehook
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    before = [(each, {**vars(each), "handlers": each.handlers[:]}) for each in loggers]

    def written() -> str:
        assert flush()
        return capsys.readouterr().err

    yield written
    for logger, attributes in before:
        vars(logger).update(attributes)
        logger.setLevel(logger.level)  # forgets what was cached by level
    sys.excepthook, sys.unraisablehook = hooks


def fail(name: str, text: str) -> None:
    try:
        int(PATIENT)
    except ValueError:
        logging.getLogger(name).exception(text)


def test_our_messages_are_written(output: Callable[[], str]) -> None:
    setup_logging("info")
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
    setup_logging("debug")
    logging.getLogger(name).warning("GET /studies?PatientName=%s", PATIENT)
    assert not output()
    fail(name, f"GET /studies?PatientName={PATIENT}")
    (line,) = output().splitlines()
    assert f"error in {name}: ValueError < fail" in line
    assert PATIENT not in line


@pytest.mark.parametrize("name", ACCESS_LOGS)
def test_access_logs_are_mute(name: str, output: Callable[[], str]) -> None:
    setup_logging("debug")
    logging.getLogger(name).critical("GET /studies")
    assert not output()


def test_an_exceptions_message_is_not_written(output: Callable[[], str]) -> None:
    setup_logging("info")
    fail(OURS, "bug")
    line = output()
    assert "bug: ValueError < fail" in line
    assert PATIENT not in line


def test_a_recursion_without_end_makes_no_long_line(output: Callable[[], str]) -> None:
    def recur(depth: int) -> int:
        return recur(depth + 1) + 1

    setup_logging("info")
    try:
        recur(0)
    except RecursionError:
        logging.getLogger(OURS).exception("bug")
    assert output().count(" < recur (") == 30


def test_a_message_that_cannot_be_formatted(output: Callable[[], str]) -> None:
    """logging itself would print its arguments, and a traceback."""
    setup_logging("info")
    logging.getLogger(OURS).info("%d studies", PATIENT)
    (line,) = output().splitlines()
    assert f"a log line of {OURS} fails: TypeError < getMessage" in line
    assert PATIENT not in line


def full_disk(*_: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("output")
def test_dropped_lines_are_told_of_in_the_logs_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(log_writer, "NOTICE_SECONDS", 0.05)
    file = tmp_path / "log"
    before = dropped_lines()
    with file.open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        setup_logging("info", "json")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            logging.getLogger(OURS).error("lost")
            assert flush()
        assert dropped_lines() == before + 1
        logging.getLogger(OURS).error("kept")
        while len(file.read_text().splitlines()) < 2:
            assert flush()
        setup_logging()  # leaves the file before it is closed
    lines = {line["event"]: line for line in map(json.loads, file.read_text().splitlines())}
    told = "1 log line was dropped because writing to the log failed: No space left on device"
    assert set(lines) == {"kept", told}
    assert lines[told]["level"] == "warning"


def test_a_value_forges_no_line(output: Callable[[], str]) -> None:
    setup_logging("info")
    logging.getLogger(OURS).info("origin %s", "a\r\n\x1b[31mb\u2028c\x9b")
    (line,) = output().splitlines()
    assert line.endswith(R"origin a\x0d\x0a\x1b[31mb\x2028c\x9b")


# Formats


def record(**changes: object) -> RequestRecord:
    fields: dict[str, Any] = {
        "method": "GET",
        "request_id": "0f" * 16,
        "client": "192.0.2.1",
        "resource": "studies",
        "status": 200,
        "upstream_status": 200,
        "origin": "https://viewer.example",
        "cors": "allowed",
        "duration": 0.0123,
        "ttfb": 0.01,
        "bytes_out": 48_100,
    }
    return RequestRecord(**{**fields, **changes})


def test_a_request_as_json(output: Callable[[], str]) -> None:
    setup_logging("info", "json")
    record().log(logging.getLogger(OURS), logging.INFO)
    line = json.loads(output())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert list(line.items()) == [
        ("level", "info"),
        ("event", "request"),
        ("method", "GET"),
        ("http_version", "1.1"),
        ("resource", "studies"),
        ("status", 200),
        ("upstream_status", 200),
        ("origin", "https://viewer.example"),
        ("cors", "allowed"),
        ("duration_ms", 12.3),
        ("ttfb_ms", 10.0),
        ("bytes_in", 0),
        ("bytes_out", 48100),
        ("request_id", "0f" * 16),
        ("client", "192.0.2.1"),
    ]


def test_what_is_not_known_is_null(output: Callable[[], str]) -> None:
    setup_logging("info", "json")
    unknown: dict[str, None] = dict.fromkeys(("client", "upstream_status", "origin", "ttfb"))
    record(**unknown).log(logging.getLogger(OURS), logging.INFO)
    line = json.loads(output())
    assert [key for key, value in line.items() if value is None] == [
        "upstream_status",
        "origin",
        "ttfb_ms",
        "client",
    ]


def test_a_message_as_json(output: Callable[[], str]) -> None:
    setup_logging("info", "json")
    token = request_id.set("0f")
    logging.getLogger(OURS).warning('a "b"\r\n\x1b\x9b\u2028')
    request_id.reset(token)
    fail(OURS, "bug")
    text = output()
    assert text.isascii()
    first, second = map(json.loads, text.splitlines())
    assert list(first) == ["time", "level", "event", "request_id"]
    assert (first["event"], first["request_id"]) == ('a "b"\r\n\x1b\x9b\u2028', "0f")
    assert second["event"].startswith("bug: ValueError < fail")
    assert second["request_id"] is None


def test_requests_on_the_console_stand_in_columns(output: Callable[[], str]) -> None:
    setup_logging("info")
    logger = logging.getLogger(OURS)
    record().log(logger, logging.INFO)
    record(method="OPTIONS", upstream_status=None, bytes_out=0, event="a\x1bb", bytes_in=7).log(
        logger, logging.WARNING
    )
    first, second = output().splitlines()
    assert first.index("studies") == second.index("studies")
    assert first.endswith("  studies  https://viewer.example  192.0.2.1  " + "0f" * 16)
    assert "GET     200    12.3 ms  48.1 kB  archive 200    10.0 ms  allowed   " in first
    assert second.endswith(R"  took 7  B  a\x1bb")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0  B"), (999, "999  B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (5_000_000_000, "5.0 GB"), (5_000_000_000_000, "5000.0 GB")],
)  # fmt: skip
def test_sizes(count: int, text: str, output: Callable[[], str]) -> None:
    setup_logging("info")
    record(bytes_out=count).log(logging.getLogger(OURS), logging.INFO)
    assert f" ms {text:>8}  archive" in output()


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch, output: Callable[[], str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for no_color, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        setup_logging("info")
        record(status=404).log(logging.getLogger(OURS), logging.INFO)
        logging.getLogger(OURS).error("oh")
        text = output()
        assert ("\x1b[33m404\x1b[0m" in text) == coloured
        assert ("\x1b[31m" in text) == coloured


def test_a_request_below_the_level_is_not_written(output: Callable[[], str]) -> None:
    setup_logging("warning")
    record().log(logging.getLogger(OURS), logging.INFO)
    assert not output()


# Libraries


def test_levels_set_later_change_nothing(output: Callable[[], str]) -> None:
    setup_logging("debug")
    for name in ("", "httpx", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).disabled = False
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).warning("GET /studies?PatientName=%s", PATIENT)
    assert not output()


@pytest.mark.usefixtures("output")
@pytest.mark.parametrize("of_others", [True, False])
def test_another_servers_lines_may_name_its_process(
    of_others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hypercorn's do."""
    for name in ("logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, True)
    setup_logging("info", life_cycle=of_others)
    record = logging.makeLogRecord({})
    assert (record.process is not None) is of_others


@pytest.mark.parametrize(("life_cycle", "count"), [(True, 1), (False, 0)])
def test_a_foreign_server_tells_of_itself(
    life_cycle: bool, count: int, output: Callable[[], str]
) -> None:
    setup_logging("info", life_cycle=life_cycle)
    logger = logging.getLogger("uvicorn.error")
    for module, text in (
        ("server", "Uvicorn running"),
        ("server", "Traceback\nDoe"),
        ("httptools_impl", "Doe"),
    ):
        logger.handle(logging.LogRecord(logger.name, 20, f"{module}.py", 1, text, None, None))
    text = output()
    assert text.count("Uvicorn running") == count
    assert "Doe" not in text


def test_what_python_itself_would_print(output: Callable[[], str]) -> None:
    class Trap:
        def __del__(self) -> None:
            raise ValueError(PATIENT)

    setup_logging("info")
    Trap()
    text = output()
    assert "not raised: ValueError < __del__" in text
    assert PATIENT not in text
