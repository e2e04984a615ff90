from __future__ import annotations

import errno
import json
import os
import re
import runpy
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.config.settings import Settings
from dicomweb_cors_proxy.config.sources import nested
from dicomweb_cors_proxy.dicomweb.resources import Service
from dicomweb_cors_proxy.operations.live_settings import LiveSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[3]
ARCHIVE = "http://orthanc:8042/dicom-web"
VIEWER = "https://viewer.example"
POLICIES = f'[{{"allow_origins": ["{VIEWER}"]}}]'
SUFFICIENT = {"upstream.url": ARCHIVE, "cors.allow_origins": [VIEWER]}


def value_of(configuration: Settings, key: str) -> object:
    found: object = configuration
    for name in key.split("."):
        found = getattr(found, name)
    return found


class Places:
    """The places of one configuration, none of which is the machine's own."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "config.yaml"
        self.secrets = directory / "secrets"
        self.secrets.mkdir()
        self.environ = {"CREDENTIALS_DIRECTORY": str(self.secrets)}
        self.flags: dict[str, Any] = {}

    def write(self, document: object) -> None:
        text = document if isinstance(document, str) else yaml.safe_dump(document)
        self.file.write_text(text, encoding="utf-8")

    def load(self) -> Settings:
        file = self.file if self.file.exists() else None
        return load(config_file=file, flags=self.flags, environ=self.environ)

    def problems(self) -> tuple[str, ...]:
        with pytest.raises(ConfigurationError) as caught:
            self.load()
        return caught.value.problems


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def problems_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**nested(values))
    return caught.value.problems


def test_two_keys_are_enough() -> None:
    assert Settings(**nested(SUFFICIENT)).warnings() == ()


def test_nothing_at_all_lacks_two_keys() -> None:
    assert problems_of({}) == (
        (
            "upstream.url: is missing; set the root of the archive's DICOMweb services, "
            f"such as {ARCHIVE}"
        ),
        "cors.allow_origins: [] has no origin; list the viewer's, such as https://viewer.example",
    )


URL_PROBLEMS = [
    ("orthanc:8042", f"'orthanc:8042' has no scheme; write {ARCHIVE}"),
    ("orthanc:8042/pacs", "'orthanc:8042/pacs' has no scheme; write http://orthanc:8042/pacs"),
    ("//orthanc/pacs", "'//orthanc/pacs' has no scheme; write http://orthanc/pacs"),
    ("/dicom-web", f"'/dicom-web' has no scheme; write {ARCHIVE}"),
    ("https//orthanc/pacs", "'https//orthanc/pacs' has no scheme; write https://orthanc/pacs"),
    ("http:/orthanc/pacs", "'http:/orthanc/pacs' has no scheme; write http://orthanc/pacs"),
    (
        "http://::1:8042/pacs",
        ("'http://::1:8042/pacs' needs brackets around its IPv6 address, as in [2001:db8::1]:8042"),
    ),
    ("u:secret@orthanc", f"'***@orthanc' has no scheme; write {ARCHIVE}"),
    ("ftp://orthanc", "'ftp://orthanc' has a scheme other than http and https"),
    ("'http://orthanc'", "\"'http://orthanc'\" has quotes around it: leave them out"),
    (
        "https://u:secret@orthanc/",
        (
            "'https://***@orthanc/' has user information in it; "
            "credentials for the archive belong in upstream.auth"
        ),
    ),
    ("http://", "'http://' has no host"),
    ("http://:8042/x", "'http://:8042/x' has no host"),
    ("http://a:0", "'http://a:0' has an invalid port; write a number from 1 to 65535"),
    ("http://a:", "'http://a:' has an invalid port; write a number from 1 to 65535"),
    ("http://a:65536", "'http://a:65536' has an invalid port; write a number from 1 to 65535"),
    *(
        (
            f"http://{host}/",
            (
                f"'http://{host}/' has an invalid host; write a DNS name, an IPv4 address, "
                "or IPv6 as in [2001:db8::1]"
            ),
        )
        for host in ("a..b", "-!", "10.0.0.256", "[::1", "[10.0.0.1]", "[fe80::1%eth0]", "a" * 64)
    ),
    (
        "http://a?token=secret",
        "'http://a?…' has a query, which does not belong there; leave it out",
    ),
    ("http://a/#b", "'http://a/#b' has a fragment, which does not belong there; leave it out"),
    (
        "http://a/b c",
        (
            "'http://a/b c' has a character that a URL cannot have; "
            "percent-encode it, in a host write Punycode"
        ),
    ),
    (
        "http://ä/",
        "'http://ä/' has a character that a URL cannot have; ",
    ),
    (
        "http://a/b%2",
        "'http://a/b%2' has a % without two hexadecimal digits after it; write a literal % as %25",
    ),
    (
        "http://a/{b}",
        "'http://a/{b}' has a character that a URL's path cannot have; percent-encode it",
    ),
    *(
        (
            f"http://a/{path}",
            f"'http://a/{path}' has a dot segment, . or ..; write the path that it leads to",
        )
        for path in (".", "b/../c", "%2e%2E", "b%2f..", "b%5c..")
    ),
    ("http://a/\nb", "a text of several lines has a character that a URL cannot have"),
    (
        "http://a/" + "b" * 200 + " ",
        f"'http://a/{'b' * 91}…' has a character that a URL cannot have",
    ),
]


@pytest.mark.parametrize(
    "key", ["url", "qido_url", "wado_url", "stow_url", "ups_url", "wado_uri_url"]
)
@pytest.mark.parametrize(("url", "sentence"), URL_PROBLEMS)
def test_an_archive_url_is_a_scheme_a_host_and_a_path(key: str, url: str, sentence: str) -> None:
    [problem] = problems_of(SUFFICIENT | {f"upstream.{key}": url})
    assert problem.startswith(f"upstream.{key}: {sentence}")


@pytest.mark.parametrize(
    "url",
    [
        "http://orthanc",
        "https://10.0.0.1:65535/",
        "http://[2001:db8::1]:8042/a/b/c/",
        "http://my_orthanc/%C3%A4%2F/~x;y=1/@:,!$&'()*+=",
        "http://orthanc./a//b",
    ],
)
def test_an_archive_url_is_kept_as_it_is_written(url: str) -> None:
    assert Settings(**nested(SUFFICIENT | {"upstream.url": url})).upstream.url == url


def test_a_scheme_is_lower_cased() -> None:
    assert (
        Settings(**nested(SUFFICIENT | {"upstream.url": "HTTP://A/B"})).upstream.url == "http://A/B"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*", ("*",)),
        ("GET, DELETE", ("GET", "DELETE")),
        ('["GET", "DELETE"]', ("GET", "DELETE")),
        ("", ()),
    ],
)
def test_a_list_may_be_written_as_text(text: str, value: tuple[str, ...]) -> None:
    """As in a variable; who wants any method writes "*"."""
    policy = {"allow_origins": [VIEWER], "allow_methods": text}
    loaded = Settings(
        **nested(SUFFICIENT | {"cors.allow_methods": text, "cors.per_origin": [policy]})
    )
    assert loaded.cors.allow_methods == loaded.cors.per_origin[0].allow_methods == value


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("server.port", "abc", "'abc' is not a whole number between 0 and 65535"),
        ("server.port", 65536, "65536 is not a whole number between 0 and 65535"),
        ("server.port", 80.5, "80.5 is not a whole number between 0 and 65535"),
        ("server.port", True, "true is not a whole number between 0 and 65535"),
        ("server.port", None, "null is not a whole number between 0 and 65535"),
        ("server.port", 10**400, "such a number is not a whole number between 0 and 65535"),
        ("server.port", {"a": 1}, "a mapping is not a whole number between 0 and 65535"),
        ("server.port", [1], "a list is not a whole number between 0 and 65535"),
        ("upstream.max_connections", 0, "0 is not a whole number between 1 and 1000000"),
        ("upstream.read_timeout", "5s", "'5s' is not a number of seconds between 0.001 and 86400"),
        (
            "upstream.pool_timeout",
            "nan",
            "'nan' is not a number of seconds between 0.001 and 86400",
        ),
        ("server.shutdown_timeout", -1, "-1 is not a number of seconds between 0 and 86400"),
        ("server.max_header_bytes", 63, "63 is not a number of bytes between 64 and 16777216"),
        ("server.max_body_bytes", -1, "-1 is not a number of bytes between 0 and 1125899906842624"),
        ("cors.max_age", 86401, "86401 is not a whole number of seconds between -1 and 86400"),
        ("repair_accept", "maybe", "'maybe' is not true or false"),
        ("repair_accept", None, "null is not true or false; leave the key out for its default"),
        ("access.mode", "write", "'write' is not 'read-only' or 'read-write'"),
        ("upstream.transport", "h2", "'h2' is not 'native' or 'httpx'"),
        ("logging.level", "INFO", "'INFO' is not 'debug', 'info', 'warning' or 'error'"),
        (
            "cross_origin_resource_policy",
            "any",
            "'any' is not 'cross-origin', 'same-site' or 'same-origin'",
        ),
        ("upstream.url", 8042, "8042 is not text; put it in quotes"),
        ("upstream.ca_file", 5, "5 is not a path"),
        (
            "cors.per_origin",
            VIEWER,
            f"'{VIEWER}' is not a list; write {POLICIES}",
        ),
        (
            "cors.expose_headers",
            "[a;b]",
            "'[a;b]' is not a header name; write one such as content-range",
        ),
        ("cors.allow_headers", None, "null is not a list; leave the key out for its default"),
        ("upstream", "x", "is a section, not a value; set upstream.url or another key in it"),
        (
            "server.host",
            "http://a",
            (
                "'http://a' is not an address to listen on; write 127.0.0.1, a host name, "
                "or 0.0.0.0 or :: for all interfaces (the port is server.port)"
            ),
        ),
        ("server.base_path", "dicom/", "'dicom/' does not start with a slash; write '/dicom'"),
        ("server.base_path", "/dicom/", "'/dicom/' has an empty segment; write '/dicom'"),
        ("server.base_path", "//", "'//' has an empty segment; write '/'"),
        (
            "server.base_path",
            "/" + "x" * 512,
            f"'/{'x' * 99}…' is longer than 512 bytes; use a shorter path",
        ),
        (
            "public_url",
            "https://p/" + "x" * 1015,
            f"'https://p/{'x' * 90}…' is longer than 1024 bytes; use a shorter URL",
        ),
        (
            "server.base_path",
            "/a?b",
            "'/a?…' has a character that a URL's path cannot have; percent-encode it",
        ),
        (
            "server.base_path",
            "/a/../b",
            "'/a/../b' has a dot segment, . or ..; write the path that it leads to",
        ),
        (
            "server.base_path",
            "http://a/b",
            "'http://a/b' is a URL; write its path, as in /dicom-web (the URL is public_url's)",
        ),
        (
            "server.base_path",
            "/metrics",
            "'/metrics' hides a path of the proxy's own; choose another",
        ),
        (
            "server.instance_name",
            "a b",
            "'a b' cannot be used in Via; write 1 to 64 letters, digits, dots, hyphens",
        ),
        (
            "public_url",
            "pacs.example",
            "'pacs.example' has no scheme; write https://pacs.example/dicom-web",
        ),
        (
            "public_url",
            "https://me@pacs.example",
            "'https://***@pacs.example' has user information in it; leave it out",
        ),
        (
            "upstream.auth.username",
            "u:secret",
            "has a colon; write only the name; the password has its own key",
        ),
        (
            "upstream.auth.username",
            "",
            "is empty or has control characters, such as a line break; remove them",
        ),
    ],
)
def test_a_problem_names_key_value_and_remedy(key: str, value: object, sentence: str) -> None:
    expected = f"{key}: {sentence}"
    assert expected in problems_of(SUFFICIENT | {key: value})


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("cors.allow_origins", 5, "5 is not text; put it in quotes"),
        ("access.extra_paths", "reports", "'reports' doesn't start with a slash"),
        ("server.trusted_proxies", "10.0.0.1/8", "'10.0.0.1/8' is not a network"),
        (
            "server.allowed_hosts",
            "*.pacs.example",
            "'*.pacs.example' has a wildcard, which is not supported; list each host",
        ),
        (
            "server.allowed_hosts",
            "http://pacs.example",
            "'http://pacs.example' is not the form of a Host header; write host or host:port",
        ),
        (
            "server.allowed_hosts",
            "PACS:8080",
            "'PACS:8080' has upper-case letters; write pacs:8080",
        ),
        (
            "server.allowed_hosts",
            "::1",
            "'::1' needs brackets around its IPv6 address, as in [2001:db8::1]:8042",
        ),
        ("server.allowed_hosts", "pacs:http", "'pacs:http' has an invalid port"),
    ],
)
def test_a_problem_in_a_list_names_the_place(key: str, value: object, sentence: str) -> None:
    [problem] = problems_of(SUFFICIENT | {key: ["/a", value][key != "access.extra_paths" :]})
    assert problem.startswith(f"{key}[{0 if key != 'access.extra_paths' else 1}]: {sentence}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.host", "::1"),
        ("server.host", "proxy_1.local"),
        ("server.port", 0),
        ("server.base_path", "/"),
        ("server.base_path", "/" + "x" * 511),
        ("public_url", "https://p/" + "x" * 1014),
        ("server.base_path", "/a/b%C3%A4"),
        ("server.max_body_bytes", 0),
        ("server.allowed_hosts", ("pacs.example", "pacs.example:8443", "[::1]:8080")),
        ("server.trusted_proxies", ("10.0.0.1", "10.0.0.0/8", "fd00::/8")),
        ("access.extra_paths", ("/reports/*", "/**")),
        ("cross_origin_resource_policy", None),
        ("public_url", "https://pacs.example/a/b"),
    ],
)
def test_what_is_right_is_kept(key: str, value: object) -> None:
    assert value_of(Settings(**nested(SUFFICIENT | {key: value})), key) == value


@pytest.mark.parametrize(
    ("urls", "problems"),
    [
        (
            {"qido_url": ARCHIVE},
            ["upstream.wado_url: is missing; set it, or set upstream.url for all services"],
        ),
        (
            {"wado_url": ARCHIVE},
            ["upstream.qido_url: is missing; set it, or set upstream.url for all services"],
        ),
        ({"qido_url": ARCHIVE, "wado_url": ARCHIVE}, []),
        (
            {"url": "ftp://a"},
            ["upstream.url: 'ftp://a' has a scheme other than http and https; write one of these"],
        ),
        (
            {"qido_url": "ftp://a", "wado_url": ARCHIVE},
            [
                (
                    "upstream.qido_url: 'ftp://a' has a scheme other than http and https; write "
                    "one of these"
                )
            ],
        ),
    ],
)
def test_searches_and_retrieval_have_a_url(urls: dict[str, str], problems: list[str]) -> None:
    values = {"upstream": urls, "cors": {"allow_origins": [VIEWER]}}
    if problems:
        with pytest.raises(ConfigurationError) as caught:
            Settings(**values)
        assert list(caught.value.problems) == problems
    else:
        Settings(**values)


OAUTH = {
    "type": "oauth2_client_credentials",
    "token_url": "https://login.example/token",
    "client_id": "proxy",
    "client_secret": "hunter2",
}


@pytest.mark.parametrize(
    ("auth", "problems"),
    [
        ({"type": "none"}, []),
        ({"type": "basic", "username": "u", "password": "p:ä"}, []),
        ({"type": "bearer", "token": "abc"}, []),
        ({"type": "bearer", "token_file": "/run/token"}, []),
        (
            {"type": "bearer", "token": "abc", "token_file": "/run/token"},
            ["token_file: is set, and upstream.auth.token too; keep one of the two"],
        ),
        (OAUTH | {"audience": "https://pacs.example"}, []),
        ({"type": "google"}, []),
        ({"type": "google", "scope": "https://www.googleapis.com/auth/cloud-platform"}, []),
        ({"type": "azure"}, []),
        ({"type": "azure", "client_id": "0-0", "scope": "https://pacs.example/.default"}, []),
        (
            {"type": "google", "client_id": "0-0"},
            [
                (
                    "client_id: is not for upstream.auth.type: google; leave it out, or set "
                    "oauth2_client_credentials or azure"
                )
            ],
        ),
        (
            {"type": "basic"},
            [
                "username: is missing; upstream.auth.type: basic needs it",
                (
                    "password: is missing; upstream.auth.type: basic needs it, best in a secret "
                    "file upstream__auth__password"
                ),
            ],
        ),
        (
            {"type": "bearer"},
            [
                (
                    "token: is missing; upstream.auth.type: bearer needs it, best in a secret file "
                    "upstream__auth__token; or set upstream.auth.token_file"
                )
            ],
        ),
        (
            {"username": "u"},
            ["username: is not for upstream.auth.type: none; leave it out, or set basic"],
        ),
        (
            {"type": "basic", "username": "u", "password": "p", "token": "t"},
            ["token: is not for upstream.auth.type: basic; leave it out, or set bearer"],
        ),
        (
            {"type": "digest", "username": "u", "password": "p"},
            [
                (
                    "type: 'digest' is not 'none', 'basic', 'bearer', 'oauth2_client_credentials', "
                    "'google' or 'azure'"
                )
            ],
        ),
        (OAUTH, []),
        (OAUTH | {"scope": "dicom.read openid", "client_id": "a:b", "client_secret": 'ü"%'}, []),
        (OAUTH | {"token_url": "https://login.example/t/token?p=b2c_1"}, []),
        (OAUTH | {"token_url": "http://localhost:9000/token"}, []),
        (
            {"type": "oauth2_client_credentials"},
            [
                f"{key}: is missing; upstream.auth.type: oauth2_client_credentials needs it{where}"
                for key, where in (
                    ("token_url", ""),
                    ("client_id", ""),
                    ("client_secret", ", best in a secret file upstream__auth__client_secret"),
                )
            ],
        ),
        (
            OAUTH | {"type": "bearer", "token": "t", "scope": "s"},
            [
                (
                    f"{key}: is not for upstream.auth.type: bearer; leave it out, or set "
                    f"oauth2_client_credentials{others}"
                )
                for key, others in (
                    ("token_url", ""),
                    ("client_id", " or azure"),
                    ("client_secret", ""),
                    ("scope", " or google or azure"),
                )
            ],
        ),
        (
            OAUTH | {"token": "t"},
            [
                (
                    "token: is not for upstream.auth.type: oauth2_client_credentials; leave it "
                    "out, or set bearer"
                )
            ],
        ),
        (
            OAUTH | {"token_url": "login.example/token"},
            ["token_url: 'login.example/token' has no scheme; write https://login.example/token"],
        ),
        (
            OAUTH | {"token_url": "https://proxy:hunter2@login.example/token"},
            [
                (
                    "token_url: 'https://***@login.example/token' has user information in it; "
                    "write upstream.auth.client_id and client_secret"
                )
            ],
        ),
        (
            OAUTH | {"token_url": "https://login.example/token?a#hunter2"},
            [
                (
                    "token_url: 'https://login.example/token?…' has a # or another "
                    "character that no query has; percent-encode it"
                )
            ],
        ),
        (
            OAUTH | {"client_id": ""},
            ["client_id: is empty or has control characters, such as a line break; remove them"],
        ),
        (
            OAUTH | {"client_secret": "hunter2\n"},
            [
                (
                    "client_secret: is empty or has control characters, such as a line break; "
                    "remove them"
                )
            ],
        ),
        *(
            (
                OAUTH | {"scope": scope},
                [
                    (
                        f"scope: {scope!r} is not a list of scopes: words of visible ASCII except "
                        "quotes and backslashes, with a single space between them"
                    )
                ],
            )
            for scope in ("", " a", "a  b", 'a "b"', "a\\b", "a,\tb")
        ),
        (
            {"type": "bearer", "token": "Bearer hunter2"},
            [
                (
                    "token: has characters other than visible ASCII; write the token alone, "
                    "without 'Bearer'"
                )
            ],
        ),
        (
            {"type": "basic", "username": "u", "password": "hunter2\n"},
            ["password: is empty or has control characters, such as a line break; remove them"],
        ),
        (
            {"type": "basic", "username": "u", "password": ["hunter2"]},
            ["password: this is not text"],
        ),
    ],
)
def test_credentials_fit_their_type(auth: dict[str, Any], problems: list[str]) -> None:
    values = nested(SUFFICIENT | {"upstream.auth": auth, "server.allowed_hosts": ["pacs.example"]})
    if problems:
        with pytest.raises(ConfigurationError) as caught:
            Settings(**values)
        assert caught.value.problems == tuple(f"upstream.auth.{problem}" for problem in problems)
    else:
        assert Settings(**values).warnings() == ()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of certificates and keys."""
    directory = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    files = {"ca": authority.cert_pem, "empty": trustme.Blob(b"")}
    for name in ("one", "other"):
        issued = authority.issue_cert(f"{name}.example")
        files[f"{name}.pem"] = issued.cert_chain_pems[0]
        files[f"{name}.key"] = issued.private_key_pem
    for name, blob in files.items():
        blob.write_to_path(str(directory / name))
    key = load_pem_private_key(files["one.key"].bytes(), None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
    )
    (directory / "encrypted.key").write_bytes(encrypted)
    return {name: str(directory / name) for name in (*files, "encrypted.key", "none")}


