"""Nothing of a patient, and no credential, comes out of the process but in the answers it fetches.

Canaries are sent in path, query, headers and body, through success and every kind of failure, to a
`serve` in which every logger is set to DEBUG, those of libraries included.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import ssl
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
import yaml

from tests.support.processes import Child
from tests.support.servers import free_port
from tests.support.sockets import ORIGIN, Archive, Head, Wire, answer, archive, request
from tests.support.upstream import until

if TYPE_CHECKING:
    from pathlib import Path

NAME, PATIENT_ID, UID = "Canary^Jane", "CANARY-ID-4711", "1.2.826.0.1.4711.8888"
TOKEN, COOKIE, PASSWORD = "canary-token", "canary-cookie", "canary-password"
HEADER, BODY, ANSWERED = "canary-header", "canary-body", "canary-answered"
CANARIES = (
    "canary",  # in any case: covers all but the UID, and what is encoded
    UID,
    base64.b64encode(f"proxy:{PASSWORD}".encode()).decode(),
    base64.b64encode(f"{NAME}:{TOKEN}".encode()).decode(),
    *(f"{UID}.{last}" for last in range(3)),
)

KEYS = (
    "time level event method resource status upstream_status origin cors duration_ms ttfb_ms "
    "bytes_in bytes_out request_id client"
)

# `serve`, made as talkative as it can be, with bugs that a header calls up.
LOUD = """
import asyncio, gc, logging
from dicomweb_cors_proxy import gateway, logs
from dicomweb_cors_proxy.cli import main

quiet, rewrite = logs.configure, gateway.Gateway.rewrite

def loud(*args, **kwargs):
    quiet(*args, **kwargs)
    for name in ("httpx", "httpcore.http11", "hpack", *logs.ACCESS_LOGS):
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

def buggy(self, scope):
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
    return rewrite(self, scope)

logs.configure, gateway.Gateway.rewrite = loud, buggy
main()
"""


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


PREFLIGHT = ("OPTIONS", f"/dicom-web/studies/{UID}", "Access-Control-Request-Method: GET")
SCRIPT = {
    "search": ask(200),
    "frame": ask(200, "GET", f"/dicom-web/studies/{UID}/series/{UID}.1/instances/{UID}.2/frames/1"),
    "store": ask(200, "POST", "/dicom-web/studies", body=BODY.encode()),
    "the archive's 404": do(404, "404"),
    "the archive's 500": do(500, "500"),
    "preflight": ask(204, *PREFLIGHT),
    "preflight refused": ask(403, *PREFLIGHT, f"Access-Control-Request-Headers: {HEADER}"),
    "preflight of a method": ask(
        403, *PREFLIGHT[:2], f"Access-Control-Request-Method: {HEADER.upper()}"
    ),
    "preflight from anywhere": ask(403, *PREFLIGHT, origin=f"https://{NAME}".encode()),
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
    elif what != "close":
        await wire.send(answer(body, *lines))
        return
    wire.writer.close()


def configuration(archive: Archive, tls: Archive, log_format: str) -> dict[str, Any]:
    return {
        "upstream": {
            "url": archive.url,
            "ups_url": f"http://127.0.0.1:{free_port()}/down",
            "wado_uri_url": tls.url,
            "read_timeout": 1,
            "auth": {"type": "basic", "username": "proxy", "password": PASSWORD},
        },
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
            "max_concurrent_requests": 1,
            "header_timeout": 0.3,
            "body_timeout": 0.3,
        },
        "logging": {"level": "debug", "format": log_format},
    }


async def exchange(port: int, raw: bytes) -> tuple[Head, bytes]:
    """The whole answer, as far as it comes."""
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


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_nothing_of_a_patient_comes_out(log_format: str, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(f"{HEADER}.example").configure_cert(context)
    file = tmp_path / "config.yaml"
    command = [sys.executable, "-c", LOUD, "serve", "--config", str(file)]
    env = {key: value for key, value in os.environ.items() if "DICOMWEB_PROXY" not in key}
    async with archive(handle) as plain, archive(handle, tls=context) as tls:
        file.write_text(yaml.safe_dump(configuration(plain, tls, log_format)))
        with Child(command, env=env | {"PYTHONASYNCIODEBUG": "1"}) as child:
            port = int(child.wait_for(r"at +http://[^:]+:(\d+)")[1])
            for name, sent in SCRIPT.items():
                head, body = await exchange(port, sent.raw)
                assert head.status == sent.status, name
                if head.get(b"content-type") == b"application/problem+json":
                    raw = head.raw.decode("latin-1") + body.decode()
                    if not name.endswith("from anywhere"):  # an Origin may be named
                        assert_private(raw, name)
            async with Wire(*await asyncio.open_connection("127.0.0.1", port)) as client:
                asked = len(plain.requests)
                await client.send(do(499, "hang").raw)
                await until(lambda: len(plain.requests) > asked)
                head, body = await exchange(port, ask(503).raw)
                assert head.status == 503
                assert_private(head.raw.decode() + body.decode(), "503")
            child.wait_for("client left")
            _, metrics = await exchange(port, request("GET", "/metrics"))
    assert_private(metrics.decode(), "metrics")
    assert_private(child.output, "log")
    assert "Traceback" not in child.output

    # And yet all of it is told.
    statuses = sorted([499, 503, *(sent.status for sent in SCRIPT.values())])
    assert child.output.count("bug: ValueError < buggy") == 1
    assert child.output.count("error in asyncio") == 2
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
