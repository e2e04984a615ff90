"""The parts of `tests.stress.chaos`: its name server and its tiny chunks."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from bench.names import ALIVE, DEAD, NAME, NameServer
from hypothesis import given
from hypothesis import strategies as st

from tests.stress.rogue import in_tiny_chunks
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOK_UP = (
    "import socket, sys; print([each[4][0] for each in "
    "socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)])"
)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[NameServer]:
    with NameServer(tmp_path, port) as running:
        yield running


def look_up(server: NameServer, host: str) -> str:
    """Look a name up in another process."""
    return subprocess.run(
        [sys.executable, "-c", LOOK_UP, host],
        env=os.environ | server.environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_the_name_server_answers_in_the_order_that_is_set(server: NameServer) -> None:
    assert look_up(server, NAME) == str([DEAD, ALIVE])
    server.answer(dead_first=False)
    assert look_up(server, NAME) == str([ALIVE, DEAD])
    assert server.counted() == {"look-up with a dead address first": 1}


def test_the_name_server_takes_the_time_that_is_set(server: NameServer) -> None:
    server.answer(seconds=0.01)
    look_up(server, NAME)
    assert server.counted()["look-up of 0.01 s"] == 1


def test_other_names_are_looked_up_as_before(server: NameServer) -> None:
    assert look_up(server, ALIVE) == str([ALIVE])
    assert not server.counted()


def test_the_dead_address_drops_connections(server: NameServer, port: int) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((DEAD, port), timeout=0.5)
    assert not server.counted()


@given(st.binary(max_size=99))
def test_tiny_chunks_hold_the_body(body: bytes) -> None:
    chunks = re.findall(rb"(?s)([12])\r\n(.{1,2})\r\n", in_tiny_chunks(body))
    assert b"".join(data for _, data in chunks) == body
    assert all(int(size) == len(data) for size, data in chunks)
    assert sum(len(data) + 5 for _, data in chunks) == len(in_tiny_chunks(body))
