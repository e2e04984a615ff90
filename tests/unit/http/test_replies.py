"""Replies of the proxy itself, and the limits whose rejections are such replies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.http.limits import (
    body_too_large,
    head_too_large,
    target_too_long,
    too_many_headers,
)
from dicomweb_cors_proxy.http.replies import HTTPProblem, LocalReply, without_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message


async def test_local_reply_sends_a_head_and_the_whole_body() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await LocalReply(204, [(b"allow", b"GET")], b"x").send(send)
    assert sent == [
        {"type": "http.response.start", "status": 204, "headers": [(b"allow", b"GET")]},
        {"type": "http.response.body", "body": b"x"},
    ]


async def test_without_body_passes_the_head_and_empties_the_body() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await LocalReply(200, body=b"x").send(without_body(send))
    assert [message.get("body") for message in sent] == [None, b""]


@pytest.mark.parametrize(
    ("problem", "status", "setting"),
    [
        (target_too_long, 414, "server.max_target_bytes"),
        (head_too_large, 431, "server.max_header_bytes"),
        (too_many_headers, 431, "server.max_headers"),
        (body_too_large, 413, "server.max_body_bytes"),
    ],
)
def test_limit_names_its_value_and_its_setting(
    problem: Callable[[int], HTTPProblem], status: int, setting: str
) -> None:
    reply = problem(12345)
    assert reply.status == status == json.loads(reply.body)["status"]
    assert "12345" in reply.detail
    assert setting in reply.detail
