"""Silence of workers, as their supervisor measures it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.operations.heartbeats import HEARTBEAT_SECONDS, Heartbeats


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_silence_is_of_one_worker(clock: Clock) -> None:
    heartbeats = Heartbeats(2, clock)
    for _ in range(5):
        clock.now += HEARTBEAT_SECONDS
        heartbeats.beat(0)
        heartbeats.look()
    assert heartbeats.silence(0) == 0
    assert heartbeats.silence(1) == 5 * HEARTBEAT_SECONDS
    heartbeats.restart(1)
    assert heartbeats.silence(1) == 0


def test_a_heartbeat_ends_the_silence(clock: Clock) -> None:
    heartbeats = Heartbeats(1, clock)
    for _ in range(3):
        clock.now += HEARTBEAT_SECONDS
        heartbeats.look()
    heartbeats.beat(0)
    clock.now += HEARTBEAT_SECONDS
    heartbeats.look()
    assert heartbeats.silence(0) == 0


@pytest.mark.parametrize("beats", [1, 255, 257])
def test_the_counter_may_wrap(beats: int, clock: Clock) -> None:
    heartbeats = Heartbeats(1, clock)
    for _ in range(beats):
        heartbeats.beat(0)
    clock.now += HEARTBEAT_SECONDS
    heartbeats.look()
    assert heartbeats.silence(0) == 0


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_time_in_which_the_supervisor_did_not_run_does_not_count(pauses: list[float]) -> None:
    clock = Clock()
    heartbeats = Heartbeats(1, clock)
    begun = clock.now
    looks = 0
    for pause in pauses:
        clock.now += pause
        heartbeats.look()
        looks += pause > 0
        assert heartbeats.silence(0) <= looks * HEARTBEAT_SECONDS
        assert heartbeats.silence(0) <= clock.now - begun + 1e-6  # rounding


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_a_forked_process_is_heard(clock: Clock) -> None:
    heartbeats = Heartbeats(2, clock)
    pid = os.fork()
    if pid == 0:
        heartbeats.beat(1)
        os._exit(0)
    os.waitpid(pid, 0)
    clock.now += HEARTBEAT_SECONDS
    heartbeats.look()
    assert [heartbeats.silence(slot) for slot in range(2)] == [HEARTBEAT_SECONDS, 0]
