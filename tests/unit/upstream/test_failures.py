"""Failures of the archive: the status, and the text that says what to do."""

from __future__ import annotations

import ssl

import httpx
import pytest

from dicomweb_cors_proxy.upstream.failures import log_reason, upstream_problem
from dicomweb_cors_proxy.upstream.interface import MalformedResponse, Timeouts

TIMEOUTS = Timeouts(1, 2, 3)


def detail(fault: ssl.SSLError) -> str:
    """Return the detail for a handshake that failed so."""
    error = httpx.ConnectError("failed")
    error.__cause__ = fault
    problem = upstream_problem(error, TIMEOUTS)
    assert (problem.status, problem.reason) == (502, "tls")
    return problem.detail


def handshake(reason: str | None, text: str = "failed") -> ssl.SSLError:
    fault = ssl.SSLError(1, text)
    fault.reason = reason  # type: ignore[assignment]
    return fault


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "it speaks plain http there"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "the TLS version there is too old"),
        ("UNSUPPORTED_PROTOCOL", "the TLS version there is too old"),
        (
            "SSLV3_ALERT_HANDSHAKE_FAILURE",
            "it shares no cipher with the proxy, or requires a client",
        ),
        ("NO_SHARED_CIPHER", "MinProtocol and the SECLEVEL of CipherString"),
        ("DH_KEY_TOO_SMALL", "keys or signatures there are too weak"),
        ("WRONG_SIGNATURE_TYPE", "keys or signatures there are too weak"),
        ("UNSAFE_LEGACY_RENEGOTIATION_DISABLED", "Options = UnsafeLegacyServerConnect"),
        ("TLSV1_ALERT_UNKNOWN_CA", "Set upstream.client_cert_file"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "Set upstream.client_cert_file"),
        ("UNEXPECTED_MESSAGE", "(OpenSSL's reason is UNEXPECTED_MESSAGE)"),
        (None, "(OpenSSL's reason is not known)"),
    ],
)
def test_a_failed_handshake_is_named_by_its_reason(reason: str | None, words: str) -> None:
    assert words in detail(handshake(reason))
    assert "ca_file" not in detail(handshake(reason))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[SSL] legacy sigalg disallowed or unsupported (_ssl.c:992)",
            "the TLS version there is too old",
        ),
        ("[SSL] no renegotiation (_ssl.c:992)", "(OpenSSL's reason is NO_RENEGOTIATION)"),
        ("A failure occurred", "(OpenSSL's reason is not known)"),
    ],
)
def test_a_reason_without_a_name_in_python_is_read_from_its_text(text: str, words: str) -> None:
    assert words in detail(handshake(None, text))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (10, "has expired"),
        (18, "Set upstream.ca_file"),
        (62, "is not for the host"),
        (66, "too weak"),
        (68, "too weak"),
        (1, "contains the host of upstream.url"),
    ],
)
def test_a_rejected_certificate_is_named_by_its_fault(code: int, words: str) -> None:
    fault = ssl.SSLCertVerificationError(1, "failed")
    fault.verify_code = code
    assert words in detail(fault)


def test_a_malformed_response_is_named_once() -> None:
    error = MalformedResponse("it has Content-Length twice")
    problem = upstream_problem(error, TIMEOUTS)
    assert (problem.status, problem.reason) == (502, "protocol")
    assert "breaks HTTP: it has Content-Length twice." in problem.detail
    assert log_reason(error) == "MalformedResponse"
