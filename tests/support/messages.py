"""Each fault that makes a browser withhold a response, made, and what its console then says."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trustme

from tests.support import probing
from tests.support.browser import PAGES
from tests.support.faults import (
    allow_origin,
    always,
    doubled,
    on_preflights,
    preflight_status,
    redirected,
    redirected_preflight,
    without_cors,
)
from tests.support.probing import (
    ALLOW_CREDENTIALS,
    ALLOW_HEADERS,
    ALLOW_METHODS,
    ALLOW_ORIGIN,
    Answered,
    Fault,
)
from tests.support.servers import LOOPBACK, free_port
from tests.support.sites import Tree, sites
from tests.support.tabs import PACS, VIEWER, Chromium, Firefox, call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from playwright.async_api import Browser

    from tests.support.tabs import Tab

FRAME = f"/dicom-web{probing.PATH}/frames/1"
SEARCH = "/dicom-web/studies"
QUOTED = {"Accept": 'multipart/related; type="application/octet-stream"'}
OTHER = "https://else.example"
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def listed(origin: str) -> str:
    return f"{origin}, {OTHER}"


def same_origin_resource(answer: Answered) -> None:
    answer.put("Cross-Origin-Resource-Policy", "same-origin")


@dataclass(frozen=True, slots=True)
class Trial:
    """A page's request that a browser does not let through.

    Attributes:
        what: for people.
        page: `plain` (http, on this machine), `https`, or `isolated` (COEP: require-corp).
        archive: `plain`, `https`, or `down`.
        element: whether an `<img>` asks, by itself without CORS.
    """

    what: str
    fault: Fault = probing.right
    path: str = SEARCH
    options: Mapping[str, object] = field(default_factory=dict)
    page: str = "plain"
    archive: str = "plain"
    element: bool = False


_FRAME: dict[str, Any] = {"path": FRAME, "options": {"headers": QUOTED}}
_CREDENTIALS = {"credentials": "include"}
TRIALS: dict[str, Trial] = {
    "no-allow-origin": Trial("an answer without Access-Control-Allow-Origin", without_cors),
    "other-origin": Trial(
        "Access-Control-Allow-Origin names another origin", always(ALLOW_ORIGIN, OTHER)
    ),
    "slash": Trial(
        "Access-Control-Allow-Origin ends with a slash",
        allow_origin(lambda origin: f"{origin}/"),
    ),
    "multiple-values": Trial("Access-Control-Allow-Origin stands there twice", doubled),
    "list": Trial("Access-Control-Allow-Origin is a list of origins", allow_origin(listed)),
    "star-with-credentials": Trial(
        "Access-Control-Allow-Origin is * and the page sends credentials",
        always(ALLOW_ORIGIN, "*"),
        options=_CREDENTIALS,
    ),
    "credentials-not-allowed": Trial(
        "no Access-Control-Allow-Credentials, and the page sends credentials",
        always(ALLOW_CREDENTIALS),
        options=_CREDENTIALS,
    ),
    "preflight-status": Trial("the preflight's answer is 401, without CORS",
                              preflight_status(401, headers=False),
                              **_FRAME),
    "preflight-not-ok": Trial("the preflight's answer is 404, with CORS",
                              preflight_status(404, headers=True),
                              **_FRAME),
    "preflight-without-headers": Trial("the preflight's answer is 204, without CORS",
                                       preflight_status(204, headers=False), **_FRAME),
    "preflight-redirected": Trial("the preflight is redirected", redirected_preflight, **_FRAME),
    "preflight-other-origin": Trial("the preflight's answer names another origin",
                                    on_preflights(ALLOW_ORIGIN, OTHER), **_FRAME),
    "header-not-allowed": Trial(
        "Access-Control-Allow-Headers lacks a header",
        on_preflights(ALLOW_HEADERS, "content-type"),
        options={"headers": {"Authorization": "Bearer made-up"}},
    ),
    "header-accept-not-allowed": Trial(
        "Access-Control-Allow-Headers lacks Accept, whose value has quotes",
        on_preflights(ALLOW_HEADERS, "content-type"),
        **_FRAME,
    ),
    "no-headers-allowed": Trial("no Access-Control-Allow-Headers",
                                on_preflights(ALLOW_HEADERS), **_FRAME),
    "method-not-allowed": Trial(
        "Access-Control-Allow-Methods lacks the method",
        on_preflights(ALLOW_METHODS, "GET"),
        options={"method": "DELETE"},
    ),
    "redirected-to-login": Trial(
        "the archive redirects to a page without CORS", redirected(cors=False)
    ),
    "network-down": Trial("nothing listens at the address", archive="down"),
    "certificate-not-trusted": Trial("the certificate is not trusted", archive="https"),
    "mixed-content": Trial("an https page asks an http archive", page="https"),
    "corp-missing-under-coep": Trial(
        "an isolated page (COEP: require-corp) embeds an image without"
        " Cross-Origin-Resource-Policy",
        page="isolated",
        element=True,
    ),
    "corp-same-origin": Trial(
        "an image with Cross-Origin-Resource-Policy: same-origin is embedded elsewhere",
        same_origin_resource,
        element=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the pages are, by kind, and what an https archive has for a certificate."""

    pages: Mapping[str, str]
    tls: ssl.SSLContext


