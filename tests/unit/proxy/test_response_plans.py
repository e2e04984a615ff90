"""Plans for responses: the same result as without them, for every shape."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.http.forwarding import TrustedProxies
from dicomweb_cors_proxy.observability.records import RequestRecord
from dicomweb_cors_proxy.proxy import response_plans
from dicomweb_cors_proxy.proxy.context import CONTEXT, RequestContext
from dicomweb_cors_proxy.proxy.incoming import IncomingRequest, RequestHeadCache
from dicomweb_cors_proxy.proxy.response_plans import DECIDING_FIELDS, ResponsePlans
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem
from dicomweb_cors_proxy.wiring import create_adapter, create_router
from tests.support import asgi
from tests.support.sockets import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Scope

    from dicomweb_cors_proxy.dicomweb.routes import Route
    from dicomweb_cors_proxy.http.messages import BodyFilter
    from dicomweb_cors_proxy.proxy.responses import ResponseFacts

Header = tuple[bytes, bytes]
Request = tuple[str, str, list[Header], str]

ARCHIVE = "http://archive.example/pacs"
BODY = b'[{"00081190":{"vr":"UR","Value":["%b/studies/1"]}}]' % ARCHIVE.encode()
JSON = (b"Content-Type", b"application/dicom+json")


class Site:
    """The plans of one configuration, and the scopes of its requests."""

    def __init__(self, **changes: object) -> None:
        configuration = settings(ARCHIVE, access={"extra_paths": ["/reports/*"]}, **changes)
        self._router = create_router(configuration)
        self._heads = RequestHeadCache()
        self._adapter = create_adapter(configuration, TrustedProxies(("10.0.0.1",)))
        self.facts = self._adapter.facts
        self.changes = 0
        self.plans = ResponsePlans(self)

    def modify(
        self, facts: ResponseFacts, headers: list[Header]
    ) -> tuple[list[Header], Callable[[], BodyFilter] | None]:
        """Count how often the adapter is asked."""
        self.changes += 1
        return self._adapter.modify(facts, headers)

    def request(
        self, method: str, path: str, headers: Iterable[Header] = (), client: str = "192.0.2.1"
    ) -> tuple[Scope, Route]:
        scope = asgi.scope(method, path.encode(), headers, client=(client, 1))
        context = scope[CONTEXT] = RequestContext(
            RequestRecord(method=method, request_id="", client=client), 0.0
        )
        context.incoming = IncomingRequest.read(scope, self._heads)
        route, _ = self._router.match(context.incoming.path, method)
        return scope, route


def result(site: Site, request: tuple[Scope, Route], status: int, headers: list[Header]) -> Any:  # noqa: ANN401
    """The planned headers and body, or the problem."""
    scope, route = request
    try:
        lines, body = site.plans.adapt(scope, route, status, headers)
    except UpstreamProblem as problem:
        return problem.detail
    return lines, None if body is None else body.whole(BODY)


def unplanned(site: Site, request: tuple[Scope, Route], status: int, headers: list[Header]) -> Any:  # noqa: ANN401
    """The same without a plan."""
    scope, route = request
    facts = site.facts(scope, route, status)
    try:
        lines, body = site.plans.adapt_unplanned(facts, headers)
    except UpstreamProblem as problem:
        return problem.detail
    return lines, None if body is None else body.feed(BODY) + body.flush()


def readable(found: Any) -> Any:  # noqa: ANN401
    """The result with the body as a client reads it: equal contents may be compressed otherwise."""
    if isinstance(found, str) or found[1] is None:
        return found
    lines, body = found
    return lines, gzip.decompress(body) if (b"content-encoding", b"gzip") in lines else body


SITES = [
    Site(**changes)
    for changes in (
        {},
        {"rewrite_urls": False},
        {"compress": False},
        {"rewrite_urls": False, "compress": False, "cross_origin_resource_policy": None},
        {"upstream": {"auth": {"type": "bearer", "token": "t"}}},
        {"public_url": "https://pacs.example/dicom-web"},
    )
]
TYPES = (
    b"application/dicom+json",
    b"application/dicom+xml",
    b"text/html",
    b"multipart/byteranges; boundary=b",
    b"image/svg+xml",
    b"multipart/related; type=application/dicom+json; boundary=b",
    b'multipart/related; type="application/octet-stream"; boundary=b',
    b"",
)
VALUES: dict[bytes, tuple[bytes, ...]] = {
    b"Content-Type": TYPES,
    b"Content-Length": (b"0", b"00", b"51"),
    b"Content-Encoding": (b"identity", b"gzip"),
    b"Cache-Control": (b"no-store", b"no-transform"),
    b"ETag": (b'"a"', b'W/"a"', b'"', b"a", b'"0"', b'W/"0~"'),
    b"Vary": (b"*", b"Accept", b"Accept-Encoding", b""),
    b"Connection": (b"close", b"date, x-a", b"content-type, etag, content-length"),
    b"Location": (f"{ARCHIVE}/studies/1".encode(), b"/pacs/studies/1", b"/elsewhere"),
    b"Link": (f"<{ARCHIVE}/studies/1>".encode(), b"<a>"),
    b"X-Content-Type-Options": (b"nosniff", b"other"),
    b"Content-Security-Policy": (b"default-src 'none'",),
    b"Cross-Origin-Resource-Policy": (b"same-site",),
    b"Access-Control-Allow-Origin": (b"*", b"https://a.example"),
    b"Accept-Ranges": (b"bytes",),
    b"Content-Range": (b"bytes 0-9/10", b"bytes 0-0/10"),
    b"Digest": (b"a",),
    b"Set-Cookie": (b"a=1", b"b=2", b'"0"'),
    b"Date": (b"Tue, 02 Jan 2024 10:11:12 GMT", b"yesterday", b"\r\nx: y"),
    b"X-A": (b"0", b'"0"', b'"1"', b'W/"0~"', b"\0"),
    b"X B": (b"a",),
    b"Keep-Alive": (b"timeout=5",),
    b"Strict-Transport-Security": (b"max-age=1",),
}
NAMES = st.sampled_from([*VALUES])
LINES = st.lists(
    NAMES.flatmap(
        lambda name: st.tuples(
            st.sampled_from((name, name.lower(), name.upper())), st.sampled_from(VALUES[name])
        )
    ),
    max_size=8,
)
REQUESTS = st.tuples(
    st.sampled_from(("GET", "HEAD", "OPTIONS")),
    st.sampled_from(
        (
            "/dicom-web/studies",
            "/dicom-web/studies/1/metadata",
            "/dicom-web/studies/1/series/2/instances/3/frames/1",
            "/dicom-web/studies/1/bulkdata/4",
            "/dicom-web/reports/1",
        )
    ),
    st.lists(
        st.sampled_from(
            (
                (b"accept-encoding", b"gzip"),
                (b"accept-encoding", b"identity"),
                (b"if-none-match", b'W/"a~"'),
                (b"if-none-match", b'"a"'),
                (b"x-forwarded-host", b"pacs.example"),
                (b"x-forwarded-proto", b"https"),
            )
        ),
        max_size=3,
    ),
    st.sampled_from(("192.0.2.1", "10.0.0.1")),
)


def known(name: bytes) -> tuple[bytes, ...]:
    return next(values for each, values in VALUES.items() if each.lower() == name.lower())


@hypothesis.settings(deadline=None)
@given(
    st.sampled_from(SITES),
    REQUESTS,
    st.sampled_from((200, 204, 206, 304, 401, 404, 600)),
    LINES,
    st.data(),
)
def test_a_plan_changes_nothing(
    site: Site, request: Request, status: int, headers: list[Header], data: st.DataObject
) -> None:
    """A response is adapted alike with and without the plan that another one led to."""
    asked = site.request(*request)
    assert readable(result(site, asked, status, headers)) == readable(
        unplanned(site, asked, status, headers)
    )
    others = [
        (
            name,
            value if name.lower() in DECIDING_FIELDS else data.draw(st.sampled_from(known(name))),
        )
        for name, value in headers
    ]
    assert readable(result(site, asked, status, others)) == readable(
        unplanned(site, asked, status, others)
    )


def test_responses_of_one_shape_share_a_plan() -> None:
    site = Site()
    asked = site.request("GET", "/dicom-web/studies")
    for number in range(3):
        headers = [
            JSON,
            (b"ETag", b'"%d"' % number),
            (b"Date", b"%d" % number),
            (b"X-Trace", b"%d" % number),
            (b"Content-Length", b"%d" % (number + 1)),
        ]
        lines, _ = result(site, asked, 200, headers)
        assert lines[1:4] == [
            (b"etag", b'W/"%d~"' % number),
            (b"date", b"%d" % number),
            (b"x-trace", b"%d" % number),
        ]
    assert site.changes == 1


@pytest.mark.parametrize(
    "header",
    [
        (b"Location", b"/pacs/studies/1"),
        (b"Cache-Control", b"a" * response_plans.MAX_SHAPE_BYTES),
        (b"X" * response_plans.MAX_SHAPE_BYTES, b"a"),
    ],
)
def test_a_shape_of_its_own_and_a_large_one_are_not_cached(header: Header) -> None:
    site = Site()
    asked = site.request("GET", "/dicom-web/studies")
    for _ in range(2):
        result(site, asked, 200, [JSON, header])
    assert site.changes == 2


def test_the_number_of_plans_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_plans, "MAX_PLANS", 3)
    site = Site()
    asked = site.request("GET", "/dicom-web/studies")
    for number in (1, 2, 3, 4, 4, 3, 2, 1):
        result(site, asked, 200, [JSON, (b"Vary", b"%d" % number)])
    assert site.changes == 5  # four, and the first one again


def test_a_rejected_login_is_not_a_plan() -> None:
    site = Site(upstream={"auth": {"type": "bearer", "token": "t"}})
    asked = site.request("GET", "/dicom-web/studies")
    for _ in range(2):
        assert "upstream.auth" in result(site, asked, 401, [JSON])
