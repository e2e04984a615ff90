from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.http.forwarding import TrustedProxies, client_address, forwarded, with_peer
from dicomweb_cors_proxy.http.headers import (
    end_to_end,
    end_to_end_response,
    max_forwards,
    merge_vary,
    passed_through,
    via,
    with_max_forwards,
    with_request_id,
    without_cors,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomweb_cors_proxy.http.messages import Header

HOP_BY_HOP = [  # RFC 9110 §7.6.1, §7.8, §11.7; RFC 9112 §6.1; RFC 7540 §3.2.1; and two old habits
    b"connection",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
]


def lines(*text: str) -> list[Header]:
    """Return `"name: value"` lines as headers."""
    split = (line.encode("latin-1").partition(b": ") for line in text)
    return [(name, value) for name, _, value in split]


@pytest.mark.parametrize("name", HOP_BY_HOP)
@pytest.mark.parametrize("change", [bytes.lower, bytes.title, bytes.upper])
def test_hop_by_hop_fields_are_dropped(name: bytes, change: Callable[[bytes], bytes]) -> None:
    assert end_to_end([(b"a", b"1"), (change(name), b"x"), (b"b", b"2")]) == lines("a: 1", "b: 2")


OF_WHOLE_ORIGIN = [
    b"Accept-CH",
    b"Alt-Svc",
    b"Clear-Site-Data",
    b"NEL",
    b"Origin-Trial",
    b"Report-To",
    b"Reporting-Endpoints",
    b"Service-Worker-Allowed",
    b"Strict-Transport-Security",
]


@pytest.mark.parametrize("name", HOP_BY_HOP + OF_WHOLE_ORIGIN)
@pytest.mark.parametrize("change", [bytes.lower, bytes.title, bytes.upper])
def test_a_response_does_not_speak_of_its_whole_origin(
    name: bytes, change: Callable[[bytes], bytes]
) -> None:
    received = [(b"a", b"1"), (change(name), b"x"), *lines("accept-chx: 2", "x-nel: 3")]
    assert end_to_end_response(received) == lines("a: 1", "accept-chx: 2", "x-nel: 3")


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        ([], []),
        (
            ["connection: X-One , close,,\tx-two", "x-one: 1", "X-TWO: 2", "x-three: 3"],
            ["x-three: 3"],
        ),
        (["x-one: 1", "connection: x-one", "Connection: x-two", "x-two: 2"], []),
        (["set-cookie: a=1", "set-cookie: b=2"], ["set-cookie: a=1", "set-cookie: b=2"]),
        (["x-name: M\xfcller", "x-empty: "], ["x-name: M\xfcller", "x-empty: "]),
        (["connection: host, via", "host: proxy", "via: 1.1 a", "x: 1"], ["x: 1"]),
        (["connection: content-length", "content-length: 3"], ["content-length: 3"]),
        (["connection: x", "xx: 1"], ["xx: 1"]),
        (["te-x: 1", "x-connection: y", "y: 2"], ["te-x: 1", "x-connection: y", "y: 2"]),
    ],
)
def test_connection_lists_what_is_dropped(received: list[str], kept: list[str]) -> None:
    assert end_to_end(lines(*received)) == lines(*kept)


names = st.sampled_from(
    [*HOP_BY_HOP, b"Connection", b"x-a", b"X-A", b"x-b", b"accept", b"content-length", b"via"]
)
values = st.binary(max_size=4) | st.lists(names, max_size=3).map(b", ".join)
headers = st.lists(st.tuples(names, values), max_size=8)


@given(headers)
def test_end_to_end_drops_just_what_is_not_end_to_end(received: list[Header]) -> None:
    listed = {
        option.strip(b" \t").lower()
        for name, value in received
        if name.lower() == b"connection"
        for option in value.split(b",")
    }
    gone = ({*HOP_BY_HOP} | listed) - {b"content-length"}
    kept = end_to_end(received)
    assert kept == [header for header in received if header[0].lower() not in gone]
    assert end_to_end(kept) == kept


