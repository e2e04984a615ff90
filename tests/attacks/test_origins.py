"""Who asks, and from where: look-alike origins, forged forwarding, rebound names, shared caches."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from dicomweb_cors_proxy.cors.origins import Origin
from tests.support.attacks import Front, Recorder, standing
from tests.support.sockets import ORIGIN, Head, Wire, answer, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STUDIES = "/dicom-web/studies"
PREFLIGHT = "Access-Control-Request-Method: GET"
READ_WRITE = {"mode": "read-write"}
ANYBODY_WRITES = READ_WRITE | {"dangerously_allow_writes_from_any_origin": True}
BEHIND = "127.0.0.2"  # the one peer that is trusted
MODULE = pytest.mark.asyncio(loop_scope="module")


class Believing(Recorder):
    """An archive that builds its URLs from what it is told of its public name."""

    async def __call__(self, wire: Wire, head: Head) -> None:
        self.seen.append(head.first_line.decode())
        body = await wire.body(head) if head.get(b"content-length") else b""
        scheme = (head.get(b"x-forwarded-proto") or b"?").decode()
        host = (head.get(b"x-forwarded-host") or b"?").decode()
        url = f"{scheme}://{host}/pacs/studies/1"
        found = json.dumps([{"00081190": {"vr": "UR", "Value": [url]}}]).encode()
        await wire.send(answer(found + body, b"Content-Type: application/dicom+json"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    origins = [
        ORIGIN.decode(),
        "https://*.example.edu",
        "https://*--viewer.netlify.app",
        "http://localhost:*",
        "http://[::1]:3000",
    ]
    archive = Believing()
    async with standing(
        tmp_path_factory.mktemp("serve"),
        archive,
        access=READ_WRITE,
        cors={"allow_origins": origins},
        server={"trusted_proxies": [BEHIND]},
    ) as front:
        front.recorder = archive
        yield front


# Origin confusion. What of these a browser can send at all is told by the URL standard: of
# https://viewer.example@evil.com the origin is https://evil.com.

ALLOWED = (
    "https://viewer.example",
    "https://a.example.edu",
    "https://a.b.example.edu",
    "https://xn--mnchen-3ya.example.edu",
    "https://deploy-preview-1--viewer.netlify.app",
    "http://localhost",
    "http://localhost:3000",
    "http://localhost:65535",
    "http://[::1]:3000",
)
REFUSED = {
    "null": "a sandboxed frame of any site",
    "http://viewer.example": "another scheme",
    "ws://viewer.example": "another scheme",
    "https://viewer.example:443": "no browser writes the default port",
    "https://viewer.example:8443": "another port",
    "https://viewer.example.": "another host, to browsers",
    "https://viewer.example.evil.com": "a prefix",
    "https://evilviewer.example": "a suffix",
    "https://viewer-example": "an unescaped dot (Pacsbin's pattern)",
    "https://viewerXexample": "an unescaped dot",
    "https://viewer.example@evil.com": "user information",
    "https://evil.com#viewer.example": "a fragment",
    "https://evil.com/https://viewer.example": "a path",
    "https://viewer.example/": "a slash",
    "https://viewer.example\\@evil.com": "a backslash",
    "https://VIEWER.example": "no browser writes capitals",
    "HTTPS://viewer.example": "no browser writes capitals",
    "https://viewer.example, https://evil.com": "a list",
    "https://evil.com https://viewer.example": "a list of RFC 6454",
    "https://viewer\xb7example": "a byte beyond ASCII",
    "https://xn--vewer-n2e.example": "a Cyrillic i",
    "https://example.edu": "the domain itself",
    "https://.example.edu": "an empty label",
    "https://evilexample.edu": "no dot in front",
    "https://a-example.edu": "no dot in front",
    "https://a.example.edu.evil.com": "a prefix",
    "https://a.example.edu:8443": "another port",
    "http://a.example.edu": "another scheme",
    "https://viewer.netlify.app": "another site",
    "https://--viewer.netlify.app": "an empty part",
    "https://evil-viewer.netlify.app": "another site",
    "https://a--evilviewer.netlify.app": "another site's preview",
    "https://a--viewer.evil.netlify.app": "a label more",
    "https://evil.a--viewer.netlify.app": "a label more",
    "https://a--viewer.netlify.app.evil.com": "a prefix",
    "https://evil.com/--viewer.netlify.app": "a path that ends so",
    "https://evil.com/.example.edu": "a path that ends so",
    "https://evil.com?.example.edu": "a query that ends so",
    "https://evil.com:1.example.edu": "a port that is none",
    "https://*.example.edu": "the pattern",
    "https://localhost": "another scheme",
    "http://localhost.evil.com": "a prefix",
    "http://a.localhost": "a subdomain",
    "http://localhost:": "an empty port",
    "http://localhost:0": "no port",
    "http://localhost:65536": "no port",
    "http://localhost:03000": "no browser writes the zero",
    "http://localhost:3000.evil.com": "a port that is none",
    "http://127.0.0.1": "another name of this machine",
    "http://[::1]": "another port",
    "http://[0:0:0:0:0:0:0:1]:3000": "no browser writes it so",
    "http://[::ffff:127.0.0.1]:3000": "another address",
    "file://": "a local file",
    "blob:https://viewer.example": "no origin",
    "*": "no origin",
    "viewer.example": "no scheme",
}
ORIGINS = [(origin, True) for origin in ALLOWED] + [(origin, False) for origin in REFUSED]


@MODULE
@pytest.mark.parametrize(("origin", "allowed"), ORIGINS)
async def test_an_origin_is_the_one_that_is_meant(
    front: Front, origin: str, *, allowed: bool
) -> None:
    raw = origin.encode("latin-1")
    lines = [f"Origin: {origin}"]
    expected = raw if allowed else None
    front.recorder.seen.clear()
    asked = {
        "read": request("GET", STUDIES, *lines, origin=None),
        "preflight": request("OPTIONS", STUDIES, PREFLIGHT, *lines, origin=None),
        "write": request("POST", STUDIES, *lines, origin=None, body=b"x"),
        "nowhere": request("GET", "/nowhere", *lines, origin=None),
    }
    heads = {what: (await front.ask(sent))[0] for what, sent in asked.items()}
    assert {what: head.status for what, head in heads.items()} == {
        "read": 200,
        "preflight": 204 if allowed else 403,
        "write": 200 if allowed else 403,
        "nowhere": 404,
    }
    for head in heads.values():
        assert head.get(b"access-control-allow-origin") == expected
        assert b"Origin" in (head.get(b"vary") or b"")
    reached = ["GET /pacs/studies HTTP/1.1", "POST /pacs/studies HTTP/1.1"]
    assert front.recorder.seen == reached[: 1 + allowed]


# From Node's `new URL(…).origin`: what is written in one way and read in another is no origin.
SERIALISED = {
    "https://viewer.example@evil.com": "https://evil.com",
    "https://viewer.example:443": "https://viewer.example",
    "https://viewer.example:00443": "https://viewer.example",
    "https://viewer.example:008443": "https://viewer.example:8443",
    "HTTPS://VIEWER.EXAMPLE": "https://viewer.example",
    "https://viewer%2eexample": "https://viewer.example",
    "https:viewer.example": "https://viewer.example",
    "https:////viewer.example": "https://viewer.example",
    "https://viewer.example\\@evil.com": "https://viewer.example",
    "https://viewer\texample": "https://viewerexample",
    "https://[0:0:0:0:0:0:0:1]": "https://[::1]",
    "https://127.1": "https://127.0.0.1",
    "https://0x7f.1": "https://127.0.0.1",
    "https://2130706433": "https://127.0.0.1",
    "https://017700000001": "https://127.0.0.1",
    "https://1.2.3": "https://1.2.0.3",
    "https://1.2.3.4.": "https://1.2.3.4",
    "blob:https://viewer.example/1": "https://viewer.example",
    "https://viewer.example": "https://viewer.example",
    "https://viewer.example.": "https://viewer.example.",
    "https://viewer.example:65535": "https://viewer.example:65535",
    "https://viewer_a.example": "https://viewer_a.example",
    "https://-viewer.example": "https://-viewer.example",
    "https://xn--zca.example": "https://xn--zca.example",
    "https://[::1]": "https://[::1]",
    "https://127.0.0.1": "https://127.0.0.1",
}


@pytest.mark.parametrize(("url", "origin"), SERIALISED.items())
def test_what_is_read_is_what_browsers_write(url: str, origin: str) -> None:
    assert (Origin.parse(url.encode()) is not None) == (url == origin)


# Forwarding. Of 127.0.0.2 the word is believed, of 127.0.0.1 it is not.

WORDS = {
    "X-Forwarded-For": "198.51.100.6",
    "X-Forwarded-Host": "public.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Prefix": "/imaging",
    "X-Forwarded-Server": "public.example",
    "X-Forwarded-Ssl": "on",
    "X-Real-IP": "198.51.100.6",
    "Forwarded": "for=198.51.100.6;host=public.example;proto=https",
    "Remote-User": "admin",
    "X-Remote-User": "admin",
    "X-Forwarded-User": "admin",
    "X-Client-IP": "198.51.100.6",
    "True-Client-IP": "198.51.100.6",
    "CF-Connecting-IP": "198.51.100.6",
}
SPELLINGS = ("X-Forwarded-For", "X_FORWARDED_FOR", "x-forwarded_for")


def spelled(name: str, spelling: str) -> str:
    """Write a name with the hyphens and the case of another."""
    name = name.upper() if spelling.isupper() else name
    return name.replace("-", "_") if "_" in spelling else name


def url_in(body: bytes) -> str:
    return str(json.loads(body)[0]["00081190"]["Value"][0])


async def forwarded(front: Front, source: str, *lines: str) -> tuple[dict[bytes, bytes], str]:
    """What reaches the archive of who asks, and the URL that the client is given."""
    front.archive.requests.clear()
    _, body = await front.ask(request("GET", STUDIES, *lines), source=source)
    (asked,) = front.archive.requests
    told = {
        name.lower(): value
        for name, value in asked.headers
        if re.search(b"forwarded|real|user|ip", name.lower())
    }
    return told, url_in(body)


OURS = {b"x-forwarded-host": b"proxy.example", b"x-forwarded-proto": b"http"}


@MODULE
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", WORDS)
async def test_a_strangers_word_counts_for_nothing(front: Front, name: str, spelling: str) -> None:
    line = f"{spelled(name, spelling)}: {WORDS[name]}"
    told, url = await forwarded(front, "127.0.0.1", line, line)
    assert told == OURS | {b"x-forwarded-for": b"127.0.0.1"}
    assert url == "http://proxy.example/dicom-web/studies/1"


@MODULE
async def test_connection_drops_no_word_of_ours(front: Front) -> None:
    """As it did in Go's ReverseProxy, CVE-2021-33197 and CVE-2022-32148."""
    told, _ = await forwarded(
        front, "127.0.0.1", "Connection:", "Connection: X-Forwarded-For, X-Forwarded-Host, Via"
    )
    assert told == OURS | {b"x-forwarded-for": b"127.0.0.1"}


