"""TCP keepalive on sockets of this process."""

from __future__ import annotations

import socket
import sys

import pytest

from dicomweb_cors_proxy.keepalive import (
    KEEPALIVE_IDLE_SECONDS,
    KEEPALIVE_INTERVAL_SECONDS,
    KEEPALIVE_PROBES,
    enable_keepalive,
)


def test_enable_keepalive_sets_every_option() -> None:
    with socket.socket() as sock:
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        enable_keepalive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            if hasattr(socket, name):
                assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


def test_enable_keepalive_leaves_a_closed_socket_alone() -> None:
    sock = socket.socket()
    sock.close()
    enable_keepalive(sock)
    assert sock.fileno() == -1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is known to pass them on")
def test_enable_keepalive_of_a_listener_reaches_what_it_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        enable_keepalive(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle == KEEPALIVE_IDLE_SECONDS