@pytest.mark.parametrize(
    ("begins", "ends", "fault"),
    [
        (-2, -1, "expired on "),
        (1, 2, "is valid only from "),
        (-1, 1, None),
    ],
)
def test_a_certificate_out_of_its_time_is_warned_of(
    begins: int, ends: int, fault: str | None, tmp_path: Path
) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    pair = trustme.CA().issue_cert(
        "proxy.example", not_before=now + begins * day, not_after=now + ends * day
    )
    file = tmp_path / "pair.pem"
    pair.private_key_and_cert_chain_pem.write_to_path(file)
    keys = {"server.tls_cert_file": str(file), "server.tls_key_file": str(file)}
    archives = {"upstream.client_cert_file": str(file), "upstream.client_key_file": str(file)}
    https = {"upstream.url": "https://archive.example/rs", "server.allowed_hosts": ["a"]}
    found = Settings(**nested(SUFFICIENT | keys | archives | https)).warnings()
    expected = ["upstream.client_cert_file", "server.tls_cert_file"] if fault else []
    assert [each.partition(":")[0] for each in found] == expected
    assert all(fault and fault in each and each.endswith("; renew it") for each in found)


@pytest.mark.parametrize(
    ("cert_key", "key_key"),
    [
        ("server.tls_cert_file", "server.tls_key_file"),
        ("upstream.client_cert_file", "upstream.client_key_file"),
    ],
)
@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("one.pem", "one.key", None),
        ("one.pem", None, "{key_key}: is missing; {cert_key} needs it"),
        (None, "one.key", "{cert_key}: is missing; {key_key} needs it"),
        (
            "one.pem",
            "other.key",
            "{key_key}: '{key}' is not the key of '{certificate}'; name the key that belongs to it",
        ),
        (
            "one.pem",
            "one.pem",
            "{key_key}: '{key}' has no private key in PEM form; name a file that does",
        ),
        (
            "one.pem",
            "encrypted.key",
            "{key_key}: '{key}' is encrypted; name a key without a passphrase",
        ),
        (
            "one.key",
            "one.key",
            (
                "{cert_key}: '{certificate}' has no certificate in PEM form, but a private key, "
                "which has a setting of its own"
            ),
        ),
        (
            "empty",
            "one.key",
            "{cert_key}: '{certificate}' has no certificate in PEM form; name a file that does",
        ),
        (
            "none",
            "one.key",
            (
                "{cert_key}: '{certificate}' cannot be read (No such file or directory); "
                "name a PEM file that the proxy may read"
            ),
        ),
    ],
)
def test_a_certificate_and_its_key_fit(  # noqa: PLR0917
    pem: dict[str, str],
    cert_key: str,
    key_key: str,
    certificate: str | None,
    key: str | None,
    problem: str | None,
) -> None:
    files = {name: pem[file] for name, file in ((cert_key, certificate), (key_key, key)) if file}
    if problem is None:
        Settings(**nested(SUFFICIENT | files))
    else:
        expected = problem.format(
            cert_key=cert_key,
            key_key=key_key,
            certificate=files.get(cert_key),
            key=files.get(key_key),
        )
        assert problems_of(SUFFICIENT | files) == (expected,)


