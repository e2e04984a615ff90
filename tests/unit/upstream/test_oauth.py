"""Access tokens by OAuth 2.0's client credentials: a real token endpoint, and an archive that looks
at what it is shown."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from dicomweb_cors_proxy import create_app
from dicomweb_cors_proxy.upstream import json_endpoint, token_cache
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem
from dicomweb_cors_proxy.upstream.oauth import ClientCredentials, TokenEndpoint
from dicomweb_cors_proxy.upstream.token_cache import RETRY_INTERVAL, TokenCache
from tests.support.login import CLIENT, SECRET, Login, login, refusal, saying
from tests.support.servers import free_port
from tests.support.sockets import (
    ORIGIN,
    Archive,
    Head,
    Proxy,
    Wire,
    answer,
    archive,
    proxy,
    request,
    settings,
)
from tests.support.upstream import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dicomweb_cors_proxy import Settings

CA = trustme.CA()
MINE = "Authorization: Bearer the-clients-own"


def tls(name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(name).configure_cert(context)
    return context


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Guarded:
    """An archive that lets in whoever has one of the tokens that are `good`; by default all."""

    def __init__(self) -> None:
        self.good: set[str] | None = None
        self.shown: list[str] = []
        self.gate: asyncio.Event | None = None
        self.refusals = 0

    async def handle(self, wire: Wire, head: Head) -> None:
        (value,) = head.all(b"authorization")
        token = value.decode().removeprefix("Bearer ")
        self.shown.append(token)
        if head.get(b"content-length"):
            await wire.body(head)
        if self.gate is not None:
            await self.gate.wait()
        if self.good is None or token in self.good:
            await wire.send(answer(b"hello"))
        else:
            self.refusals += 1
            lines = (b'WWW-Authenticate: Bearer realm="pacs"',)
            await wire.send(answer(b"no", *lines, status=b"401 Unauthorized"))


@asynccontextmanager
async def guarded() -> AsyncIterator[tuple[Guarded, Archive]]:
    guard = Guarded()
    async with archive(guard.handle) as there:
        yield guard, there


def configured(there: Archive, at: Login, **upstream: object) -> Settings:
    return settings(
        there.url, upstream={"auth": at.auth(), **upstream}, access={"mode": "read-write"}
    )


async def problem(p: Proxy, raw: bytes = request()) -> str:
    head, body = await p.ask(raw)
    assert head.status == 502
    assert head.get(b"access-control-allow-origin") == ORIGIN
    told = json.loads(body)
    assert told["detail"].startswith("The proxy has no token for the archive: ")
    assert SECRET not in body.decode()
    return str(told["detail"])


# In front of an archive


async def test_scope_and_audience_are_asked_for() -> None:
    async with login() as there, guarded() as (_, a):
        auth = there.auth(scope="dicom.read", audience="https://pacs.example")
        configuration = settings(a.url, upstream={"auth": auth})
        async with proxy(configuration) as p:
            assert (await p.ask(request()))[0].status == 200
        assert there.forms[0] == {
            "grant_type": "client_credentials",
            "scope": "dicom.read",
            "audience": "https://pacs.example",
        }


async def test_it_is_fetched_once_and_when_it_is_needed() -> None:
    async with (
        login() as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        assert (await p.ask(request("GET", "/healthz")))[0].status == 200
        preflight = request("OPTIONS", "/dicom-web/studies", "Access-Control-Request-Method: GET")
        assert (await p.ask(preflight))[0].status == 204
        assert (await p.ask(request("GET", "/nowhere")))[0].status == 404
        assert there.asked == 0
        for raw in (
            request(),
            request("GET", "/dicom-web/studies", MINE),
            request("POST", "/dicom-web/studies", MINE, body=b"instance"),
            request("GET", "/readyz"),
        ):
            assert (await p.ask(raw))[0].status == 200
    assert guard.shown == ["token-1"] * 4
    assert there.forms == [{"grant_type": "client_credentials"}]


async def test_a_scope_is_asked_for() -> None:
    async with login() as there, guarded() as (_, a):
        upstream = {"auth": there.auth(scope="dicom.read dicom.write")}
        async with proxy(settings(a.url, upstream=upstream)) as p:
            assert (await p.ask(request()))[0].status == 200
    assert [form["scope"] for form in there.forms] == ["dicom.read dicom.write"]


@pytest.mark.parametrize(
    ("reads", "ways"),
    [
        (("header", "body"), ["header"] * 2),
        (("header",), ["header"] * 2),
        (("body",), ["header", "body", "body"]),
    ],
)
async def test_the_way_of_the_secret_is_found_and_kept(
    reads: tuple[str, ...], ways: list[str]
) -> None:
    async with (
        login(reads=reads, life=0) as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        for _ in range(2):
            assert (await p.ask(request()))[0].status == 200
    assert guard.shown == ["token-1", "token-2"]
    assert there.ways == ways


async def test_all_wait_for_the_same_one() -> None:
    gate = asyncio.Event()
    async with (
        login(gate=gate) as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        # The first leaves before the token is here, and takes it from nobody.
        async with await p.connect() as leaving:
            await leaving.send(request())
            await until(lambda: there.asked)
        asking = [asyncio.create_task(p.ask(request())) for _ in range(20)]
        await until(lambda: len(p.server.server_state.tasks) == 20)
        gate.set()
        assert {head.status for head, _ in await asyncio.gather(*asking)} == {200}
    assert there.asked == 1
    assert guard.shown == ["token-1"] * 20


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_token_is_replaced_once(method: str) -> None:
    async with (
        login() as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        assert (await p.ask(request()))[0].status == 200
        guard.good = {"token-2"}
        assert (await p.ask(request(method)))[0].status == 200
        assert guard.shown == ["token-1", "token-1", "token-2"]
        # Even the new one is refused: that is all that can be done.
        guard.good = set()
        head, body = await p.ask(request(method))
    assert head.status == 502
    assert head.get(b"www-authenticate") is None
    assert "upstream.auth" in json.loads(body)["detail"]
    assert there.asked == 2
    assert guard.shown[3:] == ["token-2"]


async def test_a_hundred_refused_at_once_are_one_new_token() -> None:
    async with (
        login() as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        assert (await p.ask(request()))[0].status == 200
        guard.good, guard.gate = {"token-2"}, asyncio.Event()
        asking = [asyncio.create_task(p.ask(request())) for _ in range(100)]
        await until(lambda: len(guard.shown) == 101)
        guard.gate.set()
        assert {head.status for head, _ in await asyncio.gather(*asking)} == {200}
    assert there.asked == 2
    assert guard.refusals == 100


async def test_a_write_is_not_repeated_but_the_next_has_another_token() -> None:
    async with (
        login() as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        guard.good = {"token-2"}
        store = request("POST", "/dicom-web/studies", body=b"instance")
        assert [(await p.ask(store))[0].status for _ in range(2)] == [502, 200]
    assert guard.shown == ["token-1", "token-2"]
    assert there.asked == 2


async def test_an_archive_that_refuses_all_tokens_does_not_load_the_endpoint() -> None:
    async with (
        login() as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        guard.good = set()
        for _ in range(20):
            assert (await p.ask(request()))[0].status == 502
    assert len(guard.shown) == 21
    assert there.asked == 2


async def test_a_403_is_no_question_of_the_token() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"no", status=b"403 Forbidden"))

    async with login() as there, archive(handle) as a, proxy(configured(a, there)) as p:
        assert (await p.ask(request()))[0].status == 502
        assert (await p.ask(request()))[0].status == 502
    assert there.asked == 1
    assert len(a.requests) == 2


@pytest.mark.parametrize(("status", "shown"), [(401, ["token-1", "token-2"]), (403, ["token-1"])])
async def test_an_archive_that_refuses_the_token_is_not_ready(
    status: int, shown: list[str]
) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        assert head.first_line == b"OPTIONS /pacs HTTP/1.1"
        await wire.send(answer(b"no", status=b"%d No" % status))

    async with login() as there, archive(handle) as a, proxy(configured(a, there)) as p:
        head, body = await p.ask(request("GET", "/readyz"))
    assert head.status == 503
    assert "upstream.auth" in json.loads(body)["detail"]
    tokens = [each.get(b"authorization") for each in a.requests]
    assert tokens == [b"Bearer " + token.encode() for token in shown]


# Over TLS


@pytest.mark.parametrize(
    ("name", "keys", "trouble"),
    [
        ("127.0.0.1", {"ca_file"}, None),
        ("127.0.0.1", set(), "TLS with the token endpoint failed"),
        ("login.example", {"ca_file"}, "TLS with the token endpoint failed"),
        # The archive's certificate may be anything, but the secret isn't shown to just anybody.
        ("127.0.0.1", {"verify_tls"}, "upstream.verify_tls applies only to the archive"),
    ],
    ids=["trusted", "unknown", "other name", "unchecked archive"],
)
async def test_tls(name: str, keys: set[str], trouble: str | None, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(authority)
    upstream = {"ca_file": authority, "verify_tls": False}
    async with login(tls=tls(name)) as there, guarded() as (guard, a):
        assert there.url.startswith("https:")
        chosen = {key: value for key, value in upstream.items() if key in keys}
        async with proxy(configured(a, there, **chosen)) as p:
            if trouble is None:
                assert (await p.ask(request()))[0].status == 200
                assert guard.shown == ["token-1"]
            else:
                assert trouble in await problem(p)
                assert not there.forms
                assert not guard.shown


# A token endpoint that fails


def token(**members: object) -> bytes:
    told = {"access_token": "abc", "token_type": "Bearer", "expires_in": 60} | members
    return answer(json.dumps(told).encode())


TROUBLES = {
    "unknown client": (refusal("invalid_client", b"401 No"), "401 (invalid_client). Check upst"),
    "bad scope": (
        refusal("invalid_scope"),
        "responded 400 (invalid_scope). Check upstream.auth.sc",
    ),
    "no grant": (refusal("unauthorized_client"), "400 (unauthorized_client). Check whether the cl"),
    "own error": (refusal(f"{SECRET}"), "responded 400. Check upstream.auth.token_url."),
    "bare 401": (
        answer(SECRET.encode(), status=b"401 No"),
        "responded 401. Check upstream.auth.cli",
    ),
    "404": (
        answer(SECRET.encode(), status=b"404 No"),
        "responded 404. Check upstream.auth.token_url",
    ),
    "redirect": (
        answer(b"", b"Location: /", status=b"302 Go"),
        "responded 302. Check upstream.auth.to",
    ),
    "429": (answer(b"", status=b"429 Wait"), "responded 429. See its log."),
    "500": (answer(SECRET.encode(), status=b"500 Oh"), "responded 500. See its log."),
    "a page": (answer(b"<html>" + SECRET.encode()), "is not a bearer token"),
    "a list": (answer(b"[]"), "is not a bearer token"),
    "nested": (answer(b"[" * 100_000), "is not a bearer token"),
    "no token": (token(access_token=None), "is not a bearer token"),
    "two lines": (token(access_token="a\r\nX: b"), "is not a bearer token"),
    "a MAC": (token(token_type="mac"), "is not a bearer token"),
    "no type": (token(token_type=None), "is not a bearer token"),
    "garbage": (b"SSH-2.0-OpenSSH\r\n\r\n", "sent something that is not HTTP"),
    "cut": (answer(b"{", length=99), "closed the connection before its response"),
    "endless": (
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (json_endpoint.MAX_RESPONSE_BYTES + 1),
        "closed the connection before its response",
    ),
}


def ending(raw: bytes) -> Callable[[Wire], Awaitable[None]]:
    async def send(wire: Wire) -> None:
        wire.writer.write(raw)
        wire.writer.close()

    return send


@pytest.mark.parametrize(("raw", "trouble"), TROUBLES.values(), ids=TROUBLES.keys())
async def test_a_failing_endpoint(
    raw: bytes, trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "RETRY_INTERVAL", 0.0)
    caplog.set_level(logging.INFO, "dicomweb_cors_proxy")
    async with (
        login(script=[ending(raw)] * 2) as there,
        guarded() as (guard, a),
        proxy(configured(a, there)) as p,
    ):
        assert trouble in await problem(p)
        assert not guard.shown
        head, metrics = await p.ask(request("GET", "/metrics"))
        assert head.status == 200
        assert b'upstream_errors_total{reason="token"} 1.0' in metrics
        # The trouble is over. What was tried in vain was at most the two ways of the secret.
        del there.script[:]
        assert (await p.ask(request()))[0].status == 200
    lines = [record.getMessage() for record in caplog.records]
    (line,) = (line for line in lines if line.startswith("no token from "))
    assert line.startswith(f"no token from {there.url.removesuffix('/token')}: ")
    assert trouble in line
    assert "hunter" not in "".join(lines)


async def test_an_endpoint_that_is_down() -> None:
    async with guarded() as (guard, a), login() as there:
        auth = there.auth(token_url=f"http://127.0.0.1:{free_port()}/token")
        async with proxy(settings(a.url, upstream={"auth": auth})) as p:
            assert "could not be reached" in await problem(p)
            head, body = await p.ask(request("GET", "/readyz"))
            assert head.status == 503
            assert "could not be reached" in json.loads(body)["detail"]
        auth = there.auth(token_url="http://no-such-host.invalid/token")
        async with proxy(settings(a.url, upstream={"auth": auth})) as p:
            assert "does not resolve" in await problem(p)
    assert not guard.shown


# By the clock


def tokens(there: Login, clock: Callable[[], float], **more: Any) -> TokenCache:  # noqa: ANN401
    return TokenCache(
        TokenEndpoint(ClientCredentials(there.url, CLIENT, SECRET), **more), clock=clock
    )


@pytest.mark.parametrize(
    ("life", "renewal", "end"),
    [
        (3600, 3540, 3600),
        ("3600", 3540, 3600),
        (3600.5, 3540.5, 3600.5),
        (240, 180, 240),
        (60, 45, 60),
        (1, 0.75, 1),
    ],
    ids=repr,
)
async def test_it_is_renewed_ahead_of_its_end(life: object, renewal: float, end: float) -> None:
    clock = Clock()
    async with login(life=life) as there:
        mine = tokens(there, clock)
        begin = clock.now
        assert await mine.get() == b"token-1"
        clock.now = begin + renewal - 0.01
        assert await mine.get() == b"token-1"
        assert there.asked == 1
        # Nobody waits for the renewal while there still is a token, and it is but one.
        clock.now = begin + renewal
        there.gate = asyncio.Event()
        assert {await mine.get() for _ in range(9)} == {b"token-1"}
        await until(lambda: there.asked == 2)
        clock.now = begin + end - 0.01
        assert await mine.get() == b"token-1"
        # At the end of the old one all wait for the same new one.
        clock.now = begin + end
        waiting = [asyncio.create_task(mine.get()) for _ in range(9)]
        there.gate.set()
        assert set(await asyncio.gather(*waiting)) == {b"token-2"}
        assert there.asked == 2


@pytest.mark.parametrize("life", [None, "soon", True, {}, [], "9" * 50, 1e300, math.inf], ids=repr)
async def test_a_life_that_nobody_knows(life: object) -> None:
    clock = Clock()
    async with login(life=life) as there:
        mine = tokens(there, clock)
        assert await mine.get() == b"token-1"
        clock.now += 9e8
        assert await mine.get() == b"token-1"
        assert await mine.replacement_for(b"token-1") == b"token-2"
        assert await mine.get() == b"token-2"


@pytest.mark.parametrize("life", [0, -5, math.nan, "0"], ids=repr)
async def test_a_token_for_one_request(life: object) -> None:
    async with login(life=life) as there:
        mine = tokens(there, Clock())
        assert [await mine.get() for _ in range(3)] == [b"token-1", b"token-2", b"token-3"]


async def test_a_renewal_that_fails_leaves_the_old_one_until_its_end() -> None:
    clock = Clock()
    async with login(life=100) as there:
        mine = tokens(there, clock)
        assert await mine.get() == b"token-1"
        there.script = [saying(answer(b"", status=b"500 Oh"))] * 3
        clock.now += 75
        for asked in (2, 2, 2):  # within a pause but one attempt is made
            assert await mine.get() == b"token-1"
            await until(lambda: len(there.script) == 2 and not mine._fetching)  # noqa: SLF001
            assert there.asked == asked
        clock.now += RETRY_INTERVAL
        assert await mine.get() == b"token-1"
        await until(lambda: len(there.script) == 1 and not mine._fetching)  # noqa: SLF001
        clock.now += 25 - RETRY_INTERVAL
        with pytest.raises(UpstreamProblem, match="502") as caught:
            await mine.get()
        assert "responded 500" in caught.value.detail
        asked = there.asked
        for _ in range(9):
            with pytest.raises(UpstreamProblem):
                await mine.get()
        assert there.asked == asked
        clock.now += RETRY_INTERVAL
        assert await mine.get() == b"token-2"


async def test_an_endpoint_that_hangs() -> None:
    gate = asyncio.Event()
    async with login(gate=gate) as there:
        mine = tokens(there, Clock(), timeout=0.1)
        with pytest.raises(UpstreamProblem) as caught:
            await mine.get()
    assert "the token endpoint did not respond within 0.1 s. " in caught.value.detail


async def test_a_token_is_replaced_once_in_a_while() -> None:
    clock = Clock()
    async with login() as there:
        mine = tokens(there, clock)
        assert await mine.get() == b"token-1"
        # By two who had it, one of them late.
        refused = [asyncio.create_task(mine.replacement_for(b"token-1")) for _ in range(2)]
        assert await asyncio.gather(*refused) == [b"token-2"] * 2
        assert await mine.replacement_for(b"token-1") == await mine.get() == b"token-2"
        for number, pause in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=2):
            value = f"token-{number}".encode()
            assert await mine.get() == value
            assert await mine.replacement_for(value) is None
            clock.now += pause * RETRY_INTERVAL
            assert await mine.replacement_for(value) == f"token-{number + 1}".encode()
        clock.now += 120 * RETRY_INTERVAL
        assert await mine.replacement_for(b"token-10") == b"token-11"
        clock.now += RETRY_INTERVAL
        assert await mine.replacement_for(b"token-11") == b"token-12"
    assert there.asked == 12


async def test_a_refused_token_serves_the_others_until_there_is_another() -> None:
    async with login() as there:
        mine = tokens(there, Clock())
        assert await mine.get() == b"token-1"
        there.gate = asyncio.Event()
        refused = asyncio.create_task(mine.replacement_for(b"token-1"))
        await until(lambda: there.asked == 2)
        assert await mine.get() == b"token-1"
        there.gate.set()
        assert await refused == await mine.get() == b"token-2"


async def test_what_takes_its_place_may_fail_and_leaves_it() -> None:
    async with login() as there:
        mine = tokens(there, Clock())
        assert await mine.get() == b"token-1"
        there.script = [saying(answer(b"", status=b"500 Oh"))]
        with pytest.raises(UpstreamProblem, match="502"):
            await mine.replacement_for(b"token-1")
        assert await mine.get() == b"token-1"
        assert await mine.replacement_for(b"token-1") is None


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(ClientCredentials("http://a", CLIENT, SECRET))


# Reload


async def test_a_reload_takes_another_client_and_lets_the_old_one_finish() -> None:
    gate = asyncio.Event()
    async with login(gate=gate) as old, login() as new, guarded() as (guard, a):
        app = create_app(configured(a, old))

        async def ask() -> int:
            statuses: list[int] = []

            async def send(message: Any) -> None:  # noqa: ANN401
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await app(scope(), asyncio.Event().wait, send)  # type: ignore[arg-type]
            return statuses[0]

        waiting = asyncio.create_task(ask())
        await until(lambda: old.asked)
        new.given = 100
        await app.reload(configured(a, new))
        assert await ask() == 200
        gate.set()
        assert await waiting == 200
        assert guard.shown == ["token-101", "token-1"]
        assert await ask() == 200
        assert guard.shown[2:] == ["token-101"]
        await app.reload(configured(a, new))


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/dicom-web/studies",
        "raw_path": b"/dicom-web/studies",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"proxy.example")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
