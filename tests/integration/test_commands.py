"""The commands as a shell sees them: output, exit status, signals."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import ssl
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import trustme
import yaml
from click.testing import CliRunner

from dicomweb_cors_proxy import __version__
from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.config.fields import SCHEMA
from tests.support import servers
from tests.support.processes import Child
from tests.support.proxy import Proxy, fronting, serving
from tests.support.servers import LOOPBACK, Reply, Stub, stub
from tests.support.sockets import ORIGIN, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

VIEWER = ORIGIN.decode()
SHOWN = re.compile(r"^(\S+) {2,}(.*)$", re.MULTILINE)
NOBODY = f"http://{LOOPBACK}:9/dicom-web"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DICOMWEB_PROXY_"):
            monkeypatch.delenv(name)


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run a command that ends by itself, in this process."""
    return CliRunner().invoke(main, arguments, env=env, catch_exceptions=False)


@contextmanager
def spawn(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Child]:
    command = [sys.executable, "-m", "dicomweb_cors_proxy", *arguments]
    with Child(command, env=os.environ | (env or {})) as child:
        yield child


def written(folder: Path, configuration: dict[str, Any]) -> str:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(configuration))
    return str(file)


def address(root: str) -> tuple[str, int]:
    return LOOPBACK, int(root.rpartition(":")[2])


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [(), ("serve",), ("check",), ("probe",)], ids=" ".join)
def test_help(command: tuple[str, ...], flag: str) -> None:
    result = run(*command, flag)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ")


def test_schema_prints_the_published_schema() -> None:
    published = Path(__file__).parents[2] / "docs" / "config.schema.json"
    result = run("schema")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == published.read_text(encoding="utf-8")


def test_version() -> None:
    assert run("--version").stdout == f"dicomweb-cors-proxy, version {__version__}\n"


@pytest.mark.parametrize("command", ["serve", "check"])
def test_all_problems_at_once(command: str, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {
            "upstream": {"url": "orthanc:8042"},
            "cors": {"allow_origins": ["https://viewer.example/"]},
            "server": {"prot": 1},
        },
    )
    env = {"DICOMWEB_PROXY_SERVER__WORKERZ": "2", "DICOMWEB_PROXY_UPSTREAM__READ_TIMEOUT": "soon"}
    result = run(command, "--config", file, env=env)
    assert (result.exit_code, result.stdout) == (2, "")
    title, *problems = result.stderr.splitlines()
    assert title == f"{len(problems)} problems in the configuration:"
    for place, key in [
        (f"file {file}", "upstream.url"),
        (f"file {file}", "cors.allow_origins"),
        (f"file {file}", "server.prot"),
        ("DICOMWEB_PROXY_SERVER__WORKERZ", ""),
        ("environment DICOMWEB_PROXY_UPSTREAM__READ_TIMEOUT", "upstream.read_timeout"),
    ]:
        (problem,) = [each for each in problems if place in each and f"- {key}" in each]
        assert problem.startswith("  - ")


def test_one_problem() -> None:
    result = run("serve", "--upstream", NOBODY)
    assert result.exit_code == 2
    title, problem = result.stderr.splitlines()
    assert title == "1 problem in the configuration:"
    assert problem.startswith("  - cors.allow_origins: ")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_problems_hold_no_secret(command: str, tmp_path: Path) -> None:
    auth = {"type": "none", "username": "a:hunter2", "password": ["hunter2"], "tokn": "hunter2"}
    file = written(
        tmp_path,
        {
            "upstream": {"url": "http://a:hunter2@orthanc", "auth": auth},
            "cors": {"allow_origins": ["https://hunter2@viewer.example"]},
        },
    )
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "upstream__auth__token").write_text("hunter2\nhunter2")
    env = {
        "DICOMWEB_PROXY_SECRETS_DIR": str(secrets),
        "DICOMWEB_PROXY_UPSTREAM__AUTH__CLIENT_SECRET": "hunter2\x1b",
        "DICOMWEB_PROXY_UPSTREAM__AUTH__TOKEN_URL": "https://a:hunter2@login/?hunter2#hunter2",
        "DICOMWEB_PROXY_UPSTREAM__AUTH__PASSWORT": "hunter2",
    }
    result = run(command, "--config", file, env=env)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hunter2" not in result.stderr
    for key in (
        "upstream.url",
        *(f"upstream.auth.{name}" for name in ("username", "password", "tokn", "token")),
        *(f"upstream.auth.{name}" for name in ("client_secret", "token_url")),
        "cors.allow_origins",
        "DICOMWEB_PROXY_UPSTREAM__AUTH__PASSWORT",
    ):
        assert f"\n  - {key}: " in result.stderr, result.stderr


