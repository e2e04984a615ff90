"""Measure this proxy beside others: `python -m bench --help`; the method is in `docs/bench.md`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tests.support.servers import free_port

from bench import archive, http2, report, targets
from bench.archive import FRAME_SIZES
from bench.browser import DELAYS
from bench.cases import CASES, TRANSFERS
from bench.peers import IMPORTS, PEERS
from bench.processes import OTHER_CORES, listens, running
from bench.run import BROWSER, MEMORY, START, Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.report import Results

T = TypeVar("T", int, str)

ROOT: Final = Path(__file__).parents[1]
DOCUMENT: Final = ROOT / "docs" / "bench.md"
README: Final = ROOT / "README.md"
PARTS: Final = (
    *(case.key for case in (*CASES, *TRANSFERS)),
    *http2.KEYS,
    MEMORY,
    START,
    BROWSER,
)
ALL: Final = "all"
HTTP2: Final = "http2"


def _list(known: Sequence[T]) -> Callable[[str], list[T]]:
    members = {str(member): member for member in known}

    def parse(text: str) -> list[T]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in members:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(members)}")
        return [members[name] for name in names]

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
    add(
        "--sizes",
        type=_list([*FRAME_SIZES]),
        metavar="KB,...",
        help="of frames in the browser; default 60,512, with --quick 60",
    )
    add(
        "--delays",
        type=_list(DELAYS),
        metavar="MS,...",
        help="in front of the browser; default 0,20,60, with --quick 20",
    )
    add("--output", type=Path, metavar="FILE", help="write the tables there, don't print them")
    add(
        "--publish",
        nargs="?",
        const=ALL,
        choices=(ALL, HTTP2),
        help="put them into docs/bench.md and a short one into README.md, between their marks;"
        " `http2` puts those over HTTP/2 and in the browser into docs/bench.md alone",
    )
    add(
        "--assert",
        dest="asserts",
        action="store_true",
        help=f"exit with 1 if a figure is {targets.TOLERANCE:.0%} above its target",
    )
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    options.rounds = options.rounds or (1 if quick else 3)
    options.seconds = options.seconds or (1 if quick else 2)
    options.long = (options.long or (128 if quick else 1024)) << 20
    options.frames = options.frames or (60 if quick else 300)
    options.sizes = options.sizes or ([60] if quick else [60, 512])
    options.delays = options.delays or ([20] if quick else [*DELAYS])
    return options


def _missing(only: Sequence[str]) -> list[str]:
    """Programs that are needed and aren't there."""
    needed = {
        "taskset": True,
        "wrk": any(case.key in only for case in CASES),
        "curl": any(kind.key in only for kind in TRANSFERS),
        "h2load": any(key in only for key in http2.KEYS),
        "chromium": BROWSER in only,
    }
    return [name for name, is_needed in needed.items() if is_needed and not shutil.which(name)]


@contextmanager
def _archive(long: int) -> Iterator[tuple[int, Path]]:
    """Run the archive; yields its port, and a file of `long` bytes to store."""
    port = free_port()
    command = [sys.executable, "-m", "bench.archive", str(port), str(long)]
    with (
        tempfile.NamedTemporaryFile(prefix="bench-") as file,
        running(command, cores=OTHER_CORES, env={"PYTHONPATH": IMPORTS}) as process,
    ):
        for chunk in archive.long_chunks(long):
            file.write(chunk)
        file.flush()
        process.wait_until(lambda: listens(port))
        yield port, Path(file.name)


def _publish(page: Path, name: str, content: str) -> None:
    text = report.between(page.read_text(encoding="utf-8"), name, content)
    page.write_text(text, encoding="utf-8")


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
    head = report.circumstances(results)
    requests, multiplexed = report.requests(results), report.over_http2(results)
    if options.publish:
        _publish(DOCUMENT, "http2", f"{head}\n{multiplexed}")
        if options.publish == ALL:
            _publish(DOCUMENT, "bench", f"{head}\n{requests}")
            _publish(README, "bench", report.short(results))
    elif options.output:
        options.output.write_text(f"{head}\n{requests}{multiplexed}", encoding="utf-8")
    else:
        print(f"{head}\n{requests}{multiplexed}")
    if options.asserts:
        lines, is_met = targets.verdict(results)
        print(lines)
        if not is_met:
            sys.exit(1)
    return results


if __name__ == "__main__":
    main()
