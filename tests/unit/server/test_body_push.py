"""The push of a body: its order, pauses and end."""

from __future__ import annotations

import asyncio

import pytest

from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.server.body_push import BodyPush

Part = tuple[bytes, bool]


class Source:
    """Parts that have arrived; a failure instead of one is raised."""

    def __init__(self, *parts: Part | HTTPProblem) -> None:
        self.parts = list(parts)
        self.turns: list[asyncio.Future[None]] = []
        self.is_laborious = False
        self.is_ended = False

    def next_part(self) -> Part | None:
        if not self.parts:
            return None
        part = self.parts.pop(0)
        if isinstance(part, HTTPProblem):
            raise part
        return part

    def next_turn(self) -> asyncio.Future[None] | None:
        if not self.is_laborious:
            return None
        self.turns.append(asyncio.get_running_loop().create_future())
        return self.turns[-1]

    def end_push(self) -> None:
        self.is_ended = True


class Receiver:
    """Notes its calls; runs `react` at each part."""

    def __init__(self) -> None:
        self.calls: list[bytes | str | Exception] = []
        self.push: BodyPush
        self.pauses = self.stops = False

    def take_part(self, part: bytes) -> None:
        self.calls.append(part)
        if self.pauses:
            self.push.pause()
        if self.stops:
            self.push.stop()
        self.push.go_on()  # as a receiver that wakes the exchange would

    def end_body(self) -> None:
        self.calls.append("end")

    def fail_body(self, error: Exception) -> None:
        self.calls.append(error)


def begin(*parts: Part | HTTPProblem) -> tuple[Source, Receiver, BodyPush]:
    source, receiver = Source(*parts), Receiver()
    receiver.push = push = BodyPush(source, receiver)
    return source, receiver, push


def test_parts_come_in_order_and_then_the_end() -> None:
    source, receiver, push = begin((b"a", True), (b"b", True))
    assert not receiver.calls
    push.resume()
    assert receiver.calls == [b"a", b"b"]
    source.parts += [(b"c", True), (b"", False)]
    push.go_on()
    assert receiver.calls == [b"a", b"b", b"c", "end"]
    assert source.is_ended
    push.go_on()
    assert len(receiver.calls) == 4


def test_the_end_waits_for_a_receiver_that_pauses() -> None:
    source, receiver, push = begin((b"a", True), (b"b", False))
    receiver.pauses = True
    push.resume()
    assert receiver.calls == [b"a"]
    assert not push.is_waiting
    push.resume()
    assert receiver.calls == [b"a", b"b"]
    push.resume()
    assert receiver.calls == [b"a", b"b", "end"]
    assert source.is_ended


def test_a_receiver_that_stops_gets_no_more() -> None:
    source, receiver, push = begin((b"a", False))
    receiver.stops = True
    push.resume()
    push.resume()
    assert receiver.calls == [b"a"]
    assert source.is_ended


def test_a_malformed_body_fails() -> None:
    problem = HTTPProblem(400, "")
    source, receiver, push = begin((b"a", True), problem, (b"b", True))
    push.resume()
    assert receiver.calls == [b"a", problem]
    assert source.is_ended


async def test_tiny_chunks_wait_for_their_turn() -> None:
    source, receiver, push = begin((b"a", True), (b"b", True))
    source.is_laborious = True
    push.resume()
    push.go_on()
    assert receiver.calls == [b"a"]
    assert not push.is_waiting
    source.turns[0].set_result(None)
    await asyncio.sleep(0)
    assert receiver.calls == [b"a", b"b"]


@pytest.mark.parametrize("ends", ["stop", "pause"])
async def test_a_turn_that_comes_late_does_nothing(ends: str) -> None:
    source, receiver, push = begin((b"a", True), (b"b", True))
    source.is_laborious = True
    push.resume()
    getattr(push, ends)()
    source.turns[0].set_result(None)
    await asyncio.sleep(0)
    assert receiver.calls == [b"a"]
