"""The supervisor of several serving processes on the same sockets.

The workers are forked, so they start at once and share the memory of what is loaded. The supervisor
serves nothing. It alone hears signals, reads the configuration and looks for renewed certificates;
the workers are told over a pipe, whose end tells either side that the other one is gone. A worker
whose event loop does not run any more is killed and replaced.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.observability.log_setup import setup_logging
from dicomweb_cors_proxy.operations.certificates import POLL_INTERVAL
from dicomweb_cors_proxy.operations.heartbeats import HEARTBEAT_SECONDS
from dicomweb_cors_proxy.operations.systemd import (
    ALIVE,
    READY,
    notify,
    reloading,
    stopping,
    watchdog_interval,
)
from dicomweb_cors_proxy.operations.worker import RENEWED
from dicomweb_cors_proxy.operations.worker_pool import WorkerPool
from dicomweb_cors_proxy.server.listening import handling_signals
from dicomweb_cors_proxy.server.uvicorn_server import longest_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.operations.certificates import Certificates
    from dicomweb_cors_proxy.operations.live_settings import LiveSettings
    from dicomweb_cors_proxy.operations.worker_pool import Worker

__all__ = ["Supervisor"]


class Supervisor:
    """The loop and the signals of the process that runs the workers.

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
        self._on_ready = on_ready
        self._watchdog = watchdog_interval()
        self._next_alive = 0.0
        self._status = 0
        self._reloading = False
        self._stopping = False
        self._kill_at = 0.0
        self._signals = 0  # to stop, not handled yet
        self._stops = 0
        self._hangups = 0
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._alarm = socket.socketpair()
        self._pool = WorkerPool(
            configuration.settings.server.workers,
            self._selector,
            lambda connection, beat: work(configuration.settings, connection, beat),
            self._release,
        )

    def run(self) -> int:
        """Work until SIGTERM or SIGINT. Returns the exit status: 0, 1 if workers can't serve."""
        for end in (self._wakeup, self._alarm):
            end.setblocking(False)  # noqa: FBT003
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        outer = signal.set_wakeup_fd(self._alarm.fileno())
        previous = signal.signal(signal.SIGCHLD, lambda _, __: None)
        try:
            with handling_signals(self._on_stop, self._on_reload):
                self._pool.start_all()
                while not (self._stopping and self._pool.is_empty):
                    self._turn()
        finally:
            signal.signal(signal.SIGCHLD, previous)
            signal.set_wakeup_fd(outer)
        return self._status

    # Handlers only count; the loop acts, so that nothing forks or reads inside a handler.

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
        self._pool.reap()
        if self._pool.has_failed and not self._stopping:
            self._status = 1
            self._stop()
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
                self._pool.send_signal(signal.SIGKILL)
            return
        self._pool.kill_silent()
        if self._certificates is not None and self._certificates.poll():
            self._pool.tell(RENEWED)
        self._pool.start_due(now)

    def _hear(self, worker: Worker) -> None:
        was_ready = self._pool.was_ready
        if not self._pool.hear(worker):
            return
        if not was_ready:
            self._on_ready()
        elif not self._reloading:
            return
        self._reloading = False
        notify(READY)

    def _feed_watchdog(self, now: float) -> None:
        """Tell the service manager that the supervisor runs, and that a worker serves.

        One worker that hangs is no reason to restart all, because it is replaced.
        """
        if self._watchdog is None or not self._pool.was_ready or now < self._next_alive:
            return
        if self._stopping or self._pool.is_responsive:
            self._next_alive = now + self._watchdog
            notify(ALIVE)

    def _timeout(self) -> float:
        """Return the seconds until the next task that no signal or message starts."""
        now = time.monotonic()
        waits = [HEARTBEAT_SECONDS]
        if self._watchdog is not None:
            waits.append(self._watchdog)
        if self._stopping:
            waits.append(max(0.0, self._kill_at - now) or 1.0)
        else:
            waits += self._pool.seconds_to_start(now)
            if self._certificates is not None:
                waits.append(POLL_INTERVAL)
        return min(waits)

    def _release(self) -> None:
        """Close, in a worker, what only the supervisor needs."""
        self._selector.close()
        for end in (self._wakeup, self._alarm):
            end.close()

    def _stop(self) -> None:
        """Stop the workers; called again, stop them faster."""
        # A worker counts its signals. While it has no time, the system keeps one of each number, so
        # the next one needs another number.
        self._pool.send_signal(signal.SIGINT if self._stops % 2 else signal.SIGTERM)
        self._stops += 1
        if self._stopping:
            return
        self._stopping = self._pool.is_closing = True
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
        self._pool.tell(settings)
