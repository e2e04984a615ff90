"""Request smuggling: can bytes of one request become another, here or at the archive?

Each row is what a client sends on one connection, the statuses that it gets, whether the connection
is then in step (`open`: one more request got its own response) or `closed`, every request that
reached the archive, and who fell for it or which rule forbids it. "http-garden" is the list of
findings of that project; its rows name whom it found.

Bodies are read to their end here and framed anew for the archive: what ends with 200 can't be read
in another way there. A body that turns out malformed has its request cut: `(cut)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
import pytest_asyncio

from tests.support.attacks import HOST_LINE, ORIGIN_LINE, Front, Outcome, standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    server = {"header_timeout": 0.5, "body_timeout": 0.5, "max_body_bytes": 1000}
    directory = tmp_path_factory.mktemp("serve")
    async with standing(directory, access={"mode": "read-write"}, server=server) as front:
        yield front


class Row(NamedTuple):
    sent: bytes
    answers: str
    source: str
    reached: tuple[str, ...] = ()
    cors: str = "yes"


def head(first_line: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([first_line, ORIGIN_LINE, HOST_LINE, *lines, b"", b""])


def get(*lines: bytes, target: bytes = b"/dicom-web/studies") -> bytes:
    return head(b"GET %b HTTP/1.1" % target, *lines)


def post(*lines: bytes, body: bytes = b"", target: bytes = b"/dicom-web/studies") -> bytes:
    return head(b"POST %b HTTP/1.1" % target, *lines) + body


def hello(*lines: bytes) -> bytes:
    return post(*lines, body=b"hello")


CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n" + END
HELLO = ("POST /pacs/studies hello",)
CUT = ("POST /pacs/studies (cut)",)
SEARCH = ("GET /pacs/studies",)

# A whole request, to be hidden in the body of another.
HIDDEN = get(target=b"/dicom-web/studies?hidden")
LENGTH = b"Content-Length: %d" % len(HIDDEN)
KEPT = HIDDEN.decode()

DESYNC = "Kettle 2019, HTTP Desync Attacks"
CL_0 = "Kettle 2022, Browser-Powered Desync Attacks"
MUST_DIE = "Kettle 2025, HTTP/1.1 Must Die"
FUNKY = "Weikop 2025, Funky Chunks"

TWO_FRAMINGS = {
    "length, then chunks": Row(
        post(b"Content-Length: 5", CHUNKED, body=END), "400 closed", f"{DESYNC}; RFC 9112 §6.3"
    ),
    "chunks, then length": Row(
        post(CHUNKED, b"Content-Length: 5", body=END), "400 closed", "aiohttp CVE-2023-47641"
    ),
    "a length beyond the chunks": Row(
        post(CHUNKED, LENGTH, body=END + HIDDEN), "400 closed", DESYNC
    ),
    "an unknown coding and a length": Row(
        post(b"Transfer-Encoding: x", b"Content-Length: 5", body=END),
        "400 closed",
        "http-garden: OpenLiteSpeed, Pound, FastHTTP",
    ),
    ",chunked and a length": Row(
        post(b"Transfer-Encoding: ,chunked", b"Content-Length: 5", body=END),
        "400 closed",
        "http-garden: gunicorn, Passenger, nghttpx, Azure CDN",
    ),
    "an empty coding and a length": Row(
        post(b"Transfer-Encoding:", b"Content-Length: 5", body=END), "400 closed", DESYNC
    ),
    "identity and a length": Row(
        post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=END),
        "400 closed",
        "RFC 9112 §7: the coding is gone",
    ),
    "chunks that Connection drops": Row(
        post(CHUNKED, b"Connection: Transfer-Encoding", body=CHUNKS),
        "200 open",
        "Davison 2019, Abusing hop-by-hop headers",
        HELLO,
    ),
    "a length that Connection drops": Row(
        hello(b"Content-Length: 5", b"Connection: Content-Length"),
        "200 open",
        "Davison 2019; RFC 9110 §7.6.1",
        HELLO,
    ),
}

LENGTHS = {
    "one": Row(hello(b"Content-Length: 5"), "200 open", "RFC 9110 §8.6", HELLO),
    "in capitals": Row(hello(b"CONTENT-LENGTH: 5"), "200 open", "RFC 9110 §5.1", HELLO),
    "without a space": Row(hello(b"Content-Length:5"), "200 open", "RFC 9112 §5.1", HELLO),
    "between tabs": Row(hello(b"Content-Length:\t5\t"), "200 open", "RFC 9110 §5.6.3", HELLO),
    "leading zero": Row(
        post(b"Content-Length: 010", body=b"0123456789"),
        "200 open",
        "http-garden: OpenLiteSpeed reads 8",
        ("POST /pacs/studies 0123456789",),
    ),
    "hundred zeros": Row(
        hello(b"Content-Length: %b5" % (b"0" * 100)), "400 open", "no number has as many digits"
    ),
    "two": Row(
        hello(b"Content-Length: 5", b"Content-Length: 6"),
        "400 closed",
        "waitress CVE-2019-16792; http-garden: H2O, FastHTTP",
    ),
    "twice the same": Row(
        hello(b"Content-Length: 5", b"Content-Length: 5"), "400 closed", "RFC 9110 §8.6 allows both"
    ),
    "a list": Row(hello(b"Content-Length: 5, 5"), "400 closed", "RFC 9110 §8.6 allows both"),
    "an empty element": Row(hello(b"Content-Length: 5,"), "400 closed", DESYNC),
    "an empty one": Row(
        hello(b"Content-Length:"), "400 closed", "http-garden: Go, Puma, lighttpd, ATS"
    ),
    "an empty one, then one": Row(
        hello(b"Content-Length:", b"Content-Length: 5"),
        "400 closed",
        "HAProxy CVE-2023-40225; http-garden: WEBrick",
    ),
    "+": Row(
        hello(b"Content-Length: +5"),
        "400 closed",
        "hyper CVE-2021-32715; waitress CVE-2022-24761; aiohttp CVE-2023-47627",
    ),
    "-": Row(hello(b"Content-Length: -5"), "400 closed", "Mongoose CVE-2023-34188"),
    "-0": Row(post(b"Content-Length: -0"), "400 closed", "aiohttp CVE-2023-47627"),
    "0x": Row(hello(b"Content-Length: 0x5"), "400 closed", "Falcon CVE-2023-38697; Akamai"),
    "_": Row(
        hello(b"Content-Length: 0_5"), "400 closed", "http-garden: aiohttp, CPython, Werkzeug"
    ),
    "an exponent": Row(post(b"Content-Length: 1e1", body=b"0123456789"), "400 closed", DESYNC),
    "a fraction": Row(hello(b"Content-Length: 5.0"), "400 closed", DESYNC),
    "in quotes": Row(hello(b'Content-Length: "5"'), "400 closed", DESYNC),
    "a letter behind": Row(hello(b"Content-Length: 5z"), "400 closed", "http-garden: Mongoose"),
    "a number behind": Row(hello(b"Content-Length: 5 6"), "400 closed", "http-garden: Mongoose"),
    "a parameter": Row(hello(b"Content-Length: 5;6"), "400 closed", DESYNC),
    "NUL behind": Row(hello(b"Content-Length: 5\0"), "400 closed", "http-garden: libevent"),
    "NBSP behind": Row(hello(b"Content-Length: 5\xa0"), "400 closed", "http-garden: Tornado"),
    "NEL in front": Row(hello(b"Content-Length: \x855"), "400 closed", "http-garden: waitress"),
    "VT in front": Row(hello(b"Content-Length: \x0b5"), "400 closed", "waitress CVE-2019-16789"),
    "FF in front": Row(hello(b"Content-Length: \x0c5"), "400 closed", "waitress CVE-2019-16789"),
    "digits of another script": Row(
        hello("Content-Length: \u0665".encode()), "400 closed", "Python's int() reads 5"
    ),
    "2**32 and five": Row(
        hello(b"Content-Length: 4294967301"), "413 closed", "integers of 32 bits"
    ),
    "2**63": Row(
        hello(b"Content-Length: 9223372036854775808"), "400 closed", "integers with a sign"
    ),
    "2**64 less one": Row(
        hello(b"Content-Length: 18446744073709551615"), "400 closed", "integers of 64 bits"
    ),
    "2**64 and five": Row(
        hello(b"Content-Length: 18446744073709551621"), "400 closed", "integers of 64 bits"
    ),
    "a space before the colon": Row(
        hello(b"Content-Length : 5"),
        "400 closed",
        "Go CVE-2019-16276; Netty CVE-2019-16869; llhttp CVE-2021-22959",
    ),
    "a tab before the colon": Row(hello(b"Content-Length\t: 5"), "400 closed", DESYNC),
    "NEL before the colon": Row(
        hello(b"Content-Length\x85: 5"), "400 closed", "http-garden: gunicorn, ATS"
    ),
    "a space before the name": Row(
        hello(b" Content-Length: 5"), "400 closed", "llhttp CVE-2024-27982"
    ),
    "no colon": Row(hello(b"Content-Length 5"), "400 closed", "http-garden: Mongoose"),
    "a name that overflows": Row(
        hello(b"Content-Length0%b: 99" % (b"a" * 250), b"Content-Length: 5"),
        "200 open",
        "HAProxy CVE-2021-40346",
        HELLO,
    ),
    "of a GET": Row(
        get(b"Content-Length: 5") + b"hello", "400 open", "RFC 9110 §9.3.1: means nothing"
    ),
    "too small": Row(
        post(b"Content-Length: 0", body=HIDDEN),
        "200 200 open",
        "the client's own second request",
        ("POST /pacs/studies", "GET /pacs/studies?hidden"),
    ),
    "too large": Row(
        hello(b"Content-Length: 500"), "408 closed", "the next request is its body", CUT
    ),
}

CODINGS = {
    "chunked": Row(post(CHUNKED, body=CHUNKS), "200 open", "RFC 9112 §7.1", HELLO),
    "in capitals": Row(
        post(b"TRANSFER-ENCODING: CHUNKED", body=CHUNKS), "200 open", "RFC 9112 §7", HELLO
    ),
    "of a GET": Row(get(CHUNKED) + CHUNKS, "400 open", "RFC 9110 §9.3.1: means nothing"),
    "unknown": Row(
        post(b"Transfer-Encoding: x", body=END), "400 closed", "http-garden: FastHTTP takes chunks"
    ),
    "identity": Row(
        post(b"Transfer-Encoding: identity", body=END), "400 closed", "RFC 9112 §7: gone"
    ),
    "empty": Row(post(b"Transfer-Encoding:", body=END), "400 closed", DESYNC),
    "gzip, chunked": Row(
        post(b"Transfer-Encoding: gzip, chunked", body=END),
        "400 open",
        "RFC 9112 §6.1; gunicorn CVE-2024-1135",
    ),
    "identity, chunked": Row(
        post(b"Transfer-Encoding: identity, chunked", body=END),
        "400 open",
        "waitress CVE-2019-16786",
    ),
    "chunked, identity": Row(
        post(b"Transfer-Encoding: chunked, identity", body=END), "400 closed", "llhttp"
    ),
    ",chunked": Row(
        post(b"Transfer-Encoding: ,chunked", body=END), "400 open", "http-garden: OpenBSD relayd"
    ),
    "chunked,": Row(post(b"Transfer-Encoding: chunked,", body=END), "400 closed", "http-garden"),
    "chunked, chunked": Row(
        post(b"Transfer-Encoding: chunked, chunked", body=END),
        "400 closed",
        "Tornado GHSA-753j-mpmx-qq6g",
    ),
    "chunked twice": Row(
        post(CHUNKED, CHUNKED, body=END), "400 closed", "http-garden: Tornado reads no body"
    ),
    "another, then chunked": Row(
        post(b"Transfer-Encoding: x", CHUNKED, body=END), "400 open", "hyper CVE-2021-21299"
    ),
    "chunked, then another": Row(
        post(CHUNKED, b"Transfer-Encoding: x", body=END), "400 closed", "hyper CVE-2021-21299"
    ),
    "xchunked": Row(
        post(b"Transfer-Encoding: xchunked", body=END),
        "400 closed",
        "llhttp CVE-2022-32213; Go CVE-2022-1705",
    ),
    "chunkedx": Row(post(b"Transfer-Encoding: chunkedx", body=END), "400 closed", DESYNC),
    "chunked;q=1": Row(post(b"Transfer-Encoding: chunked;q=1", body=END), "400 closed", DESYNC),
    "in quotes": Row(post(b'Transfer-Encoding: "chunked"', body=END), "400 closed", DESYNC),
    "VT in front": Row(
        post(b"Transfer-Encoding: \x0bchunked", body=END),
        "400 closed",
        "HAProxy CVE-2019-18277; waitress CVE-2019-16789",
    ),
    "FF in front": Row(post(b"Transfer-Encoding: \x0cchunked", body=END), "400 closed", DESYNC),
    "NBSP in front": Row(
        post(b"Transfer-Encoding: \xa0chunked", body=END), "400 closed", "http-garden: Tornado"
    ),
    "0xff around it": Row(
        post(b"Transfer-Encoding: \xffchunked\xff", body=END), "400 closed", "http-garden: Bun"
    ),
    "NUL behind": Row(
        post(b"Transfer-Encoding: chunked\0", body=END), "400 closed", "Envoy CVE-2019-9900"
    ),
    "tab behind": Row(
        post(b"Transfer-Encoding: chunked\t", body=END),
        "400 closed",
        "allowed by RFC 9110 §5.6.3, not by the parser",
        CUT,
    ),
    "folded": Row(
        post(b"Transfer-Encoding:\r\n chunked", body=END), "400 closed", "llhttp CVE-2022-32215"
    ),
    "a space before the colon": Row(
        post(b"Transfer-Encoding : chunked", body=END), "400 closed", "Netty CVE-2019-16869"
    ),
    "a space before the name": Row(
        post(b" Transfer-Encoding: chunked", body=END), "400 closed", DESYNC
    ),
    "behind a bare CR": Row(
        post(b"A: b\rTransfer-Encoding: chunked", body=END),
        "400 closed",
        "llhttp CVE-2023-30589; http-garden: CPython",
    ),
    "behind a bare LF": Row(
        post(b"A: b\nTransfer-Encoding: chunked", body=END),
        "400 closed",
        "waitress CVE-2019-16785; llhttp CVE-2022-32214",
    ),
    "in a name on two lines": Row(
        post(b"Transfer-\r\nEncoding: chunked", body=END), "400 closed", "http-garden: Passenger"
    ),
    "no colon": Row(post(b"Transfer-Encoding chunked", body=END), "400 closed", "http-garden"),
    "in HTTP/1.0": Row(
        head(b"POST /dicom-web/studies HTTP/1.0", CHUNKED) + END, "400 closed", "RFC 9112 §6.1"
    ),
}


def chunks(body: bytes, answers: str, source: str, reached: tuple[str, ...] = CUT) -> Row:
    return Row(post(CHUNKED, body=body), answers, source, reached)


REFUSED = "400 closed"

CHUNK_LINES = {
    "capitals": chunks(
        b"A\r\n0123456789\r\n" + END,
        "200 open",
        "RFC 9112 §7.1",
        ("POST /pacs/studies 0123456789",),
    ),
    "leading zeros": chunks(b"0" * 64 + CHUNKS, "200 open", "RFC 9112 §7.1", HELLO),
    "a last chunk of zeros": chunks(
        b"5\r\nhello\r\n000\r\n\r\n", "200 open", "RFC 9112 §7.1", HELLO
    ),
    "no size": chunks(b"\r\nhello\r\n" + END, REFUSED, "http-garden: Go, hyper, Mongoose"),
    "0x": chunks(b"0x" + CHUNKS, REFUSED, "aiohttp CVE-2023-47627; waitress CVE-2022-24761"),
    "+": chunks(b"+" + CHUNKS, REFUSED, "http-garden: libevent, gunicorn"),
    "-": chunks(b"-" + CHUNKS, REFUSED, "http-garden: libevent, gunicorn"),
    "_": chunks(b"0_" + CHUNKS, REFUSED, "http-garden: aiohttp, gunicorn, Tornado"),
    "a space in front": chunks(b" " + CHUNKS, REFUSED, "http-garden"),
    "a space behind": chunks(
        b"5 \r\nhello\r\n" + END, "200 open", "nginx and HAProxy take it", HELLO
    ),
    "a tab behind": chunks(b"5\t\r\nhello\r\n" + END, "200 open", "as a space", HELLO),
    "blanks around an extension": chunks(
        b"5 ; a = b\r\nhello\r\n" + END, "200 open", "RFC 9112 §7.1.1", HELLO
    ),
    "a letter behind": chunks(b"5z\r\nhello\r\n" + END, REFUSED, "http-garden: H2O, ATS"),
    "no number": chunks(b"INVALID\r\n" + HIDDEN, REFUSED, "http-garden: Cheroot, Akamai"),
    "2**32 and five": chunks(
        b"100000005\r\nhello\r\n" + END, "408 closed", "nginx CVE-2013-2028: waits for the rest"
    ),
    "2**64 less one": chunks(
        b"ffffffffffffffff\r\nhello\r\n" + END, "408 closed", "nginx CVE-2013-2028"
    ),
    "2**64 and five": chunks(
        b"10000000000000005\r\nhello\r\n" + END, REFUSED, "hyper CVE-2021-32714"
    ),
    "size ends in LF": chunks(b"5\nhello\r\n" + END, REFUSED, "Go CVE-2025-22871"),
    "size ends in CR": chunks(b"5\rhello\r\n" + END, REFUSED, "llhttp, 2023"),
    "CR CR": chunks(b"5\r\r;ABCD\r\nhello\r\n" + END, REFUSED, "http-garden: Akamai, ATS, GCP"),
    "extension": chunks(b"5;a=b\r\nhello\r\n" + END, "200 open", "RFC 9112 §7.1.1", HELLO),
    "extension in quotes": chunks(
        b'5;a="b;c"\r\nhello\r\n' + END, "200 open", "RFC 9112 §7.1.1", HELLO
    ),
    "extension without a name": chunks(b"5;\r\nhello\r\n" + END, REFUSED, "RFC 9112 §7.1.1"),
    "extension ends in LF": chunks(
        b"5;a\nhello\r\n" + END,
        REFUSED,
        "llhttp CVE-2021-22960; aiohttp CVE-2024-52304; Netty CVE-2025-58056",
    ),
    "extension holds LF": chunks(
        b"5;a\nb\r\nhello\r\n" + END, REFUSED, f"Kestrel CVE-2025-55315; {FUNKY} (TERM.EXT)"
    ),
    "extension holds CR": chunks(
        b"5;a\rb\r\nhello\r\n" + END, REFUSED, f"Kestrel CVE-2025-55315; {FUNKY} (EXT.TERM)"
    ),
    "extension hides a request": chunks(
        b"5;\nxxxx\r\n98\r\n" + END + HIDDEN, REFUSED, f"{FUNKY} (TERM.EXT)"
    ),
    "CRLF in quotes": chunks(b'5;a="\r\nhello\r\n' + END, REFUSED, "RFC 9112 §7.1.1"),
    "chunk ends in LF": chunks(b"5\r\nhello\n" + END, REFUSED, f"HAProxy, 2024; {FUNKY} (ONE.TWO)"),
    "chunk ends in CR": chunks(b"5\r\nhello\r" + END, REFUSED, f"{FUNKY} (ONE.TWO)"),
    "chunk ends in nothing": chunks(b"5\r\nhello" + END, REFUSED, f"{FUNKY} (ZERO.TWO)"),
    "chunk ends in anything": chunks(
        b"5\r\nhelloXX" + END, REFUSED, f"h11 CVE-2025-43859; {FUNKY} (TERM.SPILL)"
    ),
    "an empty line between": chunks(
        b"5\r\nhello\r\n\r\n" + END, REFUSED, "http-garden: OpenLiteSpeed"
    ),
    "ends in LFs": chunks(b"5\r\nhello\r\n0\n\n", REFUSED, "http-garden: nginx"),
    "ends in LF": chunks(b"5\r\nhello\r\n0\r\n\n", REFUSED, "http-garden: nginx"),
    "ends in anything": chunks(b"5\r\nhello\r\n0\r\nXX", REFUSED, "Puma CVE-2023-40175"),
    "never ends": chunks(b"5\r\nhello\r\n", REFUSED, "the next request is no chunk", CUT),
    "trailer": chunks(b"5\r\nhello\r\n0\r\nA: b\r\n\r\n", "200 open", "dropped", HELLO),
    "trailer that is a request": chunks(
        b"5\r\nhello\r\n0\r\nX:GET /hidden HTTP/1.1\r\n\r\n",
        "200 open",
        "Puma CVE-2023-40175",
        HELLO,
    ),
    "trailer with credentials": chunks(
        b"5\r\nhello\r\n0\r\nHost: evil.example\r\nAuthorization: x\r\n\r\n",
        "200 open",
        "RFC 9110 §6.5.1: dropped",
        HELLO,
    ),
    "trailer with a length": chunks(
        b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n", REFUSED, "aiohttp CVE-2025-53643"
    ),
    "trailer with a coding": chunks(
        b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED, "RFC 9110 §6.5.1"
    ),
    "trailer folded": chunks(b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n", REFUSED, "RFC 9112 §5.2"),
    "trailer without a colon": chunks(
        b"5\r\nhello\r\n0\r\nGET /hidden HTTP/1.1\r\n\r\n", REFUSED, "aiohttp CVE-2025-53643"
    ),
}


def unread(sent: bytes, source: str) -> Row:
    """A head of which not even the origin is known."""
    return Row(sent, REFUSED, source, cors="no")


LINES = {
    "bare LFs": Row(get().replace(b"\r\n", b"\n"), REFUSED, "http-garden: OpenLiteSpeed"),
    "bare CRs": Row(get().replace(b"\r\n", b"\r"), REFUSED, "http-garden: CPython"),
    "LF at the end": Row(get()[:-2] + b"\n", REFUSED, "RFC 9112 §2.2"),
    "LF CR": Row(get(b"A: b\n\rC: d"), REFUSED, "RFC 9112 §2.2"),
    "CRLF CR X": Row(get()[:-2] + b"\rZ", REFUSED, "llhttp CVE-2025-23167"),
    "folded by a space": Row(get(b"A: b\r\n c"), REFUSED, "aiohttp CVE-2024-23829"),
    "folded by a tab": Row(get(b"A: b\r\n\tc"), REFUSED, "RFC 9112 §5.2"),
    "folded at once": unread(
        get().replace(b"\r\n", b"\r\n ", 1), "http-garden: aiohttp drops the space"
    ),
    "NUL in a value": Row(get(b"A: b\0"), REFUSED, "HAProxy, 2024; Envoy CVE-2019-9900"),
    "DEL in a value": Row(get(b"A: \x7f"), REFUSED, "RFC 9110 §5.5"),
    "bytes beyond ASCII in a value": Row(
        get(b"A: \x85\xa0\xff"), "200 open", "RFC 9110 §5.5: obs-text", SEARCH
    ),
    "NUL in a name": Row(get(b"A\0: b"), REFUSED, "http-garden: libevent"),
    "a byte beyond ASCII in a name": Row(get(b"\xef: b"), REFUSED, "http-garden: aiohttp, Daphne"),
    "a parenthesis in a name": Row(get(b"A(b): c"), REFUSED, "http-garden: Tornado"),
    "an @ in a name": Row(get(b"A@: c"), REFUSED, "http-garden: ATS"),
    "no name": Row(get(b": b"), REFUSED, "HAProxy CVE-2023-25725; http-garden: Go, llhttp"),
    "a colon alone": Row(get(b":"), REFUSED, "http-garden: Mongoose ends the head there"),
    "no colon": Row(get(b"hello"), REFUSED, "http-garden: OpenLiteSpeed"),
    "empty lines in front": Row(b"\r\n\r\n" + get(), "200 open", "RFC 9112 §2.2", SEARCH),
    "a space in front": Row(b" " + get(), REFUSED, "RFC 9112 §2.2"),
    "NUL in front": Row(b"\0" + get(), REFUSED, "RFC 9112 §2.2"),
}

REQUEST_LINES = {
    "two spaces": Row(
        head(b"GET  /dicom-web/studies  HTTP/1.1"),
        "200 open",
        "RFC 9112 §3: sent on with one",
        SEARCH,
    ),
    "tabs": Row(head(b"GET\t/dicom-web/studies\tHTTP/1.1"), REFUSED, "Apache CVE-2016-8743"),
    "a space at the end": Row(
        head(b"GET /dicom-web/studies HTTP/1.1 "), REFUSED, "Apache CVE-2016-8743"
    ),
    "LF between": Row(head(b"GET /dicom-web/studies\nHTTP/1.1"), REFUSED, "http-garden: aiohttp"),
    "CR at the end": Row(
        head(b"GET /dicom-web/studies HTTP/1.1\r"), REFUSED, "Apache CVE-2016-8743"
    ),
    "HTTP/0.9": Row(b"GET /dicom-web/studies\r\n", REFUSED, "RFC 9112 has none"),
    "http/1.1": Row(head(b"GET /dicom-web/studies http/1.1"), REFUSED, "RFC 9112 §2.3"),
    "HTTP/1": Row(head(b"GET /dicom-web/studies HTTP/1"), REFUSED, "http-garden: FastHTTP"),
    "HTTP/1.01": Row(head(b"GET /dicom-web/studies HTTP/1.01"), REFUSED, "http-garden: aiohttp"),
    "HTTP/01.1": Row(head(b"GET /dicom-web/studies HTTP/01.1"), REFUSED, "http-garden: aiohttp"),
    "HTTP/1.32": Row(head(b"GET /dicom-web/studies HTTP/1.32"), REFUSED, "http-garden: aiohttp"),
    "HTTP/1.1X": Row(head(b"GET /dicom-web/studies HTTP/1.1X"), REFUSED, "aiohttp CVE-2023-49081"),
    "HTTP/2.0": Row(head(b"GET /dicom-web/studies HTTP/2.0"), REFUSED, "RFC 9112 §2.3"),
    "RTSP": Row(head(b"DESCRIBE /dicom-web/studies RTSP/1.0"), "405 closed", "the parser knows it"),
    "ICE": Row(head(b"SOURCE /dicom-web/studies ICE/1.0"), "405 closed", "the parser knows it"),
    "a method of delimiters": Row(
        head(b'G=":<>(e),[T];?" /dicom-web/studies HTTP/1.1'),
        REFUSED,
        "http-garden: aiohttp reads G",
    ),
    "a method in mixed case": Row(
        head(b"gEt /dicom-web/studies HTTP/1.1"), "405 open", "RFC 9110 §9.1"
    ),
    "CRLF behind the method": Row(
        head(b"GET\r\n /dicom-web/studies HTTP/1.1"), REFUSED, "aiohttp CVE-2023-49082"
    ),
    "a space in the target": Row(
        get(target=b"/dicom-web/studies/ /x"), REFUSED, "nginx CVE-2013-4547"
    ),
    "a version in the target": Row(
        get(target=b"/dicom-web/studies HTTP/1.1"), REFUSED, "RFC 9112 §3.2"
    ),
    "a byte beyond ASCII": Row(get(target=b"/dicom-web/studies?\xe9"), REFUSED, "RFC 9112 §3.2"),
    "a fragment": Row(
        get(target=b"/dicom-web/studies#.png"),
        "400 open",
        "HAProxy CVE-2023-45539; Envoy CVE-2021-32779",
    ),
    "CRLF percent-encoded": Row(
        get(target=b"/dicom-web/studies?a=%20HTTP/1.1%0d%0aX:%20y"),
        "200 open",
        "Apache CVE-2023-25690: stays encoded",
        ("GET /pacs/studies?a=%20HTTP/1.1%0d%0aX:%20y",),
    ),
    "a socket of Unix": Row(
        get(target=b"/dicom-web/studies?unix:|http://evil.example/"),
        "200 open",
        "Apache CVE-2021-40438: a query like any",
        ("GET /pacs/studies?unix:|http://evil.example/",),
    ),
}

TARGETS = {
    "absolute": Row(
        get(target=b"http://proxy.example/dicom-web/studies"), "200 open", "RFC 9112 §3.2.2", SEARCH
    ),
    "absolute, another host": Row(
        get(target=b"http://evil.example/dicom-web/studies"),
        "400 open",
        "Chen 2016, Host of Troubles",
    ),
    "absolute, another port": Row(
        get(target=b"http://proxy.example:81/dicom-web/studies"), "400 open", "Host of Troubles"
    ),
    "absolute, a user": Row(
        get(target=b"http://proxy.example@evil.example/dicom-web/studies"),
        "400 open",
        "RFC 9110 §4.2.4",
    ),
    "absolute, our name as a user": Row(
        get(target=b"http://evil.example@proxy.example/dicom-web/studies"),
        "400 open",
        "RFC 9110 §4.2.4",
    ),
    "absolute, a backslash": Row(
        get(target=b"http://proxy.example\\@evil.example/studies"), REFUSED, "URL Standard: a slash"
    ),
    "absolute, no path": Row(get(target=b"http://proxy.example"), "404 open", "RFC 9112 §3.2.1"),
    "absolute, a query alone": Row(
        get(target=b"http://proxy.example?/dicom-web/studies"), "404 open", "RFC 3986 §3.2"
    ),
    "absolute, no host": Row(
        get(target=b"http:///dicom-web/studies"), "400 open", "RFC 9110 §4.2.1"
    ),
    "absolute, one slash": Row(
        get(target=b"http:/dicom-web/studies"), REFUSED, "URL Standard: two"
    ),
    "absolute, ftp": Row(
        get(target=b"ftp://proxy.example/dicom-web/studies"), "400 open", "RFC 9112 §3.2.2"
    ),
    "absolute, file": Row(get(target=b"file:///etc/passwd"), "400 open", "RFC 9112 §3.2.2"),
    "two slashes": Row(
        get(target=b"//evil.example/dicom-web/studies"),
        "404 open",
        "aiohttp CVE-2021-21330; Caddy CVE-2022-29718; asgiproxy's urljoin",
    ),
    "three slashes": Row(get(target=b"///dicom-web/studies"), "404 open", "urljoin drops them"),
    "@": Row(get(target=b"@evil.example/dicom-web/studies"), REFUSED, "Apache CVE-2011-3368"),
    "/@": Row(get(target=b"/@evil.example/dicom-web/studies"), "404 open", "CVE-2011-3368"),
    ":80": Row(get(target=b":80/dicom-web/studies"), REFUSED, "Apache CVE-2011-4317"),
    "authority": Row(get(target=b"evil.example:80"), REFUSED, "RFC 9112 §3.2.3"),
    "CONNECT": Row(head(b"CONNECT evil.example:80 HTTP/1.1"), "405 closed", "RFC 9110 §9.3.6"),
    "CONNECT with a path": Row(
        head(b"CONNECT /dicom-web/studies HTTP/1.1", LENGTH) + HIDDEN,
        "405 closed",
        "RFC 9110 §9.3.6",
    ),
    "OPTIONS *": Row(head(b"OPTIONS * HTTP/1.1"), "400 open", "RFC 9112 §3.2.4"),
    "GET *": Row(get(target=b"*"), "400 open", "RFC 9112 §3.2.4"),
}


def hosted(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET /dicom-web/studies HTTP/1.1", ORIGIN_LINE, *lines, b"", b""])


HOSTS = {
    "twice": Row(hosted(HOST_LINE, HOST_LINE), "400 open", "RFC 9112 §3.2; Host of Troubles"),
    "two": Row(hosted(HOST_LINE, b"Host: evil.example"), "400 open", "Host of Troubles"),
    "none": Row(hosted(b"A: b"), "400 open", "RFC 9112 §3.2"),
    "none in HTTP/1.0": Row(
        hosted(b"A: b").replace(b"/1.1", b"/1.0"), REFUSED, "we do not guess one"
    ),
    "empty": Row(hosted(b"Host:"), "400 open", "granian and others invent one"),
    "a list": Row(hosted(b"Host: proxy.example, evil.example"), "400 open", "Host of Troubles"),
    "a user": Row(hosted(b"Host: proxy.example@evil.example"), "400 open", "RFC 9110 §7.2"),
    "a path": Row(hosted(b"Host: evil.example/proxy.example"), "400 open", "RFC 9110 §7.2"),
    "NUL": Row(hosted(b"Host: proxy.example\0.evil.example"), REFUSED, "http-garden: HAProxy"),
    "0xff": Row(hosted(b"Host: \xffproxy.example"), "400 open", "http-garden: Bun"),
    "folded": Row(hosted(b"Host: a\r\n evil.example"), REFUSED, "Host of Troubles"),
    "a space before the colon": Row(
        hosted(b"A: b", b"Host : evil.example"), REFUSED, "Host of Troubles"
    ),
}


def refused(
    answers: str, target: bytes, *lines: bytes, method: bytes = b"POST", source: str = CL_0
) -> Row:
    """Who refuses a request without reading its body must not read its body as a request."""
    return Row(head(b"%b %b HTTP/1.1" % (method, target), *lines, LENGTH) + HIDDEN, answers, source)


STUDIES = b"/dicom-web/studies"
PREFLIGHT = b"Access-Control-Request-Method: "

BODIES_OF_THE_UNREAD = {
    "400, target": refused("400 open", b"/dicom-web/../servers"),
    "400, Host": refused("400 open", STUDIES, HOST_LINE),
    "400, malformed": refused("400 closed", STUDIES, b"A : b", source="waitress CVE-2024-49768"),
    "404": refused("404 open", b"/nowhere"),
    "404, with a GET": refused("404 open", b"/nowhere", method=b"GET"),
    "405": refused("405 open", STUDIES, method=b"PATCH"),
    "405, a method that nobody knows": refused("405 open", STUDIES, method=b"BREW"),
    "414": refused("414 closed", STUDIES + b"?" + b"x" * 17_000),
    "431": refused("431 closed", STUDIES, *[b"A: b"] * 101),
    "508": refused("508 open", STUDIES, b"Via: 1.1 dicomweb-cors-proxy"),
    "403": Row(
        post(LENGTH, body=HIDDEN).replace(b"viewer", b"evil", 1), "403 open", CL_0, cors="no"
    ),
    "413, announced": Row(post(b"Content-Length: 1001", body=HIDDEN.ljust(1001)), "413 open", CL_0),
    "413, in chunks": Row(
        post(CHUNKED, body=b"3e9\r\n" + HIDDEN.ljust(1001) + b"\r\n" + END), "413 open", CL_0, CUT
    ),
    "preflight": refused("204 open", STUDIES, PREFLIGHT + b"GET", method=b"OPTIONS"),
    "preflight that is refused": refused(
        "204 open", STUDIES, PREFLIGHT + b"PUT", method=b"OPTIONS"
    ),
    "/healthz": refused("405 open", b"/healthz")._replace(cors="no"),
    "/healthz with a GET": refused("200 open", b"/healthz", method=b"GET")._replace(cors="no"),
    "/metrics with a GET": refused("200 open", b"/metrics", method=b"GET")._replace(cors="no"),
    "404, in chunks": Row(
        post(CHUNKED, target=b"/nowhere", body=b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + END),
        "404 open",
        CL_0,
    ),
    "404, in bad chunks": Row(
        post(CHUNKED, target=b"/nowhere", body=b"zz\r\n" + HIDDEN), "404 closed", CL_0
    ),
    # Whoever stops in the middle of the body, and goes on later (pause-based desync), is left.
    "404, with half its body": Row(
        post(b"Content-Length: 1000", target=b"/nowhere", body=HIDDEN), "404 closed", CL_0
    ),
    "preflight, with half its body": Row(
        head(b"OPTIONS %b HTTP/1.1" % STUDIES, PREFLIGHT + b"GET", b"Content-Length: 1000"),
        "204 closed",
        CL_0,
    ),
    "/healthz, with half its body": Row(
        get(b"Content-Length: 1000", target=b"/healthz"), "200 closed", CL_0, cors="no"
    ),
}

PIPELINES = {
    "two requests": Row(
        get() + HIDDEN, "200 200 open", "RFC 9112 §9.3.2", (*SEARCH, "GET /pacs/studies?hidden")
    ),
    "a body that is a request": Row(
        post(LENGTH, body=HIDDEN), "200 open", CL_0, (f"POST /pacs/studies {KEPT}",)
    ),
    "a GET's body that is a request": Row(get(LENGTH) + HIDDEN, "400 open", CL_0),
    "a DELETE's body that is a request": Row(
        head(b"DELETE /dicom-web/studies/1 HTTP/1.1", LENGTH) + HIDDEN,
        "200 open",
        CL_0,
        (f"DELETE /pacs/studies/1 {KEPT}",),
    ),
    "Expect": Row(
        post(b"Expect: 100-continue", LENGTH, body=HIDDEN),
        "200 open",
        f"{MUST_DIE}; Go CVE-2024-24791",
        (f"POST /pacs/studies {KEPT}",),
    ),
    "Expect, of a GET": Row(get(b"Expect: 100-continue", LENGTH) + HIDDEN, "400 open", MUST_DIE),
    "Expect, in disguise": Row(
        post(b"Expect: y 100-continue", LENGTH, body=HIDDEN),
        "200 open",
        MUST_DIE,
        (f"POST /pacs/studies {KEPT}",),
    ),
    "Expect, refused": refused("404 open", b"/nowhere", b"Expect: 100-continue", source=MUST_DIE),
    "Upgrade to h2c": Row(
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
        + HIDDEN,
        "200 200 open",
        "Miller 2020, h2c smuggling",
        (*SEARCH, "GET /pacs/studies?hidden"),
    ),
    "Upgrade to WebSocket": Row(
        get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 777") + HIDDEN,
        "200 200 open",
        "Egorov 2019, WebSocket smuggling",
        (*SEARCH, "GET /pacs/studies?hidden"),
    ),
    "Upgrade with a body": Row(
        post(b"Connection: Upgrade", b"Upgrade: x", LENGTH, body=HIDDEN),
        "200 open",
        "the parser would skip it",
        (f"POST /pacs/studies {KEPT}",),
    ),
    "close": Row(get(b"Connection: close") + HIDDEN, "200 closed", "RFC 9112 §9.6", SEARCH),
    "close, in a list": Row(
        get(b"Connection: a, Close") + HIDDEN, "200 closed", "RFC 9112 §9.6", SEARCH
    ),
    "HTTP/1.0": Row(
        head(b"GET /dicom-web/studies HTTP/1.0") + HIDDEN, "200 closed", "RFC 9112 §9.3", SEARCH
    ),
    "HTTP/1.0 with keep-alive": Row(
        head(b"GET /dicom-web/studies HTTP/1.0", b"Connection: keep-alive") + HIDDEN,
        "200 closed",
        "RFC 9112 §9.3 lets us",
        SEARCH,
    ),
}

TABLES = {
    "two framings": TWO_FRAMINGS,
    "length": LENGTHS,
    "coding": CODINGS,
    "chunks": CHUNK_LINES,
    "lines": LINES,
    "request line": REQUEST_LINES,
    "target": TARGETS,
    "Host": HOSTS,
    "unread": BODIES_OF_THE_UNREAD,
    "pipeline": PIPELINES,
}
ROWS = {f"{table}: {name}": row for table, rows in TABLES.items() for name, row in rows.items()}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_no_request_hides_in_another(front: Front, row: Row) -> None:
    outcome = await front.attack(row.sent, reaching=len(row.reached))
    assert outcome == Outcome(row.answers, row.reached, row.cors)