def test_without_cors() -> None:
    received = lines(
        "access-control-allow-origin: *",
        "content-type: application/dicom+json",
        "Access-Control-Allow-Credentials: true",
        "access-control-allow-headers: *",
        "access-control-allow-methods: *",
        "access-control-expose-headers: *",
        "ACCESS-CONTROL-MAX-AGE: 5",
        "access-control-allow-private-network: true",
        "timing-allow-origin: *",
        "cross-origin-resource-policy: same-site",
        "vary: Origin",
        "x-access-control-allow-origin: *",
    )
    assert without_cors(received) == [received[1], *received[8:]]


@pytest.mark.parametrize(
    ("received", "names", "merged"),
    [
        ([], [b"Origin"], ["vary: Origin"]),
        ([], [b"Origin", b"Accept"], ["vary: Origin, Accept"]),
        ([], [], []),
        (["vary: Accept"], [], ["vary: Accept"]),
        (["Vary: Accept", "a: b"], [b"Origin"], ["Vary: Accept, Origin", "a: b"]),
        (["a: b", "vary: Accept"], [b"Origin"], ["a: b", "vary: Accept, Origin"]),
        (["vary: accept,ORIGIN"], [b"Origin"], ["vary: accept,ORIGIN"]),
        (["vary: accept,ORIGIN"], [b"Accept", b"X"], ["vary: accept,ORIGIN, X"]),
        (["vary: a", "vary: origin"], [b"Origin"], ["vary: a", "vary: origin"]),
        (["vary: a", "vary: b"], [b"Origin"], ["vary: a, Origin", "vary: b"]),
        (["vary: *"], [b"Origin"], ["vary: *"]),
        (["vary: a, *"], [b"Origin"], ["vary: a, *"]),
        (["vary: "], [b"Origin"], ["vary: Origin"]),
        (["vary: x-origin"], [b"Origin"], ["vary: x-origin, Origin"]),
    ],
)
def test_merge_vary(received: list[str], names: list[bytes], merged: list[str]) -> None:
    before = lines(*received)
    assert merge_vary(before, names) == lines(*merged)
    assert before == lines(*received)
    assert merge_vary(lines(*merged), names) == lines(*merged)


@pytest.mark.parametrize("received", [["vary: a"], ["x-request-id: theirs", "vary: a"]])
def test_our_request_id_is_the_only_one(received: list[str]) -> None:
    assert with_request_id(lines(*received), "ours") == lines("vary: a", "x-request-id: ours")


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("192.0.2.7", True),
        ("2001:db8::1", True),
        ("2001:DB8:0::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:198.51.100.1", True),
        ("11.1.2.3", False),
        ("::ffff:11.1.2.3", False),
        ("192.0.2.8", False),
        ("2001:db9::1", False),
        ("", False),
        ("testclient", False),
        ("10.1.2.3, 10.1.2.4", False),
        (None, False),
    ],
)
def test_trusted_proxies(peer: str | None, trusted: bool) -> None:
    networks = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10", "::ffff:198.51.100.1"]
    assert (peer in TrustedProxies(networks)) is trusted
    assert peer not in TrustedProxies()


