"""Several workers and their supervisor: one dies, none starts, and what adds up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.processes import Child
from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK, Reply, stub
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, request
from tests.support.systemd import listening

if TYPE_CHECKING:
    from collections.abc import Callable

VIEWER = ORIGIN.decode()
NOBODY = f"http://{LOOPBACK}:9/dicom-web"


def workers_of(child: Child) -> set[int]:
    text = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text()
    return {int(pid) for pid in text.split()}


def two(archive: str, **server: object) -> dict[str, dict[str, object]]:
    return fronting(archive, VIEWER) | {"server": {"workers": 2, **server}}


def address(proxy: Proxy) -> tuple[str, int]:
    return LOOPBACK, int(proxy.root.rpartition(":")[2])


def sample(metrics: str, name: str) -> float:
    match = re.search(rf"^dicomweb_proxy_{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    assert match, metrics
    return float(match[1])


def metrics(proxy: Proxy) -> str:
    return httpx.get(f"{proxy.root}/metrics", trust_env=False).text


# What adds up


def test_the_metrics_add_up(serve: Callable[..., Proxy]) -> None:
    count = 40
    with stub(Reply(body=b"hello")) as there:
        proxy = serve(two(there.url))
        assert len(workers_of(proxy.child)) == 2
        # As many connections, so that either worker gets some.
        with httpx.Client(headers={"Connection": "close"}, trust_env=False) as client:
            for _ in range(count):
                client.get(f"{proxy.url}/studies").raise_for_status()
            for _ in range(8):
                shown = client.get(f"{proxy.root}/metrics").text
                labels = 'method="GET",resource="studies",status="200"'
                assert sample(shown, f"requests_total{{{labels}}}") == count
                assert sample(shown, 'response_bytes_total{resource="studies"}') == 5 * count
                assert sample(shown, "requests_in_progress") == 0


def test_metrics_in_the_operators_folder(serve: Callable[..., Proxy], tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    env = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    labels = 'method="GET",resource="studies",status="502"'
    folder.mkdir()
    foreign = folder / "patients.db"
    foreign.write_text("of another program")
    for _ in range(2):  # what the first has counted is not taken over by the second
        proxy = serve(two(NOBODY), env=env)
        httpx.get(f"{proxy.url}/studies", trust_env=False)
        assert sample(metrics(proxy), f"requests_total{{{labels}}}") == 1
        proxy.child.terminate()
        assert proxy.child.wait() == 0
        assert len(list(folder.iterdir())) > 1
    assert foreign.read_text() == "of another program"


def test_no_folder_for_metrics(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    flags = ("--upstream", NOBODY, "--allow-origin", VIEWER, "--port", "0", "--workers", "2")
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(file)}
    with Child([sys.executable, "-m", "dicomweb_cors_proxy", "serve", *flags], env=env) as child:
        assert child.wait() == 1
    assert child.output == (
        "cannot add up the workers' metrics: File exists; "
        "set PROMETHEUS_MULTIPROC_DIR to a folder that the proxy may write\n"
    )


def test_worker_without_time_counts_both_signals(serve: Callable[..., Proxy]) -> None:
    proxy = serve(two(NOBODY, drain_delay=3600))
    busy = max(workers_of(proxy.child))
    os.kill(busy, signal.SIGSTOP)
    try:
        proxy.child.terminate()
        proxy.child.wait_for("draining: ")
        proxy.child.terminate()  # ends the delay
        proxy.child.wait_for("stopping, ")
    finally:
        os.kill(busy, signal.SIGCONT)
    assert proxy.child.wait() == 0


async def test_limits_are_each_workers_own(serve: Callable[..., Proxy]) -> None:
    go_on = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await go_on.wait()
        await wire.send(answer(b"hello"))

    async with archive(handle) as there:
        proxy = await asyncio.to_thread(serve, two(there.url, max_concurrent_requests=1))

        async def ask() -> int:
            async with Wire(*await asyncio.open_connection(*address(proxy))) as client:
                await client.send(request())
                return (await client.head()).status

        # As many as each worker takes one of, whoever accepts them.
        asking: set[asyncio.Task[int]] = set()
        refused = 0
        while len(there.requests) < 2 or not refused:
            asking.add(asyncio.create_task(ask()))
            done, asking = await asyncio.wait(asking, timeout=0.05)
            refused += len(done)
            assert {task.result() for task in done} <= {503}
        assert len(there.requests) == 2
        go_on.set()
        assert sorted(await asyncio.gather(*asking)) == [200] * len(asking)
        assert len(asking) == 2


async def test_lines_of_the_log_are_whole(serve: Callable[..., Proxy]) -> None:
    origin = f"https://{'.'.join(['a' * 60] * 4)}"
    settings = two(NOBODY) | {"logging": {"format": "json"}}
    proxy = await asyncio.to_thread(serve, settings)
    asked = request("GET", "/nowhere", origin=origin.encode())

    async def ask() -> None:
        async with Wire(*await asyncio.open_connection(*address(proxy))) as client:
            for _ in range(50):
                await client.send(asked)
                await client.body(await client.head())

    await asyncio.gather(*(ask() for _ in range(20)))
    proxy.child.terminate()
    assert await asyncio.to_thread(proxy.child.wait) == 0
    lines = [json.loads(line) for line in proxy.child.output.splitlines()]
    assert sum(line.get("origin") == origin for line in lines) == 1000


# Workers that die


async def replaced(proxy: Proxy, dead: int) -> None:
    """Wait until two workers run, and none of them is `dead`."""
    async with asyncio.timeout(30):
        while len(running := workers_of(proxy.child)) < 2 or dead in running:  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_one_that_dies_is_replaced(
    serve: Callable[..., Proxy], number: signal.Signals, tmp_path: Path
) -> None:
    figures = tmp_path / "metrics"
    env = {"PROMETHEUS_MULTIPROC_DIR": str(figures)}
    with stub(Reply(body=b"hello")) as there:
        proxy = await asyncio.to_thread(partial(serve, two(there.url), env=env))
        for _ in range(3):
            before = workers_of(proxy.child)
            victim = min(before)
            os.kill(victim, number)
            await replaced(proxy, victim)
            assert before - {victim} < workers_of(proxy.child)  # the other one goes on
            async with httpx.AsyncClient(trust_env=False) as client:
                for _ in range(6):
                    assert (await client.get(f"{proxy.url}/studies")).content == b"hello"
    # A replacement goes on in its predecessor's files.
    assert {file.stem.rpartition("_")[2] for file in figures.iterdir()} == {"0", "1"}
    how = "by SIGKILL" if number == signal.SIGKILL else "with status 0"
    assert proxy.child.output.count(f" ended {how}; it is replaced\n") == 3


async def test_what_a_dead_worker_did_stays_counted_and_what_it_held_does_not(
    serve: Callable[..., Proxy],
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")

    async with archive(handle) as there, httpx.AsyncClient(trust_env=False) as client:
        proxy = await asyncio.to_thread(serve, two(there.url))

        async def shown() -> str:
            return (await client.get(f"{proxy.root}/metrics")).text

        await client.get(f"{proxy.root}/dicom-web/nowhere")
        async with Wire(*await asyncio.open_connection(*address(proxy))) as held:
            await held.send(request())
            await held.head()
            async with asyncio.timeout(30):
                while sample(await shown(), "requests_in_progress") != 1:
                    pass
            for victim in workers_of(proxy.child):
                os.kill(victim, signal.SIGKILL)
                await replaced(proxy, victim)
            assert await held.reader.readexactly(4) == b"half"
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await held.reader.readexactly(1)
        await client.aclose()
        async with httpx.AsyncClient(trust_env=False) as another:
            left = (await another.get(f"{proxy.root}/metrics")).text
        assert sample(left, "requests_in_progress") == 0
        assert sample(left, 'upstream_connections{state="active"}') == 0
        assert sample(left, 'requests_total{method="GET",resource="unmatched",status="404"}') == 1


def test_none_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    flags = ("--upstream", NOBODY, "--allow-origin", VIEWER, "--port", "0", "--workers", "2")
    # An hour's delay is for those who could still come; who is orphaned waits for nobody.
    env = os.environ | {"DICOMWEB_PROXY_SERVER__DRAIN_DELAY": "3600", "TMPDIR": str(tmp_path)}
    with Child([sys.executable, "-m", "dicomweb_cors_proxy", "serve", *flags], env=env) as child:
        child.wait_for(r"\bat  ")
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        # The workers hold the other end of the output: it is read to its end.
        assert child.output.count("the supervisor has ended, so this worker shuts down") == 2
        assert "Traceback" not in child.output
        assert child.is_silent


# Workers that can't start, in a supervisor without a proxy


SCRIPT = """
import os, signal, sys
from dicomweb_cors_proxy.operations import worker
from dicomweb_cors_proxy.operations import supervisor
from dicomweb_cors_proxy.operations import worker_pool
from dicomweb_cors_proxy.config.settings import Settings
from dicomweb_cors_proxy.observability.log_setup import setup_logging
from dicomweb_cors_proxy.operations.live_settings import LiveSettings

