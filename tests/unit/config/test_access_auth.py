"""`access.auth`: what cannot be used, and what is probably a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.config.settings import Settings

VIEWER = "https://viewer.example"
JWT: dict[str, Any] = {"type": "jwt", "issuer": "https://id.example", "audience": ["dicomweb"]}
BASIC = {"type": "basic", "username": "proxy", "password": "hunter2"}


def configured(auth: dict[str, Any], **sections: dict[str, Any]) -> Settings:
    upstream = {"url": "http://orthanc:8042/dicom-web"} | sections.pop("upstream", {})
    cors = {"allow_origins": [VIEWER]} | sections.pop("cors", {})
    return Settings(upstream=upstream, cors=cors, access={"auth": auth}, **sections)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"issuer": None}, "access.auth.issuer: is missing; write the URL"),
        ({"audience": []}, "access.auth.audience: is missing; list what the provider writes"),
        ({"audience": [""]}, "access.auth.audience[0]: holds an empty audience"),
        ({"algorithms": []}, "access.auth.algorithms: is empty"),
        ({"algorithms": ["HS256"]}, "access.auth.algorithms[0]: 'HS256' is not an asymmetric"),
        ({"algorithms": ["none"]}, "access.auth.algorithms[0]: 'none' is not an asymmetric"),
        ({"issuer": "id.example"}, "access.auth.issuer: 'id.example' has no scheme; write https"),
        ({"issuer": "https://id.example?a"}, "access.auth.issuer: 'https://id.example?…' has a q"),
        (
            {"issuer": "https://u:p@id.example"},
            "access.auth.issuer: 'https://***@id.example' has user",
        ),
        ({"jwks_url": "https://id.example#a"}, "access.auth.jwks_url: 'https://id.example#a' has"),
        ({"required_scopes": ["a b"]}, "access.auth.required_scopes[0]: 'a b' has a space"),
        ({"leeway": 601}, "access.auth.leeway: 601 is not a number of seconds between 0 and 600"),
        ({"type": "oidc"}, "access.auth.type: 'oidc' is not 'none' or 'jwt'"),
    ],
)
def test_what_cannot_be_used(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        configured(JWT | changes)
    (found,) = error.value.problems
    assert found.startswith(problem)


def test_an_issuer_or_the_url_of_its_keys_is_enough() -> None:
    configured(JWT)
    configured(JWT | {"issuer": None, "jwks_url": "https://id.example/keys?policy=1"})


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://id.example"},
        {"jwks_url": "https://id.example/keys"},
        {"audience": ["dicomweb"]},
        {"required_scopes": ["read"]},
        {"forward": True},
    ],
)
def test_without_jwt_the_other_keys_are_a_mistake(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"does nothing with access\.auth\.type: none"):
        configured(change)


def test_two_authorizations_are_one_too_many() -> None:
    configured(JWT | {"forward": True})
    with pytest.raises(ConfigurationError, match=r"access\.auth\.forward: is true, and upstream"):
        configured(JWT | {"forward": True}, upstream={"auth": BASIC})


def test_a_lock_silences_the_warnings_about_who_can_come() -> None:
    where: dict[str, Any] = {"upstream": {"auth": BASIC}, "server": {"host": "0.0.0.0"}}
    assert len(configured({}, **where).warnings()) == 2
    assert configured(JWT, **where).warnings() == ()


@pytest.mark.parametrize(
    ("changes", "cors", "warning"),
    [
        ({"issuer": "http://id.example"}, {}, "access.auth.issuer: is plain http"),
        ({"jwks_url": "http://id.example/keys"}, {}, "access.auth.jwks_url: is plain http"),
        (
            {"issuer": None, "jwks_url": "https://id.example/keys"},
            {},
            "access.auth.issuer: is not set, so iss is not checked",
        ),
        ({}, {"allow_headers": ["accept", "range"]}, "cors.allow_headers: lacks authorization"),
    ],
)
def test_likely_mistakes(changes: dict[str, Any], cors: dict[str, Any], warning: str) -> None:
    (found,) = configured(JWT | changes, cors=cors).warnings()
    assert found.startswith(warning)


def test_a_provider_on_this_machine_may_be_plain_http() -> None:
    assert configured(JWT | {"issuer": "http://localhost:8081"}).warnings() == ()
