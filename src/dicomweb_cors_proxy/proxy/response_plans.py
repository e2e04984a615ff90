"""Work out once what happens to the head and body of responses of one shape."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dicomweb_cors_proxy.dicomweb.rewriter import URL_HEADERS
from dicomweb_cors_proxy.http.content import weakened_etag
from dicomweb_cors_proxy.http.headers import end_to_end_response
from dicomweb_cors_proxy.http.messages import TCHAR
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from starlette.types import Scope

    from dicomweb_cors_proxy.dicomweb.routes import Route
    from dicomweb_cors_proxy.http.messages import BodyFilter, Header
    from dicomweb_cors_proxy.proxy.responses import ResponseFacts

# The fields whose values decide on what happens to a response. The values of all others are passed
# on or dropped, whatever they are. Of Content-Length only whether it is 0 decides; the ETag is
# passed on as it is, or as a weak one.
DECIDING_FIELDS = URL_HEADERS | {
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-type",
    b"vary",
}

# Each response has its own value of these, and the adapter reads it.
_UNPLANNED = URL_HEADERS | {b"set-cookie"}

MAX_PLANS = 512
MAX_SHAPE_BYTES = 4096

_FIELD_NAMES = re.compile(rf"(?:{TCHAR}+(?:\n{TCHAR}+)*)?".encode("ascii"))  # one a line
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Adapter(Protocol):
    """The part of `ResponseAdapter` that plans are made with."""

    @property
    def facts(self) -> Callable[[Scope, Route, int], ResponseFacts]: ...

    def modify(
        self, facts: ResponseFacts, headers: list[Header]
    ) -> tuple[list[Header], Callable[[], BodyFilter] | None]: ...


class Moved(NamedTuple):
    """A line of the archive's whose value is passed on.

    Attributes:
        name: in lower case.
        to: its position among the lines for the client.
        at: its position among the archive's.
        is_weakened: whether it is an ETag of a body that changes.
    """

    name: bytes
    to: int
    at: int
    is_weakened: bool


class Plan(NamedTuple):
    """The changes to all responses of one shape.

    Attributes:
        headers: the lines for the client, with other values where `moved` says so.
        moved: the lines of which each response has its own value.
        body_filter: makes the filter of a body; None to leave bodies as they are.
    """

    headers: list[Header]
    moved: list[Moved]
    body_filter: Callable[[], BodyFilter] | None


class ResponsePlans:
    """The changes that an adapter makes to the archive's responses, cached by their shape.

    The shape of a response is all that decides on them: the facts about the request, the status,
    the names of the header lines in their order, and the values of `DECIDING_FIELDS`. A plan for
    it is made by the adapter itself, from a response with marks in the place of all other values.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._facts = adapter.facts
        self._modify = adapter.modify
        self._plans: dict[Hashable, Plan] = {}

    def adapt(
        self, scope: Scope, route: Route, status: int, received: list[Header]
    ) -> tuple[list[Header], BodyFilter | None]:
        """Return the headers of a response for the client, and the filter of its body.

        Lines of the connection are dropped. Without a filter, the body is left as it is.

        Raises:
            UpstreamProblem: the adapter rejects the response, or its head cannot be sent.
        """
        facts = self._facts(scope, route, status)
        shape: list[Hashable] = [facts]
        values: list[bytes] = []
        for name, value in received:
            lowered = name.lower()
            values.append(value)
            if lowered in DECIDING_FIELDS:
                shape.append((lowered, value))
            elif lowered == b"content-length":
                shape.append((lowered, value == b"0"))
            else:
                shape.append(lowered)
        key = tuple(shape)
        plan = self._plans.get(key)
        if plan is None:
            if not is_plannable(received):
                return self.adapt_unplanned(facts, received)
            plan = self._plan(facts, received)
            self._cache(key, plan)
        headers = plan.headers.copy()
        passed: list[bytes] = []
        for name, to, at, is_weakened in plan.moved:
            value = values[at]
            passed.append(value)
            headers[to] = name, weakened_etag(value) if is_weakened else value
        _reject_controls(passed)
        body_filter = plan.body_filter
        return headers, None if body_filter is None else body_filter()

    def adapt_unplanned(
        self, facts: ResponseFacts, received: list[Header]
    ) -> tuple[list[Header], BodyFilter | None]:
        """Do what `adapt` does, without a plan."""
        headers, body_filter = self._change(facts, received)
        return headers, None if body_filter is None else body_filter()

    def _change(
        self, facts: ResponseFacts, received: list[Header]
    ) -> tuple[list[Header], Callable[[], BodyFilter] | None]:
        lines = [(name.lower(), value) for name, value in end_to_end_response(received)]
        headers, body_filter = self._modify(facts, lines)
        _reject_unsendable(facts.status, headers)
        return headers, body_filter

    def _plan(self, facts: ResponseFacts, received: list[Header]) -> Plan:
        """Find out what becomes of each line, by changing a response with marks for values."""
        marks: dict[bytes, tuple[int, bool]] = {}
        marked: list[Header] = []
        for at, (name, value) in enumerate(received):
            lowered = name.lower()
            if lowered in DECIDING_FIELDS or (lowered == b"content-length" and value == b"0"):
                mark = value
            else:
                mark = b'"%d"' % at
                marks[mark] = at, False
                if lowered == b"etag":
                    marks[weakened_etag(mark)] = at, True
            marked.append((name, mark))
        headers, body_filter = self._change(facts, marked)
        moved = [
            Moved(name, to, *marks[value])
            for to, (name, value) in enumerate(headers)
            if name not in DECIDING_FIELDS and value in marks
        ]
        return Plan(headers, moved, body_filter)

    def _cache(self, shape: tuple[Hashable, ...], plan: Plan) -> None:
        if len(self._plans) >= MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[shape] = plan


def is_plannable(received: list[Header]) -> bool:
    """Return whether a response has a shape that others may have, of a bounded size."""
    size = 0
    for name, value in received:
        lowered = name.lower()
        if lowered in _UNPLANNED:
            return False
        size += len(name) + (len(value) if lowered in DECIDING_FIELDS else 0)
    return size <= MAX_SHAPE_BYTES


def _reject_unsendable(status: int, headers: list[Header]) -> None:
    """Raise a 502 for a head that cannot be sent, or that would split the response."""
    if not 200 <= status <= 599:
        raise _unsendable("a status outside 200 to 599")
    if not _FIELD_NAMES.fullmatch(b"\n".join([name for name, _ in headers])):
        raise _unsendable("control characters in a header")
    _reject_controls([value for _, value in headers])


def _reject_controls(values: list[bytes]) -> None:
    if _FORBIDDEN_IN_VALUE.search(b"".join(values)):
        raise _unsendable("control characters in a header")


def _unsendable(fault: str) -> UpstreamProblem:
    return UpstreamProblem(
        "protocol", 502, f"The archive's response has {fault}. Check the archive's software."
    )