@MODULE
async def test_a_trusted_peers_word_counts(front: Front) -> None:
    lines = [f"{name}: {value}" for name, value in WORDS.items()]
    told, url = await forwarded(front, BEHIND, *lines)
    assert told[b"x-forwarded-for"] == b"198.51.100.6, 127.0.0.2"
    assert told[b"x-forwarded-host"] == b"public.example"
    assert url == "https://public.example/imaging/dicom-web/studies/1"


# What a trusted peer passes on unchecked: the archive may believe it, we make no URL of it.
OURSELVES = "http://proxy.example/dicom-web/studies/1"
NONSENSE = {
    "X-Forwarded-Prefix: //evil.example": OURSELVES,
    "X-Forwarded-Prefix: /a\\b": OURSELVES,
    'X-Forwarded-Prefix: /"><script>': OURSELVES,
    "X-Forwarded-Prefix: https://evil.example": OURSELVES,
    "X-Forwarded-Proto: javascript": "javascript://proxy.example/pacs/studies/1",
    "X-Forwarded-Host: evil.example/path": "http://evil.example/path/pacs/studies/1",
    "X-Forwarded-Host: user@evil.example": OURSELVES,
}


@MODULE
@pytest.mark.parametrize(("line", "expected"), NONSENSE.items())
async def test_a_trusted_peers_nonsense_enters_no_url_of_ours(
    front: Front, line: str, expected: str
) -> None:
    _, url = await forwarded(front, BEHIND, line)
    assert url == expected


