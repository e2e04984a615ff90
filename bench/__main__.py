"""Measure this proxy beside others: `python -m bench --help`; the method is in `docs/bench.md`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.browser import chromium
from tests.support.servers import free_port

from bench import archive, browser, cases, report
from bench.cases import CASES, TRANSFERS, Case, Transfer, WrongAnswerError
from bench.peers import (
    NO_PROXY,
    OURS,
    OURS_PLAIN,
    OURS_WITH_CREDENTIALS,
    PEERS,
    Peer,
    Running,
    serving,
)
from bench.processes import OTHER_CORES, listens, running
from bench.report import Results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[1]
DOCUMENT: Final = ROOT / "docs" / "bench.md"
README: Final = ROOT / "README.md"
MEMORY, START, BROWSER = "memory", "start", "browser"
PARTS: Final = (*(case.key for case in (*CASES, *TRANSFERS)), MEMORY, START, BROWSER)
STREAMS: Final = 20


def _list(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="CPU, speed and memory of proxies that do the same job, side by side.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small bodies, one round; the figures are rough")
    add(
        "--only",
        type=_list(PARTS),
        default=PARTS,
        metavar="CASE,...",
        help=f"of {', '.join(PARTS)}",
    )
    add(
        "--peers",
        type=_list([*PEERS]),
        default=[*PEERS],
        metavar="PEER,...",
        help=f"of {', '.join(PEERS)}",
    )
    add("--rounds", type=int, metavar="N", help="default 3, with --quick 1")
    add("--connections", type=_numbers, metavar="N,...", help="default 1,6,32, with --quick one")
    add("--seconds", type=int, metavar="N", help="of load for a figure; default 2, with --quick 1")
    add("--long", type=int, metavar="MIB", help="of a long body; default 1024, with --quick 128")
    add("--frames", type=int, metavar="N", help="of a series; default 300, with --quick 60")
    add("--output", type=Path, metavar="FILE", help="write the tables there, don't print them")
    add(
        "--publish",
        action="store_true",
        help="put them into docs/bench.md and a short one into README.md, between their marks",
    )
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    options.rounds = options.rounds or (1 if quick else 3)
    options.seconds = options.seconds or (1 if quick else 2)
    options.long = (options.long or (128 if quick else 1024)) << 20
    options.frames = options.frames or (60 if quick else 300)
    return options


def _missing(only: Sequence[str]) -> list[str]:
    """Programs that are needed and aren't there."""
    needed = {
        "taskset": True,
        "wrk": any(case.key in only for case in CASES),
        "curl": any(kind.key in only for kind in TRANSFERS),
        "chromium": BROWSER in only,
    }
    return [name for name, is_needed in needed.items() if is_needed and not shutil.which(name)]


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

    def _distinct(self) -> list[Peer]:
        """Return the peers, with this proxy only once."""
        return [peer for peer in self.results.peers if peer.key != OURS_PLAIN]

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
                    # Another one begins every time.
                    start = turn % len(able) if able else 0
                    for proxy in able[start:] + able[:start]:
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
                if not _applies(step, peer):
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

    def _memory(self) -> None:
        for peer in self._distinct():
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
            for peer in self._distinct():
                began = time.monotonic()
                with self._started([peer]) as proxies:
                    if proxies:
                        self.results.starts[peer.key].append(time.monotonic() - began)
            _progress(f"round {turn + 1}, start")

    async def _browser(self) -> None:
        peers = [OURS_WITH_CREDENTIALS if peer.key == OURS else peer for peer in self._distinct()]
        loads = self.results.loads
        with self._started([*peers, NO_PROXY]) as proxies, ExitStack() as relays:
            async with chromium() as chrome:
                fit = []
                for proxy in proxies:
                    try:
                        if proxy.process:
                            await browser.check(chrome, proxy)
                    except WrongAnswerError as error:
                        self._fail(proxy.peer, f"in Chromium, {error}")
                    else:
                        fit.append(proxy)
                ports = {
                    (proxy.peer.key, delay): relays.enter_context(
                        browser.delayed(proxy.port, delay)
                    )
                    for proxy in fit
                    for delay in browser.DELAYS
                }
                for turn in range(self._options.rounds):
                    for delay in browser.DELAYS:
                        for proxy in fit:
                            key = proxy.peer.key
                            port = ports[key, delay]
                            if proxy.process is None:
                                load = await browser.same_origin(chrome, port, self._options.frames)
                                loads[delay, browser.PREFLIGHTED, key].append(load)
                                continue
                            seen = await browser.series(chrome, proxy, port, self._options.frames)
                            for mode, load in seen.items():
                                shown = OURS if key == OURS_WITH_CREDENTIALS.key else key
                                loads[delay, mode, shown].append(load)
                        _progress(f"round {turn + 1}, Chromium, {delay} ms")


def _applies(step: Case | Transfer, peer: Peer) -> bool:
    if peer is NO_PROXY:
        return not isinstance(step, Case) or (step.method == "GET" and not step.only_ours)
    if peer.key == OURS_PLAIN:
        return isinstance(step, Case) and step.plain
    return not (isinstance(step, Case) and step.only_ours) or peer.key == OURS


def _await(proxy: Running) -> None:
    """Wait for the first answer. Raises RuntimeError."""
    if proxy.process:
        proxy.process.wait_until(lambda: cases.answers(proxy))


_BEGAN: Final = time.monotonic()


def _progress(what: str) -> None:
    print(f"{time.monotonic() - _BEGAN:5.0f} s  {what}", file=sys.stderr)


@contextmanager
def _archive(long: int) -> Iterator[tuple[int, Path]]:
    """Run the archive; yields its port, and a file of `long` bytes to store."""
    port = free_port()
    command = [sys.executable, "-m", "bench.archive", str(port), str(long)]
    with (
        tempfile.NamedTemporaryFile(prefix="bench-") as file,
        running(command, cores=OTHER_CORES, env={"PYTHONPATH": str(ROOT)}) as process,
    ):
        for chunk in archive.long_chunks(long):
            file.write(chunk)
        file.flush()
        process.wait_until(lambda: listens(port))
        yield port, Path(file.name)


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the bench as the arguments say."""
    options = _options(arguments)
    if missing := _missing(options.only):
        sys.exit(f"not installed: {', '.join(missing)}; apt-get install them, or choose by --only")
    os.sched_setaffinity(0, OTHER_CORES)  # for whatever is started, but the proxies
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    with _archive(options.long) as (port, file):
        bench = Bench(options, port, file)
        bench.run()
    results = bench.results
    tables = report.full(results)
    if options.publish:
        for target, name, content in (
            (DOCUMENT, "bench", tables),
            (README, "bench", report.short(results)),
        ):
            text = report.between(target.read_text(encoding="utf-8"), name, content)
            target.write_text(text, encoding="utf-8")
    elif options.output:
        options.output.write_text(tables, encoding="utf-8")
    else:
        print(tables)
    return results


if __name__ == "__main__":
    main()