worker_pool.FIRST_PAUSE = 0.001
worker_pool.HANG_SECONDS = 3600.0  # most of these workers have no event loop
{setup}
settings = Settings(
    upstream={{"url": "http://a"}},
    cors={{"allow_origins": ["https://viewer.example"]}},
    server={{"workers": {count}}},
)
setup_logging()

def work(settings, connection, beat):
    {work}

with worker.shared_metrics():
    sys.exit(
        supervisor.Supervisor(
            LiveSettings(settings, lambda: settings),
            [],
            certificates=None,
            work=work,
            on_ready=lambda: print("ready", flush=True),
        ).run()
    )
"""


def supervisor(
    work: str,
    *arguments: str,
    setup: str = "",
    count: int = 2,
    env: dict[str, str] | None = None,
) -> Child:
    script = SCRIPT.format(setup=setup, count=count, work=work.replace("\n", "\n    "))
    return Child([sys.executable, "-c", script, *arguments], env=os.environ | (env or {}))


@pytest.mark.parametrize(
    ("work", "how"),
    [
        ("os._exit(3)", "with status 3"),
        ("os.kill(os.getpid(), 9)", "by SIGKILL"),
        ("raise RuntimeError('SECRET')", "with status 1"),
    ],
)
def test_workers_that_cannot_start(work: str, how: str) -> None:
    with supervisor(work) as child:
        assert child.wait() == 1
    assert f"a worker ended {how} before it served" in child.output
    assert "SECRET" not in child.output
    assert "Traceback" not in child.output
    assert "ready\n" not in child.output


def test_workers_that_cannot_start_any_more(tmp_path: Path) -> None:
    """It goes on for as long as one serves; with none left it ends."""
    work = """
