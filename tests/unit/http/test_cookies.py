"""Cookies that a browser does or does not return."""

from __future__ import annotations

import pytest

from dicomweb_cors_proxy.http.cookies import unreturnable


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", None),
        ("; HttpOnly; Secure", None),
        ("; Path=/", None),
        ("; Path=/dicom-web", None),
        ("; path=/dicom-web/", None),
        ("; Path=/dicom-web/studies", None),
        ("; Path=/dicom", "Path"),
        ("; Path=/dicom-webs", "Path"),
        ("; Path=/dcm4chee-arc; HttpOnly", "Path"),
        (";PATH = /dcm4chee-arc", "Path"),
        ("; Path=relative", None),  # browsers use the default
        ("; Path=/pacs; Path=/", None),  # the last one is used
        ("; Path=", None),
        ("; Domain=pacs.example", None),
        ("; Domain=.PACS.example", None),
        ("; Domain=example", None),
        ("; Domain=internal", "Domain"),
        ("; Domain=archive.pacs.example", "Domain"),
        ("; Domain=acs.example", "Domain"),
        ("; Domain=", None),
        ("; Domain=internal; Path=/pacs", "Domain"),
    ],
)
def test_whether_a_cookie_comes_back(attributes: str, expected: str | None) -> None:
    cookie = f"JSESSIONID=a=b{attributes}".encode()
    for host in (b"pacs.example", b"PACS.example:8443"):
        assert unreturnable(cookie, host=host, path=b"/dicom-web") == expected


@pytest.mark.parametrize(
    ("host", "domain", "expected"),
    [
        (b"10.0.0.1:8080", b"10.0.0.1", None),
        (b"10.0.0.1", b"0.0.1", "Domain"),
        (b"[::1]:8080", b"[::1]", None),
        (b"[::1]", b"1", "Domain"),
        (b"localhost:80", b"localhost", None),
    ],
)
def test_an_address_is_no_subdomain(host: bytes, domain: bytes, expected: str | None) -> None:
    assert unreturnable(b"a=b; Domain=" + domain, host=host, path=b"/") == expected


@pytest.mark.parametrize("path", [b"", b"/"])
def test_a_proxy_at_the_root_gets_every_path_back(path: bytes) -> None:
    assert unreturnable(b"a=b; Path=/dcm4chee-arc", host=b"a", path=path) is None
