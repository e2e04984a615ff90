"""A relay whose archive and client go on, stop and fail at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from dicomweb_cors_proxy.cors.policy import Decision
from dicomweb_cors_proxy.observability.records import RequestRecord
from dicomweb_cors_proxy.proxy.context import CONTEXT, Outcome, RequestContext
from dicomweb_cors_proxy.proxy.relay import Relay
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem
from dicomweb_cors_proxy.upstream.interface import ResponseHead
from tests.support import asgi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from dicomweb_cors_proxy.http.messages import BodyFilter, Header

PIECE = 10


class Upper:
    """A filter that holds the last byte back, as rewriting does."""

    piece = PIECE

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        assert 0 < len(chunk) <= PIECE
        data = self._held + chunk.upper()
        self._held = data[-1:]
        return data[:-1]

    def flush(self) -> bytes:
        return self._held

    def whole(self, body: bytes) -> bytes:
        return body.upper()


class Archive:
    """A request that was sent, and what has arrived of its response."""

    was_unheard = False

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.error: Exception | None = None
        self.arrived = False
        self.closed = 0
        self._buffer = b""
        self._listener: Callable[[], None] | None = None

    @property
    def finished(self) -> bool:
        return self.arrived and not self._buffer

    def take(self) -> bytes:
        data, self._buffer = self._buffer, b""
        return data

    def notify(self, listener: Callable[[], None]) -> None:
        self._listener = listener

    def close(self) -> None:
        self.closed += 1
        self._listener = None

    def receive(self, data: bytes, *, ends: bool = False, error: Exception | None = None) -> None:
        """Take a head, at first, and bytes of the body."""
        if self.head is None:
            self.head = ResponseHead(b"HTTP/1.1", 200, b"OK", [])
        self._buffer += data
        self.arrived = ends
        self.error = error
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener()


class Client:
    """The receiver of a response, with room for `room` parts."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.status = 0
        self.headers: Sequence[Header] = ()
        self.body = b""
        self.ended = False
        self.aborted = False

    @property
    def is_writable(self) -> bool:
        return self.room > 0

    def start_response(self, status: int, headers: Sequence[Header]) -> None:
        self.status, self.headers = status, headers

    def flush_head(self) -> None:
        assert self.status

    def send_body(self, body: bytes, *, more: bool) -> None:
        assert not self.ended
        self.room -= 1
        self.body += body
        self.ended = not more

    def abort(self) -> None:
        self.aborted = True

    def run_application(self) -> None:
        raise NotImplementedError


def failed(_: httpx.HTTPError) -> UpstreamProblem:
    return UpstreamProblem("protocol", 502, "It failed.")


def begin(client: Client, body: BodyFilter | None) -> tuple[Archive, Relay, list[Outcome]]:
    """A relay that has sent its request, and the list of its ends."""
    scope = asgi.scope()
    record = RequestRecord(method="GET", request_id="0" * 32, client=None)
    context = scope[CONTEXT] = RequestContext(record, 0.0)
    context.decision = Decision("none", (), ())
    archive = Archive()
    relay = Relay(
        scope,
        archive,
        client,
        modify_response=lambda _, headers: (headers, body),
        failed=failed,
    )
    ends: list[Outcome] = []
    relay.on_sent = lambda: None
    relay.on_end = ends.append
    return archive, relay, ends


sizes = st.lists(st.integers(0, 6 * PIECE), min_size=1, max_size=8)


def parts_of(sizes: list[int]) -> list[bytes]:
    """Parts of a body, each of other letters."""
    return [bytes([97 + number]) * size for number, size in enumerate(sizes)]


@given(sizes=sizes, rooms=st.lists(st.integers(0, 3)), is_filtered=st.booleans())
@example(sizes=[4 * PIECE, 5], rooms=[], is_filtered=True)  # the end arrives before there is room
def test_all_of_a_body_passes_whenever_the_client_has_room(
    sizes: list[int], rooms: list[int], *, is_filtered: bool
) -> None:
    parts = parts_of(sizes)
    client = Client(1)
    archive, relay, ends = begin(client, Upper() if is_filtered else None)
    for number, part in enumerate(parts):
        archive.receive(part, ends=number == len(parts) - 1)
        if rooms:
            client.room += rooms.pop()
            relay.resume()
    while not client.ended:
        assert client.room <= 0
        client.room = 1
        relay.resume()
    body = b"".join(parts)
    assert client.body == (body.upper() if is_filtered else body)
    assert (ends, archive.closed) == ([Outcome.COMPLETE], 1)


@given(sizes=sizes, ending=st.sampled_from(["client", "server"]), is_filtered=st.booleans())
def test_a_relay_ends_once(sizes: list[int], ending: str, *, is_filtered: bool) -> None:
    client = Client(2)
    archive, relay, ends = begin(client, Upper() if is_filtered else None)
    for part in parts_of(sizes):
        archive.receive(part)
    for _ in range(2):
        (relay.client_disconnected if ending == "client" else relay.cancel)()
        relay.resume()
    assert archive.closed == 1
    if ending == "client":
        assert (ends, client.aborted) == ([Outcome.DISCONNECTED], False)
    else:
        assert (ends, client.aborted) == ([Outcome.CUT], True)
    assert not client.ended
