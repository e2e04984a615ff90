"""The certificate that clients are shown: made here, or renewed while it is in use."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.config.pem_files import pair_fault
from dicomweb_cors_proxy.operations import self_signed as operations_self_signed
from dicomweb_cors_proxy.operations.certificates import Certificates
from dicomweb_cors_proxy.operations.self_signed import self_signed, state_directory
from tests.support.certificates import Pair, fingerprint, replace
from tests.support.processes import Child
from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, request
from tests.support.systemd import listening

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Proxy]

NOBODY = f"http://{LOOPBACK}:9/dicom-web"
VIEWER = ORIGIN.decode()
BOTH = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])

# So many handshakes that none of two workers is likely to be left out.
TRIES = 12


# Made here


def names(file: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in extension.value}


def test_it_is_kept_and_covers_this_machine(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "proxy"
    first = self_signed("0.0.0.0", folder)
    assert self_signed("127.0.0.1", folder) == first
    assert self_signed("::", folder) == first
    own = {"localhost", "127.0.0.1", "::1", socket.gethostname().lower()}
    assert names(first.file) == own
    assert first.file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in folder.iterdir()] == ["self-signed.pem"]


@pytest.mark.parametrize("host", ["pacs.example", "192.0.2.1", "2001:db8::1"])
def test_another_host_is_added(tmp_path: Path, host: str) -> None:
    first = self_signed("localhost", tmp_path)
    second = self_signed(host, tmp_path)
    assert second.fingerprint != first.fingerprint
    assert host in names(second.file)
    # Back to the other one, nobody has to be told to trust a third.
    assert self_signed("localhost", tmp_path) == second


def test_it_is_renewed_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(
            operations_self_signed,
            "VALIDITY",
            operations_self_signed.RENEW_BEFORE - timedelta(hours=1),
        )
        first = self_signed("localhost", tmp_path)
    second = self_signed("localhost", tmp_path)
    assert second.fingerprint != first.fingerprint
    assert self_signed("localhost", tmp_path) == second


@pytest.mark.parametrize("content", [b"", b"garbage", b"without its key"])
def test_what_is_of_no_use_is_replaced(tmp_path: Path, content: bytes) -> None:
    first = self_signed("localhost", tmp_path)
    if content == b"without its key":
        content = first.file.read_bytes().partition(b"-----BEGIN PRIVATE")[0]
    first.file.write_bytes(content)
    second = self_signed("localhost", tmp_path)
    assert second.fingerprint != first.fingerprint
    assert second.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/proxy", "XDG_STATE_HOME": "/x"}, "/var/lib/proxy"),
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two"}, "/var/lib/one"),
        ({"XDG_STATE_HOME": "/x"}, "/x/dicomweb-cors-proxy"),
        ({"XDG_STATE_HOME": "not/absolute"}, "~/.local/state/dicomweb-cors-proxy"),
        ({}, "~/.local/state/dicomweb-cors-proxy"),
    ],
)
def test_where_it_is_kept(environ: dict[str, str], folder: str) -> None:
    assert state_directory(environ) == Path(folder).expanduser()


def presented(address: tuple[str, int], trust: ssl.SSLContext | None = None) -> str:
    """The fingerprint of the certificate that a new connection is shown."""
    if trust is None:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(address, timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        shown = client.getpeercert(binary_form=True)
    return fingerprint(shown)


def address(proxy: Proxy) -> tuple[str, int]:
    return LOOPBACK, int(proxy.root.rpartition(":")[2])


@BOTH
def test_serve_shows_it_and_prints_its_fingerprint(
    serve: Serve, tmp_path: Path, workers: int
) -> None:
    settings = fronting(NOBODY, VIEWER) | {"server": {"workers": workers}}
    env = {"XDG_STATE_HOME": str(tmp_path)}
    printed = set()
    for _ in range(2):
        proxy = serve(settings, "--tls-self-signed", env=env)
        assert proxy.root.startswith("https://")
        line = proxy.child.wait_for("tls      self-signed, SHA-256 ([0-9A-F:]{95})\n")
        file = tmp_path / "dicomweb-cors-proxy" / "self-signed.pem"
        trust = ssl.create_default_context(cafile=file)
        trust.verify_flags |= ssl.VERIFY_X509_STRICT
        assert {presented(address(proxy), trust) for _ in range(TRIES)} == {line[1]}
        printed.add(line[1])
    assert len(printed) == 1


def refused(*flags: str, env: dict[str, str]) -> str:
    needed = ("--upstream", NOBODY, "--allow-origin", VIEWER, "--port", "0", "--tls-self-signed")
    result = CliRunner().invoke(main, ["serve", *needed, *flags], env=env)
    assert result.exit_code == 2
    title, problem = result.stderr.splitlines()
    assert title == "1 problem in the configuration:"
    return problem


def test_of_two_certificates_one_is_to_be_chosen(tmp_path: Path) -> None:
    env = {"STATE_DIRECTORY": str(tmp_path)}
    assert refused("--tls-cert", "cert.pem", env=env) == (
        "  - --tls-self-signed: is given together with --tls-cert; keep one of the two"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_cannot_be_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refused(env={"STATE_DIRECTORY": str(file)}) == (
        f"  - --tls-self-signed: can't keep its certificate in {file} (File exists); "
        "set STATE_DIRECTORY to a folder that the proxy may write"
    )


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert refused(env={"STATE_DIRECTORY": ""}) == (
        "  - --tls-self-signed: can't keep its certificate (there is no home directory); "
        "set STATE_DIRECTORY to a folder that the proxy may write"
    )


def test_without_it_nothing_of_it_is_imported() -> None:
    code = "import sys, dicomweb_cors_proxy.cli; print('cryptography' in sys.modules)"
    with Child([sys.executable, "-c", code]) as child:
        child.wait_for("False")


# Renewed


def handshake(server: ssl.SSLContext) -> str:
    """The fingerprint of what a client is shown, in a handshake without a network."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    trust.set_alpn_protocols(["h2", "http/1.1"])
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, its = trust.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
    for end in (ours, its, ours, its):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert ours.selected_alpn_protocol() == "h2"
    return fingerprint(ours.getpeercert(binary_form=True))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "tls")


