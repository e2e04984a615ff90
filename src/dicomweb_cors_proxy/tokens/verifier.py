"""Verify access tokens: JWTs that an identity provider signed (RFC 7519, RFC 9068).

PyJWT checks signatures and claims. It takes one token and one key, and needs only the library
that the proxy uses for certificates. Its client for key sets is not used, because it blocks.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import jwt

from dicomweb_cors_proxy.tokens.key_cache import KeyCache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from dicomweb_cors_proxy.tokens.provider import IdentityProvider

__all__ = ["MAX_TOKEN_BYTES", "Acceptance", "TokenRejected", "TokenVerifier"]

# Tokens that list many groups have some 10 KB.
MAX_TOKEN_BYTES: Final = 16384

# Verified tokens that are cached; each viewer has one at a time.
MAX_ACCEPTED: Final = 4096

_COMPACT_JWS: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# RFC 9068 §2.1 and §4; providers that are older than it write JWT, or nothing. Media types are
# compared without regard to case, and "application/" may be left out (RFC 7515 §4.1.9).
_TYPES: Final = frozenset({"at+jwt", "jwt"})

# The first one that matches says why a token was rejected; the library's own texts quote claims.
_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.ExpiredSignatureError, "The access token has expired."),
    (jwt.ImmatureSignatureError, "The access token is not valid yet."),
    (jwt.InvalidAudienceError, "The access token is for another audience (access.auth.audience)."),
    (jwt.InvalidIssuerError, "The access token has another issuer (access.auth.issuer)."),
    (jwt.MissingRequiredClaimError, "The access token lacks one of the claims exp, aud and iss."),
    (jwt.InvalidSignatureError, "The access token has an invalid signature."),
)
_MALFORMED: Final = "The access token is not a well-formed JWT."


class TokenRejected(Exception):  # noqa: N818  (its text is a sentence for the client)
    """A token that does not give access; the text says why, without any claim.

    Attributes:
        lacks_scope: the token is valid, and lacks a required scope.
    """

    def __init__(self, reason: str, *, lacks_scope: bool = False) -> None:
        super().__init__(reason)
        self.lacks_scope = lacks_scope


@dataclass(slots=True, eq=False)
class Acceptance:
    """The acceptance of a token; `expires` is a clock reading, and 0 once it is withdrawn."""

    expires: float


class TokenVerifier:
    """A verifier of access tokens.

    Args:
        provider: the source of the keys.
        issuer: the value of `iss`; None to accept any issuer that has the keys.
        audience: accepted values of `aud`; the token has to have one of them.
        required_scopes: the token has to have all of them.
        algorithms: accepted ones.
        leeway: seconds by which the clocks may differ.
        clock: returns the time as `time.time` does.

    Attributes:
        clock: as given.
        keys: the cache of the provider's keys.
    """

    def __init__(  # noqa: PLR0913  (each is a setting, and a keyword)
        self,
        provider: IdentityProvider,
        *,
        issuer: str | None,
        audience: Collection[str],
        required_scopes: Collection[str],
        algorithms: Collection[str],
        leeway: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._audience = list(audience)
        self._required_scopes = frozenset(required_scopes)
        self._algorithms = frozenset(algorithms)
        self._leeway = leeway
        self.clock = clock
        # By digest, so that a dump of the memory shows no token.
        self._accepted: dict[bytes, Acceptance] = {}
        self.keys = KeyCache(provider, on_change=self._withdraw)

    def find(self, token: bytes) -> Acceptance | None:
        """Return the acceptance of a token that has been verified, and has not expired since."""
        if len(token) > MAX_TOKEN_BYTES:
            return None
        acceptance = self._accepted.get(sha256(token).digest())
        return None if acceptance is None or acceptance.expires <= self.clock() else acceptance

    async def verify(self, token: bytes) -> Acceptance:
        """Verify a token. Raise `TokenRejected`, or `KeysUnavailable` if that is not possible."""
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenRejected(f"The access token is longer than {MAX_TOKEN_BYTES} bytes.")
        if not _COMPACT_JWS.fullmatch(token):
            raise TokenRejected(_MALFORMED)
        header = self._header(token)
        key = await self.keys.find(header.get("kid"), header["alg"])
        if key is None:
            raise TokenRejected("The access token is signed with a key that is not the issuer's.")
        claims = self._claims(token, key.public, header["alg"])
        if not self._required_scopes <= _scopes(claims):
            raise TokenRejected(
                "The access token lacks a scope (access.auth.required_scopes).", lacks_scope=True
            )
        # An absurdly late end would not fit a float.
        return self._accept(token, min(int(claims["exp"]), 2**53) + self._leeway)

    def _header(self, token: bytes) -> Mapping[str, Any]:
        """Return the header of a token whose signature has not been verified yet."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise TokenRejected(_MALFORMED) from None
        if header.get("alg") not in self._algorithms:
            raise TokenRejected(
                "The access token's algorithm is not one of access.auth.algorithms."
            )
        if "crit" in header:
            raise TokenRejected("The access token needs an extension that is not supported.")
        kind = header.get("typ")
        if kind is not None and str(kind).lower().removeprefix("application/") not in _TYPES:
            raise TokenRejected("The token is not an access token, by its typ.")
        return header

    def _claims(self, token: bytes, key: Any, algorithm: str) -> Mapping[str, Any]:  # noqa: ANN401
        """Return the claims of a token whose signature and claims hold."""
        required = ["exp", "aud"] if self._issuer is None else ["exp", "aud", "iss"]
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                # No rule limits `sub` and `jti` to what PyJWT expects, and nothing reads them.
                options={"require": required, "verify_sub": False, "verify_jti": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            reason = next((text for kind, text in _REASONS if isinstance(error, kind)), _MALFORMED)
            raise TokenRejected(reason) from None

    def _accept(self, token: bytes, expires: float) -> Acceptance:
        if len(self._accepted) >= MAX_ACCEPTED:
            # A request head may still hold it, and is not found when the keys change.
            self._accepted.pop(next(iter(self._accepted))).expires = 0
        acceptance = self._accepted[sha256(token).digest()] = Acceptance(expires)
        return acceptance

    def _withdraw(self) -> None:
        """Have every token verified again, because its key may be gone."""
        for acceptance in self._accepted.values():
            acceptance.expires = 0
        self._accepted.clear()


def _scopes(claims: Mapping[str, Any]) -> set[str]:
    """Return the scopes of `scope` (RFC 8693 §4.2) and of `scp`, which some providers write."""
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split(" "))
        elif isinstance(value, list):
            found.update(each for each in value if isinstance(each, str))
    return found
