"""Tables in Markdown, from what was measured."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bench import http2
from bench.browser import MODES, PREFLIGHTED, SIMPLE, Cell, Load
from bench.cases import CASES, TRANSFERS, Case, Sample, Transfer
from bench.peers import NO_PROXY, REFERENCE, REFERENCE_HTTP2, Peer
from bench.processes import CORES, OTHER_CORES, PROXY_CORES, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Connections; over HTTP/2 with the number of streams on each.
Amount = int | tuple[int, int]

MIB: Final = 1 << 20
DASH: Final = "\N{EN DASH}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
NONE: Final = DASH
COMPARED: Final = (PREFLIGHTED, SIMPLE)


class Figure(NamedTuple):
    """Median and spread."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, factor: float = 1) -> str:
        low, high = number(self.least * factor), number(self.most * factor)
        spread = f" ({low}{DASH}{high})" if low != high else ""
        return number(self.median * factor) + spread


def number(value: float) -> str:
    """Three digits, or all before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


@dataclass(slots=True)
class Results:
    """All that was measured; lists hold a value a round.

    Attributes:
        peers: in the order of the tables.
        options: how the bench was called.
        samples: by key of the case, amount, key of the peer.
        memory: by key of the peer, idle and with stalled streams.
        starts: by key of the peer, seconds.
        loads: by cell, key of the peer; the same-origin load stands for every mode.
        failures: peers and what was wrong with them.
    """

    peers: list[Peer]
    options: str
    rounds: int
    streams: int
    frames: int
    long: int
    samples: defaultdict[tuple[str, Amount, str], list[Sample]] = field(
        default_factory=lambda: defaultdict(list)
    )
    memory: dict[str, tuple[Memory, Memory]] = field(default_factory=dict)
    starts: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    loads: defaultdict[tuple[Cell, str], list[Load]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failures: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def cpu(self, case: str, amount: Amount, peer: str) -> Figure | None:
        """Seconds of CPU a request or GiB."""
        samples = self.samples.get((case, amount, peer), [])
        values = [sample.cpu for sample in samples if sample.cpu is not None]
        return Figure.of(values) if values else None

    def cpu_ratio(
        self, case: str, amount: Amount, peer: str, reference: str = REFERENCE
    ) -> float | None:
        """CPU of a peer in that of the reference."""
        one, other = (self.cpu(case, amount, key) for key in (peer, reference))
        return one.median / other.median if one and other else None

    def load(self, cell: Cell, peer: str) -> Figure | None:
        """Seconds that a series takes."""
        loads = self.loads.get((cell, peer))
        return Figure.of([load.seconds for load in loads]) if loads else None

    def load_ratio(self, cell: Cell, peer: str, reference: str) -> float | None:
        """Seconds of a peer in those of the reference: the median of the rounds' ratios.

        A browser is faster in one round than in another, whichever proxy it uses.
        """
        one, other = self.loads.get((cell, peer)), self.loads.get((cell, reference))
        if not (one and other):
            return None
        return statistics.median(
            own.seconds / its.seconds for own, its in zip(one, other, strict=True)
        )


def table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; none without rows."""
    head, rows = list(head), list(rows)
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" if rows else ""


def ratio(value: float | None) -> str:
    """How many times the reference."""
    return NONE if value is None else f"{value:.2f}"


def requests(results: Results) -> str:
    """Return the tables of what is asked over HTTP/1.1, memory and start."""
    parts = []
    for case in CASES:
        parts += _case(results, case)
    parts += _transfers(results)
    parts += _memory(results)
    parts += _starts(results)
    return "\n".join(part for part in parts if part)


def over_http2(results: Results) -> str:
    """Return the tables of requests over HTTP/2, and of the browser with either protocol."""
    parts = []
    for key in http2.KEYS:
        parts += _multiplexed(results, key)
    parts += _against_reference(results)
    for size, delay in dict.fromkeys((cell.size, cell.delay) for cell, _ in results.loads):
        parts += _loads(results, size, delay)
    return "\n".join(part for part in parts if part)


