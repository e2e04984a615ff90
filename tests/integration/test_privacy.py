"""Nothing of a patient, and no credential, leaves the process except in forwarded responses.

Canaries are sent in path, query, headers and body, through success and every kind of failure, to a
`serve` in which every logger is set to DEBUG, those of libraries included.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import ssl
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_plus

import pytest
import trustme
import yaml

from tests.support.login import login, saying
from tests.support.processes import Child
from tests.support.servers import free_port
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, request
from tests.support.upstream import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

NAME, PATIENT_ID, UID = "Canary^Jane", "CANARY-ID-4711", "1.2.826.0.1.4711.8888"
TOKEN, COOKIE, PASSWORD = "canary-token", "canary-cookie", "canary-password"
OWN_TOKEN, CLIENT, CLIENT_SECRET = "canary-own-token", "canary-client", "canary secret:%"
HEADER, BODY, ANSWERED = "canary-header", "canary-body", "canary-answered"
CANARIES = (
    "canary",  # in any case: covers all but the UID, and what is encoded
    UID,
    base64.b64encode(f"proxy:{PASSWORD}".encode()).decode(),
    base64.b64encode(f"{NAME}:{TOKEN}".encode()).decode(),
    base64.b64encode(f"{CLIENT}:{quote_plus(CLIENT_SECRET)}".encode()).decode(),
    *(f"{UID}.{last}" for last in range(3)),
)

KEYS = (
    "time level event method http_version resource status upstream_status origin cors "
    "duration_ms ttfb_ms bytes_in bytes_out request_id client"
)

# `serve`, made as talkative as it can be, with bugs that a header calls up.
LOUD = """
import asyncio, gc, logging
from dicomweb_cors_proxy.proxy import outgoing, response_plans
from dicomweb_cors_proxy.server import connection
from dicomweb_cors_proxy.proxy import incoming
from dicomweb_cors_proxy.observability import log_setup
from dicomweb_cors_proxy.upstream import oauth, token_cache
from dicomweb_cors_proxy.cli import main

quiet, rewrite = log_setup.setup_logging, outgoing.OutgoingRequests.rewrite
modify, read, received = (
    response_plans.ResponsePlans.adapt, incoming.IncomingRequest.read,
    connection.ClientConnection.data_received,
)

def loud(*args, **kwargs):
    quiet(*args, **kwargs)
    for name in ("httpx", "httpcore.http11", "hpack", *log_setup.ACCESS_LOGS):
        logging.getLogger(name)
    for name in (None, *logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).disabled = False

class Trap:
    def __init__(self, scope):
        self.scope = scope
    def __del__(self):
        raise ValueError(repr(self.scope))

async def fail(scope):
    raise ValueError(repr(scope))

def buggy(self, scope, headers):
    bug = dict(scope["headers"]).get(b"x-bug")
    logging.getLogger("httpx").debug("HTTP Request: %s", scope)
    logging.getLogger("uvicorn.error").warning("%s", scope)
    logging.getLogger("uvicorn.access").info("%s", scope)
    logging.getLogger("a.library").critical("%s", scope)
    if bug == b"raise":
        raise ValueError(repr(scope))
    if bug == b"task":
        asyncio.ensure_future(fail(scope))
    if bug == b"callback":
        asyncio.get_running_loop().call_soon(lambda: scope["no such " + repr(scope)])
    if bug == b"del":
        Trap(scope)
    return rewrite(self, scope, headers)

def buggy_answer(self, scope, route, status, headers):
    bug = dict(scope["headers"]).get(b"x-bug")
    if bug == b"answer":
        raise ValueError(repr((scope, headers)))
    headers, body = modify(self, scope, route, status, headers)
    return headers, Broken() if bug == b"body" else body

class Broken:
    piece = 1 << 16

    def feed(self, chunk):
        raise ValueError(repr(chunk))

    whole = feed

def buggy_read(scope, heads):
    if dict(scope["headers"]).get(b"x-bug") == b"read":
        raise ValueError(repr(scope))
    return read(scope, heads)

