"""The probe's verdicts beside Chromium's: the same servers, origins and requests."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import pytest_asyncio
import trustme

from dicomweb_cors_proxy.probe.checks import probe
from dicomweb_cors_proxy.probe.client import ProbeClient
from dicomweb_cors_proxy.probe.findings import Report, Target
from tests.support import browser, probing
from tests.support.faults import FAULTS
from tests.support.probing import Fault, archive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from playwright.async_api import Browser

    from tests.support.browser import Site, Viewer
    from tests.support.orthanc import Orthanc
    from tests.support.proxy import Proxy

    Serve = Callable[..., Proxy]

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]

Manner: TypeAlias = "tuple[bool, tuple[tuple[str, str], ...]]"

LOGIN = ("Authorization", "Basic dmlld2VyOm9wZW4gc2VzYW1l")

# Chromium's names for the rules, without the `Preflight` that it puts before some.
RULES = {
    "MissingAllowOriginHeader": "allow-origin-missing",
    "MultipleAllowOriginValues": "allow-origin-several",
    "WildcardOriginNotAllowed": "allow-origin-any-with-credentials",
    "InvalidAllowOriginValue": "allow-origin-other",
    "AllowOriginMismatch": "allow-origin-other",
    "InvalidAllowCredentials": "credentials-not-allowed",
    "InvalidStatus": "preflight-status",
    "DisallowedRedirect": "preflight-redirected",
    "InvalidAllowMethodsPreflightResponse": "allow-methods-malformed",
    "InvalidAllowHeadersPreflightResponse": "allow-headers-malformed",
    "MethodDisallowedByPreflightResponse": "method-not-allowed",
    "HeaderDisallowedByPreflightResponse": "header-not-allowed",
}


PREFLIGHTS = """
  if ($request_method = OPTIONS) {
    add_header Access-Control-Allow-Origin $http_origin;
    add_header Access-Control-Allow-Credentials true;
    add_header Access-Control-Allow-Headers accept,content-type;
    return 204;
  }
"""
ANSWERS = """
  add_header Access-Control-Allow-Origin $http_origin always;
  add_header Access-Control-Allow-Credentials true always;
  add_header Vary Origin always;
"""
NGINX = {
    "nginx, no CORS": "",
    "nginx, right": PREFLIGHTS + ANSWERS,
    "nginx, without always": PREFLIGHTS + ANSWERS.replace("always", ""),
    "nginx, any origin and credentials": (PREFLIGHTS + ANSWERS).replace("$http_origin", "*"),
    "nginx, preflights to the archive": ANSWERS,
    "nginx, headers lost in an if": ANSWERS + "if ($request_method = OPTIONS) { return 204; }"
    " if ($request_method = GET) { add_header X-Frame-Options DENY; }",
    "nginx, twice": PREFLIGHTS + ANSWERS + ANSWERS,
    "nginx, redirects": "return 301 http://$host:$server_port/elsewhere$request_uri;",
}
CADDY_ANSWERS = """
  header >Access-Control-Allow-Origin {http.request.header.Origin}
  header >Access-Control-Allow-Credentials true
  header >Vary Origin
"""
CADDY = {
    "Caddy, no CORS": "",
    "Caddy, any origin": "header >Access-Control-Allow-Origin *",
    "Caddy, preflights to the archive": CADDY_ANSWERS,
    "Caddy, right": CADDY_ANSWERS
    + """
  @preflight method OPTIONS
  handle @preflight {
    header Access-Control-Allow-Headers "accept, content-type"
    respond 204
  }
