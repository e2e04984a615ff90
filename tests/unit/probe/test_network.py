"""Where a probe connects, what it sends after a redirect, and when it stops."""

from __future__ import annotations

import functools
import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.probe import client
from dicomweb_cors_proxy.probe.addresses import Space
from dicomweb_cors_proxy.probe.network import Network
from tests.support.faults import FAULTS
from tests.support.probing import Answered, Fault, archive, found, probed
from tests.support.servers import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRETS = {"Authorization": "Bearer a", "X-Site": "secret", "X-Api-Key": "secret"}
HEADERS = [word for line in SECRETS.items() for word in ("--header", ": ".join(line))]


# Redirects to another origin


def to_another_origin(status: int, *, back: bool = False) -> Fault:
    """Redirect from 127.0.0.1 to localhost, and from there back if asked to."""

    def fault(answer: Answered) -> None:
        host, path = answer.asked["Host"], answer.path
        answer.put("Access-Control-Allow-Headers", ", ".join(["accept, content-type", *SECRETS]))
        if answer.is_preflight or "moved=back" in path:
            return
        joint = "&" if "?" in path else "?"
        if host.startswith(LOOPBACK):
            answer.status = status
            answer.put("Location", f"http://{host.replace(LOOPBACK, 'localhost')}{path}")
        elif back:
            answer.status = status
            location = f"http://{host.replace('localhost', LOOPBACK)}{path}{joint}moved=back"
            answer.put("Location", location)

    return fault


