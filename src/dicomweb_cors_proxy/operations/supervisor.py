"""Several serving processes on the same sockets, and their supervisor.

The workers are forked, so they start at once and share the memory of what is loaded. The supervisor
serves nothing. It alone hears signals, reads the configuration and looks for renewed certificates;
the workers are told over a pipe, whose end tells either side that the other one is gone. A worker
whose event loop does not run any more is killed and replaced.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.observability.log_setup import flush, setup_logging
from dicomweb_cors_proxy.observability.records import traceback_summary
from dicomweb_cors_proxy.observability.shared_metrics import share, worker_ended
from dicomweb_cors_proxy.operations.certificates import POLL_INTERVAL
from dicomweb_cors_proxy.operations.heartbeats import HEARTBEAT_SECONDS, Heartbeats
from dicomweb_cors_proxy.operations.systemd import (
    ALIVE,
    READY,
    notify,
    reloading,
    stopping,
    watchdog_interval,
)
from dicomweb_cors_proxy.operations.worker import RENEWED
from dicomweb_cors_proxy.server.listening import handling_signals
from dicomweb_cors_proxy.server.uvicorn_server import longest_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.operations.certificates import Certificates
    from dicomweb_cors_proxy.operations.live_settings import LiveSettings

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

# Seconds before a worker that has ended is replaced: doubled for each that ended soon.
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 30.0
FAST_EXIT: Final = 10.0

# With no worker left, how often in a row one may end before it serves.
ATTEMPTS: Final = 5

# Silence after which a worker is taken to hang. Its last heartbeat is up to a second old, and the
# supervisor looks once a second, so it is killed within 10 s.
HANG_SECONDS: Final = 8.0
START_SECONDS: Final = 60.0


@dataclass(eq=False)
class Worker:
    """A process, in one of the slots for them.

    `answers` is how often it has yet to say that it serves; `is_killed` if it hung.
    """

    slot: int
    pid: int
    connection: Connection[Any, Any]
    started: float = field(default_factory=time.monotonic)
    answers: int = 1
    has_served: bool = False
    is_killed: bool = False


class Supervisor:
    """Keeps as many workers running as there should be.

    Args:
        configuration: what is in force, and `workers` of them.
        sockets: where they listen.
        certificates: what they show; renewed in all of them.
        work: serves in a worker until it is told to end; takes its settings, its end of the pipe,
            and what it calls once per heartbeat.
        on_ready: called once all serve.
    """

    def __init__(
        self,
        configuration: LiveSettings,
        sockets: Sequence[socket.socket],
        *,
        certificates: Certificates | None,
        work: Callable[[Settings, Connection[Any, Any], Callable[[], None]], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._configuration = configuration
        self._sockets = sockets
        self._certificates = certificates
        self._work = work
        self._on_ready = on_ready
        self._workers: dict[int, Worker] = {}
        self._heartbeats = Heartbeats(configuration.settings.server.workers)
        self._watchdog = watchdog_interval()
        self._next_alive = 0.0
        self._status = 0
        self._is_ready = False
        self._reloading = False
        self._stopping = False
        self._failures = 0
        self._due: list[tuple[float, int]] = []  # when to start another worker, and in which slot
        self._kill_at = 0.0
        self._signals = 0
        self._hangups = 0
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._alarm = socket.socketpair()

    def run(self) -> int:
        """Work until SIGTERM or SIGINT. Returns the exit status: 0, 1 if workers can't serve."""
        for end in (self._wakeup, self._alarm):
            end.setblocking(False)  # noqa: FBT003
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        outer = signal.set_wakeup_fd(self._alarm.fileno())
        previous = signal.signal(signal.SIGCHLD, lambda _, __: None)
        try:
            with handling_signals(self._on_stop, self._on_reload):
                for slot in range(self._configuration.settings.server.workers):
                    self._start(slot)
                while self._workers or not self._stopping:
                    self._turn()
        finally:
            signal.signal(signal.SIGCHLD, previous)
            signal.set_wakeup_fd(outer)
        return self._status

    # Signals: they are but counted, so that nothing is forked or read in the middle of anything.

    def _on_stop(self) -> None:
        self._signals += 1

    def _on_reload(self) -> None:
        self._hangups += 1

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._wakeup.recv(4096)
            else:
                self._hear(key.data)
        self._reap()
        while self._signals:
            self._signals -= 1
            self._stop()
        if self._hangups and not self._stopping:
            self._hangups = 0
            self._reload()
        now = time.monotonic()
        self._feed_watchdog(now)
        if self._stopping:
            if now >= self._kill_at:
                self._signal_all(signal.SIGKILL)
            return
        self._kill_silent()
        if self._certificates is not None and self._certificates.poll():
            self._tell_all(RENEWED)
        while self._due and self._due[0][0] <= now:
            self._start(self._due.pop(0)[1])

    def _feed_watchdog(self, now: float) -> None:
        """Tell the service manager that the supervisor runs, and that a worker serves.

        One worker that hangs is no reason to restart all, because it is replaced.
        """
        if self._watchdog is None or not self._is_ready or now < self._next_alive:
            return
        if self._stopping or any(
            worker.has_served and self._heartbeats.silence(worker.slot) < HANG_SECONDS
            for worker in self._workers.values()
        ):
            self._next_alive = now + self._watchdog
            notify(ALIVE)

    def _timeout(self) -> float:
        """Seconds until something is to be done that nothing wakes us for."""
        now = time.monotonic()
        waits = [HEARTBEAT_SECONDS]
        if self._watchdog is not None:
            waits.append(self._watchdog)
        if self._stopping:
            waits.append(max(0.0, self._kill_at - now) or 1.0)
        else:
            waits += [max(0.0, due - now) for due, _ in self._due]
            if self._certificates is not None:
                waits.append(POLL_INTERVAL)
        return min(waits)

    # Workers

    def _start(self, slot: int) -> None:
        ours, theirs = Pipe()
        # A signal before the child has let go of our wakeup would be taken for one to us.
        previous = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_worker(slot, theirs, previous)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
        worker = Worker(slot, pid, ours)
        self._workers[pid] = worker
        self._heartbeats.restart(slot)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _be_worker(self, slot: int, connection: Connection[Any, Any], mask: set[Any]) -> None:
        """Serve, and end this process."""
        status = 1
        try:
            # A terminal's signals are for the supervisor, and a shell's `kill -HUP` may hit all.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._selector.close()
            for end in (self._wakeup, self._alarm):
                end.close()
            for other in self._workers.values():  # or they couldn't see the supervisor's end
                other.connection.close()
            os.environ.pop("NOTIFY_SOCKET", None)
            share(os.environ["PROMETHEUS_MULTIPROC_DIR"], slot)
            beat = partial(self._heartbeats.beat, slot)
            self._work(self._configuration.settings, connection, beat)
            status = 0
        except BaseException as error:  # noqa: BLE001  (nothing of this may return to our caller)
            logger.error("the worker fails: %s", traceback_summary(error))  # noqa: TRY400
        finally:
            flush()
            with suppress(AttributeError, OSError, ValueError):  # it may be closed
                sys.stdout.flush()
            os._exit(status)

    def _hear(self, worker: Worker) -> None:
        try:
            worker.connection.recv()
        except (EOFError, OSError):
            self._selector.unregister(worker.connection)  # and reaped, once it is gone
            return
        worker.answers -= 1
        if not worker.has_served:
            worker.has_served = True
            self._heartbeats.restart(worker.slot)
        if any(each.answers for each in self._workers.values()) or self._due or self._stopping:
            return
        if not self._is_ready:
            self._is_ready = True
            self._on_ready()
        elif not self._reloading:
            return
        self._reloading = False
        notify(READY)

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        del self._workers[worker.pid]
        with suppress(KeyError, ValueError):
            self._selector.unregister(worker.connection)
        worker.connection.close()
        worker_ended(worker.slot)
        if self._stopping:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        if not self._is_ready:
            logger.error("a worker ended %s before it served", how)
            self._give_up()
            return
        lived = time.monotonic() - worker.started
        self._failures = self._failures + 1 if lived < FAST_EXIT or not worker.has_served else 0
        is_alone = not any(each.has_served for each in self._workers.values())
        if self._failures >= ATTEMPTS and is_alone and not worker.has_served:
            logger.error("%d workers in a row ended before they served", self._failures)
            self._give_up()
            return
        pause = min(FIRST_PAUSE * 2**self._failures, LAST_PAUSE) if self._failures else 0.0
        if not worker.is_killed:
            logger.warning("worker %d ended %s; another takes its place", worker.pid, how)
        self._due = sorted([*self._due, (time.monotonic() + pause, worker.slot)])

    def _kill_silent(self) -> None:
        """Kill the workers whose event loops do not run."""
        self._heartbeats.look()
        for worker in self._workers.values():
            silence = self._heartbeats.silence(worker.slot)
            if silence >= (HANG_SECONDS if worker.has_served else START_SECONDS):
                self._kill(worker, f"its event loop has not run for {silence:g} s")

    def _kill(self, worker: Worker, reason: str) -> None:
        if worker.is_killed:  # and not gone yet
            return
        worker.is_killed = True
        logger.error(
            "worker %d hangs: %s; it is killed, and another takes its place", worker.pid, reason
        )
        os.kill(worker.pid, signal.SIGKILL)

    def _give_up(self) -> None:
        self._status = 1
        self._stop()

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._workers:  # none of them is reaped yet, so none is another's
            os.kill(pid, number)

    def _tell_all(self, message: object) -> None:
        for worker in self._workers.values():
            if not select.select([], [worker.connection], [], 0)[1]:
                # Waiting for it, the supervisor would hang as well.
                self._kill(worker, "it reads nothing")
                continue
            with suppress(OSError):
                worker.connection.send(message)
                worker.answers += 1

    # Signals

    def _stop(self) -> None:
        """Let the workers end, or end faster."""
        self._signal_all(signal.SIGTERM)
        if self._stopping:
            return
        self._stopping = True
        longest = longest_end(self._configuration.settings.server)
        self._kill_at = time.monotonic() + longest
        notify(stopping(longest))
        for listener in self._sockets:  # the workers' own are open until they have drained
            listener.close()

    def _reload(self) -> None:
        notify(reloading())
        settings = self._configuration.reload()
        if settings is None:
            notify(READY)
            return
        setup_logging(settings.logging.level, settings.logging.format)
        if self._certificates is not None:
            self._certificates.follow(settings.server)
        self._reloading = True
        self._tell_all(settings)