# DNS rebinding: the page's own name comes to resolve to this machine. It is same-origin then, so
# CORS isn't asked; what tells is Host.

REBOUND = b"evil.example:8080"


def rebound(method: str = "GET", *lines: str, origin: bytes | None = None) -> bytes:
    raw = request(method, STUDIES, *lines, origin=origin, body=b"x" * (method == "POST"))
    return raw.replace(b"proxy.example", REBOUND)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    server = {"allowed_hosts": ["proxy.example"], "trusted_proxies": [BEHIND]}
    any_origin = {"allow_origins": ["*"]}
    async with standing(
        tmp_path_factory.mktemp("serve"), access=ANYBODY_WRITES, server=server, cors=any_origin
    ) as front:
        yield front


@MODULE
@pytest.mark.parametrize(
    "raw",
    [
        rebound(),
        rebound("POST", origin=b"http://" + REBOUND),
        rebound("OPTIONS", PREFLIGHT, origin=b"http://" + REBOUND),
        rebound("GET", "X-Forwarded-Host: proxy.example"),
        rebound().replace(b" /dicom-web", b" http://evil.example:8080/dicom-web"),
    ],
)
async def test_a_rebound_name_is_misdirected(guarded: Front, raw: bytes) -> None:
    for source in ("127.0.0.1", BEHIND):
        guarded.recorder.seen.clear()
        assert (await guarded.ask(raw, source=source))[0].status == 421
        assert guarded.recorder.seen == []


