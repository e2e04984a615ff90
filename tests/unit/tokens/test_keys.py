"""Which keys of a JWK Set may verify tokens."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dicomweb_cors_proxy.tokens.keys import MAX_KEYS, find_key, parse_keys
from tests.support.tokens import SigningKey, signing_key


def parsed(*entries: object) -> list[tuple[str | None, frozenset[str]]]:
    return [(key.kid, key.algorithms) for key in parse_keys({"keys": list(entries)})]


RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("RS256", RSA),
        ("ES256", {"ES256"}),
        ("ES384", {"ES384"}),
        ("ES512", {"ES512"}),
        ("EdDSA", {"EdDSA"}),
    ],
)
def test_a_key_is_for_the_algorithms_of_its_kind(algorithm: str, expected: set[str]) -> None:
    assert parsed(signing_key("one", algorithm).jwk) == [("one", frozenset(expected))]


def test_a_key_is_for_the_algorithm_that_it_names() -> None:
    assert parsed(signing_key().jwk | {"alg": "PS256"}) == [("one", frozenset({"PS256"}))]
    assert parsed(signing_key().jwk | {"alg": "ES256"}) == [("one", frozenset())]


def short_rsa() -> dict[str, Any]:
    return SigningKey("short", "RS256", rsa.generate_private_key(65537, 1024)).jwk


def koblitz() -> dict[str, Any]:
    return SigningKey("koblitz", "ES256K", ec.generate_private_key(ec.SECP256K1())).jwk


RSA_KEY, EC_KEY = signing_key().jwk, signing_key("one", "ES256").jwk
USELESS: dict[str, object] = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0", "kid": "one", "alg": "HS256"},
    "for encryption": {**RSA_KEY, "use": "enc"},
    "without the operation": {**RSA_KEY, "key_ops": ["encrypt"]},
    "operations not a list": {**RSA_KEY, "key_ops": "verify"},
    "id not a text": {**RSA_KEY, "kid": 1},
    "type not a text": {**RSA_KEY, "kty": ["RSA"]},
    "modulus not base64": {**RSA_KEY, "n": "!"},
    "modulus not a text": {**RSA_KEY, "n": 5},
    "exponent empty": {**RSA_KEY, "e": ""},
    "curve of another key": {**EC_KEY, "crv": "P-384"},
    "curve not a text": {**EC_KEY, "crv": []},
    "point not on the curve": {**EC_KEY, "y": "AA"},
    "no numbers": {"kty": "RSA"},
    "empty": {},
    "a text": "key",
    "null": None,
    "1024 bits": short_rsa(),
    "unusual curve": koblitz(),
}


@pytest.mark.parametrize("entry", USELESS.values(), ids=USELESS)
def test_a_key_of_no_use_is_skipped(entry: object) -> None:
    assert parsed(entry, signing_key("two").jwk) == [("two", frozenset(RSA))]


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {"kty": "RSA"}}, {"keys": "x"}])
def test_a_document_without_a_list_has_no_keys(document: dict[str, object]) -> None:
    assert parse_keys(document) == ()


def test_a_private_part_is_not_used() -> None:
    key = signing_key()
    numbers = key.private.private_numbers()
    (found,) = parse_keys({"keys": [key.jwk | {"d": f"{numbers.d:x}"}]})
    assert found.public.public_numbers() == numbers.public_numbers


def test_the_number_of_keys_is_bounded() -> None:
    assert len(parsed(*[signing_key().jwk] * (MAX_KEYS + 1))) == MAX_KEYS


def test_a_key_is_found_by_id_and_algorithm() -> None:
    one, two = signing_key(), signing_key("two", "ES256")
    keys = parse_keys({"keys": [one.jwk, two.jwk]})
    assert find_key(keys, "one", "RS256") is keys[0]
    assert find_key(keys, "one", "ES256") is None
    assert find_key(keys, "three", "RS256") is None


def test_without_an_id_there_has_to_be_a_single_key() -> None:
    one, two = signing_key(), signing_key("two")
    assert find_key(parse_keys({"keys": [one.jwk]}), None, "RS256") is not None
    assert find_key(parse_keys({"keys": [one.jwk, two.jwk]}), None, "RS256") is None
