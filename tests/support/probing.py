"""Archives and proxies to be probed: right ones, and ones with each fault that viewers meet."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from click.testing import CliRunner

from dicomweb_cors_proxy.cli import main
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from pathlib import Path
    from ssl import SSLContext

VIEWER = "https://viewer.example"
NGINX, CADDY = shutil.which("nginx"), shutil.which("caddy")

STUDY = "1.2.826.0.1.4711.8"
SERIES, INSTANCE = f"{STUDY}.1", f"{STUDY}.1.1"
PATH = f"/studies/{STUDY}/series/{SERIES}/instances/{INSTANCE}"
FRAME = bytes(range(256)) * 4
Lines: TypeAlias = list[tuple[str, str]]


@dataclass(slots=True)
class Answered:
    """A response, and what a fault makes of it."""

    method: str
    path: str
    asked: Message
    status: int
    headers: Lines = field(default_factory=list)
    body: bytes = b""

    @property
    def is_preflight(self) -> bool:
        return self.method == "OPTIONS"

    @property
    def origin(self) -> str | None:
        return self.asked["Origin"]

    def drop(self, *names: str) -> None:
        self.headers = [line for line in self.headers if line[0] not in names]

    def put(self, name: str, *values: str) -> None:
        """Send these lines of a header, and no others."""
        self.drop(name)
        self.headers += [(name, value) for value in values]


ALLOW_ORIGIN = "Access-Control-Allow-Origin"
ALLOW_CREDENTIALS = "Access-Control-Allow-Credentials"
ALLOW_HEADERS = "Access-Control-Allow-Headers"
ALLOW_METHODS = "Access-Control-Allow-Methods"
EXPOSE_HEADERS = "Access-Control-Expose-Headers"
MAX_AGE = "Access-Control-Max-Age"

Fault: TypeAlias = "Callable[[Answered], None]"


def right(answer: Answered) -> None:
    """Leave it as it is: an archive whose CORS is right, credentials included."""


def archive_answer(method: str, path: str, asked: Message, root: str) -> Answered:
    """What a small archive says, with CORS that lets everyone in."""
    answer = Answered(method, path, asked, 404)
    route = path.removeprefix("/dicom-web").partition("?")[0]
    if method == "OPTIONS":
        answer.status = 204
        answer.put(ALLOW_METHODS, "GET, POST, DELETE")
        answer.put(ALLOW_HEADERS, "accept, authorization, content-type, range, x-site")
        answer.put(MAX_AGE, "600")
    elif method == "POST":
        answer.status = 400
    elif route in ("/studies", f"/studies/{STUDY}/instances", f"{PATH}/metadata"):
        answer.status = 200
        answer.body = json.dumps([dataset(root)]).encode()
        answer.put("Content-Type", "application/dicom+json")
    elif route == f"{PATH}/frames/1":
        answer.status, answer.body = 200, FRAME
        if (wanted := asked["Range"] or "").startswith("bytes=0-"):
            answer.status, answer.body = 206, FRAME[:64]
            answer.put("Content-Range", f"bytes 0-63/{len(FRAME)}")
            assert wanted == "bytes=0-63"
        answer.put("Content-Type", "application/octet-stream")
    if answer.origin:
        answer.put(ALLOW_ORIGIN, answer.origin)
        answer.put(ALLOW_CREDENTIALS, "true")
        answer.put(EXPOSE_HEADERS, "content-range")
    answer.put("Vary", "Origin")
    return answer


def dataset(root: str) -> dict[str, object]:
    return {
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "0020000E": {"vr": "UI", "Value": [SERIES]},
        "00080018": {"vr": "UI", "Value": [INSTANCE]},
        "00081190": {"vr": "UR", "Value": [f"{root}/studies/{STUDY}"]},
        "7FE00010": {"vr": "OW", "BulkDataURI": f"{root}{PATH}/bulkdata/7FE00010"},
    }


@dataclass(frozen=True, slots=True)
class Archive:
    url: str
    requests: list[tuple[str, str, Message]]


@contextmanager
def archive(
    fault: Fault = right,
    *,
    links: str | None = None,
    tls: SSLContext | None = None,
    address: str = LOOPBACK,
) -> Iterator[Archive]:
    """Run an archive with one fault; its URLs lead to `links`, else to itself."""
    requests: list[tuple[str, str, Message]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            requests.append((self.command, self.path, self.headers))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            root = links or f"http{'s' * bool(tls)}://{self.headers['Host']}/dicom-web"
            answer = archive_answer(self.command, self.path, self.headers, root)
            fault(answer)
            if not answer.status:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for line in answer.headers:
                self.send_header(*line)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_OPTIONS = do_DELETE = answer  # noqa: N815

        def handle(self) -> None:
            with suppress(ConnectionError):  # who has read enough leaves
                super().handle()

        def log_message(self, *_: object) -> None: ...

    with serving(Handler, tls, host=address) as port:
        host = f"https://localhost:{port}" if tls else f"http://{address}:{port}"
        yield Archive(f"{host}/dicom-web", requests)


def probed(root: str, *flags: str, origin: str = VIEWER) -> dict[str, Any]:
    """Run the command; its exit status must agree with what it says."""
    words = ["probe", root, "--origin", origin, "--json", *flags]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.stderr == ""
    assert result.exit_code == int(report["blocked"])
    return report


def found(report: dict[str, Any], check: str) -> dict[str, Any]:
    """Return the one finding of a check."""
    (finding,) = (finding for finding in report["checks"] if finding["check"] == check)
    return dict(finding)


def all_passes(report: dict[str, Any]) -> bool:
    return {check["verdict"] for check in report["checks"]} <= {"pass", "note"}


_DIRECTIVE = re.compile(r"""(?:"[^"]*"|[^";{}])+(?:;|\{[^}]*\})""")


def directives(text: str) -> list[str]:
    """Split lines of an nginx location, blocks whole."""
    return [directive.strip() for directive in _DIRECTIVE.findall(text)]


def replaced(lines: str, by: str) -> str:
    """Put directives into a location as docs/probe.md says.

    They take the place of those that set the same; an `if` that drops headers goes as well.
    """

    def what(directive: str) -> str:
        head, _, block = directive.partition("{")
        return head if block else " ".join(head.split()[:2]).lower()

    new = list(dict.fromkeys(directives(by)))
    named = {what(directive) for directive in new}
    kept = [
        directive
        for directive in directives(lines)
        if what(directive) not in named
        and not ("{" in directive and "add_header" in directive and "return" not in directive)
    ]
    return "\n".join(kept + new)


def with_settings(settings: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """Put keys such as `cors.allow_origins` into a configuration."""
    changed = dict(settings)
    for key, value in named.items():
        section, _, name = key.partition(".")
        changed[section] = {**changed.get(section, {}), name: value} if name else value
    return changed


@contextmanager
def nginx(
    folder: Path, upstream: str, lines: str, *, outside: str = "", pem: Path | None = None
) -> Iterator[str]:
    """Run an nginx whose location before `upstream` has `lines`; yields its DICOMweb root.

    `outside` stands outside of the server; with `pem`, a key and its certificates, it speaks TLS.
    """
    if NGINX is None:
        pytest.skip("needs nginx")
    port = free_port()
    home = folder / f"nginx-{port}"
    home.mkdir(exist_ok=True)
    spools = "\n".join(
        f"{name}_temp_path {home}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    tls = f"ssl_certificate {pem}; ssl_certificate_key {pem};" if pem else ""
    (home / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {home}/pid; error_log stderr notice;
        events {{}}
        http {{
          access_log off; {spools}
          {outside}
          server {{
            listen {LOOPBACK}:{port}{" ssl" * bool(tls)}; {tls}
            location /dicom-web {{
              proxy_pass {upstream};
              {lines}
            }}
          }}
        }}
        """
    )
    with Child([NGINX, "-p", str(home), "-c", str(home / "nginx.conf")]) as child:
        child.wait_for("start worker process|getrlimit")
        yield (
            f"https://localhost:{port}/dicom-web" if tls else f"http://{LOOPBACK}:{port}/dicom-web"
        )


@contextmanager
def caddy(folder: Path, upstream: str, lines: str) -> Iterator[str]:
    """Run a Caddy before `upstream`, whose site has `lines`; yields its DICOMweb root."""
    if CADDY is None:
        pytest.skip("needs Caddy")
    port = free_port()
    file = folder / f"Caddyfile-{port}"
    host = upstream.removeprefix("http://").partition("/")[0]
    file.write_text(
        "{\n admin off\n auto_https off\n}\n"
        f"http://{LOOPBACK}:{port} {{\n bind {LOOPBACK}\n {lines}\n reverse_proxy {host}\n}}\n"
    )
    with Child([CADDY, "run", "--config", str(file), "--adapter", "caddyfile"]) as child:
        child.wait_for("serving initial configuration")
        yield f"http://{LOOPBACK}:{port}/dicom-web"


def password_file(folder: Path, name: str, password: str) -> Path:
    """Write a file for nginx's auth_basic."""
    file = folder / "passwords"
    file.write_text(f"{name}:{{PLAIN}}{password}\n")
    return file