""",
}
Server: TypeAlias = "Callable[[Path, str, str, Serve], AbstractContextManager[str]]"


def behind_nginx(lines: str) -> Server:
    @contextmanager
    def server(folder: Path, upstream: str, _: str, __: Serve) -> Iterator[str]:
        with probing.nginx(folder, upstream.removesuffix("/dicom-web"), lines) as root:
            yield root

    return server


def behind_caddy(lines: str) -> Server:
    @contextmanager
    def server(folder: Path, upstream: str, _: str, __: Serve) -> Iterator[str]:
        with probing.caddy(folder, upstream, lines) as root:
            yield root

    return server


def ours(**cors: object) -> Server:
    @contextmanager
    def server(_: Path, upstream: str, origin: str, serve: Serve) -> Iterator[str]:
        policy = {"allow_origins": [origin]} | cors
        yield serve({"upstream": {"url": upstream}, "cors": policy}).url

    return server


@contextmanager
def bare(_: Path, upstream: str, __: str, ___: Serve) -> Iterator[str]:
    yield upstream


SERVERS: dict[str, Server] = {
    "Orthanc": bare,
    **{name: behind_nginx(lines) for name, lines in NGINX.items()},
    **{name: behind_caddy(lines) for name, lines in CADDY.items()},
    "ours": ours(),
    "ours, with credentials": ours(allow_credentials=True),
    "ours, without accept": ours(allow_headers=["content-type"]),
    "ours, any origin": ours(allow_origins=["*"]),
}


def run(root: str, origin: str, manner: Manner) -> Report:
    credentials, headers = manner
    target = Target(root, origin, credentials=credentials, headers=headers, write=True)
    with ProbeClient() as client:
        return probe(target, client)


async def compare(report: Report, viewer: Viewer) -> set[str]:
    """Ask all that the probe asked; what came must be the same. Returns what was blocked."""
    blocked = set()
    for check, exchange in report.exchanges.items():
        asked = exchange.asked
        answer = await viewer.ask(
            asked.url,
            method=asked.method,
            headers=dict(asked.headers),
            credentials="include" if asked.credentials else "same-origin",
        )
        assert (answer.error == "TypeError") is exchange.is_blocked, (check, answer, exchange)
        if not exchange.is_blocked:
            if check == "store" and exchange.is_away and exchange.response is None:
                continue  # a browser repeats the POST at the other origin, the probe does not
            assert exchange.response
            assert answer.status == exchange.response.status, check
            shown = "content-range" in answer.headers
            findings = {f.check: f for f in report.findings}
            if check == "range" and answer.status == 206:
                assert shown is (findings["range"].verdict == "pass")
            continue
        blocked.add(check)
        if (
            answer.cors_error
            and exchange.step
            and answer.cors_error.removeprefix("Preflight") in RULES
        ):
            rule = RULES[answer.cors_error.removeprefix("Preflight")]
            ours = exchange.step.rule.replace("authorization-not-named", "header-not-allowed")
            assert ours == rule, (check, answer.cors_error)
    return blocked


PLAIN: Manner = (False, ())
CREDENTIALS: Manner = (True, ())
HEADERS: Manner = (False, (LOGIN, ("X-Site", "a")))
MANNERS = {"plain": PLAIN, "credentials": CREDENTIALS, "headers": HEADERS}
# Where more than one manner tells something.
WITH_CREDENTIALS = (
    "right", "no CORS", "any origin", "the origin twice", "no credentials",
    "credentials in capitals", "credentials twice", "any header", "any method",
    "everything exposed", "redirected", "redirected elsewhere",
)  # fmt: skip
WITH_HEADERS = (
    "right", "401 to preflights", "no headers allowed", "any header, and authorization",
    "headers on two lines", "headers malformed", "redirected", "redirected elsewhere", "a login",
)  # fmt: skip
ROWS = {
    f"{name}, {manner}": (fault, MANNERS[manner])
    for name, fault in FAULTS.items()
    for manner in (
        "plain",
        *["credentials"] * (name in WITH_CREDENTIALS),
        *["headers"] * (name in WITH_HEADERS),
    )
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(chromium: Browser, site: Site) -> AsyncIterator[Viewer]:
    """One page for all: every server has a port of its own, so its caches don't matter."""
    async with browser.Viewer.at(site.viewer, chromium) as viewer:
        yield viewer


@pytest.mark.parametrize(("fault", "manner"), ROWS.values(), ids=ROWS)
async def test_an_archive(fault: Fault, manner: Manner, page: Viewer, site: Site) -> None:
    with archive(fault) as running:
        report = run(running.url, site.viewer, manner)
        assert set(report.exchanges) >= {"search", "metadata", "frames", "store", "errors"}
        blocked = await compare(report, page)
    hidden = any(finding.rule == "content-range-not-exposed" for finding in report.findings)
    assert report.is_blocked is (bool(blocked) or hidden)
    assert {f.check for f in report.findings if f.verdict == "FAIL"} >= blocked