@pytest.fixture
def in_use(pair: Pair) -> Certificates:
    return Certificates(pair.certificate, pair.key)


def test_a_renewed_pair_is_taken_once_it_is_at_rest(pair: Pair, in_use: Certificates) -> None:
    first = handshake(in_use.context)
    assert not in_use.poll()
    second = pair.issue()
    assert not in_use.poll()
    assert handshake(in_use.context) == first
    assert in_use.poll()
    assert handshake(in_use.context) == second
    assert not in_use.poll()


def test_half_of_a_pair_is_refused_once(
    pair: Pair, in_use: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    first = handshake(in_use.context)
    pair.issue(with_key=False)
    assert not any(in_use.poll() for _ in range(5))
    assert handshake(in_use.context) == first
    assert caplog.messages == [
        (
            f"server.tls_cert_file: '{pair.key}' is not the key of '{pair.certificate}'; "
            "name the key that belongs to it; the certificate in use stays"
        )
    ]
    last = pair.issue()
    assert [in_use.poll() for _ in range(2)] == [False, True]
    assert handshake(in_use.context) == last


ENCRYPTED = BestAvailableEncryption(b"SECRET")


@pytest.mark.parametrize(
    ("what", "content", "reason"),
    [
        ("certificate", None, "cannot be read (No such file or directory)"),
        ("key", None, "cannot be read (No such file or directory)"),
        ("certificate", b"SECRET", "has no certificate in PEM form"),
        ("key", b"SECRET", "has no private key in PEM form"),
        ("key", ENCRYPTED, "is encrypted"),
    ],
)
def test_what_is_broken_is_refused(
    *,
    pair: Pair,
    in_use: Certificates,
    caplog: pytest.LogCaptureFixture,
    what: str,
    content: bytes | BestAvailableEncryption | None,
    reason: str,
) -> None:
    first = handshake(in_use.context)
    file: Path = getattr(pair, what)
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        replace(file, content)
    else:
        key = load_pem_private_key(file.read_bytes(), None)
        replace(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, content))
    assert not any(in_use.poll() for _ in range(5))
    (message,) = caplog.messages
    assert f"{str(file)!r} {reason}" in message
    assert "SECRET" not in message
    assert handshake(in_use.context) == first