def buggy_received(self, data):
    if b"X-Bug: protocol" in data:
        raise ValueError(repr(data))
    received(self, data)

log_setup.setup_logging, outgoing.OutgoingRequests.rewrite = loud, buggy
response_plans.ResponsePlans.adapt, incoming.IncomingRequest.read = buggy_answer, buggy_read
connection.ClientConnection.data_received = buggy_received
token_cache.RETRY_INTERVAL, oauth.TokenEndpoint.__init__.__kwdefaults__["timeout"] = 0.0, 0.5
main()
"""


CUT = 0  # no response at all


class Sent(NamedTuple):
    """A request, and the status that is to come of it."""

    status: int
    raw: bytes


def ask(
    status: int,
    method: str = "GET",
    path: str = f"/dicom-web/studies/{UID}/series",
    *lines: str,
    body: bytes = b"",
    origin: bytes = ORIGIN,
) -> Sent:
    headers = [
        f"Authorization: Basic {base64.b64encode(f'{NAME}:{TOKEN}'.encode()).decode()}",
        f"Cookie: session={COOKIE}",
        f"Referer: https://viewer.example/{NAME}",
        f"User-Agent: {HEADER}",
        f"X-Request-ID: {PATIENT_ID}",
        f"X-Forwarded-For: {PATIENT_ID}",
        f"{HEADER}: {HEADER}",
        *lines,
    ]
    target = f"{path}?PatientName={NAME}&00100020={PATIENT_ID}&uid={UID}.1"
    return Sent(status, request(method, target, *headers, body=body, origin=origin))


def do(status: int, what: str) -> Sent:
    return ask(status, "GET", f"/dicom-web/studies/{UID}", f"X-Do: {what}")


# What a page can put into an Origin it can't, but a script with a socket can.
FORGED = b"https://viewer.example%s2026-01-01 00:00:00.000 ERROR   forged"

PREFLIGHT = ("OPTIONS", f"/dicom-web/studies/{UID}", "Access-Control-Request-Method: GET")
SCRIPT = {
    "search": ask(200),
    "URLs": do(200, "json"),
    "URLs, and then no JSON": do(200, "no json"),
    "frame": ask(200, "GET", f"/dicom-web/studies/{UID}/series/{UID}.1/instances/{UID}.2/frames/1"),
    "store": ask(200, "POST", "/dicom-web/studies", body=BODY.encode()),
    "the archive's 404": do(404, "404"),
    "the archive's 500": do(500, "500"),
    "preflight": ask(204, *PREFLIGHT),
    "preflight refused": ask(204, *PREFLIGHT, f"Access-Control-Request-Headers: {PATIENT_ID}"),
    "preflight of a method": ask(
        204, *PREFLIGHT[:2], f"Access-Control-Request-Method: {PATIENT_ID}"
    ),
    "preflight of a UID": ask(204, *PREFLIGHT, f"Access-Control-Request-Headers: x-{UID}"),
    "preflight from anywhere": ask(403, *PREFLIGHT, origin=f"https://{NAME}".encode()),
    "escape sequence in an origin": ask(400, origin=FORGED % b"\x1b[2K\r"),
    "line break in an origin": ask(200, origin=FORGED % "\x85".encode()),
    "C1 in an origin": ask(200, origin=FORGED % "\xc2\x9b2K".encode()),
    "line separator in an origin": ask(403, *PREFLIGHT, origin=FORGED % "\xe2\x80\xa8".encode()),
    "foreign write": ask(403, "POST", "/dicom-web/studies", origin=f"https://{NAME}".encode()),
    "dot segment": ask(400, "GET", f"/dicom-web/../{NAME}"),
    "bad escape": ask(400, "GET", f"/dicom-web/%x{NAME}"),
    "absolute form": ask(400, "GET", f"http://{HEADER}/dicom-web/studies"),
    "two origins": ask(400, "GET", "/dicom-web/studies", f"Origin: https://{HEADER}"),
    "control in a header": ask(400, "GET", "/dicom-web/studies", f"X: {NAME}\x01"),
    "not HTTP": Sent(400, f"{NAME} {UID}\r\n\r\n".encode()),
    "no such path": ask(404, "GET", f"/dicom-web/patients/{NAME}"),
    "no such method": ask(405, HEADER.upper()),
    "TRACE": ask(405, "TRACE"),
    "stalled head": Sent(408, request("GET", f"/dicom-web/studies/{UID}", f"X: {NAME}")[:-2]),
    "stalled body": Sent(408, ask(408, "POST", "/dicom-web/studies", body=b"x" * 99).raw[:-9]),
    "body too large": ask(413, "POST", "/dicom-web/studies", body=BODY.encode() * 99),
    "target too long": ask(414, "GET", f"/dicom-web/{NAME * 200}"),
    "head too large": ask(431, "GET", "/dicom-web/studies", f"X: {NAME * 300}"),
    "too many headers": ask(431, "GET", "/dicom-web/studies", *[f"X: {NAME}"] * 99),
    "other host": Sent(421, ask(421).raw.replace(b"Host: proxy.", b"Host: canary.")),
    "bug": ask(500, "GET", "/dicom-web/studies", "X-Bug: raise"),
    "bug with the answer": ask(500, "GET", "/dicom-web/studies", "X-Bug: answer"),
    "bug in the body": ask(200, "GET", "/dicom-web/studies", "X-Bug: body", "X-Do: cut"),
    "bug before CORS": ask(CUT, "GET", "/dicom-web/studies", "X-Bug: read"),
    "bug in the protocol": ask(CUT, "GET", "/dicom-web/studies", "X-Bug: protocol"),
    "bug in a task": ask(200, "GET", "/dicom-web/studies", "X-Bug: task"),
    "bug in a callback": ask(200, "GET", "/dicom-web/studies", "X-Bug: callback"),
    "bug in a finalizer": ask(200, "GET", "/dicom-web/studies", "X-Bug: del"),
    "archive down": ask(502, "GET", f"/dicom-web/workitems/{UID}"),
    "TLS failure": ask(502, "GET", "/dicom-web/wado"),
    "garbage": do(502, "garbage"),
    "garbage in a header": do(502, "control"),
    "no status": do(502, "999"),
    "closed": do(502, "close"),
    "our credentials refused": do(502, "401"),
    "hung": do(504, "hang"),
    "loop": ask(508, "GET", "/dicom-web/studies", f"Via: 1.1 {HEADER}, 1.1 proxy"),
    "cut": do(200, "cut"),
}

STATUSES = {"404": b"404 Not Found", "500": b"500 Oh", "401": b"401 No", "999": b"999 No"}


async def handle(wire: Wire, head: Head) -> None:
    """An archive that does what `X-Do` says, and talks of its patient in doing so."""
    if head.get(b"content-length"):
        await wire.body(head)
    what = (head.get(b"x-do") or b"").decode()
    lines = (f"X-Patient: {ANSWERED}".encode(), f'WWW-Authenticate: Basic realm="{NAME}"'.encode())
    body = ANSWERED.encode()
    if what in STATUSES:
        await wire.send(answer(body, *lines, status=STATUSES[what]))
    elif what == "garbage":
        await wire.send(f"{ANSWERED} {UID}\r\n\r\n".encode())
    elif what == "control":
        await wire.send(answer(body, f"X: {ANSWERED}\x01".encode()))
    elif what == "hang":
        await wire.closed()
    elif what == "cut":
        await wire.send(answer(body, *lines, length=999))
    elif what.endswith("json"):
        urls = {"00081190": {"vr": "UR", "Value": [f"http://{head.get(b'host')!r}/{UID}"]}}
        text = json.dumps([urls, {"00100010": {"vr": "PN", "Value": [{"Alphabetic": NAME}]}}])
        body = text.encode() if what == "json" else text.encode()[:-9] + b"}}\xff"
        await wire.send(answer(body, *lines, b"Content-Type: application/dicom+json"))
        return
    elif what != "close":
        await wire.send(answer(body, *lines))
        return
    wire.writer.close()


BASIC = {"type": "basic", "username": "proxy", "password": PASSWORD}
BEARER = {"type": "bearer", "token": OWN_TOKEN}


def configuration(log_format: str, **upstream: object) -> dict[str, Any]:
    return {
        "upstream": {"read_timeout": 1, **upstream},
        "cors": {"allow_origins": [ORIGIN.decode()]},
        "access": {"mode": "read-write"},
        "server": {
            "port": 0,
            "instance_name": "proxy",
            "allowed_hosts": ["proxy.example"],
            "max_body_bytes": 500,
            "max_target_bytes": 1024,
            "max_header_bytes": 2048,
            "max_headers": 50,
            "max_concurrent_requests": 2,  # a response that has just ended may still count
            "header_timeout": 0.3,
            "body_timeout": 0.3,
        },
        "logging": {"level": "debug", "format": log_format},
    }


class Loud:
    """A `serve` that logs all that it can."""

    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self.port = port

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port))

    async def send(self, name: str, sent: Sent) -> str:
        """Send the request, see that the status is the right one, and an error a private one."""
        if sent.status == CUT:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await exchange(self.port, sent.raw)
            return ""
        head, body = await exchange(self.port, sent.raw)
        assert head.status == sent.status, name
        if head.get(b"content-type") == b"application/problem+json":
            raw = head.raw.decode("latin-1") + body.decode()
            if not name.endswith("from anywhere"):  # an Origin may be named
                assert_private(raw, name)
        return body.decode("latin-1")

    async def assert_private(self) -> None:
        """Neither metrics nor log tell anything, and each line of that is one that we wrote."""
        _, metrics = await exchange(self.port, request("GET", "/metrics"))
        assert_private(metrics.decode(), "metrics")
        self.child.terminate()
        assert await asyncio.to_thread(self.child.wait) == 0
        assert_private(self.child.output, "log")
        assert "Traceback" not in self.child.output
        assert "forged" not in self.child.output
        for line in self.child.output.splitlines():
            assert LINE.match(line), line
            assert line.isprintable(), line


# In either format, and what is said at the start to people.
LINE = re.compile(
    r"\{|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"|(?:archive|check|origins|access|at|warning) +\S"
)


@asynccontextmanager
async def loud(settings: dict[str, Any], folder: Path) -> AsyncIterator[Loud]:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-c", LOUD, "serve", "--config", str(file)]
    env = {key: value for key, value in os.environ.items() if "DICOMWEB_PROXY" not in key}
    with Child(command, env=env | {"PYTHONDEVMODE": "1"}) as child:
        match = await asyncio.to_thread(child.wait_for, r"at +http://[^:]+:(\d+)")
        yield Loud(child, int(match[1]))


async def exchange(port: int, raw: bytes) -> tuple[Head, bytes]:
    """The whole response, as far as it comes."""
    async with Wire(*await asyncio.open_connection("127.0.0.1", port)) as wire:
        with suppress(ConnectionError):
            await wire.send(raw)
        head = await wire.head()
        body = b""
        if raw.startswith(b"HEAD") or head.status == 204:
            return head, body
        with suppress(asyncio.IncompleteReadError):
            body = await wire.body(head)
        return head, body


def assert_private(text: str, where: str) -> None:
    for canary in CANARIES:
        assert canary.lower() not in text.lower(), (where, canary, text)


def strange_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(f"{HEADER}.example").configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("log_format", "auth", "transport"),
    [("console", BASIC, "native"), ("json", BEARER, "httpx")],
    ids=["console", "json"],
)
async def test_nothing_of_a_patient_comes_out(
    log_format: str, auth: dict[str, str], transport: str, tmp_path: Path
) -> None:
    async with archive(handle) as plain, archive(handle, tls=strange_tls()) as tls:
        settings = configuration(
            log_format,
            url=plain.url,
            ups_url=f"http://127.0.0.1:{free_port()}/down",
            wado_uri_url=tls.url,
            auth=auth,
            transport=transport,
        )
        async with loud(settings, tmp_path) as proxy:
            child = proxy.child
            for name, sent in SCRIPT.items():
                await proxy.send(name, sent)
            asked = len(plain.requests)
            async with await proxy.connect() as one, await proxy.connect() as other:
                for client in (one, other):
                    await client.send(do(499, "hang").raw)
                await until(lambda: len(plain.requests) == asked + 2)
                head, body = await exchange(proxy.port, ask(503).raw)
                assert head.status == 503
                assert_private(head.raw.decode() + body.decode(), "503")
            await asyncio.to_thread(child.wait_for, "(?s)client disconnected.*client disconnected")
            await proxy.assert_private()

    # And yet all of it is told.
    statuses = sorted(
        [499, 499, 500, 503, *(sent.status for sent in SCRIPT.values() if sent.status)]
    )
    for place in ("buggy ", "buggy_answer", "feed", "buggy_read"):
        assert child.output.count(f"bug: ValueError < {place}") == 1, place
    assert child.output.count("error in asyncio") == 3
    assert child.output.count("not raised: ValueError < __del__") == 1
    if log_format == "json":
        lines = [json.loads(line) for line in child.output.splitlines()]
        requests = [line for line in lines if "method" in line]
        assert {tuple(line) for line in requests} == {tuple(KEYS.split())}
        assert {tuple(line) for line in lines if "method" not in line} == {
            ("time", "level", "event", "request_id")
        }
        assert sorted(line["status"] for line in requests) == statuses
    else:
        told = re.findall(r"(?:INFO|WARNING) +[A-Z]+ +([0-9]{3}) +[0-9.]+ ms", child.output)
        assert sorted(map(int, told)) == statuses


def quoting(status: str, text: str = "") -> Callable[[Wire], Awaitable[None]]:
    """A token endpoint's response that repeats what it was told."""
    said = f"{text} {CLIENT} {CLIENT_SECRET} {OWN_TOKEN}".encode()
    return saying(answer(said, b"X: " + said, status=status.encode()))


