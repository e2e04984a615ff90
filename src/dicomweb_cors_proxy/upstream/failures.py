"""Map failures of the archive to statuses, with advice for the operator."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

import httpx

from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.upstream.interface import MalformedResponse, ResolveTimedOut, Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dicomweb_cors_proxy.http.messages import Header

# Reasons why there is no complete response of the archive.
UPSTREAM_ERRORS = (
    "pool_timeout",
    "resolve_timeout",
    "connect_timeout",
    "write_timeout",
    "read_timeout",
    "tls",
    "connect",
    "descriptors",
    "protocol",
    "credentials",
    "token",
)


class UpstreamProblem(HTTPProblem):
    """A problem caused by the archive or by the network path to it.

    Attributes:
        reason: one of `UPSTREAM_ERRORS`.
    """

    def __init__(
        self, reason: str, status: int, detail: str, headers: Iterable[Header] = ()
    ) -> None:
        super().__init__(status, detail, headers)
        self.reason = reason


def upstream_problem(error: httpx.HTTPError, timeouts: Timeouts) -> UpstreamProblem:
    """Map a failure to its status and to a text that says what to do."""
    headers: list[Header] = []
    match error:
        case httpx.PoolTimeout():
            reason, status = "pool_timeout", 503
            headers.append((b"retry-after", b"1"))
            detail = (
                f"All connections to the archive stayed busy for {timeouts.pool:g} s. "
                "Try again shortly; the operator can raise upstream.max_connections."
            )
        case ResolveTimedOut():
            reason, status = "resolve_timeout", 504
            detail = (
                f"The archive's name was not resolved within {timeouts.connect:g} s "
                "(upstream.connect_timeout): the name server is slow or does not respond. Check "
                "the DNS settings of the proxy's host, or write an address in upstream.url."
            )
        case httpx.ConnectTimeout():
            reason, status = "connect_timeout", 504
            detail = (
                "The archive did not accept a connection within "
                f"{timeouts.connect:g} s (upstream.connect_timeout). Check the address in "
                "upstream.url, and that no firewall drops the packets."
            )
        case httpx.WriteTimeout():
            reason, status = "write_timeout", 504
            detail = (
                f"The archive took nothing of the upload for {timeouts.read:g} s. If it stores "
                "slowly, raise upstream.read_timeout."
            )
        case httpx.TimeoutException():
            reason, status = "read_timeout", 504
            detail = (
                f"The archive sent nothing for {timeouts.read:g} s. If it stages images "
                "from tape or slow storage, raise upstream.read_timeout."
            )
        case httpx.ConnectError() if (fault := _tls_fault(error)) is not None:
            reason, status = "tls", 502
            detail = f"TLS with the archive failed{fault}"
        case httpx.ConnectError() if any(isinstance(e, socket.gaierror) for e in _causes(error)):
            reason, status = "connect", 502
            detail = (
                "The archive's name does not resolve. Check the host in upstream.url, and that the "
                "name server of the proxy's host responds."
            )
        case httpx.ConnectError() if lacks_descriptor(error):
            reason, status = "descriptors", 503
            headers.append((b"retry-after", b"1"))
            detail = (
                "The proxy has no file descriptor left for a connection to the archive. Try again "
                "shortly; the operator can raise the limit on open files (LimitNOFILE in systemd, "
                "--ulimit nofile in a container) or lower server.max_connections."
            )
        case httpx.ConnectError():
            reason, status = "connect", 502
            detail = (
                "The archive could not be reached: nothing listens at its address, or a firewall "
                "refuses the connection. Check that it is running, and host and port in "
                "upstream.url."
            )
        case _:
            reason, status, detail = "protocol", 502, _protocol_fault(error)
    return UpstreamProblem(reason, status, detail, headers)


def _protocol_fault(error: httpx.HTTPError) -> str:
    if isinstance(error, MalformedResponse):
        return (
            f"The archive's response breaks HTTP: {error}. Browsers may accept it, but where it "
            "ends would be a guess. Correct the archive, or the proxy in front of it."
        )
    return (
        "The archive closed the connection before its response was complete, or "
        "sent something that is not HTTP. See the archive's own log; if it speaks "
        "TLS at this port, write https:// in upstream.url."
    )


_LOWER = (
    "Update TLS there. Until then, a file that OPENSSL_CONF names can allow it, with MinProtocol "
    "and the SECLEVEL of CipherString."
)
_TOO_WEAK = f": the keys or signatures there are too weak for OpenSSL. {_LOWER}"

# By OpenSSL's X509_V_ERR_…; https://docs.openssl.org/master/man1/openssl-verification-options/
_CERTIFICATE_FAULTS = {
    10: ": its certificate has expired. Renew it there.",
    **dict.fromkeys(
        (18, 19, 20, 21),
        ": its certificate is not signed by an authority that the proxy trusts. Set "
        "upstream.ca_file to the certificate of the authority that signed it, PEM.",
    ),
    **dict.fromkeys(
        (62, 64),
        ": its certificate is not for the host in upstream.url. Write a name that the certificate "
        "has.",
    ),
    **dict.fromkeys((66, 67, 68), _TOO_WEAK),
}
_OTHER_CERTIFICATE_FAULT = (
    ". For a private certificate authority set upstream.ca_file. Check that the certificate "
    "contains the host of upstream.url."
)

# By the name of OpenSSL's error, without SSL_R_.
_HANDSHAKE_FAULTS = {
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"),
        ": it speaks plain http there. Write http:// in upstream.url, or the port of its https.",
    ),
    **dict.fromkeys(
        (
            "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED",  # signatures of TLS 1.1 and earlier
            "TLSV1_ALERT_PROTOCOL_VERSION",
            "UNSUPPORTED_PROTOCOL",
            "VERSION_TOO_LOW",
            "WRONG_SSL_VERSION",
        ),
        f": the TLS version there is too old; OpenSSL's default is TLS 1.2 or later. {_LOWER}",
    ),
    **dict.fromkeys(
        (
            "NO_CIPHERS_AVAILABLE",
            "NO_SHARED_CIPHER",
            "SSLV3_ALERT_HANDSHAKE_FAILURE",
            "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        ),
        ": it shares no cipher with the proxy, or requires a client certificate "
        f"(upstream.client_cert_file). {_LOWER}",
    ),
    **dict.fromkeys(
        (
            "BAD_SIGNATURE",
            "CA_KEY_TOO_SMALL",
            "CA_MD_TOO_WEAK",
            "DH_KEY_TOO_SMALL",
            "EE_KEY_TOO_SMALL",
            "MODULUS_TOO_SMALL",
            "WRONG_SIGNATURE_TYPE",
        ),
        _TOO_WEAK,
    ),
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": (
        ": it lacks secure renegotiation (RFC 5746). Update TLS there. Until then, a file that "
        "OPENSSL_CONF names can allow it, with Options = UnsafeLegacyServerConnect."
    ),
    **dict.fromkeys(
        (
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            "TLSV1_ALERT_UNKNOWN_CA",
        ),
        ": it rejects the proxy's client certificate, or lacks one. Set upstream.client_cert_file "
        "and upstream.client_key_file to a certificate that it accepts.",
    ),
}


_OPENSSL_TEXT = re.compile(r"\[\w+\] ([\w ]+) \(_ssl\.c:")


def _tls_fault(error: httpx.HTTPError) -> str | None:
    """Describe a failed handshake and its remedy; None if the failure was another one."""
    faults = [cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)]
    if not faults:
        return None
    fault = faults[-1]
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _CERTIFICATE_FAULTS.get(fault.verify_code, _OTHER_CERTIFICATE_FAULT)
    reason = _openssl_reason(fault)
    return _HANDSHAKE_FAULTS.get(
        reason,
        f" (OpenSSL's reason is {reason or 'not known'}). Check that upstream.url names the "
        "port of its https, and see the archive's own log.",
    )


def _openssl_reason(fault: ssl.SSLError) -> str:
    """Return the name of an OpenSSL error without SSL_R_; empty if it is not known.

    Python has no names for reasons of an OpenSSL that is newer than itself, but quotes their text.
    """
    if fault.reason:
        return fault.reason
    text = _OPENSSL_TEXT.search(str(fault))
    return "" if text is None else text[1].upper().replace(" ", "_")


def lacks_descriptor(error: BaseException) -> bool:
    """Return whether the limit on open files, of the process or the system, is the cause."""
    return any(
        isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)
        for cause in _causes(error)
    )


def log_reason(error: httpx.HTTPError) -> str:
    """Return the text of a failure for the log.

    The message of a library may quote a response that has begun. A message about connecting
    cannot.
    """
    if isinstance(error, MalformedResponse):
        return type(error).__name__
    if isinstance(error, httpx.ConnectError) or error.__cause__ is None:
        return str(error)
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and its causes, although httpcore's pool raises it again `from None`."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        if isinstance(cause, BaseExceptionGroup):  # by anyio, for a name with several addresses
            yield from cause.exceptions
        cause = cause.__cause__ or cause.__context__
