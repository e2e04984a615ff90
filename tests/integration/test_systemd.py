from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from dicomweb_cors_proxy.operations.systemd import ALIVE, READY, notify, watchdog_interval
from dicomweb_cors_proxy.operations.systemd import stopping as told_stopping
from dicomweb_cors_proxy.server.listening import bind
from dicomweb_cors_proxy.server.uvicorn_server import Server, ServerConfig
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port
from tests.support.sockets import settings
from tests.support.systemd import Manager, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

ARCHIVE = f"http://{LOOPBACK}:9/dicom-web"


@pytest.fixture
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with listening(is_path=getattr(request, "param", "path") == "path") as there:
        yield there


@contextmanager
def serve(manager: Manager, port: int, *flags: str) -> Iterator[Child]:
    """Run the command without waiting for anything."""
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "serve", "--upstream", ARCHIVE]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DICOMWEB_PROXY_")}
    environ = inherited | {"NOTIFY_SOCKET": manager.address}
    with Child([*command, "--port", str(port), *flags], env=environ) as child:
        yield child


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
def test_serve_tells_when_it_serves_and_when_it_stops(manager: Manager, workers: str) -> None:
    port = free_port()
    flags = ("--allow-origin", "https://viewer.example", "--workers", workers)
    with serve(manager, port, *flags) as child:
        assert manager.next() == "READY=1", child.output
        answer = httpx.get(f"http://{LOOPBACK}:{port}/healthz", trust_env=False)
        assert answer.status_code == 200
        assert manager.pending() == []
        child.terminate()
        # 30 s for running requests, 1 to cancel them, 5 more.
        assert manager.next() == "STOPPING=1\nEXTEND_TIMEOUT_USEC=36000000"
        assert child.wait() == 0
    assert manager.pending() == []


@contextmanager
def watched(manager: Manager, workers: str, pid: str) -> Iterator[Child]:
    """A `serve` that is to send a sign of life every 300 ms; `pid` is a word of the shell."""
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "serve", "--upstream", ARCHIVE]
    flags = ["--allow-origin", "https://viewer.example", "--port", "0", "--workers", workers]
    shell = ["sh", "-c", f'WATCHDOG_PID={pid} exec "$@"', "sh"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DICOMWEB_PROXY_")}
    environ = inherited | {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"}
    with Child([*shell, *command, *flags], env=environ) as child:
        yield child


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_watchdog_is_fed(manager: Manager, workers: str) -> None:
    with watched(manager, workers, "$$") as child:
        assert manager.next() == "READY=1", child.output
        assert [manager.next() for _ in range(10)] == ["WATCHDOG=1"] * 10
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.1)  # what has been sent by now is here
        manager.pending()
        time.sleep(1)
        assert manager.pending() == []
        os.kill(child.pid, signal.SIGCONT)
        assert manager.next() == "WATCHDOG=1"
        child.terminate()
        assert child.wait() == 0
        assert any(message.startswith("STOPPING=1\n") for message in manager.pending())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_another_process_feeds_the_watchdog(manager: Manager, workers: str) -> None:
    with watched(manager, workers, "1") as child:
        assert manager.next() == "READY=1", child.output
        child.wait_for(r"\bat  ")
        time.sleep(1)
        child.terminate()
        assert child.wait() == 0
    (stopping,) = manager.pending()
    assert stopping.startswith("STOPPING=1\n")


@pytest.mark.parametrize(
    ("limit", "pid", "interval"),
    [
        ("30000000", None, 10.0),
        ("30000000", "", 10.0),
        ("30000000", "ours", 10.0),
        ("30000000", "1", None),
        (None, None, None),
        ("", None, None),
        ("0", None, None),
        ("-1", None, None),
        ("soon", None, None),
        ("9" * 5000, None, None),
    ],
)
def test_watchdog_interval(
    limit: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = str(os.getpid()) if pid == "ours" else pid
    for name, value in (("WATCHDOG_USEC", limit), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == interval


def test_a_manager_that_hangs_blocks_no_sign_of_life(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    while not caplog.messages:  # its queue fills up
        notify(ALIVE)
    (message,) = caplog.messages
    assert message.startswith("cannot send WATCHDOG=1 to $NOTIFY_SOCKET: ")


def test_not_ready_with_the_port_taken(manager: Manager) -> None:
    with (
        bind(LOOPBACK, 0)[0] as taken,
        serve(manager, taken.getsockname()[1], "--allow-origin", "https://viewer.example") as child,
    ):
        assert child.wait() == 1
    assert manager.pending() == []


def test_not_ready_with_a_bad_configuration(manager: Manager) -> None:
    with serve(manager, free_port(), "--allow-origin", "https://viewer.example/") as child:
        assert child.wait() == 2
    assert manager.pending() == []


async def test_not_ready_before_the_application_is(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    during_startup: list[list[str]] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        during_startup.append(manager.pending())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    server = Server(
        ServerConfig(app, settings(ARCHIVE).server),
        on_ready=lambda: notify(READY),
        on_stopping=lambda seconds: notify(told_stopping(seconds)),
    )
    server.should_exit = True
    await server.serve(bind(LOOPBACK, 0))
    assert during_startup == [[]]
    ready, stopping = manager.pending()
    assert ready == "READY=1"
    assert stopping.startswith("STOPPING=1\n")


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "notify"])
def test_silent_without_a_socket(
    address: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify(READY)
    assert not caplog.messages


def test_a_manager_that_is_gone_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify(READY)
    assert caplog.messages == ["cannot send READY=1 to $NOTIFY_SOCKET: No such file or directory"]