@pytest.mark.parametrize(
    ("network", "remedy"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("proxy.example", "write an IP address"),
        ("10.0.0.0/33", "write an IP address"),
        ("10.0.0.0:80", "write an IP address"),
        ("*", "write an IP address"),
        ("", "write an IP address"),
    ],
)
def test_trusted_proxies_are_networks(network: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as caught:
        TrustedProxies(["10.0.0.0/8", network])
    assert repr(network) in str(caught.value)


SAID_BY_THE_PEER = [
    "x-forwarded-for: 198.51.100.1",
    "accept: */*",
    "X-Forwarded-For: 198.51.100.2, 198.51.100.3",
    "x-forwarded-host: viewer.example",
    "x-forwarded-proto: https",
    "X-Forwarded-Prefix: /pacs",
    "x-forwarded-port: 8443",
    "x-real-ip: 198.51.100.1",
    "forwarded: for=198.51.100.1;host=viewer.example",
    "Remote-User: ward-3",
    "remote-groups: admins",
    "X-Remote-User: ward-3",
    "X-Remote-Group: admins",
    "X-Forwarded-User: ward-3",
    "X-Forwarded-Email: ward-3@hospital.example",
    "X-Client-IP: 198.51.100.1",
    "True-Client-IP: 198.51.100.1",
    "CF-Connecting-IP: 198.51.100.1",
    "x-forward: end-to-end",
    "x-client-ip-country: end-to-end",
    "remote: end-to-end",
]


DISGUISED = [
    "Remote_User: admin",
    "X_REMOTE_USER: admin",
    "x_forwarded_user: admin",
    "True-Client_IP: 10.9.9.9",
    "X_Forwarded_For: 10.9.9.9",
    "x_forwarded-host: evil.example",
    "X-Forwarded_Proto: gopher",
    "x_real_ip: 10.9.9.9",
]


def test_a_strangers_word_is_dropped() -> None:
    said = lines(*SAID_BY_THE_PEER, *DISGUISED)
    sent = forwarded(said, scheme="http", host=b"p:1", trusted=False)
    assert with_peer(sent, "2001:db8::1") == lines(
        "accept: */*",
        "x-forward: end-to-end",
        "x-client-ip-country: end-to-end",
        "remote: end-to-end",
        "x-forwarded-host: p:1",
        "x-forwarded-proto: http",
        "x-forwarded-for: 2001:db8::1",
    )


def test_a_trusted_peers_word_stands() -> None:
    said = lines(*SAID_BY_THE_PEER, *DISGUISED)
    sent = forwarded(said, scheme="http", host=b"p:1", trusted=True)
    assert with_peer(sent, "10.0.0.1") == lines(
        "accept: */*",
        "x-forwarded-host: viewer.example",
        "x-forwarded-proto: https",
        "X-Forwarded-Prefix: /pacs",
        "x-forwarded-port: 8443",
        "x-real-ip: 198.51.100.1",
        "forwarded: for=198.51.100.1;host=viewer.example",
        *SAID_BY_THE_PEER[SAID_BY_THE_PEER.index("Remote-User: ward-3") :],
        "x-forwarded-for: 198.51.100.1, 198.51.100.2, 198.51.100.3, 10.0.0.1",
    )


@pytest.mark.parametrize(
    ("received", "peer", "added"),
    [
        ([], "10.0.0.1", ["host: p", "proto: https", "for: 10.0.0.1"]),
        (["proto: http"], "10.0.0.1", ["proto: http", "host: p", "for: 10.0.0.1"]),
        (["host: v"], "10.0.0.1", ["host: v", "proto: https", "for: 10.0.0.1"]),
        (["for: "], "10.0.0.1", ["host: p", "proto: https", "for: 10.0.0.1"]),
        ([], None, ["host: p", "proto: https"]),
        (["for: "], None, ["host: p", "proto: https"]),
        (["for: 198.51.100.1"], None, ["host: p", "proto: https", "for: 198.51.100.1"]),
    ],
)
def test_a_trusted_peers_gaps_are_filled(
    received: list[str], peer: str | None, added: list[str]
) -> None:
    prefixed = lines(*("x-forwarded-" + line for line in received))
    sent = forwarded(prefixed, scheme="https", host=b"p", trusted=True)
    assert with_peer(sent, peer) == lines(*("x-forwarded-" + line for line in added))


def test_via_names_us_by_the_protocol_that_we_were_asked_in() -> None:
    assert via("1.0", "proxy-a") == (b"via", b"1.0 proxy-a")
    assert passed_through([via("2", "proxy-a")], "proxy-a")


@pytest.mark.parametrize(
    "line",
    [
        "1.1 us",
        "1.1 US",
        "HTTP/1.1 us",
        "1.1 us:8080",
        "1.1  us (comment)",
        "1.1\tus",
        "1.0 fred, 1.1 us",
        "1.1 us, 1.0 fred",
        ",, 1.1 us ,",
        "1.1 a (x, (y), \\), \\(), 1.1 us",
        "1.1(odd)us",
        "1.1 a (never closed, 1.1 us",
        "1.1 a (never (closed), 1.1 us",
        "1.1 a) b, 1.1 us",
    ],
)
def test_a_loop_is_seen(line: str) -> None:
    assert passed_through(lines("accept: */*", "Via: 1.0 other", "via: " + line), "Us")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "us",
        "1.1",
        "us 1.1",
        "1.1 us2",
        "1.1 not-us",
        "1.1 us.example",
        "1.1 other us",
        "1.1 other (us)",
        "1.1 other (1.1 us, 1.1 us)",
        "1.1 other (a (b), 1.1 us c)",
        "1.1 other (\\), 1.1 us c)",
        "1.1 other (a) (b, 1.1 us c)",
        "1.1 other), 1.1 other (a, 1.1 us c)",
        "1.1 other, (c) 1.1",
        "1.1 [::1]:80",
    ],
)
def test_what_is_no_loop(line: str) -> None:
    assert not passed_through(lines("via: " + line, "x-via: 1.1 us"), "us")