@pytest.mark.parametrize("flags", [("--port", "x"), ("--port", "70000"), ("--host", "a b")])
def test_a_flag_is_judged_with_the_rest(flags: tuple[str, str]) -> None:
    result = run("serve", *flags, "--allow-origin", VIEWER)
    assert result.exit_code == 2
    assert f"server.{flags[0].removeprefix('--')}: " in result.stderr
    assert "upstream.url: " in result.stderr


def test_an_unknown_flag_is_a_usage_error() -> None:
    result = run("serve", "--upstreem", NOBODY)
    assert result.exit_code == 2
    assert "--upstream" in result.stderr


# check


@pytest.fixture
def secretive(tmp_path: Path) -> str:
    return written(
        tmp_path,
        {
            "upstream": {
                "url": NOBODY,
                "auth": {"type": "basic", "username": "viewer", "password": "open sesame"},
            },
            "cors": {"allow_origins": [VIEWER, "*"]},
        },
    )


def test_check_offline(secretive: str) -> None:
    env = {"DICOMWEB_PROXY_SERVER__PORT": "8081", "DICOMWEB_PROXY_SERVER__HOST": "127.0.0.1"}
    result = run("check", "--offline", "--config", secretive, env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    assert dict(SHOWN.findall(result.stdout)) == {
        "upstream.url": f"{NOBODY}  (file {secretive})",
        "upstream.auth.type": f"basic  (file {secretive})",
        "upstream.auth.username": f"viewer  (file {secretive})",
        "upstream.auth.password": f"********  (file {secretive})",
        "cors.allow_origins": f"[{VIEWER}, *]  (file {secretive})",
        "server.port": "8081  (environment DICOMWEB_PROXY_SERVER__PORT)",
    }
    assert "open sesame" not in result.output
    warnings = re.findall(r"^warning: (\S+):", result.stdout, re.MULTILINE)
    assert set(warnings) >= {"cors.allow_origins", "server.allowed_hosts"}
    assert result.stdout.startswith("warning: "), "the values come last"


def test_check_all_shows_the_defaults_too(secretive: str) -> None:
    result = run("check", "--offline", "--all", "--config", secretive)
    shown = dict(SHOWN.findall(result.stdout))
    assert list(shown) == list(SCHEMA.settings)
    assert shown["server.host"] == "127.0.0.1  (default)"
    assert shown["upstream.auth.password"] == f"********  (file {secretive})"


def checked(reply: Reply, *flags: str, env: dict[str, str] | None = None) -> tuple[Result, Stub]:
    with stub(reply) as archive:
        flags = ("--upstream", f"{archive.url}/rs", "--allow-origin", VIEWER, *flags)
        return run("check", *flags, env=env), archive


def studies(base: str) -> Reply:
    """The response of an archive with one study that calls itself `base`."""
    study = {
        "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
        "00081190": {"vr": "UR", "Value": [f"{base}/studies/1.2.3"]},
    }
    return Reply(headers={"Content-Type": "application/dicom+json"}, body=dumps([study]).encode())


LOGIN = {
    "DICOMWEB_PROXY_UPSTREAM__AUTH__TYPE": "bearer",
    "DICOMWEB_PROXY_UPSTREAM__AUTH__TOKEN": "a",
}


@pytest.mark.parametrize(
    ("reply", "env", "code", "said"),
    [
        (studies("/rs"), {}, 0, r"right path, searches return DICOM JSON"),
        (Reply(body=b" [ ] "), {}, 0, "right path. It holds no study"),
        (Reply(204), {}, 0, "right path. It holds no study"),
        (Reply(404), {}, 1, r"wrong path \(404 .* upstream\.url .*/dicom-web, dcm4chee"),
        (Reply(405), {}, 1, r"wrong path \(405"),
        (Reply(400), {}, 1, r"wrong path.* \(400\).* https://"),
        (Reply(302, {"Location": "/login?a=b"}), {}, 1, r"wrong path \(302.* to /login\)"),
        (Reply(302), {}, 1, r"wrong path \(302, a redirect\)"),
        (Reply(body=b""), {}, 1, "wrong path: .* without Content-Type, not DICOM JSON"),
        (
            Reply(headers={"Content-Type": "text/html"}, body=b"<p>"),
            {},
            1,
            "wrong path: .*text/html",
        ),
        (Reply(body=b'["a study"]'), {}, 1, "wrong path: .* not DICOM JSON"),
        (Reply(body=b'[{"ID": 1}]'), {}, 1, "wrong path: .* not DICOM JSON"),
        (Reply(body=b"{}"), {}, 1, "wrong path: .* not DICOM JSON"),
        (
            Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}),
            {},
            1,
            r"login missing \(401, .*Basic",
        ),
        (Reply(403), {}, 1, r"login missing \(403\)"),
        (Reply(401), LOGIN, 1, r"login refused \(401\): .* upstream\.auth"),
        (Reply(403), LOGIN, 1, r"login refused \(403\)"),
        (Reply(406), {}, 1, r"rejects a search \(406\)"),
        (Reply(500), {}, 1, r"rejects a search \(500\). See its log"),
        (Reply(508), {}, 1, r"asked to ask itself \(508\)"),
    ],
)
def test_check_judges_the_response_to_a_search(
    reply: Reply, env: dict[str, str], code: int, said: str
) -> None:
    result, archive = checked(reply, env=env)
    assert (result.exit_code, result.stderr) == (code, "")
    verdict, *_ = result.stdout.splitlines()
    assert re.match(f"{archive.url}/rs: .*{said}", verdict), verdict
    ((method, path, headers),) = archive.own
    assert (method, path) == ("GET", "/rs/studies?limit=1")
    assert headers["Accept"] == "application/dicom+json"
    assert headers["Authorization"] == ("Bearer a" if env else None)
    assert not archive.requests


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_check_prints_the_alias_that_is_missing(*, is_gzipped: bool) -> None:
    reply = studies("http://pacs.internal:8042/rs")
    if is_gzipped:
        headers = {**reply.headers, "Content-Encoding": "gzip"}
        reply = replace(reply, headers=headers, body=gzip.compress(reply.body))
    result, _ = checked(reply)
    assert result.exit_code == 0
    _, name, line, *_ = result.stdout.splitlines()
    assert name.startswith(
        "upstream.aliases: the archive calls itself http://pacs.internal:8042/rs "
    )
    assert line == "  aliases: [http://pacs.internal:8042/rs]"
    aliases = {"DICOMWEB_PROXY_UPSTREAM__ALIASES": "http://pacs.internal:8042/rs"}
    assert "calls itself" not in checked(reply, env=aliases)[0].stdout
    others = {"DICOMWEB_PROXY_UPSTREAM__ALIASES": "http://other/rs"}
    assert "\n  aliases: [http://other/rs, http://pacs" in checked(reply, env=others)[0].stdout
    off = {"DICOMWEB_PROXY_REWRITE_URLS": "false"}
    assert "calls itself" not in checked(reply, env=off)[0].stdout


