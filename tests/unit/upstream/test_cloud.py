"""The thread in which a vendor's library runs."""

from __future__ import annotations

import threading
import time

from dicomweb_cors_proxy.upstream.cloud import CloudTokens
from dicomweb_cors_proxy.upstream.token_cache import Token


class Library:
    def __init__(self, outcome: tuple[str, float] | str | Exception) -> None:
        self.outcome = outcome
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> tuple[str, float] | str:
        self.calls += 1
        self.gate.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def clock() -> float:
    return 1000.0


async def test_a_token_ends_when_the_library_says_so() -> None:
    library = Library(("one", time.time() + 100))
    token = await CloudTokens("Vendor", library).fetch(clock)
    assert isinstance(token, Token)
    assert token.value == b"one"
    assert 1090 < token.end <= 1100
    assert 1065 < token.renewal < token.end - 20


async def test_a_reason_is_passed_on() -> None:
    assert await CloudTokens("Vendor", Library("do this.")).fetch(clock) == "do this."


async def test_a_bug_of_a_library_shows_no_secret() -> None:
    outcome = await CloudTokens("Vendor", Library(KeyError("hunter2"))).fetch(clock)
    assert outcome == "the library failed (KeyError). Please report it."


async def test_a_library_that_hangs_is_called_once() -> None:
    library = Library(("late", time.time() + 100))
    library.gate.clear()
    tokens = CloudTokens("Vendor", library, timeout=0.01)
    for _ in range(3):
        outcome = await tokens.fetch(clock)
        assert outcome == "Vendor did not respond within 0.01 s. Check the network."
    library.gate.set()
    outcome = "x"
    while isinstance(outcome, str):
        outcome = await tokens.fetch(clock)
    assert outcome.value == b"late"
    assert library.calls == 1