async def ending(wire: Wire) -> None:
    wire.writer.close()


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_nor_of_how_the_proxy_logs_in(log_format: str, tmp_path: Path) -> None:
    asked = ask(502)
    async with (
        login(client=(CLIENT, CLIENT_SECRET), name=OWN_TOKEN, life=0) as there,
        login(tls=strange_tls()) as strange,
        archive(handle) as plain,
    ):
        auth = there.auth(token_url=f"{there.url}?code={TOKEN}", scope="canary.scope")
        settings = configuration(log_format, url=plain.url, auth=auth)
        async with loud(settings, tmp_path) as proxy:

            async def fail(name: str, *scripts: Callable[[Wire], Awaitable[None]]) -> None:
                there.script[:] = scripts
                await proxy.send(name, asked)
                there.script.clear()

            await proxy.send("a token", ask(200))
            await proxy.send("refused", do(502, "401"))
            for status in ("400 No", "401 No", "302 Go", "404 No", "429 No", "500 Oh", "200 OK"):
                await fail(status, *[quoting(status)] * 2)
            for error in ("invalid_client", CLIENT_SECRET):
                text = json.dumps({"error": error, "error_description": OWN_TOKEN})
                await fail(error, *[saying(answer(text.encode(), status=b"400 No"))] * 2)
            await fail("garbage", saying(f"{OWN_TOKEN}\r\n\r\n".encode()))
            await fail("closed", ending)
            there.gate = asyncio.Event()
            await proxy.send("hung", asked)
            there.gate.set()
            await proxy.send("the trouble is over", ask(200))
            there.reads = ()
            for url, trouble in (
                (f"http://127.0.0.1:{free_port()}/{TOKEN}?{TOKEN}", "could not be reached"),
                (f"{strange.url}?{TOKEN}", "TLS with the token endpoint failed"),
                (f"http://no-such-host.invalid/{TOKEN}", "does not resolve"),
            ):
                settings["upstream"]["auth"]["token_url"] = url
                (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
                os.kill(proxy.child.pid, signal.SIGHUP)
                while trouble not in await proxy.send(trouble, asked):
                    pass
            assert not strange.forms
            await proxy.assert_private()
