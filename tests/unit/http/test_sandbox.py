from __future__ import annotations

import time

import pytest

from dicomweb_cors_proxy.http.sandbox import sandboxed

NO_SNIFFING = (b"x-content-type-options", b"nosniff")
SANDBOX = (b"content-security-policy", b"sandbox")

PASSIVE = (
    b"",
    b"application/dicom",
    b"application/dicom+json",
    b'multipart/related; type="application/dicom+xml"; boundary=a',
    b"application/json; charset=utf-8",
    b"application/octet-stream",
    b"application/pdf",
    b"image/jpeg",
    b"image/svg",
    b"text/plain; charset=text/html",
    b"text/htmlx",
    b"x-text/html",
    b"video/mp4",
    b"unknown",
    b"text/plain, text/csv",
)
ACTIVE = (
    b"text/html",
    b"TEXT/HTML; charset=utf-8",
    b" text/html\t;",
    b"application/xhtml+xml",
    b"image/svg+xml",
    b"application/dicom+xml",
    b"text/xml",
    b"application/xml",
    b"text/xsl",
    b"text/javascript",
    b"text/javascript1.5",
    b"application/x-ecmascript",
    b"text/jscript",
    b"multipart/x-mixed-replace; boundary=a",
    b"text/plain, text/html",
    b"text/html, text/plain",
    b'application/json;a="b,c", image/svg+xml ;d',
)
TYPES = [(each, False) for each in PASSIVE] + [(each, True) for each in ACTIVE]


@pytest.mark.parametrize(("content_type", "is_active"), TYPES)
def test_an_active_type_gets_a_sandbox(content_type: bytes, *, is_active: bool) -> None:
    headers = [(b"content-type", content_type)]
    expected = [*headers, NO_SNIFFING, *([SANDBOX] if is_active else [])]
    assert sandboxed(headers, dict(headers)) == expected


def test_a_response_without_a_type_may_not_be_guessed() -> None:
    assert sandboxed([], {}) == [NO_SNIFFING]


def test_the_archives_own_policy_stays() -> None:
    headers = [(b"content-type", b"text/html"), (b"content-security-policy", b"default-src 'self'")]
    assert sandboxed(headers, dict(headers)) == [*headers, NO_SNIFFING]


def test_a_policy_that_only_reports_is_none() -> None:
    headers = [(b"content-type", b"text/html"), (b"content-security-policy-report-only", b"x")]
    assert sandboxed(headers, dict(headers)) == [*headers, NO_SNIFFING, SANDBOX]


@pytest.mark.parametrize("own", [b"nosniff", b"", b"none"])
def test_the_archives_word_on_sniffing_is_replaced(own: bytes) -> None:
    headers = [(b"x-content-type-options", own), (b"x-content-type-options", own)]
    assert sandboxed(headers, dict(headers)) == [NO_SNIFFING]


@pytest.mark.parametrize("unit", [b"+xml", b",+xml", b" ", b", ", b"text/javascript1"])
def test_a_long_type_takes_linear_time(unit: bytes) -> None:
    def seconds(times: int) -> float:
        begun = time.process_time()
        sandboxed([], {b"content-type": unit * times + b"!"})
        return time.process_time() - begun

    few = min(seconds(20_000) for _ in range(3))
    assert min(seconds(160_000) for _ in range(3)) < 24 * few
