"""Requests over HTTP/2, by h2load: many at once on few connections, each with another path."""

from __future__ import annotations

import re
import tempfile
import time
from typing import TYPE_CHECKING, Final

from bench import archive
from bench.cases import CASES, Case, Sample, cpu, run

if TYPE_CHECKING:
    from bench.peers import Running

LOADS: Final = ((1, 32), (6, 1))  # connections, and streams at once on each
PATHS: Final = 300

_SEARCH: Final = next(case for case in CASES if case.key == "search-2k")
_FRAME: Final = next(case for case in CASES if case.key == "frame")
KEYS: Final = {"search-2k-h2": _SEARCH, "frame-h2": _FRAME}


def title(key: str) -> str:
    """Return what tables call it."""
    return f"{KEYS[key].title} over HTTP/2"


def paths(case: Case) -> list[str]:
    """Return the images of a series, or the pages of a search, as a viewer asks for them."""
    if case is _FRAME:
        study = archive.study_of(archive.LARGEST)
        return [archive.frame_path(study, number + 1) for number in range(PATHS)]
    return [f"{case.path}&offset={100 * number}" for number in range(PATHS)]


def measure(key: str, proxy: Running, size: int, load: tuple[int, int], seconds: int) -> Sample:
    """Load a proxy with h2load; `size` is what every body should have in bytes."""
    connections, streams = load
    case = KEYS[key]
    with tempfile.NamedTemporaryFile("w", prefix="bench-", suffix=".urls") as urls:
        urls.writelines(f"{proxy.root}{path}\n" for path in paths(case))
        urls.flush()
        command = ["h2load", f"-c{connections}", f"-m{streams}", "-t1", f"-D{seconds}"]
        command += ["-i", urls.name, "-H", f"Origin: {proxy.origin}"]
        for line in case.headers.items():
            command += ["-H", ": ".join(line)]
        before = cpu(proxy)
        said = run(command, seconds + 30)
        time.sleep(0.03)  # the connections are closed at the proxy's, too
        after = cpu(proxy)
    return sample(said, size, None if before is None or after is None else after - before)


def sample(said: str, size: int, used: float | None) -> Sample:
    """Read h2load's report; `used` is the proxy's CPU time in seconds."""
    counts = {name: int(count) for count, name in re.findall(r"\b(\d+) (\w+)[,\n]", said)}
    rate = re.search(r"finished in \S+, (\S+) req/s", said)
    body = re.search(r"\((\d+)\) data", said)
    if not (rate and body and counts.get("done")) or "Application protocol: h2\n" not in said:
        return Sample(cpu=None, rate=0, p99=None, errors=1)
    done = counts["done"]
    # h2load compares no lengths: what all responses together lack, in responses.
    lacking = max(0, done * size - int(body[1])) / size
    return Sample(
        cpu=None if used is None else used / done,
        rate=float(rate[1]),
        p99=None,
        errors=counts["failed"] + counts["3xx"] + round(lacking),
    )