def test_a_key_that_is_too_weak(pair: Pair, in_use: Certificates) -> None:
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pacs.example")])
    now = datetime.now(UTC)
    weak = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    replace(pair.certificate, weak.sign(key, SHA256()).public_bytes(Encoding.PEM))
    replace(pair.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    fault = pair_fault(pair.certificate, pair.key)
    assert fault
    assert fault.startswith(f"{str(pair.key)!r} is too weak, ")
    assert not in_use.renew()


@pytest.mark.parametrize("name", ["load_verify_locations", "load_cert_chain"])
def test_files_that_go_while_they_are_read(
    name: str,
    pair: Pair,
    in_use: Certificates,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = handshake(in_use.context)
    pair.issue()
    read = getattr(ssl.SSLContext, name)

    def late(*arguments: Any, **options: Any) -> None:  # noqa: ANN401
        pair.key.unlink(missing_ok=True)
        pair.certificate.unlink(missing_ok=True)
        read(*arguments, **options)

    monkeypatch.setattr(ssl.SSLContext, name, late)
    assert [in_use.poll() for _ in range(2)] == [False, False]
    (message,) = caplog.messages
    assert "cannot be read (No such file or directory)" in message
    assert handshake(in_use.context) == first


async def until(shown: Callable[[], str], wanted: str) -> None:
    """Wait until all of two workers show it."""
    async with asyncio.timeout(30):
        while {await asyncio.to_thread(shown) for _ in range(TRIES)} != {wanted}:
            pass


@BOTH
async def test_it_is_renewed_under_open_connections(serve: Serve, pair: Pair, workers: int) -> None:
    go_on = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"half", length=8))
        await go_on.wait()
        await wire.send(b"half")

    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with archive(handle) as there:
        settings = fronting(there.url, VIEWER) | {"server": {"workers": workers, **pair.server}}
        proxy = await asyncio.to_thread(serve, settings)
        connection = await asyncio.open_connection(*address(proxy), ssl=trust)
        async with Wire(*connection) as client:
            await client.send(request())
            head = await client.head()
            second = pair.issue()
            await until(lambda: presented(address(proxy)), second)
            go_on.set()
            assert await client.body(head) == b"halfhalf"
            await client.send(request())
            assert await client.body(await client.head()) == b"halfhalf"
    assert proxy.child.output.count("the certificate is renewed: ") == 1


@BOTH
async def test_no_session_outlives_its_certificate(serve: Serve, pair: Pair, workers: int) -> None:
    """A client that resumes a session is shown no certificate anew."""
    settings = fronting(NOBODY, VIEWER) | {"server": {"workers": workers, **pair.server}}
    proxy = await asyncio.to_thread(serve, settings)
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    sessions: list[ssl.SSLSession | None] = [None]

    def shown() -> str:
        with (
            socket.create_connection(address(proxy), timeout=30) as plain,
            trust.wrap_socket(plain, session=sessions[-1]) as client,
        ):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while client.recv(4096):
                pass
            sessions.append(client.session)
            return fingerprint(client.getpeercert(binary_form=True))

    await until(shown, handshake(Certificates(pair.certificate, pair.key).context))
    second = pair.issue()
    await until(shown, second)


@BOTH
async def test_half_of_a_pair_stays_out_of_use(serve: Serve, pair: Pair, workers: int) -> None:
    proxy = await asyncio.to_thread(
        serve, fronting(NOBODY, VIEWER) | {"server": {"workers": workers, **pair.server}}
    )
    first = await asyncio.to_thread(presented, address(proxy))
    pair.issue(with_key=False)
    await asyncio.to_thread(proxy.child.wait_for, "ERROR .*is not the key of .* in use stays")
    await until(lambda: presented(address(proxy)), first)
    second = pair.issue()
    await until(lambda: presented(address(proxy)), second)
    assert "Traceback" not in proxy.child.output


@BOTH
def test_a_reload_names_another_pair(
    serve: Serve, pair: Pair, workers: int, tmp_path: Path
) -> None:
    settings = fronting(NOBODY, VIEWER) | {"server": {"workers": workers, **pair.server}}
    with listening() as manager:
        proxy = serve(settings, env={"NOTIFY_SOCKET": manager.address})
        other = Pair(tmp_path / "other")
        settings["server"] |= other.server
        proxy.file.write_text(yaml.safe_dump(settings))
        os.kill(proxy.child.pid, signal.SIGHUP)
        for _ in ("READY=1", "RELOADING=1"):
            manager.next()
        assert manager.next() == "READY=1"
        wanted = handshake(Certificates(other.certificate, other.key).context)
        assert {presented(address(proxy)) for _ in range(TRIES)} == {wanted}
    proxy.child.wait_for("changed: server.tls_cert_file, server.tls_key_file\n")


@BOTH
def test_a_reload_reads_the_files_at_once(serve: Serve, pair: Pair, workers: int) -> None:
    settings = fronting(NOBODY, VIEWER) | {"server": {"workers": workers, **pair.server}}
    with listening() as manager:
        proxy = serve(settings, env={"NOTIFY_SOCKET": manager.address})
        second = pair.issue()
        os.kill(proxy.child.pid, signal.SIGHUP)
        for _ in ("READY=1", "RELOADING=1"):
            manager.next()
        assert manager.next() == "READY=1"
        assert {presented(address(proxy)) for _ in range(TRIES)} == {second}