@pytest.mark.parametrize("host", ["localhost:8080", "pacs.example"])
def test_check_takes_the_name_that_the_archive_was_sent_for_known(host: str) -> None:
    """Some archives put X-Forwarded-Host in front of their own path."""
    env = {"DICOMWEB_PROXY_SERVER__HOST": "localhost"}
    if host == "pacs.example":
        env = {"DICOMWEB_PROXY_PUBLIC_URL": "https://pacs.example/dicom-web"}
    result, archive = checked(studies(f"http://{host}/rs"), env=env)
    assert "calls itself" not in result.stdout
    assert archive.own[0][2]["X-Forwarded-Host"] == host


def test_check_finds_names_in_bulk_data_and_prints_no_uid() -> None:
    bulk = {"00091010": {"vr": "OB", "BulkDataURI": "http://pacs/rs/studies/1.2.840.77/bulk/1"}}
    nested = {"00081140": {"vr": "SQ", "Value": [bulk]}, "00081190": {"vr": "UR"}}
    result, _ = checked(Reply(body=dumps([nested]).encode()))
    assert "\n  aliases: [http://pacs/rs]\n" in result.stdout
    assert "1.2.840.77" not in result.stdout


@pytest.mark.parametrize(("start", "code"), [(b'[{"00080005":{}},', 0), (b"[[", 1)])
def test_check_reads_only_the_start_of_a_long_response(start: bytes, code: int) -> None:
    result, _ = checked(Reply(body=start + b" " * 2**21))
    assert result.exit_code == code


