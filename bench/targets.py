"""The figures that this proxy is to reach, for `--assert`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.peers import OURS, OURS_HTTP2, REFERENCE, REFERENCE_HTTP2

if TYPE_CHECKING:
    from bench.report import Amount, Results

# The part by which a figure may exceed its target: two runs differ by nearly as much.
TOLERANCE: Final = 0.15

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """The most CPU of a case, with that of Caddy as 1.

    Attributes:
        case: its key.
        amount: connections, or connections and streams.
    """

    case: str
    amount: Amount
    most: float


RATIOS: Final = (
    Target("preflight", 32, 0.9),
    Target("search-2k", 32, 1.1),
    Target("search-2k-gzip", 32, 1.3),
    Target("search-100k", 32, 1.3),
    Target("frame", 6, 1.2),
    Target("frame", 32, 1.1),
    Target("answer", 1, 0.9),
    Target("upload", 1, 1.2),
    Target("upload-chunked", 1, 1.1),
    Target("search-2k-h2", (1, 32), 1.3),
    Target("frame-h2", (1, 32), 1.0),
)
STALLED_MIB: Final = 16.0
START_SECONDS: Final = 0.3


def compared(results: Results) -> list[tuple[str, float, float]]:
    """Return name, figure and target of all that was measured."""
    found: list[tuple[str, float, float]] = []
    for target in RATIOS:
        over_http2 = isinstance(target.amount, tuple)
        peers = (OURS_HTTP2, REFERENCE_HTTP2) if over_http2 else (OURS, REFERENCE)
        ratio = results.cpu_ratio(target.case, target.amount, *peers)
        if ratio is not None:
            found.append((f"{target.case} {target.amount}, CPU in Caddy's", ratio, target.most))
    if OURS in results.memory:
        idle, stalled = results.memory[OURS]
        grown = (stalled.pss - idle.pss) / MIB
        found.append(("memory of stalled responses, MiB", grown, STALLED_MIB))
    if starts := sorted(results.starts.get(OURS, [])):
        found.append(("start, s", starts[len(starts) // 2], START_SECONDS))
    return found


def verdict(results: Results) -> tuple[str, bool]:
    """Return a line for each target, and whether all were measured figures within tolerance."""
    figures = compared(results)
    lines = []
    is_met = bool(figures)
    for name, figure, target in figures:
        is_missed = figure > target * (1 + TOLERANCE)
        is_met = is_met and not is_missed
        mark = "MISSED" if is_missed else "above, within tolerance" if figure > target else "met"
        lines.append(f"{name}: {figure:.2f}, target {target:g}: {mark}")
    return "\n".join(lines or ["none of the targets was measured"]), is_met