def test_an_authority_is_read(pem: dict[str, str]) -> None:
    Settings(**nested(SUFFICIENT | {"upstream.ca_file": pem["ca"]}))
    [problem] = problems_of(SUFFICIENT | {"upstream.ca_file": "\0"})
    assert problem.startswith("upstream.ca_file: '\\x00' cannot be read (not a valid path)")


def test_problems_of_policies_have_whole_keys_and_what_is_inherited_is_told_once() -> None:
    problems = problems_of(
        SUFFICIENT
        | {
            "cors.allow_origins": ["https://Viewer.example"],
            "cors.allow_methods": ["TRACE"],
            "cors.per_origin": [
                {"allow_origins": ["https://a.example"], "allow_methods": ["TRACK"]},
                {"allow_origins": ["*"], "allow_credentials": True, "max_age": "long"},
                {},
                "https://b.example",
                {"allow_origins": ["https://c.example"], "max_ages": 1},
                {"allow_origins": ["https://d.example"], "allow_methods": ["TRACE"]},
            ],
        }
    )
    assert [problem.partition(" ")[0] for problem in problems] == [
        "cors.per_origin[1].max_age:",
        "cors.per_origin[3]:",
        "cors.per_origin[4].max_ages:",
        "cors.allow_origins:",
        "cors.allow_methods:",
        "cors.per_origin[0].allow_methods:",
        "cors.per_origin[1].allow_origins:",
        "cors.per_origin[2].allow_origins:",
        "cors.per_origin[5].allow_methods:",
    ]
    assert problems[1] == (
        "cors.per_origin[3]: 'https://b.example' is not a mapping with the keys of a policy"
    )
    assert problems[2] == "cors.per_origin[4].max_ages: is not known; did you mean max_age?"


