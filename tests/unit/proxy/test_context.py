"""The state of one request, and what equal heads share."""

from __future__ import annotations

from dicomweb_cors_proxy.observability.records import RequestRecord
from dicomweb_cors_proxy.proxy.context import RequestContext
from dicomweb_cors_proxy.proxy.incoming import IncomingRequest, RequestHeadCache
from tests.support import asgi


def test_the_repr_works_at_any_time_and_shows_no_target() -> None:
    context = RequestContext(RequestRecord(method="GET", request_id="", client=None), 0.0)
    before = repr(context)
    scope = asgi.scope(path=b"/dicom-web/studies/1.2.3")
    context.incoming = IncomingRequest.read(scope, RequestHeadCache())
    assert repr(context) == before


def test_equal_heads_share_results_and_others_do_not() -> None:
    heads = RequestHeadCache()
    one, same, other = (
        IncomingRequest.read(asgi.scope(headers=[(b"accept", value)]), heads).head
        for value in (b"a/b", b"a/b", b"a/c")
    )
    one.memo.is_sound = True
    assert same.memo.is_sound
    assert not other.memo.is_sound
