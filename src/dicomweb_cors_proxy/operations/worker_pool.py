"""The workers of a supervisor: started, heard, told, killed, reaped and replaced."""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.observability.shared_metrics import worker_ended
from dicomweb_cors_proxy.operations.heartbeats import Heartbeats
from dicomweb_cors_proxy.operations.worker import become_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["Worker", "WorkerPool"]

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

    `pending` is the number of messages due that say that it serves; `is_killed` if it hung.
    """

    slot: int
    pid: int
    connection: Connection[Any, Any]
    started: float = field(default_factory=time.monotonic)
    pending: int = 1
    has_served: bool = False
    is_killed: bool = False


class WorkerPool:
    """A fixed number of worker processes, each replaced when it ends.

    Args:
        count: how many there should be.
        selector: where the workers' pipes are registered, each with its worker as data.
        work: serves in a worker until it is told to end; takes its end of the pipe, and what it
            calls once per heartbeat.
        on_fork: closes, in a worker, what only the supervisor needs.

    Attributes:
        was_ready: whether all have served at the same time.
        has_failed: whether workers end before they serve, so that starting more is useless.
        is_closing: whether workers that end are not replaced.
    """

    def __init__(
        self,
        count: int,
        selector: selectors.BaseSelector,
        work: Callable[[Connection[Any, Any], Callable[[], None]], None],
        on_fork: Callable[[], None],
    ) -> None:
        self.was_ready = False
        self.has_failed = False
        self.is_closing = False
        self._count = count
        self._selector = selector
        self._work = work
        self._on_fork = on_fork
        self._workers: dict[int, Worker] = {}
        self._heartbeats = Heartbeats(count)
        self._failures = 0
        self._due: list[tuple[float, int]] = []  # when to start another worker, and in which slot

    @property
    def is_empty(self) -> bool:
        """Return whether every worker has ended."""
        return not self._workers

    @property
    def is_responsive(self) -> bool:
        """Return whether the event loop of at least one worker that has served runs."""
        return any(
            worker.has_served and self._heartbeats.silence(worker.slot) < HANG_SECONDS
            for worker in self._workers.values()
        )

    def seconds_to_start(self, now: float) -> list[float]:
        """Return, for each worker to be started, the seconds until then."""
        return [max(0.0, due - now) for due, _ in self._due]

    def start_all(self) -> None:
        """Start a worker in each slot."""
        for slot in range(self._count):
            self._start(slot)

    def start_due(self, now: float) -> None:
        """Start the workers whose pause has ended."""
        while self._due and self._due[0][0] <= now:
            self._start(self._due.pop(0)[1])

    def _start(self, slot: int) -> None:
        ours, theirs = Pipe()
        # Block signals until the child has closed its copy of the wake-up socket: a signal to it
        # would wake the supervisor.
        previous = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        pid = os.fork()
        if pid == 0:
            ours.close()
            beat = partial(self._heartbeats.beat, slot)
            become_worker(slot, previous, self._release, partial(self._work, theirs, beat))
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
        worker = Worker(slot, pid, ours)
        self._workers[pid] = worker
        self._heartbeats.restart(slot)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _release(self) -> None:
        self._on_fork()
        # Otherwise the others would not see the end of the supervisor.
        for other in self._workers.values():
            other.connection.close()

    def hear(self, worker: Worker) -> bool:
        """Receive a worker's message; return whether all workers serve and have done as told."""
        try:
            worker.connection.recv()
        except (EOFError, OSError):
            self._selector.unregister(worker.connection)  # and reaped, once it is gone
            return False
        worker.pending -= 1
        if not worker.has_served:
            worker.has_served = True
            self._heartbeats.restart(worker.slot)
        if any(each.pending for each in self._workers.values()) or self._due or self.is_closing:
            return False
        self.was_ready = True
        return True

    def reap(self) -> None:
        """Collect the workers that have ended, and plan their replacement."""
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
        if self.is_closing or self.has_failed:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        if not self.was_ready:
            logger.error("a worker ended %s before it served; the lines above say why", how)
            self.has_failed = True
            return
        lived = time.monotonic() - worker.started
        self._failures = self._failures + 1 if lived < FAST_EXIT or not worker.has_served else 0
        is_alone = not any(each.has_served for each in self._workers.values())
        if self._failures >= ATTEMPTS and is_alone and not worker.has_served:
            logger.error(
                "%d workers in a row ended before they served; the lines above say why",
                self._failures,
            )
            self.has_failed = True
            return
        pause = min(FIRST_PAUSE * 2**self._failures, LAST_PAUSE) if self._failures else 0.0
        if not worker.is_killed:
            logger.warning("worker %d ended %s; it is replaced", worker.pid, how)
        self._due = sorted([*self._due, (time.monotonic() + pause, worker.slot)])

    def kill_silent(self) -> None:
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
        logger.error("worker %d hangs: %s; it is killed and replaced", worker.pid, reason)
        os.kill(worker.pid, signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker."""
        for pid in self._workers:  # none of them is reaped yet, so none is another's
            os.kill(pid, number)

    def tell(self, message: object) -> None:
        """Send a message to every worker; kill those that do not read."""
        for worker in self._workers.values():
            if not select.select([], [worker.connection], [], 0)[1]:
                # Waiting for it, the supervisor would hang as well.
                self._kill(worker, "it reads nothing")
                continue
            with suppress(OSError):
                worker.connection.send(message)
                worker.pending += 1