def test_check_says_which_archive_is_not_reachable(tmp_path: Path) -> None:
    closed = servers.free_port()
    with stub(studies("/rs")) as archive:
        upstream = {"url": archive.url, "wado_url": f"http://{LOOPBACK}:{closed}/wado-rs"}
        file = written(tmp_path, {"upstream": upstream, "cors": {"allow_origins": [VIEWER]}})
        result = run("check", "--config", file)
    assert result.exit_code == 1
    search, retrieve, *_ = result.stdout.splitlines()
    assert search == f"{archive.url}: right path, searches return DICOM JSON"
    assert retrieve.startswith(f"http://{LOOPBACK}:{closed}/wado-rs: The archive could not be")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, 0, "reached (404 to OPTIONS)"),
        (401, 1, "login missing (401)"),
        (500, 1, "The archive responded 500."),
    ],
)
def test_check_sends_options_to_the_other_services(
    status: int, code: int, said: str, tmp_path: Path
) -> None:
    with stub(studies("/rs")) as archive, stub(Reply(status)) as other:
        upstream = {"qido_url": archive.url, "wado_url": f"{other.url}/wado"}
        file = written(tmp_path, {"upstream": upstream, "cors": {"allow_origins": [VIEWER]}})
        result = run("check", "--config", file)
    assert result.exit_code == code
    assert result.stdout.splitlines()[1].startswith(f"{other.url}/wado: {said}")
    assert [(method, path) for method, path, _ in other.own] == [("OPTIONS", "/wado")]