def circumstances(results: Results) -> str:
    """Return the command, the machine and the versions."""
    today = datetime.now(UTC).date()
    load = results.versions.get("load", NONE)
    lines = [
        f"{today}, `{results.options}`, {results.rounds} rounds",
        f"{processor()}, {len(CORES)} cores, Linux {platform.release()}",
        f"proxies on core {_cores(PROXY_CORES)}, everything else on {_cores(OTHER_CORES)}",
        f"load average before and after: {load}",
        *(f"{title}: {version}" for title, version in results.versions.items() if title != "load"),
        *(f"**not measured**: {failure}" for failure in results.failures),
    ]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _cores(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


def processor() -> str:
    """Return the name of the processor."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _case(results: Results, case: Case) -> list[str]:
    rows = []
    counts = [c for c in case.connections if any(k[:2] == (case.key, c) for k in results.samples)]
    for peer in [*results.peers, NO_PROXY]:
        cells: list[str] = []
        speeds: list[str] = []
        errors = 0
        for connections in counts:
            samples = results.samples.get((case.key, connections, peer.key), [])
            cpu = results.cpu(case.key, connections, peer.key)
            cells.append(ratio(results.cpu_ratio(case.key, connections, peer.key)))
            cells.append(cpu.text(1e6) if cpu else NONE)
            speeds.append(_speed(samples))
            errors += sum(sample.errors for sample in samples)
        if any(speed != NONE for speed in speeds):
            rows.append([peer.title, *cells, *speeds, str(errors)])
    if not rows:
        return []
    heads = [part for c in counts for part in (f"÷ Caddy, c{c}", f"µs, c{c}")]
    return [
        f"### {case.title}\n",
        table(["", *heads, *(f"req/s, p99 ms, c{c}" for c in counts), "errors"], rows),
    ]


def _speed(samples: Sequence[Sample]) -> str:
    if not samples:
        return NONE
    rate = statistics.median(sample.rate for sample in samples)
    late = statistics.median(sample.p99 or 0 for sample in samples)
    return f"{rate:.0f}, {number(late * 1e3)}"


def _transfers(results: Results) -> list[str]:
    parts = []
    for transfer in TRANSFERS:
        rows = []
        for peer in [*results.peers, NO_PROXY]:
            samples = results.samples.get((transfer.key, 1, peer.key))
            if not samples:
                continue
            cpu = results.cpu(transfer.key, 1, peer.key)
            rows.append(
                [
                    peer.title,
                    ratio(results.cpu_ratio(transfer.key, 1, peer.key)),
                    cpu.text() if cpu else NONE,
                    Figure.of([sample.rate for sample in samples]).text(),
                    str(sum(sample.errors for sample in samples)),
                ]
            )
        if rows:
            size = "" if results.long == 1 << 30 else f" ({results.long // MIB} MiB of it)"
            head = ["", "÷ Caddy", "CPU s/GiB", "GiB/s", "errors"]
            parts += [f"### {transfer.title}{size}\n", table(head, rows)]
    return parts


def _memory(results: Results) -> list[str]:
    rows = []
    for peer in results.peers:
        if peer.key in results.memory:
            idle, stalled = results.memory[peer.key]
            cells = [value / MIB for pair in zip(idle, stalled, strict=True) for value in pair]
            growth = (stalled.pss - idle.pss) / MIB
            rows.append([peer.title, *(f"{cell:.0f}" for cell in cells), f"{growth:+.0f}"])
    if not rows:
        return []
    title = f"### Memory, MiB, idle and with {results.streams} stalled streams\n"
    head = ["", "RSS idle", "RSS stalled", "PSS idle", "PSS stalled", "PSS grows by"]
    return [title, table(head, rows)]


def _starts(results: Results) -> list[str]:
    rows = [
        [peer.title, Figure.of(results.starts[peer.key]).text(1e3)]
        for peer in results.peers
        if peer.key in results.starts
    ]
    return ["### Start to first answer\n", table(["", "ms"], rows)] if rows else []


def _multiplexed(results: Results, key: str) -> list[str]:
    rows = []
    for peer in results.peers:
        samples = [results.samples.get((key, load, peer.key), []) for load in http2.LOADS]
        if not any(samples):
            continue
        cells: list[str] = []
        for load in http2.LOADS:
            cpu = results.cpu(key, load, peer.key)
            cells.append(ratio(results.cpu_ratio(key, load, peer.key, REFERENCE_HTTP2)))
            cells.append(cpu.text(1e6) if cpu else NONE)
        rates = [f"{statistics.median(sample.rate for sample in each):.0f}" for each in samples]
        errors = sum(sample.errors for each in samples for sample in each)
        rows.append([peer.title, *cells, *rates, str(errors)])
    names = [f"{connections} {TIMES} {streams}" for connections, streams in http2.LOADS]
    heads = [part for name in names for part in (f"÷ Caddy, {name}", f"µs, {name}")]
    head = ["", *heads, *(f"req/s, {name}" for name in names), "errors"]
    return [f"### {http2.title(key)}\n", table(head, rows)] if rows else []


def _against_reference(results: Results) -> list[str]:
    """Return how the peers over HTTP/2 compare in the browser, cell by cell."""
    cells = dict.fromkeys(
        cell for cell, peer in results.loads if peer == REFERENCE_HTTP2 and cell.mode in COMPARED
    )
    peers = [
        peer
        for peer in results.peers
        if any(results.load_ratio(cell, peer.key, REFERENCE_HTTP2) is not None for cell in cells)
        and peer.http2
    ]
    rows = [
        [
            f"{cell.size} KB, {cell.delay} ms, {cell.mode}",
            *(ratio(results.load_ratio(cell, peer.key, REFERENCE_HTTP2)) for peer in peers),
        ]
        for cell in cells
    ]
    if not rows:
        return []
    head = ["÷ Caddy over HTTP/2", *(peer.title for peer in peers)]
    return [f"### Chromium loads {results.frames} frames over HTTP/2\n", table(head, rows)]


def _loads(results: Results, size: int, delay: int) -> list[str]:
    rows = []
    base = Cell(size, delay, PREFLIGHTED)
    same_origin = results.load(base, NO_PROXY.key)
    for peer in [*results.peers, NO_PROXY]:
        cells: list[str] = []
        errors = 0
        for mode in MODES if peer is not NO_PROXY else MODES[:1]:
            cell = Cell(size, delay, mode)
            figure = results.load(cell, peer.key)
            times = figure.median / same_origin.median if figure and same_origin else None
            cells += [ratio(times), figure.text() if figure else NONE]
            errors += sum(len(load.errors) for load in results.loads.get((cell, peer.key), []))
        cells += [""] * (2 * len(MODES) - len(cells))
        if cells[1] != NONE:
            title = peer.title if peer is not NO_PROXY else "same origin, no proxy"
            rows.append([title, *cells, str(errors)])
    if not rows:
        return []
    heads = [part for mode in MODES for part in (f"{mode}, ÷ same origin", "s")]
    title = f"### Chromium loads {results.frames} frames of {size} KB, {delay} ms added\n"
    return [title, table(["", *heads, "errors"], rows)]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the short table."""

    title: str
    value: Callable[[Results, str], float | None]


def _cpu_column(title: str, case: Case | Transfer, connections: int = 1) -> Column:
    return Column(title, lambda results, peer: results.cpu_ratio(case.key, connections, peer))


def _load_ratio(results: Results, peer: str) -> float | None:
    return results.load_ratio(Cell(512, 20, PREFLIGHTED), peer, REFERENCE)


SHORT: Final = (
    *(_cpu_column(case.title, case, case.quick) for case in CASES if not case.only_ours),
    *(_cpu_column(transfer.title, transfer) for transfer in TRANSFERS),
    Column("300 frames in Chromium, 20 ms", _load_ratio),
)


def short(results: Results) -> str:
    """Return the ratios over HTTP/1.1 alone, for the README, and on which processor."""
    rows = []
    for peer in results.peers:
        if peer.http2:
            continue
        values = [column.value(results, peer.key) for column in SHORT]
        if any(value is not None for value in values):
            rows.append([peer.title, *map(ratio, values)])
    return table([f"÷ Caddy, {processor()}", *(column.title for column in SHORT)], rows)


def between(text: str, name: str, content: str) -> str:
    """`text` with `content` between the marks of that name. Raises ValueError without them."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no {begin.strip()} with {end} after it")
    return f"{before}{begin}{content}{end}{after}"


def tool_versions() -> dict[str, str]:
    """Of what makes the load."""
    tools = {
        "wrk": (["wrk", "-v"], r"wrk (?:debian/)?(\S+)"),
        "curl": (["curl", "--version"], r"curl (\S+)"),
        "h2load": (["h2load", "--version"], r"nghttp2/(\S+)"),
        "Chromium": (["chromium", "--version"], r"Chromium (\S+)"),
    }
    versions = {}
    for title, (command, pattern) in tools.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        except FileNotFoundError:
            continue
        if found := re.search(pattern, done.stdout + done.stderr):
            versions[title] = found[1]
    return versions


def load_average() -> str:
    """Of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
