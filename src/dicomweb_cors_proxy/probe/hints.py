"""Statuses that a page can read but that need a remedy, and servers that do not respond."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from dicomweb_cors_proxy.probe.advice import NOTHING, Advice
from dicomweb_cors_proxy.probe.client import NoResponseError, Reason
from dicomweb_cors_proxy.probe.findings import Finding, Verdict

__all__ = [
    "HINTS",
    "MADE_UP",
    "NO_HINT",
    "NO_ROOT",
    "OUT_OF_REACH",
    "REJECTED_LOGIN",
    "Hint",
    "first",
    "out_of_reach",
]

# The server was not reached at all, so no other request is worth sending.
OUT_OF_REACH: Final = frozenset(Reason) - {Reason.CLOSED, Reason.PRIVATE}


@dataclass(frozen=True, slots=True)
class Hint:
    """A sentence for the report about a status, and the remedy."""

    text: str
    advice: Advice = NOTHING


def first(text: str) -> Advice:
    """Return advice that is one thing to do, with no setting to change."""
    return Advice({}, (), text)


NO_HINT: Final = Hint("")
_LOGIN: Final = "get a login for --header 'Authorization: …'"
NO_ROOT: Final = Hint(
    " The URL may not be that of the DICOMweb root.",
    first(
        "see whether the URL, or upstream.url of the dicomweb-cors-proxy there, is that of the "
        "DICOMweb root"
    ),
)
HINTS: Final = {
    ("", 401): Hint(" With a login it tells more (--header).", first(_LOGIN)),
    ("search", 400): NO_ROOT,
    ("search", 404): NO_ROOT,
    ("frames", 406): Hint(" It has no frames of the media type asked for."),
    ("store", 405): Hint(
        " dicomweb-cors-proxy takes stores only where that is set.",
        Advice({"access.mode": "read-write"}, (), "have the server accept stores"),
    ),
}
MADE_UP: Final = Hint(" The search showed no instance, so a made-up one was asked for.")
REJECTED_LOGIN: Final = Hint(
    " It does not take the login.", first("get a login that the server takes")
)
_FIRST_ON: Final = {
    Reason.NAME: "check the host name in the URL",
    Reason.REFUSED: "start the server, or correct the port in the URL",
    Reason.CERTIFICATE: "give the server a certificate that browsers trust",
    Reason.TLS: "check the URL's scheme and port, and the server's TLS",
    Reason.HANGS: (
        "see whether the server responds at all, or waits for an archive behind it "
        "(dicomweb-cors-proxy's command check asks that archive)"
    ),
}
_TLS: Final = Advice(
    {"server.tls_cert_file": "FILE", "server.tls_key_file": "FILE"},
    ("ssl_certificate FILE;", "ssl_certificate_key FILE;"),
)


def out_of_reach(error: NoResponseError) -> Finding:
    """Return the finding for a server that a page cannot reach."""
    advice = _TLS if error.reason is Reason.CERTIFICATE else NOTHING
    first = _FIRST_ON.get(error.reason, "see that the server runs and that the URL is right")
    return Finding(
        "reach",
        Verdict.FAIL,
        f"A page can't ask at all. {error}",
        rule=error.reason,
        advice=replace(advice, first=first),
    )
