"""Check at the archive what a viewer needs: the path, the login, and the names in its responses.

Readiness only checks that something responds. This check reads the response to a search, so a wrong
path does not pass.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from dicomweb_cors_proxy.http.content import parse_media_type
from dicomweb_cors_proxy.http.hosts import is_loopback
from dicomweb_cors_proxy.proxy.readiness import LOOP, archive_failure
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem, upstream_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.proxy.outgoing import OutgoingRequests
    from dicomweb_cors_proxy.proxy.readiness import ReadinessCheck, ServiceStatus
    from dicomweb_cors_proxy.proxy.responses import ResponseAdapter
    from dicomweb_cors_proxy.upstream.interface import Request, Timeouts, Upstream, UpstreamResponse

# Bytes of a response to read. One study of DICOM JSON is much shorter.
_READ_BYTES_MAX: Final = 2**20

# The usual DICOMweb roots of archives.
_USUAL_ROOTS: Final = (
    "Orthanc has it at /dicom-web, dcm4chee at /dcm4chee-arc/aets/{AET}/rs (with its AE title)"
)

_GZIP_WINDOW: Final = 31  # 15 bits, and 16 for the gzip wrapper (RFC 1952)

_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_RETRIEVE_URL: Final = "00081190"
_BASE_OF_URL: Final = re.compile(r"(https?://[^/?#\s]+(?:/[^?#\s]*)?)/studies/[0-9.]+(?:[/?#]|\Z)")


class Verdict(NamedTuple):
    """The result of the check of one service.

    Attributes:
        lines: sentences for the operator; the first is about the path and the login.
        is_good: whether viewers can use the service.
    """

    lines: tuple[str, ...]
    is_good: bool


@dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """The check of one configuration.

    Attributes:
        url_key: the setting with the root for searches.
        aliases: the names of the archive that are configured.
        host: by which browsers reach the proxy, for X-Forwarded-Host.
        scheme: likewise, for X-Forwarded-Proto.
        logs_in: whether the proxy sends credentials of its own.
        is_in_container: whether the proxy runs in a container.
    """

    readiness: ReadinessCheck
    url_key: str
    aliases: Sequence[str]
    host: bytes
    scheme: str
    logs_in: bool
    is_in_container: bool = False

    @property
    def timeouts(self) -> Timeouts:
        """Return the timeouts of the search, which are those of viewers."""
        return self.readiness.limits.upstream_timeouts

    async def check_all(self) -> list[Verdict]:
        """Search in one service, and send OPTIONS to the roots of the others, at the same time."""
        requests: OutgoingRequests = self.readiness.requests
        root, search = requests.search_request(self.host, self.scheme)
        searched, others = await asyncio.gather(
            self._search(root, search), self.readiness.check_all(except_for=root)
        )
        return [searched, *map(self._judge_options, others)]

    def _judge_options(self, service: ServiceStatus) -> Verdict:
        """Judge the response to OPTIONS, which shows neither a right nor a wrong path."""
        url, status = service.url, service.status
        if status in (401, 403):
            return Verdict((f"{url}: {self._login(status, [])}",), is_good=False)
        if service.problem:
            return Verdict((f"{url}: {service.problem}",), is_good=False)
        return Verdict((f"{url}: reached ({status} to OPTIONS)",), is_good=True)

    async def _search(self, root: str, request: Request) -> Verdict:
        timeouts = self.timeouts
        upstream: Upstream = self.readiness.upstream
        try:
            async with asyncio.timeout((timeouts.connect or 0) + 2 * (timeouts.read or 0)):
                response = await upstream.send(request, None, timeouts)
                try:
                    body = await _read(response)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, UpstreamProblem) as error:
            detail = archive_failure(error, timeouts)
            if self.is_in_container and _is_refused(error, timeouts):
                detail += _container_hint(root)
            return Verdict((f"{root}: {detail}",), is_good=False)
        except TimeoutError:
            detail = archive_failure(httpx.ReadTimeout(""), timeouts)
            return Verdict((f"{root}: {detail}",), is_good=False)
        if fault := self._fault(root, response.status, response.headers, body):
            return Verdict((f"{root}: {fault}",), is_good=False)
        return Verdict((*self._describe(root, response.status, body),), is_good=True)

    def _fault(self, root: str, status: int, headers: list[Header], body: bytes) -> str:
        """Say why a response is not one to a search, and what to do; "" if it is one."""
        if status in (401, 403):
            return self._login(status, headers)
        if status not in (200, 204, 206):
            return self._status_fault(root, status, headers)
        if status == 204 or _is_dicom_json(body):
            return ""
        media_type = parse_media_type(_field(headers, b"content-type").encode("latin-1"))[0]
        kind = media_type.decode("latin-1") or "without Content-Type"
        return (
            f"wrong path: the response to a search is {kind}, not DICOM JSON. {self._path_remedy()}"
        )

    def _path_remedy(self) -> str:
        return f"Set {self.url_key} to the DICOMweb root: {_USUAL_ROOTS}."

    def _status_fault(self, root: str, status: int, headers: list[Header]) -> str:
        fault = f"the archive rejects a search ({status}). See its log."
        if status in (404, 405, 410, 501):
            fault = f"wrong path ({status} to a search). {self._path_remedy()}"
        elif status == 400:
            fault = f"wrong path, or the archive rejects searches ({status}). {self._path_remedy()}"
            if root.startswith("http:"):
                fault += " If it speaks TLS at this port, write https:// there."
        elif status == LOOP:
            fault = f"the proxy is asked to ask itself ({status}). Correct {self.url_key}."
        elif 300 <= status < 400:
            location = re.split("[?#]", _field(headers, b"location"))[0]
            where = f" to {location}" if location else ""
            fault = (
                f"wrong path ({status}, a redirect{where}), which viewers could not follow. Set "
                f"{self.url_key} to the root itself, with https:// if the redirect leads there."
            )
        return fault

    def _login(self, status: int, headers: list[Header]) -> str:
        if self.logs_in:
            return (
                f"login refused ({status}): the archive rejects the credentials in upstream.auth, "
                "or they do not cover this service. Correct them."
            )
        scheme = _field(headers, b"www-authenticate").partition(" ")[0]
        kind = f", the archive asks for {scheme}" if scheme.isalnum() else ""
        return (
            f"login missing ({status}{kind}). Set upstream.auth, so that the proxy logs in; or let "
            "users log in in the viewer, whose Authorization the proxy forwards."
        )

    def _describe(self, root: str, status: int, body: bytes) -> Iterator[str]:
        names = sorted(_own_names(body, self.readiness.adapter, self.host))
        if status == 204 or body.split() in ([b"[]"], [b"[", b"]"]):
            yield (
                f"{root}: right path. It holds no study that the search shows, so the name by "
                "which the archive calls itself is not known yet."
            )
        else:
            yield f"{root}: right path, searches return DICOM JSON"
        if names and self.readiness.adapter.rewrites_urls:
            line = ", ".join(dict.fromkeys([*self.aliases, *names]))
            yield (
                f"upstream.aliases: the archive calls itself {' and '.join(names)} in its "
                f"responses, and viewers would follow that name. Add below upstream:\n"
                f"  aliases: [{line}]"
            )


def _is_refused(error: httpx.HTTPError | UpstreamProblem, timeouts: Timeouts) -> bool:
    """Return whether nothing could be connected to; a failed TLS handshake is another failure."""
    return (
        isinstance(error, httpx.HTTPError) and upstream_problem(error, timeouts).reason == "connect"
    )


def _container_hint(root: str) -> str:
    """Say what a loopback address means in a container; "" for other addresses."""
    if not is_loopback(urlsplit(root).hostname or ""):
        return ""
    return (
        " In a container, this address is the container itself. Write the name of the archive's "
        "service or host. For an archive on the container's host, write host.docker.internal "
        "(docker run --add-host host.docker.internal:host-gateway) or, with podman, "
        "host.containers.internal."
    )


async def _read(response: UpstreamResponse) -> bytes:
    """Return the body, or as much of it as one study needs."""
    body = bytearray()
    while len(body) < _READ_BYTES_MAX and (chunk := await response.read()):
        body += chunk
    if _field(response.headers, b"content-encoding").strip().lower() == "gzip":
        try:
            return zlib.decompressobj(_GZIP_WINDOW).decompress(body, _READ_BYTES_MAX)
        except zlib.error:
            return b""
    return bytes(body)


def _is_dicom_json(body: bytes) -> bool:
    """Return whether a body is a list of datasets; one that was cut only has to begin like it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        start = body[:64].translate(None, b" \t\r\n")
        return len(body) >= _READ_BYTES_MAX and start.startswith(b'[{"') and start[3:11].isalnum()
    return isinstance(document, list) and all(
        isinstance(dataset, dict) and all(map(_TAG.fullmatch, dataset)) for dataset in document
    )


def _own_names(body: bytes, adapter: ResponseAdapter, host: bytes) -> set[str]:
    """Return the base URLs in a body by which the archive calls itself, unless we know them."""
    try:
        urls = {url for url in _urls(json.loads(body)) if url.isascii()}
    except (ValueError, RecursionError):
        return set()
    foreign = [url for url in urls if not adapter.knows_url(url.encode("ascii"), host)]
    return {match[1] for url in foreign if (match := _BASE_OF_URL.match(url))}


def _urls(node: Any) -> Iterator[str]:  # noqa: ANN401 (JSON)
    """Yield the values of Retrieve URL, and bulk data's, in DICOM JSON."""
    if isinstance(node, list):
        for item in node:
            yield from _urls(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == _RETRIEVE_URL and isinstance(value, dict):
                values = value.get("Value")
                yield from (v for v in values or () if isinstance(v, str))
            elif key == "BulkDataURI" and isinstance(value, str):
                yield value
            else:
                yield from _urls(value)


def _field(headers: list[Header], name: bytes) -> str:
    values = [value for field, value in headers if field.lower() == name]
    return values[0].decode("latin-1") if values else ""
