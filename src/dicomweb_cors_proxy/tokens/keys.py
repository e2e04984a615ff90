"""Public keys of an identity provider, out of its JWK Set (RFC 7517)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_KEYS", "VerificationKey", "find_key", "parse_keys"]

# Keys of a set that are looked at; providers publish two or three.
MAX_KEYS: Final = 100

# RFC 7518 §3.3.
MIN_RSA_BITS: Final = 2048

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})

# The algorithms for each type of key and curve, and the parser of the key. Symmetric keys (`oct`)
# are left out: whoever reads the set could sign with them.
_KINDS: Final[Mapping[tuple[str, str | None], tuple[frozenset[str], Any]]] = {
    ("RSA", None): (_RSA, RSAAlgorithm),
    ("EC", "P-256"): (frozenset({"ES256"}), ECAlgorithm),
    ("EC", "P-384"): (frozenset({"ES384"}), ECAlgorithm),
    ("EC", "P-521"): (frozenset({"ES512"}), ECAlgorithm),
    ("OKP", "Ed25519"): (frozenset({"EdDSA"}), OKPAlgorithm),
    ("OKP", "Ed448"): (frozenset({"EdDSA"}), OKPAlgorithm),
}
_PUBLIC_MEMBERS: Final = ("kty", "n", "e", "crv", "x", "y")


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, its ID, and the algorithms that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    public: Any
    members: tuple[object, ...]


def parse_keys(document: Mapping[str, object]) -> tuple[VerificationKey, ...]:
    """Return the keys of a JWK Set that can verify signatures; others are skipped."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        return ()
    parsed = (_parse(entry) for entry in listed[:MAX_KEYS] if isinstance(entry, Mapping))
    return tuple(key for key in parsed if key is not None)


def _parse(entry: Mapping[str, Any]) -> VerificationKey | None:
    kid, kty, operations = entry.get("kid"), entry.get("kty"), entry.get("key_ops", ["verify"])
    curve = None if kty == "RSA" else entry.get("crv")
    if not (
        isinstance(kty, str)
        and isinstance(curve, str | None)
        and isinstance(kid, str | None)
        and isinstance(operations, list)
        and "verify" in operations
        and entry.get("use", "sig") == "sig"
        and (kty, curve) in _KINDS
    ):
        return None
    algorithms, parser = _KINDS[kty, curve]
    if "alg" in entry:
        algorithms &= {str(entry["alg"])}
    # A private part, if a provider publishes one, is not wanted.
    members = {name: entry[name] for name in _PUBLIC_MEMBERS if name in entry}
    try:
        public = parser.from_jwk(members)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
        return None
    return VerificationKey(kid, algorithms, public, tuple(members.values()))


def find_key(
    keys: Iterable[VerificationKey], kid: str | None, algorithm: str
) -> VerificationKey | None:
    """Return the key with this ID for this algorithm.

    A token without a key ID is verified only if a single key comes into question (OpenID Connect
    Core §10.1).
    """
    usable = [key for key in keys if algorithm in key.algorithms]
    if kid is None:
        return usable[0] if len(usable) == 1 else None
    return next((key for key in usable if key.kid == kid), None)
