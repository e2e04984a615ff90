"""Require an access token of every request that is not a preflight (RFC 6750)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.proxy.context import CONTEXT
from dicomweb_cors_proxy.tokens.key_cache import KeysUnavailable
from dicomweb_cors_proxy.tokens.verifier import TokenRejected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.proxy.context import RequestContext
    from dicomweb_cors_proxy.tokens.verifier import TokenVerifier

_CHALLENGE: Final = 'Bearer realm="DICOMweb"'


class TokenGate:
    """ASGI middleware that forwards a request only with a valid access token.

    Args:
        app: serves the requests.
        verifier: verifies the tokens.
        reject_loop: raises the 508, which comes first.
        required_scopes: named in the challenge for a token that lacks one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        verifier: TokenVerifier,
        reject_loop: Callable[[Iterable[Header]], None],
        required_scopes: Collection[str],
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._reject_loop = reject_loop
        self._scope = " ".join(required_scopes)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        context: RequestContext = scope[CONTEXT]
        memo = context.incoming.head.memo
        if not memo.is_forwardable:
            self._reject_loop(scope["headers"])
        verifier = self._verifier
        acceptance = memo.acceptance
        if acceptance is None or acceptance.expires <= verifier.clock():
            token = _token(scope, context)
            memo.acceptance = verifier.find(token)
            if memo.acceptance is None:
                return self._verify(token, scope, receive, send)
        context.record.authentication = "accepted"
        return self._app(scope, receive, send)

    async def _verify(self, token: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        record = context.record
        try:
            context.incoming.head.memo.acceptance = await self._verifier.verify(token)
        except TokenRejected as rejected:
            record.authentication = "insufficient_scope" if rejected.lacks_scope else "invalid"
            raise self._problem(rejected) from None
        except KeysUnavailable as unavailable:
            record.authentication = "unverifiable"
            raise HTTPProblem(
                503,
                f"The proxy has no keys to verify access tokens with: {unavailable}",
                [(b"retry-after", b"5")],
            ) from None
        record.authentication = "accepted"
        await self._app(scope, receive, send)

    def _problem(self, rejected: TokenRejected) -> HTTPProblem:
        if rejected.lacks_scope:
            return _challenge(403, str(rejected), "insufficient_scope", self._scope)
        return _challenge(401, str(rejected), "invalid_token")


def _token(scope: Scope, context: RequestContext) -> bytes:
    """Return the token of the only Authorization header; raise a 401 without one."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) > 1:
        context.record.authentication = "invalid"
        raise _challenge(
            401, "The request has more than one Authorization header.", "invalid_token"
        )
    # RFC 6750 §2.1; the scheme is in any case (RFC 9110 §11.1).
    scheme, _, token = (values[0] if values else b"").strip(b" \t").partition(b" ")
    if scheme.lower() != b"bearer" or not (token := token.lstrip(b" ")):
        context.record.authentication = "missing"
        raise _challenge(
            401,
            "The request has no access token. Log in at the identity provider, and send its "
            "access token in the header Authorization: Bearer.",
        )
    return token


def _challenge(status: int, detail: str, error: str = "", scope: str = "") -> HTTPProblem:
    """Return a 401 or 403 with its challenge (RFC 6750 §3); without a token it has no error."""
    challenge = _CHALLENGE
    if error:
        challenge += f', error="{error}", error_description="{detail}"'
    if scope:
        challenge += f', scope="{scope}"'
    return HTTPProblem(status, detail, [(b"www-authenticate", challenge.encode("ascii"))])