@given(st.lists(st.sampled_from([*"(),\\ ", "1.1 us", "a"]), max_size=12).map("".join))
def test_no_earlier_line_hides_ours(received: str) -> None:
    name, ours = via("1.1", "us")
    earlier = lines("via: " + received)
    assert passed_through([*earlier, (name, ours)], "us")
    assert passed_through([(name, earlier[0][1] + b", " + ours)], "us")


@pytest.mark.parametrize(
    ("received", "number"),
    [
        ([], None),
        (["max-forwards: 0"], 0),
        (["Max-Forwards: 10"], 10),
        (["max-forwards: 007"], 7),
        (["max-forwards: 00000"], 0),
        (["max-forwards: 9999"], 9999),
        (["max-forwards: 10000"], 9999),
        (["max-forwards: 1" + "0" * 9000], 9999),
        (["max-forwards: "], None),
        (["max-forwards: -1"], None),
        (["max-forwards: +1"], None),
        (["max-forwards: 1_0"], None),
        (["max-forwards: 1, 1"], None),
        (["max-forwards: \xb2"], None),
        (["max-forwards: 1", "max-forwards: 1"], None),
    ],
)
def test_max_forwards(received: list[str], number: int | None) -> None:
    assert max_forwards(lines("accept: */*", *received)) == number


def test_with_max_forwards() -> None:
    received = lines("a: 1", "Max-Forwards: 10", "b: 2")
    assert with_max_forwards(received, 9) == lines("a: 1", "Max-Forwards: 9", "b: 2")


# The client's address


@pytest.mark.parametrize(
    ("chain", "peer", "expected"),
    [
        (["198.51.100.6"], "10.0.0.1", "198.51.100.6"),
        (["198.51.100.6"], "192.0.2.1", "192.0.2.1"),
        (["198.51.100.6"], None, None),
        ([], "10.0.0.1", "10.0.0.1"),
        (["203.0.113.9, 198.51.100.6"], "10.0.0.1", "198.51.100.6"),
        (["203.0.113.9", "198.51.100.6 ,\t10.0.0.2"], "10.0.0.1", "198.51.100.6"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.1", "10.0.0.3"),
        (["Doe, 10.0.0.2"], "10.0.0.1", "10.0.0.2"),
        (["1.2.840.10008"], "10.0.0.1", "10.0.0.1"),
        (["203.0.113.9, 198.51.100.6:50412"], "10.0.0.1", "198.51.100.6"),
        (["[2001:db8::1]:50412, [::ffff:10.0.0.2]"], "10.0.0.1", "2001:db8::1"),
        (["[2001:db8::1]:50412, 10.0.0.2:1"], "10.0.0.1", "2001:db8::1"),
        (["198.51.100.6:x"], "10.0.0.1", "10.0.0.1"),
        (["2001:DB8:0::1"], "10.0.0.1", "2001:db8::1"),
        (["fe80::1%\x1b[31m"], "10.0.0.1", "fe80::1"),
        (["198.51.100.6" + ", 10.0.0.2" * 32], "10.0.0.1", "10.0.0.2"),
    ],
)
def test_the_clients_address(chain: list[str], peer: str | None, expected: str | None) -> None:
    headers = [(b"X-Forwarded-For", line.encode()) for line in chain]
    trusted = TrustedProxies(["10.0.0.0/8"])
    others = [(b"forwarded", b"for=203.0.113.7"), (b"x-real-ip", b"203.0.113.7")]
    assert client_address([*headers, *others], peer=peer, trusted=trusted) == expected
