"""What is asked of every proxy, and how its responses are checked before anything is measured."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import httpx

from bench import archive
from bench.processes import listens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.peers import Running

GIB: Final = 1 << 30
LUA: Final = Path(__file__).with_name("wrk.lua")
QUOTED: Final = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
UNQUOTED: Final = "multipart/related; type=application/octet-stream; transfer-syntax=*"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A request that is made many times.

    Attributes:
        key: for `--only`.
        title: for tables.
        path: below the DICOMweb root.
        connections: how many at once.
        quick: the one of them that `--quick` takes.
        only_ours: what the other proxies can't do.
        plain: whether this proxy is also measured with rewriting and compression off.
    """

    key: str
    title: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: tuple[int, ...] = (1, 6, 32)
    quick: int = 32
    only_ours: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A long body, up or down; one at a time."""

    key: str
    title: str
    upload: bool
    is_chunked: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        cpu: seconds a request, or a GiB; None where there is no proxy.
        rate: requests a second, or GiB.
        p99: seconds; None for long bodies.
        errors: requests that failed, of whatever kind.
    """

    cpu: float | None
    rate: float
    p99: float | None
    errors: int


_JSON: Final = {"Accept": "application/dicom+json"}
_LARGE: Final = "/studies?PatientName=LARGE"
CASES: Final = (
    Case(
        "preflight",
        "Preflight",
        "OPTIONS",
        archive.frame_path(archive.study_of(archive.LARGEST), 1),
        {
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "accept,authorization",
        },
    ),
    Case("search-2k", "2 KB search", "GET", "/studies?PatientName=SMALL", _JSON, plain=True),
    Case(
        "search-2k-gzip",
        "2 KB search, gzip accepted",
        "GET",
        "/studies?PatientName=SMALL",
        _JSON | {"Accept-Encoding": "gzip"},
    ),
    Case("search-100k", "100 KB search", "GET", _LARGE, _JSON, plain=True),
    Case(
        "search-100k-gzip",
        "100 KB search, gzip asked for",
        "GET",
        _LARGE,
        _JSON | {"Accept-Encoding": "gzip"},
        only_ours=True,
    ),
    Case(
        "frame",
        "512 KB frame",
        "GET",
        archive.frame_path(archive.study_of(archive.LARGEST), 1),
        {"Accept": QUOTED},
        quick=6,
    ),
)
TRANSFERS: Final = (
    Transfer("answer", "1 GB answer", upload=False),
    Transfer("upload", "1 GB upload", upload=True),
    Transfer("upload-chunked", "1 GB upload, chunked", upload=True, is_chunked=True),
)
ANSWER = TRANSFERS[0]
_LONG: Final = f"/studies/{archive.LONG_STUDY}"
_STORE: Final = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}


class WrongAnswerError(Exception):
    """A proxy does not do the job."""


def _want(condition: object, what: str) -> None:
    if not condition:
        raise WrongAnswerError(what)


def _readable(headers: http.client.HTTPMessage, origin: str) -> None:
    allowed = headers.get_all("Access-Control-Allow-Origin") or []
    _want(allowed in ([origin], ["*"]), f"Access-Control-Allow-Origin is {allowed}")