@pytest.mark.parametrize(
    ("host", "env", "has_hint"),
    [
        (LOOPBACK, {"container": "oci"}, True),
        ("localhost", {"container": "oci"}, True),
        (LOOPBACK, {}, False),
        ("127.0.0.1.example.invalid", {"container": "oci"}, False),
    ],
)
def test_check_explains_loopback_in_a_container(
    *, host: str, env: dict[str, str], has_hint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomweb_cors_proxy.config.surroundings._MARKS", ())
    monkeypatch.delenv("container", raising=False)
    url = f"http://{host}:{servers.free_port()}/rs"
    result = run("check", "--upstream", url, "--allow-origin", VIEWER, env=env)
    assert result.exit_code == 1
    assert ("this address is the container itself" in result.stdout) is has_hint


def test_check_does_not_take_a_failed_handshake_for_a_refused_connection() -> None:
    with stub(Reply()) as archive:
        url = archive.url.replace("http:", "https:")
        flags = ("--upstream", url, "--allow-origin", VIEWER)
        result = run("check", *flags, env={"container": "oci"})
    assert result.exit_code == 1
    assert "it speaks plain http there" in result.stdout
    assert "container" not in result.stdout


def test_check_names_the_setting_of_the_search_service(tmp_path: Path) -> None:
    with stub(Reply(404)) as archive:
        file = written(tmp_path, fronting(NOBODY, VIEWER, qido_url=archive.url))
        assert "Set upstream.qido_url " in run("check", "--config", file).stdout


def test_check_says_what_it_is_waiting_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["dicomweb_cors_proxy.cli.check"]  # its name in `cli` is the command's
    monkeypatch.setattr(module, "SOON", 0)
    with stub(Reply(body=b"[]")) as archive:
        file = written(tmp_path, fronting(archive.url, VIEWER, read_timeout=7))
        result = run("check", "--config", file)
    assert result.exit_code == 0
    assert "7 s for the response" in result.stderr


@pytest.mark.parametrize("body", [b"", b"[{"])
def test_check_gives_up_an_archive_that_hangs(body: bytes, tmp_path: Path) -> None:
    with servers.stalled(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + body) as url:
        file = written(tmp_path, fronting(url, VIEWER, read_timeout=0.1))
        result = run("check", "--config", file)
    assert result.exit_code == 1
    assert re.match(rf"{url}: .* within 0\.1 s", result.stdout)


# serve


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A `serve` that logs all that it may."""
    configuration = fronting(NOBODY, VIEWER) | {"logging": {"level": "debug"}}
    with serving(configuration, tmp_path_factory.mktemp("talkative")) as proxy:
        yield proxy
    # Workers of a distributed run have only some of the requests each.
    assert any(f" {status} " in proxy.child.output for status in (400, 404, 405, 502))
    assert "SECRET" not in proxy.child.output


def test_serve_says_what_it_fronts(tmp_path: Path) -> None:
    configuration: dict[str, dict[str, Any]] = {
        "upstream": {"url": NOBODY, "wado_url": "http://images.example/rs"},
        "cors": {
            "allow_origins": [VIEWER],
            "per_origin": [{"allow_origins": ["https://*.example.edu"]}, {"allow_origins": ["*"]}],
        },
        "server": {"base_path": "/pacs/rs"},
    }
    with serving(configuration, tmp_path) as p:
        pass
    output = p.child.output
    assert re.search(rf"^archive  {NOBODY}  \(.*search.*\)$", output, re.MULTILINE)
    assert re.search(r"^archive  http://images.example/rs  \(retrieve\)$", output, re.MULTILINE)
    assert f"origins  {VIEWER}, https://*.example.edu, *\n" in output
    assert "access   read-only\n" in output
    assert f"at       {p.root}/pacs/rs\n" in output
    assert re.search(r"^warning  cors\.per_origin\[1\]\.allow_origins: ", output, re.MULTILINE)


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_says_once_what_check_says(workers: int, tmp_path: Path) -> None:
    with stub(studies("http://pacs/rs")) as archive:
        configuration = fronting(archive.url, VIEWER) | {"server": {"workers": workers}}
        with serving(configuration, tmp_path) as p:
            p.child.wait_for(r"\n  aliases: \[http://pacs/rs\]\n")
    assert p.child.output.count("aliases: [") == 1
    assert f"\ncheck    {archive.url}: right path" in p.child.output
    assert "\nwarning  upstream.aliases: the archive calls itself" in p.child.output
    assert len(archive.own) == 1


def test_serve_warns_of_a_wrong_path_in_its_log(tmp_path: Path) -> None:
    with stub(Reply(404)) as archive:
        configuration = fronting(archive.url, VIEWER) | {"logging": {"format": "json"}}
        with serving(configuration, tmp_path) as p:
            line = p.child.wait_for(r".*wrong path \(404.*")[0]
    assert loads(line)["level"] == "warning"


@pytest.mark.parametrize("workers", [1, 2])
def test_serve_does_not_wait_for_the_archive(workers: int, tmp_path: Path) -> None:
    with servers.stalled(b"") as url:
        configuration = fronting(url, VIEWER) | {"server": {"workers": workers}}
        with serving(configuration, tmp_path) as p:  # it serves /healthz
            pass  # and stops at once, though the check still waits
    assert "check " not in p.child.output


def test_a_port_in_use() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", "--upstream", NOBODY, "--allow-origin", VIEWER, "--port", port)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"cannot listen on {LOOPBACK} port {port} (server.host, server.port): ")
    assert "in use" in line


def test_a_host_that_is_none_of_ours() -> None:
    result = run("serve", "--upstream", NOBODY, "--allow-origin", VIEWER, "--host", "192.0.2.1")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("cannot listen on 192.0.2.1 port 8080 (server.host, server.port): ")


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_serve_on_another_host(host: str, tmp_path: Path) -> None:
    with (
        stub(Reply(body=b"[]")) as archive,
        serving(fronting(archive.url, VIEWER), tmp_path, "--host", host) as p,
    ):
        assert httpx.get(f"{p.url}/studies", trust_env=False).json() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_serve_on_all_interfaces_shows_urls_that_work_elsewhere(host: str, tmp_path: Path) -> None:
    env = {"container": ""}
    # With port 0 there would be one socket, for `::` that of IPv6.
    flags = ("--host", host, "--port", str(servers.free_port()))
    with serving(fronting(NOBODY, VIEWER), tmp_path, *flags, env=env) as p:
        assert p.root.startswith("http://localhost:")
        name = socket.gethostname().lower()
        assert re.search(rf"^at +http://{name}:\d+/dicom-web$", p.child.output, re.MULTILINE)
        shown = re.findall(r"^at +(http://[^/]+)/", p.child.output, re.MULTILINE)
        for root in filter(re.compile(r"http://[\[0-9]").match, shown):
            assert httpx.get(f"{root}/healthz", trust_env=False).status_code == 200
    assert not [root for root in shown if root.partition("://")[2].startswith((host, "[::"))]


def test_serve_in_a_container_shows_no_addresses(tmp_path: Path) -> None:
    env = {"container": "oci"}
    with serving(fronting(NOBODY, VIEWER), tmp_path, "--host", "0.0.0.0", env=env) as p:
        pass
    assert len(re.findall(r"^at ", p.child.output, re.MULTILINE)) == 1
    assert p.root.startswith("http://localhost:")


def test_serve_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert(LOOPBACK)
    pem = tmp_path / "cert.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    flags = ("--upstream", NOBODY, "--allow-origin", VIEWER, "--port", "0")
    with spawn("serve", *flags, "--tls-cert", str(pem), "--tls-key", str(pem)) as child:
        root = child.wait_for(r"\bat +(https://[^/]+)/")[1]
        answered = httpx.get(f"{root}/healthz", verify=trust, trust_env=False)
        assert answered.status_code == 200
        child.terminate()
        assert child.wait() == 0


def test_uvicorns_variables_have_no_effect(tmp_path: Path) -> None:
    env = {
        "UVICORN_PORT": "1",
        "UVICORN_HOST": "192.0.2.1",
        "UVICORN_ROOT_PATH": "/elsewhere",
        "UVICORN_LOG_LEVEL": "trace",
        "WEB_CONCURRENCY": "4",
        "FORWARDED_ALLOW_IPS": "*",
    }
    spoofed = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    with (
        stub(Reply(body=b"[]")) as archive,
        serving(fronting(archive.url, VIEWER), tmp_path, env=env) as p,
    ):
        assert httpx.get(f"{p.url}/studies", headers=spoofed, trust_env=False).json() == []
        children = Path(f"/proc/{p.child.pid}/task/{p.child.pid}/children")
        assert children.read_text() == ""
    ((_, _, headers),) = archive.requests
    assert headers["X-Forwarded-For"] == LOOPBACK
    assert headers["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("GET", "/dicom-web/studies?PatientName=SECRET"), b"502"),
        (request("GET", "/SECRET"), b"404"),
        (request("POST", "/dicom-web/studies", "X-Secret: SECRET", body=b"SECRET"), b"405"),
        (request("SECRET"), b"405"),
        (b"GET /SECRET HTTP/1.1\r\nSECRET\r\n\r\n", b"400"),
        (b"SECRET\r\n\r\n", b"400"),
    ],
    ids=["query", "path", "body", "method", "header", "garbage"],
)
def test_no_request_is_named_in_the_log(talkative: Proxy, raw: bytes, status: bytes) -> None:
    with socket.create_connection(address(talkative.root), timeout=30) as client:
        client.sendall(raw)
        assert client.recv(12) == b"HTTP/1.1 " + status


# Signals


class Half(NamedTuple):
    """A `serve` that has sent half of a response, whose rest comes after `finish`."""

    child: Child
    client: socket.socket
    finish: Callable[[], None]


@contextmanager
def half(folder: Path, **server: object) -> Iterator[Half]:
    finished = threading.Event()

    class Archive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "8")
            self.end_headers()
            self.wfile.write(b"half")
            finished.wait(30)
            self.wfile.write(b"half")

        def log_message(self, *_: object) -> None: ...

    with servers.serving(Archive) as port:
        configuration = fronting(f"http://{LOOPBACK}:{port}", VIEWER) | {"server": server}
        with (
            serving(configuration, folder) as p,
            socket.create_connection(address(p.root), timeout=30) as client,
        ):
            client.sendall(request())
            assert received(client, b"half").endswith(b"\r\n\r\nhalf")
            yield Half(p.child, client, finished.set)
            finished.set()


def received(client: socket.socket, until: bytes = b"\0") -> bytes:
    """What comes until `until`, or the end."""
    data = b""
    while not data.endswith(until) and (piece := client.recv(2**16)):
        data += piece
    return data


STOPPING = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_before_it_serves(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "config.yaml"
    os.mkfifo(file)
    with spawn("serve", "--config", str(file)) as child, file.open("wb"):  # it is being read
        os.kill(child.pid, number)
        assert child.wait() == 0
        assert child.output == ""


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_ends_an_idle_server(tmp_path: Path, number: signal.Signals) -> None:
    with (
        serving(fronting(NOBODY, VIEWER), tmp_path) as p,
        socket.create_connection(address(p.root), timeout=30) as idle,
    ):
        os.kill(p.child.pid, number)
        assert received(idle) == b""
        assert p.child.wait(seconds=5) == 0
    assert "Traceback" not in p.child.output


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_lets_responses_finish(tmp_path: Path, number: signal.Signals) -> None:
    with half(tmp_path) as (child, client, finish):
        os.kill(child.pid, number)
        child.wait_for("stopping")
        finish()
        assert received(client) == b"half"
        assert child.wait() == 0


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_responses_that_outlast_the_timeout_are_cut(tmp_path: Path, timeout: float) -> None:
    with half(tmp_path, shutdown_timeout=timeout) as (child, client, _):
        os.kill(child.pid, signal.SIGTERM)
        assert received(client) == b""
        assert child.wait() == 0
    assert "server.shutdown_timeout" in child.output
    assert "Traceback" not in child.output


def test_a_second_interrupt_cuts_responses(tmp_path: Path) -> None:
    with half(tmp_path) as (child, client, _):
        os.kill(child.pid, signal.SIGINT)
        child.wait_for("stopping")
        os.kill(child.pid, signal.SIGINT)
        assert received(client) == b""
        assert child.wait() == 0
