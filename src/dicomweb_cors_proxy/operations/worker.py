"""The worker's side of the supervisor's pipe, and the shared metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dicomweb_cors_proxy.observability.log_setup import flush
from dicomweb_cors_proxy.observability.metrics import files_of
from dicomweb_cors_proxy.observability.records import traceback_summary
from dicomweb_cors_proxy.observability.shared_metrics import share
from dicomweb_cors_proxy.operations.heartbeats import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from multiprocessing.connection import Connection

    from dicomweb_cors_proxy.server.uvicorn_server import Server

__all__ = ["RENEWED", "become_worker", "follow_supervisor", "shared_metrics"]

logger = logging.getLogger(__name__)


# Messages between supervisor and worker, besides new settings.
SERVING: Final = "serving"  # the worker: I am ready, or done with what you told me
RENEWED: Final = "renewed"  # the supervisor: read the certificate again

# There even where the rest of a container is read-only; what is counted need not go to a disk.
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108


def become_worker(
    slot: int, mask: set[Any], release: Callable[[], None], work: Callable[[], None]
) -> NoReturn:
    """Serve in the forked process, and end it.

    Args:
        slot: counts this worker's share of the metrics.
        mask: the signals to block, as before the fork.
        release: closes what belongs to the supervisor.
        work: serves until it is told to end.
    """
    status = 1
    try:
        # A terminal's signals are for the supervisor, and a shell's `kill -HUP` may hit all.
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        release()
        os.environ.pop("NOTIFY_SOCKET", None)
        share(os.environ["PROMETHEUS_MULTIPROC_DIR"], slot)
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001  (nothing of this may return to our caller)
        logger.error("a bug ends this worker, please report it: %s", traceback_summary(error))  # noqa: TRY400
    finally:
        flush()
        with suppress(AttributeError, OSError, ValueError):  # it may be closed
            sys.stdout.flush()
        os._exit(status)


@contextmanager
def follow_supervisor(
    connection: Connection[Any, Any],
    server: Server,
    apply: Callable[[Any], Awaitable[None]],
    beat: Callable[[], None],
) -> Iterator[None]:
    """Report that the worker serves, and follow the supervisor's messages until it is gone.

    Args:
        connection: this end of the pipe.
        server: ends with the supervisor.
        apply: takes what the supervisor sends.
        beat: shows the supervisor that the event loop runs.
    """
    loop = asyncio.get_running_loop()
    messages: asyncio.Queue[Any] = asyncio.Queue()

    def receive() -> None:
        try:
            messages.put_nowait(connection.recv())
        except (EOFError, OSError):
            loop.remove_reader(connection.fileno())
            logger.error("the supervisor has ended, so this worker shuts down")  # noqa: TRY400
            server.shut_down(drain=False)

    async def obey() -> None:
        while True:
            await apply(await messages.get())
            with suppress(OSError):
                connection.send(SERVING)

    async def keep_beating() -> None:
        while True:
            beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    loop.add_reader(connection.fileno(), receive)
    tasks = [loop.create_task(obey()), loop.create_task(keep_beating())]
    connection.send(SERVING)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        loop.remove_reader(connection.fileno())


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Let the workers' figures add up, in `$PROMETHEUS_MULTIPROC_DIR` or a folder made for it.

    The files of metrics that earlier processes have left there are removed, and no others.
    Raises OSError.
    """
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if given:
        folder = given
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in list(files_of(folder)):
            file.unlink()
    else:
        in_memory = os.access(SHARED_MEMORY, os.W_OK)
        folder = mkdtemp(prefix="dicomweb-proxy-", dir=SHARED_MEMORY if in_memory else None)
    share(folder)
    try:
        yield
    finally:
        if not given:
            rmtree(folder, ignore_errors=True)