def check(case: Case, proxy: Running) -> int:
    """Bytes of the whole response; over HTTP/2 of its body. Raises WrongAnswerError."""
    if proxy.peer.http2:
        answer = _ask_http2(case.method, proxy, case.path, case.headers)
    else:
        answer = _ask(case.method, proxy, case.path, case.headers)
    headers, body = answer.headers, answer.body
    _want(200 <= answer.status < 300, f"status {answer.status}")
    if proxy.process is None:
        return answer.size
    _readable(headers, proxy.origin)
    if case.method == "OPTIONS":
        granted = headers.get("Access-Control-Allow-Headers", "").lower()
        _want("accept" in granted and "authorization" in granted, f"grants {granted!r}")
        _want(headers.get("Access-Control-Max-Age") == "7200", "no Max-Age of 7200")
        return answer.size
    exposed = headers.get("Access-Control-Expose-Headers", "").lower()
    _want("etag" in exposed or "content-length" in exposed, f"exposes {exposed!r}")
    plain = body
    if headers.get("Content-Encoding") == "gzip":
        _want("Accept-Encoding" in case.headers, "gzip without being asked")
        plain = gzip.decompress(body)
    if case.key == "frame":
        expected = archive.frame()
    else:
        expected = archive.search(archive.SEARCHES[case.path.rpartition("=")[2]])
        if proxy.peer.rewrites and archive.NAME.encode() not in plain:
            expected = expected.replace(archive.NAME.encode(), proxy.root.encode())
    _want(plain == expected, f"another body, of {len(plain)} bytes")
    return answer.size


def check_transfer(transfer: Transfer, proxy: Running, file: Path) -> None:
    """Whether every byte of a long body arrives. Raises WrongAnswerError."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    for chunk in archive.long_chunks(size):
        digest.update(chunk)
    if transfer.upload:
        with file.open("rb") as body:
            framing = (
                {"Transfer-Encoding": "chunked"}
                if transfer.is_chunked
                else {"Content-Length": str(size)}
            )
            headers = {**framing, **_STORE}
            answer = _ask("POST", proxy, "/studies?hash", headers, body)
        _want(answer.status == 200, f"status {answer.status}")
        stored = json.loads(answer.body)
        _want(stored == {"bytes": size, "sha256": digest.hexdigest()}, f"stored {stored}")
    else:
        received = hashlib.sha256()
        answer = _ask("GET", proxy, _LONG, {}, on_chunk=received.update)
        _want(answer.status == 200, f"status {answer.status}")
        _want(received.digest() == digest.digest(), f"another body, {answer.size} bytes in all")
    if proxy.process is not None:
        _readable(answer.headers, proxy.origin)


class _Answer(NamedTuple):
    """`size` is that of head and body, on the wire; over HTTP/2 of the body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    size: int