@contextmanager
def stage() -> Iterator[Stage]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(VIEWER, LOOPBACK).configure_cert(context)
    trees = {"/": Tree(PAGES), "/isolated/": Tree(PAGES, ISOLATION)}
    with sites(trees) as plain, sites(trees, context) as secure:
        yield Stage(
            {
                "plain": f"http://localhost:{plain}/",
                "isolated": f"http://localhost:{plain}/isolated/",
                "https": f"https://{VIEWER}:{secure}/",
            },
            context,
        )


@contextmanager
def _archive(trial: Trial, tls: ssl.SSLContext) -> Iterator[str]:
    """Yields its origin."""
    host = PACS if trial.page == "https" else LOOPBACK
    if trial.archive == "down":
        yield f"http://{host}:{free_port()}"
    elif trial.archive == "https":
        with sites({"/": Tree(PAGES)}, tls) as port:
            yield f"https://{host}:{port}"
    else:
        with probing.archive(trial.fault) as archive:
            yield f"http://{host}:{urlsplit(archive.url).port}"


@asynccontextmanager
async def _tab(running: Browser | Firefox, trial: Trial) -> AsyncIterator[Tab]:
    """Open a tab that trusts no certificate where the archive's is on trial, else any."""
    trusting = trial.archive != "https"
    if not isinstance(running, Firefox):
        async with Chromium.tab(running, ignore_https_errors=trusting) as tab:
            yield tab
    elif trusting:
        yield running
    else:
        async with Firefox.running(acceptInsecureCerts=False) as strict:
            yield strict


async def observe(running: Browser | Firefox, trial: Trial, stage: Stage) -> dict[str, str]:
    """The console's `message`, its addresses made up, and what the `script` gets to know."""
    page = stage.pages[trial.page]
    with _archive(trial, stage.tls) as archive:
        async with _tab(running, trial) as tab:
            await tab.open(page)
            if trial.element:
                seen = await call(tab, "embedWithoutCors", archive + trial.path)
                script = "error event"
            else:
                seen = await call(tab, "ask", archive + trial.path, trial.options)
                script = f"{seen.get('error')}: {seen.get('message')}"
            assert "error" in seen, seen
            line = await tab.said()
    for origin, name in ((archive, "pacs.example"), (page, "viewer.example")):
        parts = urlsplit(origin)
        line = line.replace(f"{parts.scheme}://{parts.netloc}", f"{parts.scheme}://{name}")
    return {"message": line, "script": script}
