"""Interpret the header lines of an HTTP/2 request (RFC 9113 §8.2 and §8.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from dicomweb_cors_proxy.http.limits import (
    MAX_CACHED_HEAD_BYTES,
    MAX_CACHED_HEADS,
    head_too_large,
    target_too_long,
    too_many_headers,
)
from dicomweb_cors_proxy.http.messages import TCHAR
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.http.targets import unreadable_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.limits import ServerLimits

# RFC 9218 §4.1: from 0, the most urgent, to 7.
DEFAULT_URGENCY: Final = 3

_METHOD: Final = re.compile(rf"{TCHAR}{{1,64}}".encode("ascii"))
# In lower case (RFC 9113 §8.2.1).
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_TARGET: Final = re.compile(rb"[!-~]+")
# RFC 9110 §5.5 forbids all control characters except the tab; HTTP/1.1 rejects them too.
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_URGENCY: Final = re.compile(rb"(?:\A|,)[ \t]*u=([0-7])[ \t]*(?=[,;]|\Z)")

# RFC 9113 §8.2.2.
_CONNECTION_HEADERS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
# `:path` is read apart, so another one is a second.
_PSEUDO_HEADERS: Final = frozenset({b":authority", b":method", b":scheme"})


class MalformedHead(Exception):  # noqa: N818
    """A head that RFC 9113 §8.1.1 calls malformed. Its stream must end with PROTOCOL_ERROR."""


class HTTP2Head(NamedTuple):
    """A request's head.

    Attributes:
        target: path and query.
        headers: the lines, with Host first.
        length: the Content-Length in bytes, if there is one.
        urgency: the request's place among others (RFC 9218 §4.1).
        problem: the reply, if the request is to be rejected.
    """

    method: str
    target: bytes
    headers: tuple[Header, ...]
    length: int | None
    expects_continue: bool
    urgency: int
    problem: HTTPProblem | None


class HTTP2Heads:
    """The heads of requests, each interpreted once and cached by its lines except `:path`."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._max_target_bytes = limits.max_target_bytes
        self._known: dict[tuple[Header, ...], HTTP2Head] = {}

    def read(self, lines: list[Header]) -> HTTP2Head:
        """Return the head that these lines are.

        Raises:
            MalformedHead: The stream must be reset.
        """
        target = None
        rest = lines
        for at, (name, value) in enumerate(lines):
            if name == b":path":
                target = value
                rest = lines[:at] + lines[at + 1 :]
                break
            if name[:1] != b":":
                break
        key = tuple(rest)
        head = self._known.get(key)
        if head is None:
            head = _interpret(key, self._limits)
            size = sum(len(name) + len(value) for name, value in key)
            if size <= MAX_CACHED_HEAD_BYTES:
                if len(self._known) >= MAX_CACHED_HEADS:
                    del self._known[next(iter(self._known))]
                self._known[key] = head
        return self._with_target(head, target)

    def read_oversized(self, lines: list[Header]) -> HTTP2Head:
        """Return the head of a request whose lines were too large to be decoded whole."""
        values = dict(lines)
        method = str(values.get(b":method", b"GET"), "ascii", "replace")
        host = values.get(b":authority", values.get(b"host", b""))
        headers = [(b"host", host)]
        if (origin := values.get(b"origin")) is not None:
            headers.append((b"origin", origin))
        limits = self._limits
        problem = head_too_large(limits.max_header_bytes)
        if len(values.get(b":path", b"")) > limits.max_target_bytes:
            problem = target_too_long(limits.max_target_bytes)
        return HTTP2Head(
            method,
            b"/",
            tuple(headers),
            length=None,
            expects_continue=False,
            urgency=DEFAULT_URGENCY,
            problem=problem,
        )

    def _with_target(self, head: HTTP2Head, target: bytes | None) -> HTTP2Head:
        method, _, headers, length, expects_continue, urgency, problem = head
        if method == "CONNECT":
            if target is not None:
                raise MalformedHead  # RFC 9113 §8.5
            return head
        if not target or not (target[:1] == b"/" or target == b"*"):
            raise MalformedHead
        if problem is None:
            if len(target) > self._max_target_bytes:
                problem = target_too_long(self._max_target_bytes)
            elif not _TARGET.fullmatch(target):
                fault = unreadable_target(b"GET %b HTTP/2" % target)
                problem = HTTPProblem(400, fault or "The request target is malformed.")
        return HTTP2Head(method, target, headers, length, expects_continue, urgency, problem)