@MODULE
async def test_a_rebound_name_is_misdirected_behind_a_trusted_proxy(guarded: Front) -> None:
    raw = request("GET", STUDIES, "X-Forwarded-Host: evil.example", origin=None)
    head, body = await guarded.ask(raw, source=BEHIND)
    assert head.status == 421
    assert "X-Forwarded-Host" in json.loads(body)["detail"]
    assert (await guarded.ask(raw))[0].status == 200  # a stranger's is dropped
    own = request("GET", STUDIES, "X-Forwarded-Host: PROXY.example", origin=None)
    assert (await guarded.ask(own, source=BEHIND))[0].status == 200


@MODULE
async def test_without_allowed_hosts_a_rebound_name_reads_but_does_not_write(front: Front) -> None:
    assert (await front.ask(rebound()))[0].status == 200
    assert (await front.ask(rebound("POST", origin=b"http://" + REBOUND)))[0].status == 403


# Shared caches. A response depends on the headers that Vary names, and on no others.


@MODULE
@pytest.mark.parametrize(
    "line",
    [
        *(f"{name}: {value}" for name, value in WORDS.items()),
        "X-Forwarded-Scheme: nothttps",
        "X-Host: evil.example",
        "X-Original-URL: /pacs/servers",
        "X-Rewrite-URL: /pacs/servers",
        "X-HTTP-Method-Override: HEAD",
        "X-Request-ID: evil",
        "Range: bytes=0-0",
        "If-Range: x",
        "Via: 1.1 dicomweb-cors-proxy",
        "Max-Forwards: 0",
        "Connection: Accept, Cookie",
        f"X: {'y' * 70_000}",
        "X: \x01",
    ],
)
@pytest.mark.parametrize("origin", [ORIGIN, b"https://evil.example", None])
async def test_an_unkeyed_header_poisons_no_cache(
    front: Front, line: str, origin: bytes | None
) -> None:
    """Kettle 2018, Practical Web Cache Poisoning; Nguyen 2019, Cache-Poisoned Denial of Service."""
    usual, body = await front.ask(request("GET", STUDIES, origin=origin))
    head, poisoned = await front.ask(request("GET", STUDIES, line, origin=origin))
    if head.status >= 400:
        assert head.get(b"cache-control") == b"no-store"
    else:
        assert poisoned == body
        changing = {b"x-request-id", b"date"}
        for name in {name for name, _ in usual.headers + head.headers} - changing:
            assert head.all(name) == usual.all(name)
    assert b"Origin" in (head.get(b"vary") or b"")


@MODULE
async def test_one_policy_for_everybody_may_be_cached_as_one(guarded: Front) -> None:
    for origin in (ORIGIN, b"https://evil.example", b"null", None):
        head, _ = await guarded.ask(request(origin=origin))
        assert head.get(b"access-control-allow-origin") == b"*"
        assert b"Origin" not in (head.get(b"vary") or b"")
