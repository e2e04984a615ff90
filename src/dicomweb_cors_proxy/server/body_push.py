"""Hand the body of a request on as it arrives, without a task or messages of ASGI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dicomweb_cors_proxy.http.replies import HTTPProblem

if TYPE_CHECKING:
    import asyncio

    from dicomweb_cors_proxy.http.extensions import BodyReceiver


class PartSource(Protocol):
    """The part of an Exchange that a push uses."""

    def next_part(self) -> tuple[bytes, bool] | None: ...

    def next_turn(self) -> asyncio.Future[None] | None: ...

    def end_push(self) -> None: ...


class BodyPush:
    """The push of one body, and its control for the receiver: a `BodyFlow`."""

    __slots__ = ("_exchange", "_has_ended", "_is_going_on", "_is_paused", "_receiver", "_turn")

    def __init__(self, exchange: PartSource, receiver: BodyReceiver) -> None:
        self._exchange = exchange
        self._receiver: BodyReceiver | None = receiver
        self._is_paused = True
        self._is_going_on = False
        self._has_ended = False
        self._turn: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Return whether what arrives is handed on at once."""
        return not self._is_paused and self._turn is None

    def pause(self) -> None:
        """Push nothing until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Begin to push, or go on."""
        self._is_paused = False
        self.go_on()

    def stop(self) -> None:
        """Push nothing any more."""
        self._receiver = None
        self._exchange.end_push()

    def go_on(self) -> None:
        """Hand on what has arrived, as far as the receiver takes it."""
        if self._is_going_on:  # called by the receiver
            return
        self._is_going_on = True
        try:
            while (receiver := self._receiver) is not None and self.is_waiting:
                if not self._push(receiver):
                    break
        finally:
            self._is_going_on = False

    def _push(self, receiver: BodyReceiver) -> bool:
        """Hand on one part, or the end. Return whether there may be more."""
        if self._has_ended:
            self.stop()
            receiver.end_body()
            return False
        try:
            part = self._exchange.next_part()
        except HTTPProblem as problem:
            self.stop()
            receiver.fail_body(problem)
            return False
        if part is None:
            return False
        content, has_more = part
        self._has_ended = not has_more
        if content:
            receiver.take_part(content)
        if has_more:
            self._turn = self._exchange.next_turn()
            if self._turn is not None:
                self._turn.add_done_callback(self._take_turn)
        return True

    def _take_turn(self, _: asyncio.Future[None]) -> None:
        self._turn = None
        self.go_on()