def urgency_of(value: bytes) -> int:
    """Return the urgency that a value of Priority asks for (RFC 9218 §4.1)."""
    found = _URGENCY.search(value)
    return DEFAULT_URGENCY if found is None else int(found[1])


def are_trailers(lines: Iterable[Header]) -> bool:
    """Return whether lines may stand behind a body (RFC 9113 §8.1)."""
    return all(_NAME.fullmatch(name) and not _BAD_VALUE.search(value) for name, value in lines)


def _interpret(lines: tuple[Header, ...], limits: ServerLimits) -> HTTP2Head:
    pseudo: dict[bytes, bytes] = {}
    regular: list[Header] = []
    for name, value in lines:
        if _BAD_VALUE.search(value):
            raise MalformedHead
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO_HEADERS:
                raise MalformedHead
            pseudo[name] = value
        else:
            _check_header(name, value)
            regular.append((name, value))
    method = pseudo.get(b":method", b"")
    is_connect = method == b"CONNECT"
    if not _METHOD.fullmatch(method) or (b":scheme" in pseudo) is is_connect:
        raise MalformedHead
    headers, problem = _with_host(regular, pseudo.get(b":authority"))
    headers = _with_one_cookie(headers)
    problem = problem or _size_problem(headers, limits)
    if is_connect:
        problem = HTTPProblem(405, "CONNECT is not supported.", [(b"allow", b"GET, HEAD, OPTIONS")])
    values = dict(headers)
    return HTTP2Head(
        method.decode("ascii"),
        b"/",
        tuple(headers),
        length=_length(headers),
        expects_continue=values.get(b"expect", b"").lower() == b"100-continue",
        urgency=urgency_of(values.get(b"priority", b"")),
        problem=problem,
    )


def _check_header(name: bytes, value: bytes) -> None:
    if (
        not _NAME.fullmatch(name)
        or name in _CONNECTION_HEADERS
        or (name == b"te" and value.lower() != b"trailers")
    ):
        raise MalformedHead


def _with_host(
    headers: list[Header], authority: bytes | None
) -> tuple[list[Header], HTTPProblem | None]:
    """Return the lines with `:authority` as Host (RFC 9113 §8.3.1)."""
    if not authority:
        return headers, None
    problem = None
    if any(value.lower() != authority.lower() for name, value in headers if name == b"host"):
        problem = HTTPProblem(400, "The request has two hosts: Host and :authority differ.")
    others = [header for header in headers if header[0] != b"host"]
    return [(b"host", authority), *others], problem


def _with_one_cookie(headers: list[Header]) -> list[Header]:
    """Join the lines of Cookie, as HTTP/1.1 needs it (RFC 9113 §8.2.3)."""
    crumbs = [value for name, value in headers if name == b"cookie"]
    if len(crumbs) < 2:
        return headers
    others = [header for header in headers if header[0] != b"cookie"]
    return [*others, (b"cookie", b"; ".join(crumbs))]


def _length(headers: Iterable[Header]) -> int | None:
    """Return the Content-Length. Raise `MalformedHead` for one that is no number, and for two."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
        raise MalformedHead
    return int(lengths[0])


def _size_problem(headers: list[Header], limits: ServerLimits) -> HTTPProblem | None:
    if sum(len(name) + len(value) + 4 for name, value in headers) > limits.max_header_bytes:
        return head_too_large(limits.max_header_bytes)
    if len(headers) > limits.max_headers:
        return too_many_headers(limits.max_headers)
    return None