@pytest.mark.parametrize("back", [False, True], ids=["there", "there and back"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_gets_no_custom_header(status: int, back: bool) -> None:
    with archive(to_another_origin(status, back=back)) as there:
        report = probed(there.url, *HEADERS, "--credentials", "--header", "Cookie: a=secret")
    redirected = [
        headers
        for method, path, headers in there.requests
        if method != "OPTIONS" and (headers["Host"].startswith("localhost") or "moved=back" in path)
    ]
    assert redirected
    for headers in redirected:
        assert not {*SECRETS, "Cookie"} & set(headers)
    assert found(report, "search")["verdict"] == "pass"
    assert "were not sent to the other origin" in found(report, "search")["text"]


def test_a_redirect_within_the_origin_keeps_custom_headers() -> None:
    with archive(FAULTS["redirected"]) as there:
        probed(there.url, "--header", "X-Site: a")
    moved = [h for method, path, h in there.requests if method == "GET" and "moved" in path]
    assert moved
    assert {headers["X-Site"] for headers in moved} == {"a"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_post_is_not_repeated_at_another_origin(status: int) -> None:
    with archive(to_another_origin(status)) as there:
        report = probed(there.url, "--write", *HEADERS)
    posts = [headers["Host"] for method, _, headers in there.requests if method == "POST"]
    assert len(posts) == 1
    assert posts[0].startswith(LOOPBACK)
    store = found(report, "store")
    assert store["verdict"] == "pass"
    if status in (307, 308):
        assert "does not repeat a POST there" in store["text"]


def refused_elsewhere(answer: Answered) -> None:
    to_another_origin(307)(answer)
    if answer.is_preflight and answer.asked["Host"].startswith("localhost"):
        answer.status = 403


def test_a_post_that_another_origin_would_refuse_is_reported() -> None:
    with archive(refused_elsewhere) as there:
        store = found(probed(there.url, "--write"), "store")
    assert (store["verdict"], store["status"]) == ("fail", 403)


# Redirects to private addresses. To these tests 127.0.0.1 is public, and 127.0.0.2 is nearer.

INSIDE = "127.0.0.2"


@pytest.fixture(params=[Space.LOCAL, Space.LOOPBACK])
def nearer(request: pytest.FixtureRequest) -> Space:
    """The space of 127.0.0.2."""
    space: Space = request.param
    return space


Naming = dict[str, list[list[str]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, nearer: Space) -> Naming:
    """The addresses of each name: a list for each look-up, the last one for all that follow."""
    known: Naming = {"pacs.test": [[LOOPBACK]], LOOPBACK: [[LOOPBACK]], INSIDE: [[INSIDE]]}
    look_up = socket.getaddrinfo

    def numeric_only(host: str, *arguments: object, **options: object) -> object:
        assert not host.endswith(".test"), "a connection by name"
        return look_up(host, *arguments, **options)  # type: ignore[arg-type]

    def resolve(host: str) -> list[str]:
        answers = known[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def classify(address: str) -> Space:
        return nearer if address == INSIDE else Space.PUBLIC

    monkeypatch.setattr(socket, "getaddrinfo", numeric_only)
    network = functools.partial(Network, resolve=resolve, classify=classify)
    monkeypatch.setattr(client, "Network", network)
    return known


def to_host(host: str, port: int | None = None) -> Fault:
    """Redirect what is asked of pacs.test."""

    def fault(answer: Answered) -> None:
        name, _, own = answer.asked["Host"].partition(":")
        if name == "pacs.test" and not answer.is_preflight:
            answer.status = 307
            answer.put("Location", f"http://{host}:{port or own}{answer.path}")

    return fault


@contextmanager
def redirecting(host: str) -> Iterator[tuple[str, list[object], str]]:
    """Yield the root of an archive that redirects to `host`, what arrives there, its origin."""
    with archive(address=INSIDE) as inside:
        port = int(inside.url.rpartition(":")[2].partition("/")[0])
        with archive(to_host(host, port)) as there:
            root = there.url.replace(LOOPBACK, "pacs.test")
            yield root, inside.requests, f"http://{host}:{port}"  # type: ignore[misc]


@pytest.mark.parametrize("host", [INSIDE, "inside.test"])
def test_a_private_address_is_named_and_not_followed(
    host: str, names: Naming, nearer: Space
) -> None:
    names["inside.test"] = [[INSIDE]]
    with redirecting(host) as (root, arrived, origin):
        report = probed(root, "--header", "X-Site: a", "--write", origin="http://viewer.example")
    assert not arrived
    finding = found(report, "search")
    assert (finding["verdict"], finding["rule"]) == ("fail", "private-redirect")
    where = "this machine" if nearer is Space.LOOPBACK else "a private network"
    assert f"redirects to {origin}, an address of {where}," in finding["text"]
    assert "--follow-private-redirects" in report["first"]
    # The other checks are made all the same.
    assert {"metadata", "frames", "store", "errors"} <= {c["check"] for c in report["checks"]}


def test_a_switch_follows_to_private_addresses(names: Naming) -> None:
    names["inside.test"] = [[INSIDE]]
    with redirecting("inside.test") as (root, arrived, _):
        report = probed(root, "--follow-private-redirects", origin="http://viewer.example")
    assert arrived
    assert found(report, "search")["verdict"] == "pass"


def test_a_private_address_behind_one_that_is_named_private_is_reached(names: Naming) -> None:
    names["pacs.test"] = [[INSIDE]]
    with archive(to_host("inside.test"), address=INSIDE) as there:
        names["inside.test"] = [[INSIDE]]
        root = there.url.replace(INSIDE, "pacs.test")
        report = probed(root, origin="http://viewer.example")
    assert found(report, "search")["verdict"] == "pass"


def test_a_name_that_comes_to_mean_a_private_address_is_not_followed(names: Naming) -> None:
    """The search has a look-up of its own, the checks after it have others."""
    names["inside.test"] = [[LOOPBACK], [INSIDE]]
    with archive(address=INSIDE) as inside, archive() as outside:
        port = int(outside.url.rpartition(":")[2].partition("/")[0])
        with archive(to_host("inside.test", port)) as there:
            root = there.url.replace(LOOPBACK, "pacs.test")
            report = probed(root, origin="http://viewer.example")
    assert not inside.requests
    assert found(report, "search")["verdict"] == "pass"
    assert found(report, "metadata")["rule"] == "private-redirect"


def test_of_several_addresses_only_those_that_are_public_are_asked(names: Naming) -> None:
    names["inside.test"] = [[INSIDE, LOOPBACK]]
    with archive(to_host("inside.test")) as there:
        root = there.url.replace(LOOPBACK, "pacs.test")
        report = probed(root, origin="http://viewer.example")
    assert found(report, "search")["verdict"] == "pass"


def test_a_dead_address_does_not_hide_the_next(names: Naming) -> None:
    with archive() as there:
        names["pacs.test"] = [[INSIDE, LOOPBACK]]  # nothing listens at that port of the first
        root = there.url.replace(LOOPBACK, "pacs.test")
        report = probed(root, origin="http://viewer.example")
    assert found(report, "search")["verdict"] == "pass"


# The deadline


def test_what_was_found_until_the_deadline_is_reported() -> None:
    over = threading.Event()

    def stalls(answer: Answered) -> None:
        if answer.path.endswith("/metadata"):
            over.wait()

    with archive(stalls) as there:
        report = probed(there.url, "--timeout", "1")
        over.set()
    assert [check["check"] for check in report["checks"]] == ["search", "deadline"]
    assert found(report, "search")["verdict"] == "pass"
    deadline = found(report, "deadline")
    assert (deadline["verdict"], deadline["rule"]) == ("fail", "deadline")
    assert "stopped after 1 seconds" in deadline["text"]
    assert "--timeout" in report["first"]


def test_a_preflight_that_hangs_hides_no_search() -> None:
    over = threading.Event()

    def stalls(answer: Answered) -> None:
        FAULTS["no CORS"](answer)
        if answer.is_preflight:
            over.wait()

    with archive(stalls) as there:
        report = probed(there.url, "--timeout", "1")
        over.set()
    assert found(report, "search")["rule"] == "allow-origin-missing"


HEAD = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\n"
DRIPS = {
    "head": (HEAD + b"X-Slow: ", b"a"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "body": (HEAD + b"\r\n", b" "),
}


@contextmanager
def dripping(start: bytes, drop: bytes) -> Iterator[str]:
    """Yield the root of a server whose responses have no end."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(start)
            while not over.wait(0.01):
                connection.sendall(drop)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=drip, args=(connection,)).start()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(("start", "drop"), DRIPS.values(), ids=DRIPS)
def test_a_response_without_an_end_is_left_at_the_deadline(start: bytes, drop: bytes) -> None:
    with dripping(start, drop) as root:
        report = probed(root, "--timeout", "1", origin="http://viewer.example")
    assert found(report, "deadline")["verdict"] == "fail"


def test_a_look_up_without_an_end_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def resolve(_: str) -> list[str]:
        over.wait()
        return [LOOPBACK]

    monkeypatch.setattr(client, "Network", functools.partial(Network, resolve=resolve))
    report = probed("http://pacs.test", "--timeout", "1", origin="http://viewer.example")
    over.set()
    assert [check["check"] for check in report["checks"]] == ["deadline"]


@pytest.mark.parametrize("seconds", ["0", "3601", "soon"])
def test_a_deadline_is_between_a_second_and_an_hour(seconds: str) -> None:
    words = ["probe", "http://pacs.test", "--origin", "http://viewer.test", "--timeout", seconds]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--timeout" in result.stderr


# Compressed responses


def compressed(pack: Callable[[bytes], bytes], coding: str) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.body.startswith(b"["):
            answer.body = pack(answer.body)
            answer.put("Content-Encoding", coding)

    return fault


@pytest.mark.parametrize(
    ("pack", "coding"),
    [(gzip.compress, "gzip"), (gzip.compress, "GZIP"), (zlib.compress, "deflate")],
)
def test_compressed_responses_are_read(pack: Callable[[bytes], bytes], coding: str) -> None:
    with archive(compressed(pack, coding)) as there:
        report = probed(there.url)
    assert found(report, "search")["text"] == "A page can search (200)."
    assert "made-up" not in json.dumps(report)


@pytest.mark.parametrize("times", [1, 2])
def test_a_compressed_response_takes_no_more_memory_than_is_read(times: int) -> None:
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(128)]) + packer.flush()
    for _ in range(times - 1):
        bomb = gzip.compress(bomb)

    def fault(answer: Answered) -> None:
        if not answer.is_preflight:
            answer.status, answer.body = 200, bomb
            answer.put("Content-Encoding", ", ".join(["gzip"] * times))

    with archive(fault) as there:
        tracemalloc.start()
        try:
            probed(there.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 32 << 20
