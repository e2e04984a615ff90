"""What rewriting URLs costs: CPU of the proxy for a body that is rewritten and for one that isn't.

    python bench/rewriting.py

Bodies are made up in the shape that archives answer with. "alone" is the rewriter's own time, fed
with chunks as they come from a socket; "passed" and "rewritten" are all that the proxy's process
spends on a response, the kernel's share included (Linux counts it in /proc). "gzipped" and "both"
are the same for clients that accept gzip, as all browsers do. Medians of interleaved rounds; ratios
hold within a run.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.dicomweb.archive_urls import ArchiveURLs
from dicomweb_cors_proxy.dicomweb.rewriter import URLRewriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS: Final = 7
KINDS: Final = {
    "passed": {"rewrite_urls": False, "compress": False},
    "rewritten": {"rewrite_urls": True, "compress": False},
    "gzipped": {"rewrite_urls": False, "compress": True},
    "both": {"rewrite_urls": True, "compress": True},
}
CHUNK: Final = 262144  # bytes that a read of the event loop brings at most
BASE: Final = "http://localhost:8042/dicom-web"
PUBLIC: Final = "https://pacs.example/dicom-web"

VALUES: Final[dict[str, list[Any]]] = {
    "AS": ["061Y"],
    "CS": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "DA": ["20240102"],
    "DS": ["-249.51171875", "0.488281"],
    "IS": ["120"],
    "LO": ["CHEST W/O CONTRAST"],
    "SH": ["CT01OC0"],
    "TM": ["101112.123000"],
    "UI": ["1.2.840.10008.5.1.4.1.1.2"],
    "US": [512],
}
STUDY: Final = "1.2.840.113619.2.55.3.604688119.971.1268071029.320"


def dataset(random: Random, url: str, attributes: int) -> dict[str, Any]:
    """Attributes as metadata and search answers have them."""
    kinds = random.choices(list(VALUES), k=attributes)
    tags = sorted(random.sample(range(0x00080000, 0x00400000, 0x11), attributes))
    elements = {
        f"{tag:08X}": {"vr": vr, "Value": VALUES[vr]} for tag, vr in zip(tags, kinds, strict=True)
    }
    name = {"vr": "PN", "Value": [{"Alphabetic": "M\u00fcller^Anna"}]}
    return {**elements, "00081190": {"vr": "UR", "Value": [url]}, "00100010": name}


def instance(random: Random, number: int) -> dict[str, Any]:
    """One instance of a CT series: its pixel data, and some private data, are elsewhere."""
    url = f"{BASE}/studies/{STUDY}/series/{STUDY}.7/instances/{STUDY}.7.{number}"
    bulk = ["7FE00010"] if number % 4 else ["7FE00010", "00431029"]
    elements = {tag: {"vr": "OW", "BulkDataURI": f"{url}/bulk/{tag}"} for tag in bulk}
    return dataset(random, url, 140) | elements


def study(random: Random, number: int) -> dict[str, Any]:
    """One match of a search for studies."""
    return dataset(random, f"{BASE}/studies/{STUDY}.{number}", 20)


def body(kind: Callable[[Random, int], object], size: int) -> bytes:
    """Return a JSON array of at least `size` bytes."""
    random = Random(size)  # noqa: S311  (any will do)
    items: list[str] = []
    while sum(map(len, items[-1:])) * len(items) < size:
        items.append(json.dumps(kind(random, len(items)), separators=(",", ":")))
    return f"[{','.join(items)}]".encode()


BODIES: Final = {
    "100 KB search": (body(study, 100_000), 200),
    "50 MB metadata": (body(instance, 50_000_000), 3),
}


def alone(data: bytes) -> float:
    """Seconds of CPU that the rewriter takes."""
    archive = ArchiveURLs(["http://archive:8042/dicom-web"], aliases=[BASE])
    chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    began = time.thread_time()
    urls = archive.for_public_url(PUBLIC.encode(), hosts=[b"archive:8042", b"pacs.example"])
    rewriter = URLRewriter(urls).body(200, {b"content-type": b"application/dicom+json"})
    assert rewriter is not None  # noqa: S101
    for chunk in chunks:
        rewriter.feed(chunk)
    rewriter.flush()
    return time.thread_time() - began


class Archive(BaseHTTPRequestHandler):
    """Answers with one of the bodies, by its number in the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/studies?limit=1"):  # the proxy's search after its start
            self.send_error(404)
            return
        data, _ = list(BODIES.values())[int(self.path.split("/")[-2])]
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def archive() -> Iterator[str]:
    """Run the archive; yields its root."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Archive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        server.shutdown()


class Proxy:
    """A proxy in a process of its own, and one connection to it."""

    def __init__(self, process: subprocess.Popen[str], host: str) -> None:
        self._pid = process.pid
        self._connection = http.client.HTTPConnection(host)

    def spends(self, number: int, times: int) -> float:
        """Seconds of CPU for a response with the body of that number."""
        before = self._cpu()
        for _ in range(times):
            self._connection.request(
                "GET",
                f"/dicom-web/studies/{number}/metadata",
                headers={"Accept-Encoding": "gzip"},
            )
            with self._connection.getresponse() as response:
                while response.read(1 << 20):
                    pass
        return (self._cpu() - before) / times

    def _cpu(self) -> float:
        nanoseconds = Path(f"/proc/{self._pid}/schedstat").read_text(encoding="ascii").split()[0]
        return int(nanoseconds) / 1e9


@contextmanager
def proxy(upstream: str, *, rewrite_urls: bool, compress: bool) -> Iterator[Proxy]:
    """Run `serve` in front of `upstream`."""
    settings: dict[str, Any] = {
        "upstream": {"url": upstream, "aliases": [BASE]},
        "cors": {"allow_origins": ["https://viewer.example"]},
        "public_url": PUBLIC,
        "rewrite_urls": rewrite_urls,
        "compress": compress,
        "logging": {"level": "error"},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(settings, file)
        file.flush()
        command = [sys.executable, "-m", "dicomweb_cors_proxy", "serve", "--port", "0"]
        with subprocess.Popen(  # noqa: S603
            [*command, "--config", file.name],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None  # noqa: S101
            hosts = (re.search(r"\bat +http://([^/]+)/", line) for line in process.stdout)
            yield Proxy(process, next(host[1] for host in hosts if host))
            process.terminate()


def main() -> None:
    """Measure, and print a table."""
    seconds = defaultdict[tuple[str, str], list[float]](list)
    with ExitStack() as stack:
        upstream = stack.enter_context(archive())
        proxies = {
            kind: stack.enter_context(proxy(upstream, **settings))
            for kind, settings in KINDS.items()
        }
        for _ in range(ROUNDS):
            for number, (name, (data, times)) in enumerate(BODIES.items()):
                seconds[name, "alone"].append(min(alone(data) for _ in range(3)))
                for kind, running in proxies.items():
                    seconds[name, kind].append(running.spends(number, times))
    print(
        f"{'ms of CPU':16}{'URLs':>8}{'alone':>9}{'passed':>9}{'rewritten':>11}{'ratio':>7}"
        f"{'gzipped':>10}{'both':>9}{'ratio':>7}{'bytes':>7}"
    )
    for name, (data, _) in BODIES.items():
        took = {kind: statistics.median(seconds[name, kind]) * 1e3 for kind in ("alone", *KINDS)}
        size = len(zlib.compress(data, 1)) / len(data)
        print(
            f"{name:16}{data.count(BASE.encode()):8}{took['alone']:9.2f}{took['passed']:9.2f}"
            f"{took['rewritten']:11.2f}{took['rewritten'] / took['passed']:7.2f}"
            f"{took['gzipped']:10.2f}{took['both']:9.2f}{took['both'] / took['gzipped']:7.2f}"
            f"{size:7.0%}"
        )


if __name__ == "__main__":
    main()