if os.path.exists(sys.argv[1]):
    os._exit(3)
connection.send("serving")
connection.recv()
"""
    flag = tmp_path / "flag"
    with supervisor(work, str(flag)) as child:
        child.wait_for("ready")
        flag.touch()
        one, other = workers_of(child)
        os.kill(one, signal.SIGKILL)
        child.wait_for("(?:ended with status 3; it is replaced[^$]*){7}")
        os.kill(other, signal.SIGKILL)
        assert child.wait() == 1
    assert re.search(r"\d+ workers in a row ended before they served", child.output)


def test_ready_once_all_are(tmp_path: Path) -> None:
    work = """
with open(sys.argv[1], "rb", buffering=0) as gate:
    gate.read(1)
connection.send("serving")
print("one more", flush=True)
while True:
    connection.recv()
    connection.send("serving")
"""
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    with (
        listening() as manager,
        supervisor(work, str(fifo), env={"NOTIFY_SOCKET": manager.address}) as child,
        fifo.open("r+b", buffering=0) as gate,
    ):
        gate.write(b"1")
        child.wait_for("one more")
        os.kill(child.pid, signal.SIGHUP)
        # By the time that it sees the signal, it has seen the worker.
        assert manager.next().startswith("RELOADING=1\n")
        gate.write(b"2")
        assert manager.next() == "READY=1"
        child.wait_for("ready")
        victim = min(workers_of(child))
        os.kill(victim, signal.SIGKILL)
        child.wait_for("it is replaced")
        gate.write(b"3")
        child.wait_for("(?s)(?:one more.*){3}")
        child.terminate()
        assert manager.next().startswith("STOPPING=1\n")
        assert child.wait() == 0


async def test_a_worker_that_is_stopped_is_replaced(serve: Callable[..., Proxy]) -> None:
    proxy = await asyncio.to_thread(serve, two(NOBODY))
    before = workers_of(proxy.child)
    victim = min(before)
    os.kill(victim, signal.SIGSTOP)
    await replaced(proxy, victim)
    assert before - {victim} < workers_of(proxy.child)  # the other one goes on
    told = f"worker {victim} hangs: its event loop has not run for 8 s; it is killed"
    proxy.child.wait_for(told)
    assert proxy.child.output.count(str(victim)) == 1


def test_a_worker_whose_event_loop_is_blocked_is_replaced(tmp_path: Path) -> None:
    """The first blocks after a while; the one in its place goes on."""
    work = """
