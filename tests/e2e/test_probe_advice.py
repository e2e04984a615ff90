"""What the probe says, done to the letter: then all passes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support import orthanc as archives
from tests.support import probing
from tests.support.probing import (
    ALLOW_CREDENTIALS,
    ALLOW_ORIGIN,
    VIEWER,
    Answered,
    all_passes,
    found,
    probed,
    replaced,
    with_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.orthanc import Orthanc
    from tests.support.proxy import Proxy

    Serve = Callable[..., Proxy]
    Start = Callable[[str], AbstractContextManager[str]]

pytestmark = pytest.mark.orthanc

LOGIN = ("--header", f"Authorization: {archives.CREDENTIALS.header}")
ROUNDS = 3


def advised(report: dict[str, Any], what: str) -> Iterator[Any]:
    """What the checks that did not pass name: `settings` or `nginx`."""
    for check in report["checks"]:
        if check["verdict"] in ("fail", "warn"):
            yield check[what]


def with_nginx(start: Start, lines: str, *flags: str) -> int:
    """Put what the probe names into the location until all passes; returns the rounds."""
    for number in range(ROUNDS):
        with start(lines) as root:
            report = probed(root, *flags)
        if all_passes(report):
            return number
        lines = replaced(
            lines, "\n".join(line for part in advised(report, "nginx") for line in part)
        )
    raise AssertionError(report)


def with_ours(
    serve: Serve, root: str, settings: dict[str, Any], *flags: str, origin: str = VIEWER
) -> int:
    """As `with_nginx`, by the settings that the probe names for a proxy of ours."""
    for number in range(ROUNDS):
        report = probed(root, *flags, origin=origin)
        if all_passes(report):
            return number
        for named in advised(report, "settings"):
            settings = with_settings(settings, named)
        root = serve(settings).url
    raise AssertionError(report)


PREFLIGHTS = """
  if ($request_method = OPTIONS) {
    add_header Access-Control-Allow-Origin https://viewer.example;
    add_header Access-Control-Allow-Credentials true;
    add_header Access-Control-Allow-Headers accept,content-type;
    add_header Access-Control-Max-Age 600;
    return 204;
  }
"""
ANSWERS = """
  add_header Access-Control-Allow-Origin https://viewer.example always;
  add_header Access-Control-Allow-Credentials true always;
  add_header Vary Origin always;