@pytest.fixture(params=SERVERS)
def root(
    request: pytest.FixtureRequest, orthanc: Orthanc, site: Site, serve: Serve, tmp_path: Path
) -> Iterator[str]:
    """The root of a server before Orthanc, or of Orthanc itself."""
    with SERVERS[request.param](tmp_path, orthanc.url, site.viewer, serve) as url:
        yield url


@pytest.mark.parametrize("origin", ["viewer", "stranger"])
@pytest.mark.parametrize("manner", [PLAIN, CREDENTIALS], ids=["plain", "credentials"])
async def test_a_server(
    manner: Manner, origin: str, site: Site, chromium: Browser, root: str
) -> None:
    there = getattr(site, origin)
    report = run(root, there, manner)
    async with browser.Viewer.at(there, chromium) as viewer:
        blocked = await compare(report, viewer)
    assert report.is_blocked is bool(blocked)


async def test_an_archive_with_a_login(
    site: Site, page: Viewer, orthanc_with_auth: Orthanc
) -> None:
    for manner in (PLAIN, CREDENTIALS, HEADERS):
        report = run(orthanc_with_auth.url, site.viewer, manner)
        assert "frames" in await compare(report, page)


async def test_a_star_for_authorization(site: Site) -> None:
    """The standard's rule, which Chromium has behind a switch."""
    switch = "--enable-features=CorsNonWildcardRequestHeadersSupport"
    async with (
        browser.chromium(switch) as strict,
        browser.Viewer.at(site.viewer, strict) as viewer,
    ):
        with archive(FAULTS["any header"]) as running:
            report = run(running.url, site.viewer, HEADERS)
            assert {f.rule for f in report.findings if f.rule} == {"authorization-not-named"}
            assert "search" in await compare(report, viewer)


DOCS = Path(__file__).parents[2] / "docs" / "probe.md"
WORDS = {
    "no CORS": "No 'Access-Control-Allow-Origin' header is present",
    "preflights without CORS": "Response to preflight request doesn't pass access control check",
    "500 to preflights, with CORS": "It does not have HTTP ok status",
    "preflights redirected": "Redirect is not allowed for a preflight request",
    "the origin twice": "header contains multiple values",
    "any origin": "must not be the wildcard '*' when the request's credentials mode is 'include'",
    "no credentials": "which must be 'true' when the request's credentials mode is 'include'",
    "another origin": "that is not equal to the supplied origin",
    "accept not allowed": "is not allowed by Access-Control-Allow-Headers in preflight response",
}


@pytest.mark.parametrize(("fault", "words"), WORDS.items(), ids=WORDS)
async def test_what_the_page_knows_of_the_consoles_words(
    fault: str, words: str, site: Site, chromium: Browser
) -> None:
    assert f"| {words} |" in DOCS.read_text(encoding="utf-8")
    options = {"credentials": "include", "headers": {"Accept": 'a/b; type="c"'}}
    async with await chromium.new_context() as context:
        page = await context.new_page()
        await page.goto(site.viewer)
        with archive(FAULTS[fault]) as running:
            async with page.expect_console_message(lambda message: words in message.text):
                await page.evaluate(
                    "([url, options]) => fetch(url, options).catch(() => null)",
                    [f"{running.url}/studies", options],
                )


async def test_mixed_content() -> None:
    """A page on https, and an archive on http under a name that is not this machine's."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("viewer.test").configure_cert(context)
    names = "--host-resolver-rules=MAP *.test 127.0.0.1"
    with browser.site(context) as site, archive() as running:
        port = running.url.rpartition(":")[2]
        origin = f"https://viewer.test:{site.port}"
        flags = (names, "--ignore-certificate-errors")
        async with (
            browser.chromium(*flags) as chromium,
            browser.Viewer.at(origin, chromium) as viewer,
        ):
            for host in ("pacs.test", "localhost", "127.0.0.1"):
                report = run(f"http://{host}:{port}", origin, PLAIN)
                blocked = await compare(report, viewer)
                assert bool(blocked) is (host == "pacs.test")
                rules = {finding.rule for finding in report.findings}
                assert ("mixed-content" in rules) is (host == "pacs.test")
