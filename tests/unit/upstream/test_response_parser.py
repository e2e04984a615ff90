"""Responses read by our engine and by h11: where they differ, ours is the stricter, in ways listed.

The referee is the HTTP/1.1 parser that most of Python's clients have used for a decade.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import h11
import httpx
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dicomweb_cors_proxy.upstream.response_parser import ResponseParser

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_HEAD = 65536


class Verdict(NamedTuple):
    """What was made of a response; nothing but `accepted` for one that was refused."""

    accepted: bool
    status: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


REFUSED = Verdict(accepted=False)


def ours(method: bytes, pieces: Iterable[bytes]) -> Verdict:
    answer = ResponseParser(method, MAX_HEAD)
    try:
        for piece in pieces:
            answer.feed(piece)
        answer.feed_eof(cut=False)
    except httpx.RemoteProtocolError:
        return REFUSED
    assert answer.head is not None
    headers = tuple(
        (lower, value.lower() if lower == b"transfer-encoding" else value)  # as h11 has them
        for lower, value in ((name.lower(), value) for name, value in answer.head.headers)
    )
    return Verdict(True, answer.head.status, headers, answer.take())


def referee(method: bytes, answer: bytes) -> Verdict:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "archive")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(answer)
    connection.receive_data(b"")
    verdict = REFUSED
    body = b""
    try:
        while True:
            match connection.next_event():
                case h11.Response() as head:
                    headers = tuple((bytes(name), bytes(value)) for name, value in head.headers)
                    verdict = Verdict(True, head.status_code, headers)
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    return verdict._replace(body=body)
                case h11.ConnectionClosed() | h11.NEED_DATA | h11.PAUSED:
                    return REFUSED
    except h11.RemoteProtocolError:
        return REFUSED


_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rb"(?:" + _TOKEN + rb'|"(?:[^"\\]|\\.)*")'
_EXTENSION = rb";[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*" + _VALUE + rb")?[ \t]*"

# What h11 takes and we refuse, and why: with each, peers on the way may see another end.
STRICTER = {
    "a bare LF ends a line": re.compile(rb"(?<!\r)\n"),
    "obs-fold": re.compile(rb"\r\n[ \t]"),
    "a length and chunked": re.compile(
        rb"(?is)(?=.*^content-length:)(?=.*^transfer-encoding:)", re.MULTILINE
    ),
    "a length repeated": re.compile(
        rb"(?ims)^content-length:.*^content-length:|^content-length:[^\r\n]*,"
    ),
    "a version that is neither 1.0 nor 1.1": re.compile(rb"HTTP/(?!1\.[01])"),
    "chunked by HTTP/1.0": re.compile(rb"(?is)HTTP/1\.0.*^transfer-encoding:", re.MULTILINE),
    "a malformed chunk extension": re.compile(
        rb"(?m)^[0-9A-Fa-f]+[ \t]*(?!(?:" + _EXTENSION + rb")*\r\n);"
    ),
    "a trailer that frames": re.compile(rb"(?ims)^0+\s.*^(?:content-length|transfer-encoding):"),
    "an upgrade": re.compile(rb"HTTP/1\.[01] 101"),
    "a control byte": re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)"),
}

# What we take and h11 refuses: it stands in no way of the framing, and archives send it.
LAXER = {
    "empty lines before a status line": re.compile(rb"(?:^|\n\r?\n)[\r\n]+HTTP/"),
    "a status of no class": re.compile(rb"HTTP/1\.[01] [6-9]\d\d"),
    "any byte in a reason, which goes no further": re.compile(
        rb"HTTP/1\.[01] \d{3} [^\r\n]*[^\r\n\t\x20-\x7e]"
    ),
}

HARMLESS = (
    b"X-A: a b",
    b"x-b:",
    b"X-A: \xe9\t",
    b'Content-Type: text/plain; a="b"',
    b"Connection: close",
)
names = st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection"])
values = st.sampled_from(
    b"5|0|05|+5|5, 5|6||chunked|Chunked|gzip, chunked|identity|keep-alive".split(b"|")
)
lines = st.sampled_from(HARMLESS) | st.tuples(names, values).map(b": ".join)
RIGHT = b"1.1 200 OK|1.1 204 No Content|1.1 304 x|1.0 200 OK|1.1 404 Not Found|1.1 206|1.1 500 "
WRONG = b"1.1 999 x|2.0 200 OK|1.1 99 x|1.1 2000 x|1.1 101 x|0.9 200 OK"
statuses = st.sampled_from(RIGHT.split(b"|") * 3 + WRONG.split(b"|"))
FRAMED = [
    (b"Content-Length: 5\r\n", b"hello"),
    (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n", b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n"),
    (b"", b"hello"),
    (b"Content-Length: 0\r\n", b""),
]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Responses, mostly right; some have lines that contradict the body, or a wrong byte."""
    framing, body = draw(st.sampled_from(FRAMED))
    head = [framing, *(line + b"\r\n" for line in draw(st.lists(lines, max_size=2)))]
    interim = draw(st.sampled_from([b"", b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"]))
    status = b"HTTP/%b\r\n" % draw(statuses)
    answer = interim + status + b"".join(draw(st.permutations(head))) + b"\r\n" + body
    match draw(st.sampled_from(["whole", "whole", "whole", "cut", "changed", "doubled"])):
        case "cut":
            return answer[: draw(st.integers(0, len(answer)))]
        case "changed":
            at = draw(st.integers(0, len(answer) - 1))
            new = draw(
                st.sampled_from([b"", b"\n", b"\r", b"\0", b" ", b":", b"5", b"\x7f", b"\xff"])
            )
            return answer[:at] + new + answer[at + 1 :]
        case "doubled":
            at = draw(st.integers(0, len(answer) - 1))
            return answer[:at] + answer[at : at + 1] + answer[at:]
    return answer


def differences(known: dict[str, re.Pattern[bytes]], answer: bytes) -> list[str]:
    return [name for name, pattern in known.items() if pattern.search(answer)]


@settings(max_examples=5 * settings().max_examples)
@given(method=st.sampled_from([b"GET", b"GET", b"HEAD"]), answer=answers(), data=st.data())
def test_both_read_the_same(method: bytes, answer: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(answer)))
    by_us = ours(method, [piece for piece in (answer[:at], answer[at:]) if piece])
    by_h11 = referee(method, answer)
    event(f"ours {by_us.accepted}, h11's {by_h11.accepted}")
    if by_us.accepted and by_h11.accepted:
        assert by_us == by_h11
    elif by_h11.accepted:
        assert differences(STRICTER, answer), (by_h11, answer)
    elif by_us.accepted:
        assert differences(LAXER, answer), (by_us, answer)