"""
RECIPES = {
    "no CORS": "",
    "on success only": PREFLIGHTS + ANSWERS.replace("always", ""),
    "any origin, with credentials": (PREFLIGHTS + ANSWERS).replace("https://viewer.example", "*"),
    "another origin": (PREFLIGHTS + ANSWERS).replace("viewer.example", "viewer.example/"),
    "preflights to the archive": ANSWERS,
    "preflights alone": PREFLIGHTS,
    "headers lost in an if": PREFLIGHTS
    + ANSWERS
    + "if ($request_method = GET) { add_header X-Frame-Options DENY; }",
    "twice": PREFLIGHTS + ANSWERS + ANSWERS,
    "no accept": (PREFLIGHTS + ANSWERS).replace("accept,", ""),
    "a max-age of nothing": (PREFLIGHTS + ANSWERS).replace("600", "0"),
    "a max-age with a unit": (PREFLIGHTS + ANSWERS).replace("600", "10m"),
    "without Vary": PREFLIGHTS
    + ANSWERS.replace("https://viewer.example", "$http_origin").replace(
        "add_header Vary Origin always;", ""
    ),
    "names itself by another host": PREFLIGHTS + ANSWERS + "proxy_set_header Host internal:8042;",
}


def nginx_before(upstream: str, folder: Path) -> Start:
    return lambda lines: probing.nginx(folder, upstream.removesuffix("/dicom-web"), lines)


@pytest.mark.parametrize("flags", [(), ("--credentials",)], ids=["plain", "credentials"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_nginx(recipe: str, flags: tuple[str, ...], orthanc: Orthanc, tmp_path: Path) -> None:
    start = nginx_before(orthanc.url, tmp_path)
    with start(RECIPES[recipe]) as root:
        broken = probed(root, *flags)
    assert not all_passes(broken)
    assert with_nginx(start, RECIPES[recipe], *flags) == 1


def test_nginx_that_ends_tls(orthanc: Orthanc, tmp_path: Path) -> None:
    """Orthanc does not know of it, and its URLs say http."""
    authority = trustme.CA()
    pem, ca_file = tmp_path / "server.pem", tmp_path / "ca.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca_file)
    flags = ("--ca-file", str(ca_file))

    def start(lines: str) -> AbstractContextManager[str]:
        return probing.nginx(tmp_path, orthanc.root, lines, pem=pem)

    recipe = f"{PREFLIGHTS}{ANSWERS}proxy_set_header Host pacs.example;"
    with start(recipe) as root:
        report = probed(root, *flags)
    assert [c["check"] for c in report["checks"] if c["verdict"] == "fail"] == ["links"]
    (links,) = [c["text"] for c in report["checks"] if c["check"] == "links"]
    assert "http://pacs.example: a page on https can't follow them" in links
    assert with_nginx(start, recipe, *flags) == 1


def test_nginx_for_several_origins_as_the_page_has_it(orthanc: Orthanc, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "probe.md").read_text(encoding="utf-8")
    (outside,) = re.findall(r"`(map \$http_origin .+?)`", page)
    lines = f"{PREFLIGHTS}{ANSWERS}proxy_set_header Host $http_host;".replace(VIEWER, "$cors")
    with probing.nginx(tmp_path, orthanc.root, lines, outside=outside) as root:
        assert all_passes(probed(root, origin="https://a.example"))
        assert all_passes(probed(root, origin="https://b.example"))
        assert found(probed(root, origin="https://c.example"), "search")["verdict"] == "fail"


def test_nginx_that_asks_for_a_login(orthanc: Orthanc, tmp_path: Path) -> None:
    user = archives.CREDENTIALS
    file = probing.password_file(tmp_path, user.username, user.password)
    login = f'auth_basic "archive"; auth_basic_user_file {file}; proxy_set_header Authorization "";'
    start = nginx_before(orthanc.url, tmp_path)
    # The URLs in the responses are seen once there are responses.
    assert with_nginx(start, login + ANSWERS, *LOGIN) == 2


def test_nginx_before_an_archive_with_a_login(orthanc_with_auth: Orthanc, tmp_path: Path) -> None:
    assert with_nginx(nginx_before(orthanc_with_auth.url, tmp_path), "", *LOGIN) == 2


def always(answer: Answered) -> None:
    """An archive that lets everybody in, whoever asks."""
    answer.put(ALLOW_ORIGIN, "*")
    answer.put(ALLOW_CREDENTIALS, "true")


@pytest.mark.parametrize("flags", [(), ("--credentials",)], ids=["plain", "credentials"])
def test_nginx_before_an_archive_with_cors_of_its_own(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    with probing.archive(always) as archive:
        start = nginx_before(archive.url, tmp_path)
        assert with_nginx(start, PREFLIGHTS + ANSWERS, *flags) == 1


def test_a_redirect_is_named_and_where_it_leads_all_passes(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    right = replaced("", f"{PREFLIGHTS}{ANSWERS}proxy_set_header Host $http_host;")
    start = nginx_before(orthanc.url, tmp_path)
    with (
        start(right) as good,
        start(f"return 301 {good.removesuffix('/dicom-web')}$request_uri;") as root,
    ):
        report = probed(root)
        assert report["first"].startswith("First, give the viewer the URL to which")
        assert not any(check["settings"] for check in report["checks"])
        (there,) = {
            found
            for check in report["checks"]
            for found in re.findall(r" to (http\S+)[,;]", check["text"])
        }
        assert all_passes(probed(f"{there}/dicom-web"))


# Ours in front


def caddy_before(lines: str) -> Callable[[Path, str], AbstractContextManager[str]]:
    return lambda folder, upstream: probing.caddy(folder, upstream, lines)


@contextmanager
def itself(_: Path, upstream: str) -> Iterator[str]:
    yield upstream


SERVERS: dict[str, Callable[[Path, str], AbstractContextManager[str]]] = {
    "Orthanc": itself,
    "Caddy": caddy_before(""),
    "Caddy, any origin": caddy_before("header >Access-Control-Allow-Origin *"),
    "nginx": lambda folder, upstream: nginx_before(upstream, folder)(""),
    "nginx, broken": lambda folder, upstream: nginx_before(upstream, folder)(RECIPES["twice"]),
}


@pytest.mark.parametrize("flags", [(), ("--credentials",)], ids=["plain", "credentials"])
@pytest.mark.parametrize("server", SERVERS)
def test_ours_in_front(
    server: str, flags: tuple[str, ...], orthanc: Orthanc, serve: Serve, tmp_path: Path
) -> None:
    with SERVERS[server](tmp_path, orthanc.url) as root:
        assert not all_passes(probed(root, *flags))
        assert with_ours(serve, root, {"upstream": {"url": root}}, *flags) == 1


def test_ours_before_an_archive_with_a_login(orthanc_with_auth: Orthanc, serve: Serve) -> None:
    url = orthanc_with_auth.url
    assert with_ours(serve, url, {"upstream": {"url": url}}, *LOGIN) == 1


@pytest.mark.skipif(not archives.INSTALLED, reason="needs Debian's orthanc-dicomweb")
def test_ours_before_an_archive_that_calls_itself_otherwise(serve: Serve, tmp_path: Path) -> None:
    """As Debian ships Orthanc: by localhost, without the port."""
    with archives.orthanc(tmp_path, Host="localhost") as archive:
        settings = {"upstream": {"url": archive.url}, "cors": {"allow_origins": [VIEWER]}}
        report = probed(serve(settings).url)
        assert [c["check"] for c in report["checks"] if c["verdict"] == "warn"] == ["links"]
        assert with_ours(serve, serve(settings).url, settings) == 1


# Ours, with the wrong settings


MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "another origin": ({"allow_origins": ["https://other.example"]}, (), VIEWER),
    "no accept": ({"allow_headers": ["content-type"]}, (), VIEWER),
    "a header more": ({}, ("--header", "X-Site: a"), VIEWER),
    "an origin and a header more": (
        {"allow_origins": ["https://other.example"]},
        ("--header", "X-Site: a"),
        VIEWER,
    ),
    "a login and *": ({"allow_headers": ["*"]}, LOGIN, VIEWER),
    "credentials": ({}, ("--credentials",), VIEWER),
    "credentials and an origin": (
        {"allow_origins": ["https://other.example"]},
        ("--credentials",),
        VIEWER,
    ),
    "credentials and *": ({"allow_origins": ["*"]}, ("--credentials",), VIEWER),
    "credentials over plain http": ({}, ("--credentials",), "http://viewer.example"),
    "no Content-Range": ({"expose_headers": ["etag"]}, (), VIEWER),
    "no max-age": ({"max_age": 0}, (), VIEWER),
    "a sandboxed frame": ({}, (), "null"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_ours_misconfigured(mistake: str, serve: Serve) -> None:
    cors, flags, origin = MISTAKES[mistake]
    with probing.archive() as archive:
        settings = {
            "upstream": {"url": archive.url},
            "cors": {"allow_origins": [VIEWER], **cors},
        }
        url = serve(settings).url
        assert not all_passes(probed(url, *flags, origin=origin))
        assert with_ours(serve, url, settings, *flags, origin=origin) == 1


def test_no_urls_rewritten(orthanc: Orthanc, serve: Serve) -> None:
    settings: dict[str, Any] = {
        "upstream": {"url": orthanc.url},
        "cors": {"allow_origins": [VIEWER]},
        "rewrite_urls": False,
    }
    assert with_ours(serve, serve(settings).url, settings) == 1