def test_all_problems_are_told_at_once() -> None:
    problems = problems_of(
        {
            "upstream.url": "orthanc",
            "upstream.auth.type": "basic",
            "upstream.read_timeouts": 5,
            "cors.allow_origins": [VIEWER, None],
            "cors.max_age": "x",
            "cors.allow_headers": ["cookie"],
            "server.tls_key_file": __file__,
            "server.port": "x",
            "wado": True,
        }
    )
    assert {problem.partition(":")[0] for problem in problems} == {
        "upstream.url",
        "upstream.auth.username",
        "upstream.auth.password",
        "upstream.read_timeouts",
        "cors.allow_origins[1]",
        "cors.max_age",
        "cors.allow_headers",
        "server.tls_cert_file",
        "server.port",
        "wado",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("upstreem", "did you mean upstream?"),
        ("upstream.read_timout", "did you mean upstream.read_timeout?"),
        ("upstream.auth.user", "did you mean upstream.auth.username?"),
        ("port", "did you mean server.port?"),
        ("allow_origin", "did you mean cors.allow_origins?"),
        ("cors.allowOrigins", "did you mean cors.allow_origins?"),
        ("server.base-path", "did you mean server.base_path?"),
        ("public-url", "did you mean public_url?"),
        ("proxy", "docs/configuration.md lists all keys"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(places: Places, name: str, reason: str) -> None:
    expected = f"{name}: is not known; {reason}"
    assert problems_of(SUFFICIENT | {name: 1}) == (expected,)

    places.write(nested(SUFFICIENT | {name: {"a": 1}}))
    assert places.problems() == (f"{expected} (file {places.file})",)

    places.write(nested(SUFFICIENT))
    places.flags = {name: 1}
    assert places.problems() == (f"{expected} (flag)",)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UPSTREAM_URL", "UPSTREAM__URL"),
        ("upstream_auth_password", "UPSTREAM__AUTH__PASSWORD"),
        ("SERVER_PORT", "SERVER__PORT"),
        ("PORT", "SERVER__PORT"),
        ("UPSTREAM__URLS", "UPSTREAM__URL"),
        ("CORS__PER_ORIGIN__0__MAX_AGE", "CORS__PER_ORIGIN"),
        ("PROXY", None),
    ],
)
def test_an_unknown_variable_suggests_the_nearest(
    places: Places, name: str, meant: str | None
) -> None:
    places.write(nested(SUFFICIENT))
    hint = (
        f"did you mean DICOMWEB_PROXY_{meant}?" if meant else "docs/configuration.md lists all keys"
    )
    variable = f"DICOMWEB_PROXY_{name}"
    places.environ[variable] = "1"
    assert places.problems() == (f"{variable}: is not known; {hint}",)

    del places.environ[variable]
    hint = f"did you mean dicomweb_proxy_{meant.lower()}?" if meant else hint
    file = places.secrets / variable.lower()
    file.write_text("1")
    assert places.problems() == (f"secret file {file}: is not known; {hint}",)


