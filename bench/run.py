"""A run of the bench: peers are started, checked, and measured in turns."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from bench import browser, cases, http2, report
from bench.cases import CASES, TRANSFERS, Case, Transfer, WrongAnswerError
from bench.peers import (
    NO_PROXY,
    OURS,
    OURS_LOGGING,
    OURS_PLAIN,
    PEERS,
    Peer,
    Running,
    serving,
    signing_in,
)
from bench.report import Results

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.async_api import Browser

MEMORY: Final = "memory"
START: Final = "start"
BROWSER: Final = "browser"
STREAMS: Final = 20

T = TypeVar("T")


class Bench:
    """A run: the archive is there, `results` fills up."""

    def __init__(self, options: argparse.Namespace, port: int, file: Path) -> None:
        self._options = options
        self._archive = port
        self._file = file
        self._origin = f"http://localhost:{port}"
        self.results = Results(
            peers=[],
            options=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
            rounds=self._options.rounds,
            streams=STREAMS,
            frames=self._options.frames,
            long=file.stat().st_size,
        )

    def run(self) -> None:
        """Measure what was asked for."""
        before = report.load_average()
        for key in self._options.peers:
            peer = PEERS[key]
            if version := peer.version():
                self.results.peers.append(peer)
                self.results.versions[peer.title] = version
            else:
                self._fail(peer, "not installed")
        self.results.versions |= report.tool_versions()
        only = self._options.only
        steps = self._steps()
        if steps:
            self._requests(steps)
        if keys := [key for key in http2.KEYS if key in only]:
            self._multiplexed(keys)
        if MEMORY in only:
            self._memory()
        if START in only:
            self._starts()
        if BROWSER in only:
            asyncio.run(self._browser())
        self.results.versions["load"] = f"{before}, {report.load_average()}"

    def _fail(self, peer: Peer, what: object) -> None:
        failure = f"{peer.title}: {what}"
        print(failure, file=sys.stderr)
        self.results.failures.append(failure)

    def _steps(self) -> list[tuple[Case | Transfer, int]]:
        steps: list[tuple[Case | Transfer, int]] = []
        for case in CASES:
            if case.key in self._options.only:
                counts = self._options.connections or (
                    [case.quick] if self._options.quick else case.connections
                )
                steps += [(case, count) for count in counts]
        steps += [(kind, 1) for kind in TRANSFERS if kind.key in self._options.only]
        return steps

    def _distinct(self, *, http2: bool | None = None) -> list[Peer]:
        """Return the peers, with this proxy only once; of one protocol, or of both."""
        return [
            peer
            for peer in self.results.peers
            if peer.key not in (OURS_PLAIN, OURS_LOGGING) and http2 in (None, peer.http2)
        ]

    @contextmanager
    def _started(self, peers: Sequence[Peer]) -> Iterator[list[Running]]:
        """Those of the peers that come up."""
        with ExitStack() as stack:
            started = []
            for peer in peers:
                proxy = stack.enter_context(serving(peer, self._archive, self._origin))
                try:
                    _await(proxy)
                except RuntimeError as error:
                    self._fail(peer, error)
                else:
                    started.append(proxy)
            yield started

    def _requests(self, steps: Sequence[tuple[Case | Transfer, int]]) -> None:
        peers = [
            peer
            for peer in [*self.results.peers, NO_PROXY]
            if any(_applies(step, peer) for step, _ in steps)
        ]
        with self._started(peers) as proxies:
            fit = self._checked([step for step, _ in steps], proxies)
            for proxy in [
                proxy for proxy in proxies if proxy.process
            ]:  # compilers and caches get warm
                cases.measure(CASES[1], proxy, 0, 8, 1)
            for turn in range(self._options.rounds):
                for step, connections in steps:
                    able = [
                        proxy
                        for proxy in proxies
                        if (step.key, proxy.peer.key) in fit and (proxy.process or not turn)
                    ]
                    for proxy in _rotated(able, turn):
                        if isinstance(step, Case):
                            size = fit[step.key, proxy.peer.key]
                            seconds = self._options.seconds
                            sample = cases.measure(step, proxy, size, connections, seconds)
                        else:
                            sample = cases.transfer(step, proxy, self._file)
                        self.results.samples[step.key, connections, proxy.peer.key].append(sample)
                    _progress(f"round {turn + 1}, {step.key}, c{connections}")

    def _checked(
        self, steps: Sequence[Case | Transfer], proxies: Sequence[Running]
    ) -> dict[tuple[str, str], int]:
        """Which proxies answer which case as they should, and with how many bytes."""
        fit: dict[tuple[str, str], int] = {}
        for step in dict.fromkeys(steps):
            for proxy in proxies:
                peer = proxy.peer
                if not _applies(step, peer) and not peer.http2:
                    continue
                try:
                    if isinstance(step, Case):
                        size = cases.check(step, proxy)
                    else:
                        size = 0
                        cases.check_transfer(step, proxy, self._file)
                except (OSError, WrongAnswerError) as error:
                    self._fail(peer, f"{step.title}: {error}")
                else:
                    fit[step.key, peer.key] = size
        _progress("answers checked")
        return fit

    def _multiplexed(self, keys: Sequence[str]) -> None:
        with self._started(self._distinct(http2=True)) as proxies:
            fit = self._checked([http2.KEYS[key] for key in keys], proxies)
            for turn in range(self._options.rounds):
                for key in keys:
                    able = [p for p in proxies if (http2.KEYS[key].key, p.peer.key) in fit]
                    for load in http2.LOADS:
                        for proxy in _rotated(able, turn):
                            size = fit[http2.KEYS[key].key, proxy.peer.key]
                            seconds = self._options.seconds
                            sample = http2.measure(key, proxy, size, load, seconds)
                            self.results.samples[key, load, proxy.peer.key].append(sample)
                    _progress(f"round {turn + 1}, {key}")

    def _memory(self) -> None:
        for peer in self._distinct(http2=False):
            with self._started([peer]) as proxies:
                for proxy in proxies:
                    assert proxy.process is not None  # noqa: S101
                    time.sleep(0.3)
                    idle = proxy.process.memory()
                    try:
                        with cases.stall(proxy, STREAMS):
                            stalled = [idle]
                            for _ in range(12):
                                time.sleep(0.25)
                                stalled.append(proxy.process.memory())
                    except (OSError, WrongAnswerError) as error:
                        self._fail(peer, f"stalled streams: {error}")
                    else:
                        most = max(stalled, key=lambda memory: memory.pss)
                        self.results.memory[peer.key] = idle, most
            _progress(f"memory, {peer.key}")

    def _starts(self) -> None:
        for turn in range(2 * self._options.rounds):
            for peer in self._distinct(http2=False):
                began = time.monotonic()
                with self._started([peer]) as proxies:
                    if proxies:
                        self.results.starts[peer.key].append(time.monotonic() - began)
            _progress(f"round {turn + 1}, start")

    async def _browser(self) -> None:
        peers = [signing_in(peer) for peer in self._distinct()]
        delays = self._options.delays
        with self._started([*peers, NO_PROXY]) as proxies, ExitStack() as relays:
            async with browser.trusting() as chrome:
                fit = [proxy for proxy in proxies if await self._loads(chrome, proxy)]
                ports = {
                    (proxy.peer.key, delay): relays.enter_context(
                        browser.delayed(proxy.port, delay)
                    )
                    for proxy in fit
                    for delay in delays
                }
                for turn in range(self._options.rounds):
                    for size in self._options.sizes:
                        for delay in delays:
                            for proxy in _rotated(fit, turn):
                                port = ports[proxy.peer.key, delay]
                                series = browser.Series(port, size, self._options.frames)
                                await self._load(chrome, proxy, series, delay)
                            _progress(f"round {turn + 1}, Chromium, {size} KB, {delay} ms")

    async def _loads(self, chrome: Browser, proxy: Running) -> bool:
        """Whether a proxy serves pages as it should."""
        try:
            if proxy.process:
                await browser.check(chrome, proxy)
        except WrongAnswerError as error:
            self._fail(proxy.peer, f"in Chromium, {error}")
            return False
        return True

    async def _load(
        self, chrome: Browser, proxy: Running, series: browser.Series, delay: int
    ) -> None:
        if proxy.process:
            seen = await browser.load(chrome, proxy, series)
        else:
            seen = {browser.PREFLIGHTED: await browser.same_origin(chrome, series)}
        for mode, load in seen.items():
            cell = browser.Cell(series.size, delay, mode)
            self.results.loads[cell, proxy.peer.key].append(load)


def _applies(step: Case | Transfer, peer: Peer) -> bool:
    if peer is NO_PROXY:
        return not isinstance(step, Case) or (step.method == "GET" and not step.only_ours)
    if peer.http2:
        return False
    if peer.key == OURS_PLAIN:
        return isinstance(step, Case) and step.plain
    if peer.key == OURS_LOGGING:
        return isinstance(step, Case) and not step.only_ours
    return not (isinstance(step, Case) and step.only_ours) or peer.key == OURS


def _rotated(members: Sequence[T], turn: int) -> list[T]:
    """Return all, so that another one begins in each round."""
    start = turn % len(members) if members else 0
    return [*members[start:], *members[:start]]


def _await(proxy: Running) -> None:
    """Wait for the first response. Raises RuntimeError."""
    if proxy.process:
        proxy.process.wait_until(lambda: cases.answers(proxy))


_BEGAN: Final = time.monotonic()


def _progress(what: str) -> None:
    print(f"{time.monotonic() - _BEGAN:5.0f} s  {what}", file=sys.stderr)