connection.send("serving")
is_first = not os.path.exists(sys.argv[1])
open(sys.argv[1], "w").close()
while not is_first or time.monotonic() < begun + 3:
    beat()
    time.sleep(0.1)
signal.pause()
"""
    setup = "import time; begun = time.monotonic(); worker_pool.HANG_SECONDS = 2.0"
    with supervisor(work, str(tmp_path / "flag"), setup=setup, count=1) as child:
        child.wait_for("ready")
        (first,) = workers_of(child)
        child.wait_for(f"worker {first} hangs: its event loop has not run for 2 s")
        while workers_of(child) in (set(), {first}):
            pass
        time.sleep(4)  # longer than a worker that hangs would live
        child.terminate()
        assert child.wait() == 0
    assert child.output.count("hangs") == 1


def test_a_worker_that_hangs_before_it_serves_is_killed() -> None:
    with supervisor("signal.pause()", setup="worker_pool.START_SECONDS = 1.0") as child:
        assert child.wait() == 1
    assert "hangs: its event loop has not run for 1 s" in child.output
    assert "a worker ended by SIGKILL before it served" in child.output


def test_the_watchdog_is_fed_while_a_worker_is_responsive() -> None:
    """The worker stops beating, and nothing can kill it."""
    work = """
connection.send("serving")
for _ in range(20):
    beat()
    time.sleep(0.1)
signal.pause()
"""
    setup = """
import time
worker_pool.HANG_SECONDS = 1.0
worker_pool.WorkerPool._kill = lambda *_: print("hangs", flush=True)
"""
    with listening() as manager:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "300000"}
        with supervisor(work, setup=setup, count=1, env=env) as child:
            assert manager.next() == "READY=1"
            assert {manager.next() for _ in range(10)} == {"WATCHDOG=1"}
            child.wait_for("(hangs\n)+")
            manager.pending()
            child.wait_for("(hangs\n){5}")
            assert manager.pending() == []
            for pid in workers_of(child):
                os.kill(pid, signal.SIGKILL)
            assert manager.next() == "WATCHDOG=1"  # of the next one


async def test_a_worker_that_hears_nothing_is_replaced(serve: Callable[..., Proxy]) -> None:
    proxy = await asyncio.to_thread(serve, two(NOBODY))
    victim = min(workers_of(proxy.child))
    os.kill(victim, signal.SIGSTOP)
    async with asyncio.timeout(60):
        while victim in workers_of(proxy.child):
            os.kill(proxy.child.pid, signal.SIGHUP)
            await asyncio.sleep(0.001)
    await replaced(proxy, victim)
    assert f"worker {victim} hangs: it" in proxy.child.output


def test_a_worker_that_hangs_is_killed() -> None:
    """Its time is what the settings give to all that an end may take."""
    work = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
connection.send("serving")
while True:
    signal.pause()
"""
    with supervisor(work, setup="supervisor.longest_end = lambda _: 0.2") as child:
        child.wait_for("ready")
        child.terminate()
        assert child.wait() == 0
        assert child.is_silent