def test_a_group_is_no_variable(places: Places) -> None:
    places.environ["DICOMWEB_PROXY_UPSTREAM"] = "{}"
    assert places.problems()[0] == (
        "DICOMWEB_PROXY_UPSTREAM: is a section, not a value; "
        "set DICOMWEB_PROXY_UPSTREAM__URL or another key in it"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DICOMWEB_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("DICOMWEB_PROXY_SERVICE_PORT", "8080"),
        ("DICOMWEB_PROXY_SERVICE_PORT_HTTP", "8080"),
        ("DICOMWEB_PROXY_PORT", "tcp://10.0.0.1:8080"),
        ("DICOMWEB_PROXY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("DICOMWEB_PROXY_PORT_8080_TCP_PROTO", "tcp"),
        ("DICOMWEB_PROXY_PORT_8080_TCP_PORT", "8080"),
        ("DICOMWEB_PROXY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("DICOMWEB_PROXY_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("DICOMWEB_PROXY_METRICS_PORT_53_UDP", "udp://10.0.0.1:53"),
        ("DICOMWEB_PROXY_UNKNOWN", ""),
        ("DICOMWEB_CORS_PROXY_PORT", "8080"),
    ],
)
def test_variables_that_are_none_of_ours_are_passed_over(
    places: Places, variable: str, value: str
) -> None:
    places.write(nested(SUFFICIENT))
    places.environ[variable] = value
    assert set(places.load().sources.values()) == {f"file {places.file}", "default"}


def test_files_and_folders_that_are_none_of_ours_are_passed_over(places: Places) -> None:
    places.write(nested(SUFFICIENT))
    (places.secrets / "database-password").write_bytes(b"\xff")
    (places.secrets / "server__port").mkdir()
    (places.secrets / "dicomweb_proxy_server__host").mkdir()
    (places.secrets / "server__max_headers").symlink_to("nowhere")
    assert set(places.load().sources.values()) == {f"file {places.file}", "default"}


@pytest.mark.parametrize("kind", ["empty", "no file"])
def test_a_secret_file_without_a_secret_is_named(places: Places, kind: str) -> None:
    """A container's volume of a file that isn't there is a folder."""
    login = {"upstream.auth": {"type": "basic", "username": "proxy"}}
    places.write(nested(SUFFICIENT | login))
    file = places.secrets / "upstream__auth__password"
    if kind == "empty":
        file.write_text("")
    else:
        file.mkdir()
    (problem,) = places.problems()
    assert problem.startswith("upstream.auth.password: is missing")
    assert problem.endswith(f" (secret file {file} is {kind})")


# These can't differ from their default together with those of `basic`.
OF_ANOTHER_TYPE = (
    "upstream.auth.token",
    "upstream.auth.token_file",
    "upstream.auth.token_url",
    "upstream.auth.client_id",
    "upstream.auth.client_secret",
    "upstream.auth.scope",
    "upstream.auth.audience",
)


@pytest.fixture(scope="module")
def others(pem: dict[str, str]) -> dict[str, Any]:
    """A value other than its default for every key, which make a valid configuration together."""
    return {
        "upstream.url": "http://archive.example/a",
        "upstream.qido_url": "http://archive.example/b",
        "upstream.wado_url": "http://archive.example/c",
        "upstream.stow_url": "http://archive.example/d",
        "upstream.ups_url": "http://archive.example/e",
        "upstream.wado_uri_url": "http://archive.example/f/",
        "upstream.aliases": ["http://localhost/dicom-web", "http://pacs:8042/dicom-web"],
        "upstream.connect_timeout": 0.5,
        "upstream.read_timeout": 600,
        "upstream.pool_timeout": 1,
        "upstream.max_connections": 7,
        "upstream.transport": "httpx",
        "upstream.verify_tls": False,
        "upstream.ca_file": pem["ca"],
        "upstream.client_cert_file": pem["one.pem"],
        "upstream.client_key_file": pem["one.key"],
        "upstream.auth.type": "basic",
        "upstream.auth.username": "007",
        "upstream.auth.password": "yes",
        **dict.fromkeys(OF_ANOTHER_TYPE),
        "cors.allow_origins": ["https://a.example", "https://*.b.example"],
        "cors.allow_methods": ["GET", "DELETE"],
        "cors.allow_headers": ["*", "authorization"],
        "cors.expose_headers": ["etag"],
        "cors.max_age": -1,
        "cors.allow_credentials": True,
        "cors.dangerously_allow_insecure_origins": True,
        "cors.per_origin": [{"allow_origins": ["https://c.example"], "max_age": 5}],
        "access.mode": "read-write",
        "access.dangerously_allow_writes_from_any_origin": True,
        "access.extra_paths": ["/reports/*", "/**/x"],
        "access.auth.type": "jwt",
        "access.auth.issuer": "https://id.example/",
        "access.auth.jwks_url": "https://id.example/jwks?p=1",
        "access.auth.audience": ["dicomweb", "https://pacs.example"],
        "access.auth.required_scopes": ["dicom.read"],
        "access.auth.algorithms": ["ES384", "RS512"],
        "access.auth.leeway": 5,
        "access.auth.forward": False,  # true is not possible with upstream.auth
        "rewrite_urls": False,
        "compress": False,
        "repair_accept": False,
        "public_url": "https://pacs.example/dicom-web",
        "cross_origin_resource_policy": None,
        "server.host": "::",
        "server.port": 0,
        "server.base_path": "/",
        "server.allowed_hosts": ["[::1]:8080", "pacs.example"],
        "server.workers": 2,
        "server.http2": False,
        "server.max_connections": 10,
        "server.tls_cert_file": pem["other.pem"],
        "server.tls_key_file": pem["other.key"],
        "server.trusted_proxies": ["10.0.0.0/8", "fd00::1"],
        "server.max_header_bytes": 1024,
        "server.max_target_bytes": 1024,
        "server.max_body_bytes": 10_000,
        "server.max_headers": 10,
        "server.max_concurrent_requests": 10,
        "server.instance_name": "inner",
        "server.header_timeout": 1.5,
        "server.body_timeout": 1.5,
        "server.write_timeout": 1.5,
        "server.keepalive_timeout": 1.5,
        "server.drain_delay": 1.5,
        "server.shutdown_timeout": 0,
        "logging.level": "error",
        "logging.format": "json",
    }


def as_text(value: object) -> str:
    """Write a value as a variable has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and isinstance(value[0], str):
        return ",".join(value)
    return json.dumps(value)


def test_every_key_can_be_set_from_python(others: dict[str, Any]) -> None:
    configuration = Settings(**nested(others))
    assert list(others) == list(SCHEMA.settings)
    for setting in SCHEMA.settings.values():
        value = value_of(configuration, setting.key)
        assert value != setting.default or setting.key in (*OF_ANOTHER_TYPE, "access.auth.forward")
        assert configuration.sources[setting.key] == "argument"


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_every_key_is_a_variable(
    places: Places, others: dict[str, Any], change: Callable[[str], str]
) -> None:
    names = {key: change(SCHEMA.settings[key].variable) for key in others}
    places.environ |= {names[key]: as_text(value) for key, value in others.items()}
    assert places.load().sources == {key: f"environment {names[key]}" for key in others}
    assert places.load().model_dump() == Settings(**nested(others)).model_dump()


@pytest.mark.parametrize("change", [str.upper, str.lower])
@pytest.mark.parametrize("prefix", ["DICOMWEB_PROXY_", ""])
def test_every_key_is_a_secret_file(
    places: Places, others: dict[str, Any], prefix: str, change: Callable[[str], str]
) -> None:
    files = {key: places.secrets / change(prefix + key.replace(".", "__")) for key in others}
    for key, value in others.items():
        files[key].write_text(as_text(value) + "\r\n", newline="")
    assert places.load().sources == {key: f"secret file {files[key]}" for key in others}
    assert places.load().model_dump() == Settings(**nested(others)).model_dump()


def test_every_key_stands_in_the_file(places: Places, others: dict[str, Any]) -> None:
    places.write(nested(others))
    assert set(places.load().sources.values()) == {f"file {places.file}"}
    assert places.load().model_dump() == Settings(**nested(others)).model_dump()


def test_every_key_is_a_flag(places: Places, others: dict[str, Any]) -> None:
    places.flags = {**others, "cors.allow_methods": ()}
    given = {key: value for key, value in places.flags.items() if value not in (None, ())}
    assert {k for k, source in places.load().sources.items() if source == "flag"} == set(given)
    assert places.load().model_dump() == Settings(**nested(given)).model_dump()


def test_what_is_in_force_is_printed_as_yaml_with_secrets_masked(others: dict[str, Any]) -> None:
    printed = {each.key: each.value for each in Settings(**nested(others)).effective()}
    assert list(printed) == list(others)
    shown = {
        "upstream.url": "http://archive.example/a",
        "upstream.connect_timeout": "0.5",
        "upstream.read_timeout": "600",
        "upstream.verify_tls": "false",
        "upstream.auth.password": "********",
        "upstream.auth.token": "null",
        "cors.allow_origins": "[https://a.example, https://*.b.example]",
        "cors.per_origin": '[{"allow_origins": ["https://c.example"], "max_age": 5}]',
        "cross_origin_resource_policy": "null",
        "server.port": "0",
    }
    assert {key: printed[key] for key in shown} == shown


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        (
            "cors.allow_origins",
            " https://a.example , ,https://b.example,",
            ("https://a.example", "https://b.example"),
        ),
        ("cors.allow_headers", ' ["accept", "x-a"]', ("accept", "x-a")),
        ("cors.allow_headers", "[]", ()),
        ("server.allowed_hosts", "[::1]:8080", ("[::1]:8080",)),
        ("repair_accept", "off", False),
        ("server.max_body_bytes", "null", None),
        ("server.port", "", 8080),
    ],
)
def test_how_a_text_is_read(places: Places, key: str, text: str, value: object) -> None:
    places.write(nested(SUFFICIENT))
    places.environ[SCHEMA.settings[key].variable] = text
    assert value_of(places.load(), key) == value


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("cors.per_origin", VIEWER, f"is not well-formed JSON; write {POLICIES}"),
        ("cors.per_origin", "[" * 100_000, f"is not well-formed JSON; write {POLICIES}"),
        ("cors.per_origin", "{}", f"a mapping is not a list; write {POLICIES}"),
        ("cors.allow_origins", f'["{VIEWER}"', "is not well-formed JSON; write a, b"),
        ("cors.allow_origins", "null", "null is not a list; leave the key out for its default"),
        ("server.port", "null", "null is not a whole number between 0 and 65535"),
    ],
)
def test_a_problem_names_its_source(places: Places, key: str, text: str, reason: str) -> None:
    places.write(nested(SUFFICIENT))
    variable = SCHEMA.settings[key].variable
    places.environ[variable] = text
    assert places.problems() == (f"{key}: {reason} (environment {variable})",)


def test_a_key_is_set_once_in_a_place(places: Places) -> None:
    places.write(nested(SUFFICIENT))
    for name in ("server__port", "SERVER__PORT"):
        (places.secrets / name).write_text("1")
        places.environ[f"DICOMWEB_PROXY_{name}"] = "1"
    assert places.problems() == (
        (
            f"server.port: is also set by secret file {places.secrets}/SERVER__PORT; keep one "
            f"of the two (secret file {places.secrets}/server__port)"
        ),
        (
            "server.port: is also set by environment DICOMWEB_PROXY_server__port; keep one of "
            "the two (environment DICOMWEB_PROXY_SERVER__PORT)"
        ),
    )


NUMBERS = ["server.port", "server.max_headers", "upstream.max_connections", "cors.max_age"]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(NUMBERS),
        st.dictionaries(
            st.sampled_from(["flag", "environment", "secret file", "file"]), st.integers(1, 999)
        ),
    )
)
def test_flags_win_over_environment_over_secret_files_over_the_file(
    chosen: dict[str, dict[str, int]],
) -> None:
    with TemporaryDirectory() as directory:
        places = Places(Path(directory))
        in_file = {key: values["file"] for key, values in chosen.items() if "file" in values}
        places.write(nested(SUFFICIENT | in_file))
        for key, values in chosen.items():
            variable = SCHEMA.settings[key].variable
            if "flag" in values:
                places.flags[key] = values["flag"]
            if "environment" in values:
                places.environ[variable] = str(values["environment"])
            if "secret file" in values:
                (places.secrets / variable).write_text(str(values["secret file"]))
        loaded = places.load()

    for key in NUMBERS:
        values = chosen.get(key, {})
        for place in ("flag", "environment", "secret file", "file"):
            if place in values:
                assert value_of(loaded, key) == values[place]
                assert loaded.sources[key].startswith(place)
                break
        else:
            assert value_of(loaded, key) == SCHEMA.settings[key].default
            assert loaded.sources[key] == "default"


def test_lists_replace_and_null_unsets(places: Places) -> None:
    places.write(nested(SUFFICIENT | {"server.max_body_bytes": 5}))
    places.environ |= {
        "DICOMWEB_PROXY_CORS__ALLOW_ORIGINS": "https://other.example",
        "DICOMWEB_PROXY_SERVER__MAX_BODY_BYTES": "null",
    }
    assert places.load().cors.allow_origins == ("https://other.example",)
    assert places.load().server.max_body_bytes is None


def test_the_environment_names_the_file_and_the_secrets(places: Places, tmp_path: Path) -> None:
    places.write(nested(SUFFICIENT | {"server.port": 1, "server.max_headers": 1}))
    (places.secrets / "server__port").write_text("2")
    secrets = tmp_path / "more"
    secrets.mkdir()
    (secrets / "server__port").write_text("3")
    environ = {
        **places.environ,
        "dicomweb_proxy_config": str(places.file),
        "DICOMWEB_PROXY_SECRETS_DIR": str(secrets),
    }
    assert load(environ=environ).server.port == 3
    assert load(environ=environ).server.max_headers == 1

    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(nested(SUFFICIENT)))
    assert load(environ=environ, config_file=other).server.max_headers == 100

    environ["DICOMWEB_PROXY_SECRETS_DIR"] = ""
    assert load(environ=environ).server.port == 2


def test_a_named_folder_of_secrets_has_to_be_there(places: Places) -> None:
    places.write(nested(SUFFICIENT))
    places.environ["CREDENTIALS_DIRECTORY"] = "/nowhere"
    places.load()
    places.environ["DICOMWEB_PROXY_SECRETS_DIR"] = "/nowhere"
    assert places.problems() == (
        (
            "/nowhere: cannot be read (No such file or directory); name a folder that the proxy "
            "may read (environment DICOMWEB_PROXY_SECRETS_DIR)"
        ),
    )


def test_a_secret_file_is_text(places: Places) -> None:
    places.write(nested(SUFFICIENT))
    file = places.secrets / "upstream__auth__password"
    file.write_bytes(b"\xff")
    assert places.problems() == (
        (
            f"secret file {file}: cannot be read (not UTF-8 text); make it UTF-8 "
            "text that the proxy may read"
        ),
    )


@pytest.mark.parametrize("path", ["/nowhere", "/", "\0"])
def test_a_file_that_cant_be_read_is_the_only_problem(path: str) -> None:
    environ = {"DICOMWEB_PROXY_CONFIG": path, "DICOMWEB_PROXY_SERVER__PORT": "x"}
    with pytest.raises(ConfigurationError) as caught:
        load(environ=environ)
    unreadable, port = caught.value.problems
    assert unreadable.startswith(f"file {path}: cannot be read (".replace("\0", "\\x00"))
    assert port.startswith("server.port: 'x'")


MAPPING = (
    "indent this line like its neighbours, write a space after each key's colon (in the line "
    "above, too), and put quotes around values with a colon"
)
BLOCK = (
    "indent this line like the others of its section, by spaces; a section's keys begin in one "
    "column"
)


@pytest.mark.parametrize(
    ("document", "line", "remedy"),
    [
        ("upstream:\n  url: 'secret\ncors:\n", 2, "a quote opens in this line"),
        ('upstream:\n  url: "secret\ncors:\n', 2, "a quote opens in this line"),
        ("cors:\n  allow_origins: [secret\nserver:\n", 2, "a bracket opens in this line"),
        ("cors:\n  allow_origins: [secret,\nserver:\n", 4, "a bracket opens above"),
        ("upstream: {url: secret\n", 1, "a bracket opens in this line"),
        ("upstream:\n  url: secret\n   aliases: []\n", 3, MAPPING),
        ("upstream:\n  url:secret\n  aliases: []\n", 3, MAPPING),
        ("upstream:\n  url: secret\n aliases: []\n", 3, BLOCK),
        ("upstream:\n   url: secret\n  aliases: []\n", 3, BLOCK),
        ("upstream:\n  url: secret\n- secret\n", 3, BLOCK),
        ("upstream:\n  url: @secret\n", 2, "put quotes around what begins with this"),
        ("upstream:\n  url: a\n  'secret'\n", 3, "write a colon and a space between"),
    ],
)
def test_what_breaks_yaml_has_a_remedy(
    places: Places, document: str, line: int, remedy: str
) -> None:
    places.write(document)
    (problem,) = places.problems()
    assert f"{places.file}, line {line}: is not valid YAML (" in problem
    assert f"); {remedy}" in problem
    assert "secret" not in problem


def test_what_may_not_be_read_says_who_needs_to(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.write("upstream:\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for number, user in [(0, "0 (root)"), (65533, "65533")]:
        monkeypatch.setattr(os, "geteuid", lambda number=number: number)
        (problem,) = places.problems()
        assert problem == (
            f"file {places.file}: cannot be read (Permission denied); the proxy runs as user "
            f"{user}: let this user read it, and enter the folders above it"
        )


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("DICOMWEB_CORS_PROXY_UPSTREAM__URL", "DICOMWEB_PROXY_UPSTREAM__URL"),
        ("DICOMWEB_CORS_PROXY_UPSTREAM_URL", "DICOMWEB_PROXY_UPSTREAM__URL"),
        ("DICOMWEBPROXY_CORS__ALLOW_ORIGINS", "DICOMWEB_PROXY_CORS__ALLOW_ORIGINS"),
        ("dicomweb_cors_proxy_upstream__url", "DICOMWEB_PROXY_UPSTREAM__URL"),
        ("CORS_PROXY_UPSTREAM__URL", "DICOMWEB_PROXY_UPSTREAM__URL"),
    ],
)
def test_a_variable_with_another_prefix_is_warned_of(
    places: Places, variable: str, meant: str
) -> None:
    places.environ[variable] = "secret"
    warning = f"{variable}: is not read, because its prefix is not DICOMWEB_PROXY_; write {meant}"
    assert warning in places.problems(), "it may be why something is missing"
    places.write(nested(SUFFICIENT))
    assert places.load().warnings() == (warning,)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DICOMWEB_CORS_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("DICOMWEB_CORS_PROXY_PORT", "tcp://10.0.0.1:8080"),
        ("DICOMWEB_CORS_PROXY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("DICOMWEB_CORS_PROXY_VERSION", "1"),
        ("MY_PROXY_URL", "http://proxy"),
    ],
)
def test_what_others_name_alike_is_not_warned_of(places: Places, variable: str, text: str) -> None:
    places.environ[variable] = text
    places.write(nested(SUFFICIENT))
    assert places.load().warnings() == ()


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("- a", ": has no mapping at its top; begin with a key such as upstream:"),
        ("secret", ": has no mapping at its top; begin with a key such as upstream:"),
        (
            "a: b: secret",
            (f", line 1: is not valid YAML (mapping values are not allowed here); {MAPPING}"),
        ),
        (
            "upstream:\n\turl: secret",
            (
                ", line 2: is not valid YAML (found character '\\t' that cannot start any token); "
                "indent with spaces, not with tabs"
            ),
        ),
        (
            "upstream:\n  auth:\n    password: *secret",
            (
                ", line 3: is not valid YAML (found undefined alias …); put quotes around "
                "what begins with *"
            ),
        ),
        (
            "password: !secret 5",
            (
                ", line 1: is not valid YAML (could not determine a constructor for the tag …); "
                "check indentation and quotes"
            ),
        ),
        (
            "password: !se'cret 5",
            (
                ", line 1: is not valid YAML (could not determine a constructor for the tag …); "
                "check indentation and quotes"
            ),
        ),
        (
            "server:\n  port: 1\n  'port': 2",
            (", line 3: is not valid YAML (duplicate key port); check indentation and quotes"),
        ),
        (
            "cors:\n  allow_origins: [*]",
            (
                ", line 2: is not valid YAML (expected alphabetic or numeric character, but found "
                "']'); put quotes around what begins with *"
            ),
        ),
        (
            "? [server]\n: 1",
            ", line 1: is not valid YAML (found unhashable key); check indentation and quotes",
        ),
        ("\0", ": is not YAML; write UTF-8 text, and no deeper than the example"),
        ("[" * 1000, ": is not YAML; write UTF-8 text, and no deeper than the example"),
    ],
)
def test_what_is_not_yaml_is_told_by_line(places: Places, document: str, problem: str) -> None:
    places.write(document)
    assert places.problems() == (f"file {places.file}{problem}",)


def test_an_empty_group_is_no_problem(places: Places) -> None:
    places.write("upstream: {url: http://a}\ncors: {allow_origins: ['*']}\nserver:\nlogging: {}\n")
    assert places.load().server.port == 8080


def test_anchors_and_merges_are_fine(places: Places) -> None:
    places.write(
        "upstream: {url: &url http://a, wado_uri_url: *url}\n"
        "cors: &policy\n  allow_origins: [https://a.example]\n  max_age: 5\n"
        "access:\n"
    )
    assert places.load().upstream.wado_uri_url == "http://a"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (
            "upstream: x",
            "upstream: is a section, not a value; set upstream.url or another key in it",
        ),
        (
            "upstream.url: x",
            "upstream.url: is not known; keys are nested by indentation, as in the example",
        ),
        ("~: x", "None: is not known; keys are nested by indentation, as in the example"),
    ],
)
def test_keys_are_nested(places: Places, document: str, problem: str) -> None:
    places.write(document)
    assert places.problems()[0] == f"{problem} (file {places.file})"


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"upstream.url": "https://a/dicom-web", "upstream.verify_tls": False},
            (
                "upstream.verify_tls: is false, so anyone on the network's path can read and "
                "change everything; set upstream.ca_file to trust the archive's own certificate"
            ),
        ),
        (
            {"upstream.auth": {"type": "bearer", "token": "t"}},
            (
                "server.allowed_hosts: is empty, so a page can rebind its host name to this proxy "
                "and read all that upstream.auth opens; list the hosts by which clients reach the "
                "proxy"
            ),
        ),
        (
            {"server.trusted_proxies": ["10.0.0.0/8", "::/0"]},
            (
                "server.trusted_proxies: '::/0' trusts every client's X-Forwarded-*; "
                "list the proxies"
            ),
        ),
        (
            {"access.extra_paths": ["/reports/*", "/**"]},
            "access.extra_paths: '/**' opens every path of the archive, its administration",
        ),
        (
            {"access.extra_paths": ["/wado"]},
            "access.extra_paths: '/wado' is WADO-URI, which has a setting of its own",
        ),
        (
            {"access.extra_paths": ["/wado"], "upstream.wado_uri_url": "http://a/wado"},
            "access.extra_paths: '/wado' is WADO-URI, which upstream.wado_uri_url forwards already",
        ),
        (
            {"access.extra_paths": ["/reports/*", "/instances"]},
            "access.extra_paths: '/instances' is a DICOMweb resource, which is forwarded already",
        ),
        (
            {"access.extra_paths": ["/dicom-web/reports/*"]},
            "access.extra_paths: '/dicom-web/reports/*' repeats server.base_path",
        ),
        (
            {"access.extra_paths": ["/metrics"], "server.base_path": "/"},
            "access.extra_paths: '/metrics' is an endpoint of the proxy's own",
        ),
        (
            {"upstream.url": "http://orthanc:8042/"},
            "upstream.url: 'http://orthanc:8042/' has no path, but most archives serve DICOMweb",
        ),
        (
            {"upstream.qido_url": "http://orthanc:8042"},
            "upstream.qido_url: 'http://orthanc:8042' has no path",
        ),
        ({"cors.max_age": 86400}, "cors.max_age: '86400' "),
        (
            {"cors.per_origin": [{"allow_origins": ["*"]}]},
            "cors.per_origin[0].allow_origins: '*' lets any page on the web read the responses",
        ),
    ],
)
def test_warnings(changes: dict[str, Any], warning: str) -> None:
    [found] = Settings(**nested(SUFFICIENT | changes)).warnings()
    assert found.startswith(warning)


@pytest.mark.parametrize(
    "changes",
    [
        {"access.extra_paths": ["/studies/", "/", "/studies/*/bulkdata/*", "/metrics"]},
        {"access.extra_paths": ["/instances", "/studies/1"], "access.mode": "read-write"},
        {"access.extra_paths": ["/workitems/1/state"]},  # which has no GET of its own
        {"access.extra_paths": ["/dicom-web/reports/*"], "server.base_path": "/"},
    ],
)
def test_extra_paths_that_change_something_cause_no_warning(changes: dict[str, Any]) -> None:
    assert not Settings(**nested(SUFFICIENT | changes)).warnings()


READ_WRITE = {"cors.allow_origins": ["https://a.example"], "access.mode": "read-write"}
FROM_ANYWHERE = "access.dangerously_allow_writes_from_any_origin"
WRITABLE = (
    "'*' lets any web page that a user opens write to the archive with access.mode: read-write; "
    f"list the origins of your viewers, or set {FROM_ANYWHERE}: true"
)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"cors.allow_origins": ["*"]}, ["cors.allow_origins"]),
        ({"cors.allow_origins": ["https://a.example", "*"]}, ["cors.allow_origins"]),
        (
            {"cors.per_origin": [{"allow_origins": [VIEWER]}, {"allow_origins": [VIEWER, "*"]}]},
            ["cors.per_origin[1].allow_origins"],
        ),
        (
            {"cors.allow_origins": ["*"], "cors.per_origin": [{"allow_origins": ["*"]}]},
            ["cors.allow_origins", "cors.per_origin[0].allow_origins"],
        ),
        ({"cors.allow_origins": ["https://*.example.edu", "http://localhost:*"]}, []),
    ],
)
def test_any_origin_may_not_write(changes: dict[str, Any], keys: list[str]) -> None:
    values = SUFFICIENT | READ_WRITE | changes
    if keys:
        with pytest.raises(ConfigurationError) as found:
            Settings(**nested(values))
        assert list(found.value.problems) == [f"{key}: {WRITABLE}" for key in keys]
    else:
        Settings(**nested(values))
    Settings(**nested(values | {"access.mode": "read-only"}))
    warned = [
        warning.startswith(f"{FROM_ANYWHERE}: is true, so any web page that a user opens can")
        for warning in Settings(**nested(values | {FROM_ANYWHERE: True})).warnings()
    ]
    assert sum(warned) == bool(keys)


def test_a_mode_that_is_none_hides_what_depends_on_it() -> None:
    values = SUFFICIENT | {"cors.allow_origins": ["*"], "access.mode": "read-wirte"}
    with pytest.raises(ConfigurationError) as found:
        Settings(**nested(values))
    assert len(found.value.problems) == 1


TLS_HERE = {"tls_cert_file": "other.pem", "tls_key_file": "other.key"}
MUTUAL_TLS = {"client_cert_file": "other.pem", "client_key_file": "other.key"}
HTTP_LOGIN = {"upstream.auth": OAUTH | {"token_url": "http://login.example/token"}}


@pytest.mark.parametrize("auth", [OAUTH, {"type": "bearer", "token": "t"}, MUTUAL_TLS, None])
@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, []),
        ({"server.host": "127.0.0.9"}, []),
        ({"server.host": "::1"}, []),
        ({"server.host": "localhost"}, []),
        ({"server.host": "0.0.0.0"}, ["server.host: '0.0.0.0' is reached from other machines"]),
        ({"server.host": "::"}, ["server.host: '::' is reached from other machines"]),
        ({"server.host": "10.0.0.1"}, ["server.host: '10.0.0.1' is reached"]),
        ({"server.host": "pacs.example"}, ["server.host: 'pacs.example' is reached"]),
        ({"server.host": "0.0.0.0", "with TLS": True}, []),
        ({"server.allowed_hosts": []}, ["server.allowed_hosts: is empty"]),
        ({"cors.allow_origins": ["*"]}, ["cors.allow_origins: '*' lets any page that a user"]),
        (
            {"cors.per_origin": [{"allow_origins": ["*"]}]},
            ["cors.per_origin[0].allow_origins: '*' lets any page that a user"],
        ),
        (
            {"server.allowed_hosts": [], "server.host": "::", "cors.allow_origins": ["*"]},
            ["server.allowed_hosts: ", "server.host: ", "cors.allow_origins: "],
        ),
    ],
)
def test_with_credentials_the_proxy_is_a_door(
    changes: dict[str, Any],
    warned: list[str],
    auth: dict[str, str] | None,
    pem: dict[str, str],
) -> None:
    values = SUFFICIENT | {"server.allowed_hosts": ["pacs.example"]} | changes
    if values.pop("with TLS", False):
        values |= {f"server.{key}": pem[name] for key, name in TLS_HERE.items()}
    login: dict[str, Any] = {"upstream.auth": auth} if auth else {}
    if auth is MUTUAL_TLS:
        values["upstream.url"] = "https://pacs.example/rs"
        login = {f"upstream.{key}": pem[name] for key, name in MUTUAL_TLS.items()}
    plain = Settings(**nested(values)).warnings()
    with_auth = Settings(**nested(values | login)).warnings()
    assert not auth or plain == with_auth[: len(plain)]
    found = with_auth[len(plain) :]
    expected = warned if auth else []
    assert [w for w, start in zip(found, expected, strict=True) if not w.startswith(start)] == []


def test_a_client_secret_over_plain_http() -> None:
    hosts = {"server.allowed_hosts": ["pacs.example"]}
    (warning,) = Settings(**nested(SUFFICIENT | hosts | HTTP_LOGIN)).warnings()
    assert warning.startswith("upstream.auth.token_url: is plain http, so anyone ")


@pytest.mark.parametrize(
    ("urls", "served"),
    [
        (
            {"url": "http://a"},
            {
                Service.ROOT: "http://a",
                Service.SEARCH: "http://a",
                Service.RETRIEVE: "http://a",
                Service.STORE: "http://a",
                Service.WORKLIST: "http://a",
            },
        ),
        (
            {"qido_url": "http://q", "wado_url": "http://w"},
            {Service.ROOT: "http://q", Service.SEARCH: "http://q", Service.RETRIEVE: "http://w"},
        ),
        (
            {
                "url": "http://a",
                "qido_url": "http://q",
                "wado_url": "http://w",
                "stow_url": "http://s",
                "ups_url": "http://u",
                "wado_uri_url": "http://i",
            },
            {
                Service.ROOT: "http://a",
                Service.SEARCH: "http://q",
                Service.RETRIEVE: "http://w",
                Service.STORE: "http://s",
                Service.WORKLIST: "http://u",
                Service.WADO_URI: "http://i",
            },
        ),
    ],
)
def test_each_service_has_its_url(urls: dict[str, str], served: dict[Service, str]) -> None:
    values = nested({"upstream": urls, "cors.allow_origins": [VIEWER]})
    assert Settings(**values).service_urls() == served


@pytest.mark.parametrize(
    ("public_url", "own"),
    [
        ("https://pacs.example/dicom-web", b"https://pacs.example"),
        ("HTTPS://PACS.example:443", b"https://pacs.example"),
        ("http://pacs.example:80/", b"http://pacs.example"),
        ("http://[::1]:8080/", b"http://[::1]:8080"),
    ],
)
def test_the_own_origin_is_that_of_the_public_url(public_url: str, own: bytes) -> None:
    without = Settings(**nested(SUFFICIENT))
    assert without.cors_engine().decide(own).outcome == "refused"
    configured = Settings(**nested(SUFFICIENT | {"public_url": public_url}))
    assert configured.cors_engine().decide(own).outcome == "none"


def test_policies_by_origin_come_first_and_inherit() -> None:
    configuration = Settings(
        **nested(
            SUFFICIENT
            | {
                "cors.max_age": 60,
                "cors.per_origin": [
                    {"allow_origins": ["https://*.b.example"], "allow_credentials": True},
                    {"allow_origins": ["https://a.b.example"], "max_age": 5},
                ],
            }
        )
    )
    engine = configuration.cors_engine()
    preflights = {
        origin: dict(engine.preflight(origin, b"GET", []).headers)
        for origin in (b"https://a.b.example", VIEWER.encode())
    }
    name = b"access-control-allow-credentials"
    assert [name in headers for headers in preflights.values()] == [True, False]
    ages = [headers[b"access-control-max-age"] for headers in preflights.values()]
    assert ages == [b"60", b"60"]
    rejected = engine.preflight(b"https://a.b.example", b"PUT", [])
    assert rejected.reason == "cors.per_origin[0].allow_methods does not list PUT."


def test_settings_are_frozen() -> None:
    configuration = Settings(**nested(SUFFICIENT))
    with pytest.raises(ValidationError):
        configuration.server.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        configuration.repair_accept = False  # type: ignore[misc]


def test_python_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMWEB_PROXY_SERVER__PORT", "1")
    monkeypatch.setenv("SERVER", '{"port": 1}')
    assert Settings(**nested(SUFFICIENT)).server.port == 8080


def test_load_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in SUFFICIENT.items():
        monkeypatch.setenv(SCHEMA.settings[key].variable, as_text(value))
    assert load().upstream.url == ARCHIVE


SECRET = "hunter2"  # too long and odd to turn up by chance
KEYS = sorted(
    {part for key in SCHEMA.settings for part in key.split(".")}
    | {"<<", "x", "null", "server.port"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=20)
    | st.sampled_from([ARCHIVE, VIEWER, "*", "read-write", "basic", "bearer", "80", "/", "null"])
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=8)
    ),
    max_leaves=20,
)


def assert_sentences(problems: tuple[str, ...]) -> None:
    assert problems
    for problem in problems:
        assert problem.isprintable()
        assert SECRET not in problem


@given(document=DOCUMENTS.map(yaml.dump) | st.text() | st.binary())
def test_a_file_is_a_configuration_or_a_list_of_problems(document: str | bytes) -> None:
    with TemporaryDirectory() as directory:
        places = Places(Path(directory))
        places.file.write_bytes(document if isinstance(document, bytes) else document.encode())
        try:
            assert isinstance(places.load(), Settings)
        except ConfigurationError as error:
            assert_sentences(error.problems)


@given(
    st.dictionaries(
        st.sampled_from(sorted(setting.variable for setting in SCHEMA.settings.values()))
        | st.text(max_size=20).map("DICOMWEB_PROXY_".__add__),
        st.text(max_size=40)
        | DOCUMENTS.map(lambda value: json.dumps(value, default=str, skipkeys=True)),
    )
)
def test_an_environment_is_a_configuration_or_a_list_of_problems(environ: dict[str, str]) -> None:
    try:
        assert isinstance(load(environ={"CREDENTIALS_DIRECTORY": "/dev/null", **environ}), Settings)
    except ConfigurationError as error:
        assert_sentences(error.problems)


@given(st.dictionaries(st.sampled_from(KEYS), DOCUMENTS))
def test_python_values_are_a_configuration_or_a_list_of_problems(values: dict[str, Any]) -> None:
    try:
        assert isinstance(Settings(**values), Settings)
    except ConfigurationError as error:
        assert_sentences(error.problems)


@pytest.mark.parametrize(
    "key", ["upstream.auth.password", "upstream.auth.token", "upstream.auth.client_secret"]
)
@pytest.mark.parametrize("junk", ["", "\n", "\0", ":", " ", "@x", "ä"])
@pytest.mark.parametrize("type_", ["none", "basic", "bearer", OAUTH["type"], "digest"])
def test_no_secret_is_ever_shown(places: Places, key: str, junk: str, type_: str) -> None:
    secret = SECRET + junk
    places.write(nested(SUFFICIENT | {"upstream.auth.type": type_, "server.port": "x"}))
    places.environ[SCHEMA.settings[key].variable] = secret
    with pytest.raises(ConfigurationError) as caught:
        places.load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_loaded_secret_is_not_shown(places: Places) -> None:
    places.write(nested(SUFFICIENT | {"upstream.auth": {"type": "bearer", "token": SECRET}}))
    configuration = places.load()
    assert SECRET not in repr(configuration) + str(configuration.effective())
    token = configuration.upstream.auth.token
    assert token is not None
    assert token.get_secret_value() == SECRET


@pytest.fixture(scope="module")
def example() -> str:
    return (ROOT / "config.example.yaml").read_text(encoding="utf-8")


# Files that others can read

BEARER = SUFFICIENT | {"upstream.auth.type": "bearer", "server.allowed_hosts": ["a"]}
WITH_TOKEN = BEARER | {"upstream.auth.token": "hunter2"}
with_modes = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


def exposures(configuration: Settings) -> list[str]:
    return [warning for warning in configuration.warnings() if "chmod" in warning]


@with_modes
@pytest.mark.parametrize(
    ("mode", "readers"),
    [(0o600, None), (0o400, None), (0o622, None), (0o640, "its group"), (0o604, "all users"),
     (0o644, "its group and all users")],
)  # fmt: skip
def test_a_file_with_a_secret_that_others_can_read(
    mode: int, readers: str | None, places: Places
) -> None:
    places.write(nested(WITH_TOKEN))
    places.file.chmod(mode)
    warning = (
        f"file {places.file}: holds upstream.auth.token, and {readers} can read it; run "
        f"chmod 600 {places.file}, or move each secret into a secret file"
    )
    assert exposures(places.load()) == ([warning] if readers else [])


@with_modes
@pytest.mark.parametrize("values", [BEARER, BEARER | {"upstream.auth.token": None}])
def test_a_file_without_a_secret_may_be_read(values: dict[str, Any], places: Places) -> None:
    places.write(nested(values))
    places.file.chmod(0o644)
    (places.secrets / "upstream__auth__token").write_text("hunter2")
    assert exposures(places.load()) == []


@with_modes
def test_a_secret_that_comes_from_elsewhere_is_none_of_the_file(places: Places) -> None:
    places.write(nested(WITH_TOKEN))
    places.file.chmod(0o644)
    places.environ["DICOMWEB_PROXY_UPSTREAM__AUTH__TOKEN"] = "other"
    assert exposures(places.load()) == []


@with_modes
def test_the_command_to_close_a_file_can_be_copied(tmp_path: Path) -> None:
    folder = tmp_path / "my files"
    folder.mkdir()
    places = Places(folder)
    places.write(nested(WITH_TOKEN))
    places.file.chmod(0o644)
    (found,) = exposures(places.load())
    assert f"chmod 600 '{places.file}', or" in found
    assert "hunter2" not in found


@with_modes
def test_a_file_that_is_opened_is_warned_of_at_a_reload(
    places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    places.write(nested(WITH_TOKEN))
    places.file.chmod(0o600)
    configuration = LiveSettings(places.load(), places.load)
    places.file.chmod(0o644)
    assert configuration.reload() is not None
    assert [m for m in caplog.messages if f"chmod 600 {places.file}" in m]


def test_the_example_is_valid_and_has_every_default() -> None:
    loaded = load(
        config_file=ROOT / "config.example.yaml", environ={"CREDENTIALS_DIRECTORY": "/dev/null"}
    )
    assert loaded.warnings() == ()
    assert set(loaded.sources.values()) == {f"file {ROOT / 'config.example.yaml'}"}
    differing = {
        setting.key
        for setting in SCHEMA.settings.values()
        if value_of(loaded, setting.key) != setting.default
    }
    assert differing == {"upstream.url", "cors.allow_origins"}


def test_the_example_describes_every_key(example: str) -> None:
    described: dict[str, str] = {}
    groups: list[str] = []
    comment = ""
    for line in example.splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment = comment or text.removeprefix("# ")
            continue
        if match := re.match(r"( *)(\w+):", line):
            del groups[len(match[1]) // 2 :]
            groups.append(match[2])
            described[".".join(groups)] = comment
        comment = ""
    assert {key: described.get(key) for key in SCHEMA.settings} == {
        key: setting.description for key, setting in SCHEMA.settings.items()
    }
    assert set(described) == set(SCHEMA.settings) | set(SCHEMA.groups)


def test_the_page_of_settings_has_their_table() -> None:
    renewed = runpy.run_path(str(ROOT / "tools/config_table.py"))["renewed"]
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert renewed(page) == page, "run tools/config_table.py"
