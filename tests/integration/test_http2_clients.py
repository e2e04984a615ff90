"""Other programs that get images over HTTP/2: curl, and nghttp2's nghttp and h2load."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Pair
from tests.support.protocols import HTTP2, LOGGING, requests, spoken
from tests.support.proxy import Proxy, fronting
from tests.support.servers import Reply, Stub, stub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ORIGIN = "https://viewer.example"
CONNECTIONS = 4  # as many as the stub accepts at once
IMAGE = bytes(range(256)) * 1024
PATH = "studies/1/series/2/instances/3/frames/1"
CURL = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
NGHTTP = pytest.mark.skipif(not shutil.which("nghttp"), reason="needs nghttp2-client")


@pytest.fixture
def archive() -> Iterator[Stub]:
    with stub(Reply(200, {"Content-Type": "application/octet-stream"}, IMAGE)) as running:
        yield running


@pytest.fixture
def proxy(archive: Stub, serve: Callable[..., Proxy]) -> Proxy:
    """By plain http."""
    return serve(fronting(archive.url, ORIGIN, max_connections=CONNECTIONS) | LOGGING)


@pytest.fixture
def secure_proxy(archive: Stub, serve: Callable[..., Proxy], tmp_path: Path) -> Proxy:
    """With a certificate."""
    return serve(
        fronting(archive.url, ORIGIN, max_connections=CONNECTIONS)
        | {"server": Pair(tmp_path).server}
        | LOGGING
    )


def run(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(proxy: Proxy, *flags: str) -> tuple[bytes, str]:
    """Get the image with curl; returns it and the version of HTTP."""
    shown = ("--silent", "--insecure", "--fail", "--write-out", "%{http_version}")
    image, _, version = run("curl", *shown, *flags, f"{proxy.url}/{PATH}").rpartition(IMAGE[-8:])
    return image + IMAGE[-8:], version.decode()


@CURL
@pytest.mark.parametrize(
    ("flag", "version"), [("--http2", "2"), ("--http1.1", "1.1")], ids=["h2", "http/1.1"]
)
def test_curl_over_tls(flag: str, version: str, secure_proxy: Proxy) -> None:
    assert curl(secure_proxy, flag) == (IMAGE, version)
    assert spoken(secure_proxy) == {version}


@CURL
@pytest.mark.parametrize(
    ("flag", "version"),
    [("--http2-prior-knowledge", "2"), ("--http2", "1.1"), ("--http1.1", "1.1")],
    ids=["prior knowledge", "upgrade", "http/1.1"],
)
def test_curl_on_a_plain_port(flag: str, version: str, proxy: Proxy) -> None:
    """RFC 9113 has dropped the upgrade, so a request for it is answered as any other."""
    assert curl(proxy, flag) == (IMAGE, version)
    assert spoken(proxy) == {version}


@CURL
def test_curl_is_told_of_http_1_1_where_http2_is_off(
    archive: Stub, serve: Callable[..., Proxy], tmp_path: Path
) -> None:
    server = {"http2": False, **Pair(tmp_path).server}
    proxy = serve(
        fronting(archive.url, ORIGIN, max_connections=CONNECTIONS) | {"server": server} | LOGGING
    )
    assert curl(proxy, "--http2") == (IMAGE, "1.1")


@CURL
def test_curl_stores_over_http2(archive: Stub, serve: Callable[..., Proxy], tmp_path: Path) -> None:
    settings = (
        fronting(archive.url, ORIGIN, max_connections=CONNECTIONS)
        | {"server": Pair(tmp_path / "tls").server}
        | LOGGING
    )
    proxy = serve(settings | {"access": {"mode": "read-write"}})
    instance = tmp_path / "instance"
    instance.write_bytes(IMAGE * 8)
    kind = 'Content-Type: multipart/related; type="application/dicom"; boundary=b'
    store = ("--request", "POST", "--header", kind, "--upload-file", str(instance))
    said = run(
        "curl", "-sk", "--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
        *store, f"{proxy.url}/studies",
    )  # fmt: skip
    assert said == b"2 200"
    ((method, _, headers),) = archive.requests
    assert (method, headers["Content-Length"]) == ("POST", str(8 * len(IMAGE)))


@NGHTTP
@pytest.mark.parametrize("name", ["secure_proxy", "proxy"], ids=["TLS", "prior knowledge"])
def test_nghttp_gets_many_images_at_once(name: str, request: pytest.FixtureRequest) -> None:
    proxy: Proxy = request.getfixturevalue(name)
    images = run("nghttp", "--multiply=20", f"{proxy.url}/{PATH}")
    assert len(images) == 20 * len(IMAGE)
    assert images.count(b"\xff\x00") >= 20 * 1023
    told = [(line["status"], line["http_version"]) for line in requests(proxy, 20)]
    assert told == 20 * [(200, HTTP2)]


@NGHTTP
@pytest.mark.parametrize("name", ["secure_proxy", "proxy"], ids=["TLS", "prior knowledge"])
def test_h2load_gets_all_of_1000_images(name: str, request: pytest.FixtureRequest) -> None:
    proxy: Proxy = request.getfixturevalue(name)
    load = ("h2load", "-n1000", "-c3", "-m100", f"{proxy.url}/{PATH}")
    said = run(*load).decode()
    assert "1000 done, 1000 succeeded, 0 failed" in said
    assert "Application protocol: h2" in said
    assert re.search(rf"\({1000 * len(IMAGE)}\) data", said)