def _ask(  # noqa: PLR0913  (two of them for long bodies alone)
    method: str,
    proxy: Running,
    path: str,
    headers: Mapping[str, str],
    body: BinaryIO | None = None,
    *,
    on_chunk: Callable[[bytes], None] | None = None,
) -> _Answer:
    """One request; with `on_chunk` the body goes there. Raises WrongAnswerError."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60, blocksize=1 << 18)
    chunks: list[bytes] = []
    take = on_chunk or chunks.append
    try:
        headers = {"Origin": proxy.origin, **headers}
        is_chunked = "Transfer-Encoding" in headers
        connection.request(
            method, proxy.path + path, headers=headers, body=body, encode_chunked=is_chunked
        )
        with connection.getresponse() as response:
            size = len(f"HTTP/1.1 {response.status} {response.reason}\r\n\r\n")
            size += sum(len(f"{name}: {value}\r\n") for name, value in response.getheaders())
            while chunk := response.read(1 << 20):
                size += len(chunk)
                take(chunk)
            return _Answer(response.status, response.headers, b"".join(chunks), size)
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswerError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()


def _ask_http2(method: str, proxy: Running, path: str, headers: Mapping[str, str]) -> _Answer:
    """One request, to a peer that must agree on HTTP/2. Raises WrongAnswerError."""
    try:
        with httpx.Client(http2=True, verify=False, trust_env=False) as client:  # noqa: S501
            headers = {"Origin": proxy.origin, "Accept-Encoding": "identity", **headers}
            response = client.request(method, proxy.root + path, headers=headers)
    except httpx.HTTPError as error:
        raise WrongAnswerError(f"{type(error).__name__}: {error}") from None
    _want(response.http_version == "HTTP/2", f"{response.http_version} instead of HTTP/2")
    lines = http.client.HTTPMessage()
    for name, value in response.headers.multi_items():
        lines[name] = value
    return _Answer(response.status_code, lines, response.content, len(response.content))


def answers(proxy: Running) -> bool:
    """Whether a search brings a response."""
    if proxy.peer.http2:
        return listens(proxy.port)
    try:
        return _ask("GET", proxy, "/studies?PatientName=SMALL", {}).status == 200
    except WrongAnswerError:
        return False


def measure(case: Case, proxy: Running, size: int, connections: int, seconds: int) -> Sample:
    """Load a proxy with wrk; `size` is what every response should have in bytes."""
    headers = [part for item in {"Origin": proxy.origin, **case.headers}.items() for part in item]
    command = ["wrk", f"-c{connections}", "-t1", f"-d{seconds}s", "--latency"]
    command += ["--timeout", "10s", "-s", str(LUA), proxy.root + case.path, "--", case.method]
    before = cpu(proxy)
    done = run([*command, *headers], seconds + 30)
    time.sleep(0.03)  # the connections are closed at the proxy's, too
    after = cpu(proxy)
    if not done.endswith("}\n"):  # wrk could not connect
        return Sample(cpu=None, rate=0, p99=None, errors=1)
    seen = json.loads(done.splitlines()[-1])
    requests = seen["requests"]
    # wrk compares no lengths: what all responses together lack, in responses.
    lacking = max(0, requests * size - seen["bytes"]) / (size or 1)
    errors = seen["status"] + seen["socket"] + round(lacking)
    return Sample(
        cpu=None if before is None or after is None else (after - before) / max(1, requests),
        rate=requests / seen["seconds"],
        p99=seen["p99"] / 1e6,
        errors=errors if requests else max(1, errors),
    )


def transfer(kind: Transfer, proxy: Running, file: Path) -> Sample:
    """Send or fetch a long body with curl."""
    size = file.stat().st_size
    command = ["curl", "-sS", "-o", "/dev/null", "-H", f"Origin: {proxy.origin}", "-m", "40"]
    command += ["-w", "%{http_code} %{size_download} %{size_upload} %{time_total}"]
    if kind.upload:
        # As browsers do: no Expect.
        command += ["-H", "Expect:", "-H", f"Content-Type: {_STORE['Content-Type']}"]
        if kind.is_chunked:
            command += ["-H", "Transfer-Encoding: chunked"]
        command += ["-X", "POST", "-T", str(file), f"{proxy.root}/studies"]
    else:
        command.append(f"{proxy.root}{_LONG}")
    before = cpu(proxy)
    done = run(command, 50)
    time.sleep(0.03)
    after = cpu(proxy)
    status, down, up, seconds = done.split()
    moved = int(up if kind.upload else down)
    is_whole = moved > size if kind.is_chunked else moved == size  # curl counts the framing
    if status != "200" or not is_whole:
        return Sample(cpu=None, rate=0, p99=None, errors=1)
    return Sample(
        cpu=None if before is None or after is None else (after - before) / size * GIB,
        rate=size / GIB / float(seconds),
        p99=None,
        errors=0,
    )


@contextmanager
def stall(proxy: Running, streams: int) -> Iterator[None]:
    """Begin long responses, read a little of each, then nothing more; ends them afterwards."""
    request = (
        f"GET {proxy.path}{_LONG} HTTP/1.1\r\nHost: 127.0.0.1:{proxy.port}\r\n"
        f"Origin: {proxy.origin}\r\n\r\n"
    )
    clients: list[socket.socket] = []
    try:
        for _ in range(streams):
            client = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
            clients.append(client)
            client.sendall(request.encode())
        for client in clients:
            head = client.recv(64)
            _want(head.startswith(b"HTTP/1.1 200"), f"answered {head!r}")
        yield
    finally:
        for client in clients:
            client.close()


def cpu(proxy: Running) -> float | None:
    """Return the seconds that a proxy has had, None where there is none."""
    return proxy.process.cpu() if proxy.process else None


def run(command: list[str], seconds: float) -> str:
    """Return what a command prints; it has so many seconds."""
    return subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds
    ).stdout
