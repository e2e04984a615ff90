"""Requests to endpoints of an identity provider that respond with a JSON object."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import httpx

from dicomweb_cors_proxy.upstream.failures import lacks_descriptor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicomweb_cors_proxy.upstream.native import NativeTransport

__all__ = ["JSONResponse", "failure_reason", "request_json"]

MAX_RESPONSE_BYTES: Final = 1_000_000


class JSONResponse(NamedTuple):
    """A status, and the members of the JSON object in the body; none if it is not an object."""

    status: int
    members: Mapping[str, object]


async def request_json(transport: NativeTransport, request: httpx.Request) -> JSONResponse:
    """Send a request, close the connection, and return the response. Raise httpx.HTTPError."""
    try:
        response = await transport.handle_async_request(request)
        body = b""
        try:
            async for chunk in cast("httpx.AsyncByteStream", response.stream):
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    raise httpx.RemoteProtocolError("the response is too long")
        finally:
            await response.aclose()
    finally:
        await transport.aclose()
    return JSONResponse(response.status_code, _members(body))


def _members(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def failure_reason(error: httpx.HTTPError, *, endpoint: str, setting: str) -> str:
    """Describe why an endpoint sent no response; `setting` is the key that has its URL."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return (
            f"TLS with the {endpoint} failed. For a private certificate authority set "
            "upstream.ca_file. Check that the certificate contains the host of "
            f"{setting}. (upstream.verify_tls applies only to the archive.)"
        )
    if isinstance(cause, socket.gaierror):
        return f"the {endpoint}'s name does not resolve. Check the host in {setting}."
    if lacks_descriptor(error):
        return (
            f"the proxy has no file descriptor left for a connection to the {endpoint}. Raise "
            "the limit on open files, or lower server.max_connections."
        )
    if isinstance(error, httpx.ConnectError):
        return (
            f"the {endpoint} could not be reached. Check that it is running, and host and port "
            f"in {setting}."
        )
    return (
        f"the {endpoint} closed the connection before its response was complete, or sent "
        f"something that is not HTTP. Check {setting}."
    )
