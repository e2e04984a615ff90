from __future__ import annotations

import json
import time
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_cors_proxy.dicomweb import url_search
from dicomweb_cors_proxy.dicomweb.archive_urls import ArchiveURLs
from dicomweb_cors_proxy.dicomweb.rewriter import URLRewriter
from dicomweb_cors_proxy.http.content import headers_of_changed_body, restore_etags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dicomweb_cors_proxy.http.messages import BodyFilter, Header

JSON: TypeAlias = Any

ARCHIVE = "http://archive:8042/dicom-web"
PUBLIC = "https://pacs.example/dicom"
URLS = ArchiveURLs(
    [ARCHIVE, "http://archive:8042/qido"],
    wado_uri="http://archive:8042/wado",
    aliases=["http://localhost/dicom-web/rs"],
).for_public_url(PUBLIC.encode())
REWRITER = URLRewriter(URLS)

# As long as a request can make it: "https://", a Host of 261 bytes, a prefix of 1 KiB, and a
# server.base_path of 512 bytes.
LONG_PUBLIC = b"https://" + b"x" * 261 + b"/" + b"p" * 1023 + b"/" + b"d" * 511

DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
MULTIPART = f'multipart/related; type="{DICOM_XML}"; boundary=edge'


def lines(*text: str) -> list[Header]:
    """Return `"name: value"` lines as headers."""
    split = (line.encode("latin-1").partition(b": ") for line in text)
    return [(name, value) for name, _, value in split]


def body(media_type: str, rewriter: URLRewriter = REWRITER) -> BodyFilter:
    found = rewriter.body(200, {b"content-type": media_type.encode("latin-1")})
    assert found is not None
    return found


def passed(media_type: str, *chunks: bytes, rewriter: URLRewriter = REWRITER) -> bytes:
    text = body(media_type, rewriter)
    sent = b"".join([*map(text.feed, chunks), text.flush()])
    assert body(media_type, rewriter).whole(b"".join(chunks)) == sent
    return sent


def rewritten(media_type: str, text: str, rewriter: URLRewriter = REWRITER) -> str:
    return passed(media_type, text.encode(), rewriter=rewriter).decode()


# -- URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (ARCHIVE, PUBLIC),
        (f"{ARCHIVE}/", f"{PUBLIC}/"),
        (f"{ARCHIVE}/studies/1.2?a=b#c", f"{PUBLIC}/studies/1.2?a=b#c"),
        (f"{ARCHIVE}?x", f"{PUBLIC}?x"),
        (f"{ARCHIVE}#x", f"{PUBLIC}#x"),
        (f"{ARCHIVE}2/studies", None),
        ("http://archive:8042/studies", None),
        ("HTTP://Archive:8042/dicom-web/s", f"{PUBLIC}/s"),
        ("http://archive:8042/DICOM-WEB/s", None),
        ("https://archive:8042/dicom-web/s", f"{PUBLIC}/s"),
        ("http://archive/dicom-web/s", None),
        ("http://archive:80420/dicom-web/s", None),
        ("http://archive.example:8042/dicom-web/s", None),
        ("http://archive:8042/qido/studies", f"{PUBLIC}/studies"),
        ("http://archive:8042/wado?requestType=WADO", f"{PUBLIC}/wado?requestType=WADO"),
        ("http://localhost/dicom-web/rs/s", f"{PUBLIC}/s"),
        ("http://localhost:80/dicom-web/rs/s", f"{PUBLIC}/s"),
        ("https://localhost/dicom-web/rs/s", None),
        ("http://localhost/dicom-web/s", None),
        ("http://user@archive:8042/dicom-web/s", None),
        ("ws://archive:8042/dicom-web/s", None),
        ("//archive:8042/dicom-web/s", None),
        ("/dicom-web/s", None),
        ("../bulk/1", None),
        ("", None),
        (f" {ARCHIVE}/s", None),
        (f"{PUBLIC}/s", None),
        ("https://bucket.example/x?url=http://archive:8042/dicom-web/s", None),
    ],
)
def test_base_urls_of_the_archive_become_the_public_one(url: str, expected: str | None) -> None:
    expected = url if expected is None else expected
    assert URLS.url(url.encode()) == expected.encode()
    document = {"00081190": {"vr": "UR", "Value": [url]}}
    assert json.loads(rewritten(DICOM_JSON, json.dumps(document))) == {
        "00081190": {"vr": "UR", "Value": [expected]}
    }


@pytest.mark.parametrize(
    ("tag", "is_url"),
    [("00081190", True), ("0040E010", True), ("0040\\u0045\\u003010", True), ("0040E011", False)],
)
def test_the_tags_of_urls(tag: str, is_url: bool) -> None:
    text = f'{{"0040E023":{{"Value":[{{"{tag}":{{"vr":"UR","Value":["{ARCHIVE}/wado"]}}}}]}}}}'
    changed = text.replace(ARCHIVE, PUBLIC) if is_url else text
    assert rewritten(DICOM_JSON, text) == changed
    if "\\" not in tag:
        text = f'<DicomAttribute tag="{tag}"><Value number="1">{ARCHIVE}/w</Value></DicomAttribute>'
        changed = text.replace(ARCHIVE, PUBLIC) if is_url else text
        assert rewritten(DICOM_XML, text) == changed


@pytest.mark.parametrize(
    ("service", "url", "expected"),
    [
        ("http://archive", "http://archive/studies", f"{PUBLIC}/studies"),
        ("http://archive/", "http://archive:80/studies", f"{PUBLIC}/studies"),
        ("http://archive:80", "http://archive", PUBLIC),
        ("https://archive:443/dw/", "https://archive/dw/s", f"{PUBLIC}/s"),
        ("http://archive/dw", "https://archive:443/dw?s", f"{PUBLIC}?s"),
        ("http://[::1]:8042/dw", "http://[::1]:8042/dw/s", f"{PUBLIC}/s"),
        ("http://archive/8042", "http://archive/8042/s", f"{PUBLIC}/s"),
        ("http://archive/Q", "http://archive/Q/s", f"{PUBLIC}/s"),
    ],
)
def test_any_base_url_is_found(service: str, url: str, expected: str) -> None:
    rewriter = URLRewriter(ArchiveURLs([service]).for_public_url(PUBLIC.encode() + b"/"))
    text = '[{"x":{"BulkDataURI":"%s"}}]'
    assert rewritten(DICOM_JSON, text % url, rewriter) == text % expected
    for slash in (r"\/", r"\u002F"):
        result = rewritten(DICOM_JSON, (text % url).replace("/", slash), rewriter)
        assert json.loads(result) == json.loads(text % expected)


def test_the_longest_base_counts() -> None:
    urls = ArchiveURLs(
        ["http://archive/rs"], wado_uri="http://archive/rs/wado", aliases=["http://archive"]
    ).for_public_url(PUBLIC.encode())
    assert urls.url(b"http://archive/rs/wado?a") == f"{PUBLIC}/wado?a".encode()
    assert urls.url(b"http://archive/rs/wadox") == f"{PUBLIC}/wadox".encode()
    assert urls.url(b"http://archive/rsx") == f"{PUBLIC}/rsx".encode()


def test_an_alias_with_the_path_of_the_wado_uri_endpoint_is_one() -> None:
    urls = ArchiveURLs(
        ["http://a/rs"], wado_uri="http://a/wado", aliases=["http://b/wado", "http://b/rs"]
    ).for_public_url(PUBLIC.encode())
    assert urls.url(b"http://b/wado?x") == f"{PUBLIC}/wado?x".encode()
    assert urls.url(b"http://b/rs/x") == f"{PUBLIC}/x".encode()


def test_the_archive_may_use_the_hosts_it_was_sent() -> None:
    archive = ArchiveURLs(["http://archive:8042/rs"], aliases=["https://pacs.example/dcm"])
    urls = archive.for_public_url(
        b"https://pacs.example/dicom", hosts=[b"", b"pacs.example, inner:81"]
    )
    for url in ("https://pacs.example/rs", "http://pacs.example:80/rs", "http://inner:81/rs"):
        assert urls.url(f"{url}/studies".encode()) == b"https://pacs.example/dicom/studies"
    assert urls.url(b"https://pacs.example/dcm/s") == b"https://pacs.example/dicom/s"
    assert urls.url(b"https://other/rs/s") == b"https://other/rs/s"
    assert archive.for_public_url(b"https://pacs.example/dicom").url(
        b"https://pacs.example/rs/s"
    ) == (b"https://pacs.example/rs/s")


def test_a_url_that_is_public_already_stays() -> None:
    urls = ArchiveURLs(["http://archive/"]).for_public_url(
        b"https://p.example/dw", hosts=[b"p.example"]
    )
    assert urls.url(b"https://p.example/dw/studies") == b"https://p.example/dw/studies"
    assert urls.url(b"https://p.example/studies") == b"https://p.example/dw/studies"


@pytest.mark.parametrize(
    ("archive", "public", "location", "expected"),
    [
        ("http://archive", "https://p.example/dw", "/studies/1", "https://p.example/dw/studies/1"),
        ("http://archive", "https://p.example/dw", "/dw/studies/1", "/dw/studies/1"),
        ("http://archive/rs", "https://p.example", "/rs/studies/1", "https://p.example/studies/1"),
        ("http://archive/rs", "https://p.example", "/studies/1", "/studies/1"),
        ("http://archive/rs", "https://p.example/rs", "/rs/studies/1", "/rs/studies/1"),
    ],
)
def test_paths_in_headers_lead_below_our_root(
    archive: str, public: str, location: str, expected: str
) -> None:
    rewriter = URLRewriter(ArchiveURLs([archive]).for_public_url(public.encode()))
    assert rewriter.headers(lines(f"location: {location}")) == lines(f"location: {expected}")


@pytest.mark.parametrize("url", ["archive/dicom-web", "ftp://archive/", "http://", ""])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a base URL: write it as"):
        ArchiveURLs([url])


# -- Headers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"location: {ARCHIVE}/studies/1", f"location: {PUBLIC}/studies/1"),
        (f"Content-Location: {ARCHIVE}", f"Content-Location: {PUBLIC}"),
        ("location: ws://archive:8042/dicom-web/x", None),
        ("location: /dicom-web/x", f"location: {PUBLIC}/x"),
        ("location: /dicom-web?x", f"location: {PUBLIC}?x"),
        ("Content-Location: /qido", f"Content-Location: {PUBLIC}"),
        ("location: /wado?requestType=WADO", f"location: {PUBLIC}/wado?requestType=WADO"),
        ("location: /dicom/x", None),
        ("location: /dicom-website/x", None),
        ("location: /login?to=/dicom-web/", None),
        ("location: //dicom-web/x", None),
        ("location: //archive:8042/dicom-web/x", f"location: {PUBLIC}/x"),
        ("location: //archive:8042/other/x", None),
        ("location: studies/1", None),
        ("link: </dicom-web/a>; rel=next", f"link: <{PUBLIC}/a>; rel=next"),
        ("location: ", None),
        (f"location: https://elsewhere/?to={ARCHIVE}/", None),
        (
            f'link: <{ARCHIVE}/a>; title="<{ARCHIVE}/t>"; rel=next, <{ARCHIVE}/b>,</c>',
            f'link: <{PUBLIC}/a>; title="<{ARCHIVE}/t>"; rel=next, <{PUBLIC}/b>,</c>',
        ),
        (
            f'warning: 299 {ARCHIVE}: "See {ARCHIVE}/help", 299 {ARCHIVE} "\\"{ARCHIVE}"',
            f'warning: 299 {PUBLIC}: "See {ARCHIVE}/help", 299 {PUBLIC} "\\"{ARCHIVE}"',
        ),
        (f"warning: 299 {{{ARCHIVE}/s}}: fuzzy", f"warning: 299 {{{PUBLIC}/s}}: fuzzy"),
        (f"warning: 299 x{ARCHIVE}: y", None),
        (f"x-other: {ARCHIVE}/studies/1", None),
        (f"content-disposition: attachment; filename={ARCHIVE}/", None),
    ],
)
def test_urls_in_headers(line: str, expected: str | None) -> None:
    assert REWRITER.headers(lines(line)) == lines(expected or line)


@pytest.mark.parametrize("base", ["http://a", ARCHIVE])
@pytest.mark.parametrize("public", [b"http://p", PUBLIC.encode(), LONG_PUBLIC[:269], LONG_PUBLIC])
@pytest.mark.parametrize("media_type", [DICOM_JSON, DICOM_XML, MULTIPART])
def test_a_piece_of_a_body_becomes_a_bounded_size(
    base: str, public: bytes, media_type: str
) -> None:
    text = body(media_type, URLRewriter(ArchiveURLs([base]).for_public_url(public)))
    data = b"\r\n--edge\r\nContent-Type: application/dicom+json\r\n\r\n"
    urls = f'{{"BulkDataURI":"{base}"}}<BulkData uri="{base}"/>'.encode()
    data += urls * (160_000 // len(urls))
    sizes = [len(text.feed(data[at : at + text.piece])) for at in range(0, len(data), text.piece)]
    assert max(*sizes, len(text.flush())) < 3 * 128 * 1024
    assert text.piece == 128 * 1024 or len(public) > 2 * len(base)


def test_urls_of_a_head_are_rewritten_up_to_a_bound() -> None:
    """A path of the archive can be one byte long: without the bound 64 KiB would become 20 MB."""
    rewriter = URLRewriter(ArchiveURLs(["http://a"]).for_public_url(LONG_PUBLIC))
    head = lines("location: /x", "link: " + "</>," * 16_000, "warning: 299 / x", "content-type: /")
    found = rewriter.headers(head)
    assert found[0] == (b"location", LONG_PUBLIC + b"/x")
    assert found[1][1] == b"<%b/>," % LONG_PUBLIC * 99 + b"</>," * (16_000 - 99)
    assert found[2:] == head[2:]


def test_headers_of_a_changed_body() -> None:
    received = lines(
        "content-type: application/dicom+json",
        "Content-Length: 10",
        "content-md5: x",
        "digest: x",
        "content-digest: x",
        "repr-digest: x",
        "accept-ranges: bytes",
        'ETag: "strong"',
        'etag: W/"weak"',
        "last-modified: then",
    )
    assert headers_of_changed_body(received) == lines(
        "content-type: application/dicom+json",
        'ETag: W/"strong~"',
        'etag: W/"weak"',
        "last-modified: then",
    )
    assert headers_of_changed_body(headers_of_changed_body(received)) == headers_of_changed_body(
        received
    )


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ('W/"strong~"', '"strong"'),
        ('W/"weak"', 'W/"weak"'),
        ('"strong~"', '"strong~"'),
        ('W/"a~", W/"b",W/"~"', '"a", W/"b",""'),
        ("*", "*"),
    ],
)
def test_the_archive_is_asked_for_its_own_etag(sent: str, expected: str) -> None:
    assert restore_etags(sent.encode()) == expected.encode()


@pytest.mark.parametrize(
    ("status", "headers", "is_rewritten"),
    [
        (200, ["Content-Type: application/dicom+json"], True),
        (200, ["content-type: Application/JSON;charset=utf-8"], True),
        (409, ["content-type: application/dicom+xml; charset=utf-8"], True),
        (200, ["content-type: application/json", "content-encoding: Identity"], True),
        (200, ["content-type: application/json", "content-encoding: gzip"], False),
        (206, ["content-type: application/json", "content-range: bytes 0-9/10"], False),
        (206, ["content-type: multipart/byteranges; boundary=b"], False),
        (206, ["content-type: application/dicom+json"], True),
        (206, [f"content-type: {MULTIPART}"], True),
        (200, ["content-type: application/jsonx"], False),
        (200, ["content-type: application/dicom"], False),
        (200, ["content-type: text/html"], False),
        (200, [], False),
        (200, [f"content-type: {MULTIPART}"], True),
        (200, ["content-type: multipart/related; boundary=b"], True),
        (200, ['content-type: multipart/related;Type="application/dicom+json";boundary="b"'], True),
        (200, ["content-type: multipart/related; type=application/dicom+xml"], False),
        (200, ['content-type: multipart/related; type="application/dicom"; boundary=b'], False),
        (200, ["content-type: multipart/related; type=image/jpeg; boundary=b"], False),
        (200, ["content-type: multipart/mixed; boundary=b"], False),
    ],
)
def test_which_bodies_are_rewritten(status: int, headers: list[str], is_rewritten: bool) -> None:
    assert (
        REWRITER.body(status, {k.lower(): v for k, v in lines(*headers)}) is not None
    ) == is_rewritten


# -- JSON ------------------------------------------------------------------------------------------


def positions(tree: JSON) -> JSON:
    """The reference: `tree` with its URLs rewritten by what JSON means, not by how it looks."""
    if isinstance(tree, list):
        return [positions(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: url(value)
        if key == "BulkDataURI" and isinstance(value, str)
        else retrieve_url(value)
        if key == "00081190" and isinstance(value, dict)
        else positions(value)
        for key, value in tree.items()
    }


def retrieve_url(attribute: dict[str, JSON]) -> JSON:
    """The attribute's Value holds URLs, if neither it nor what precedes it holds more than such."""
    result = positions(attribute)
    for key, value in attribute.items():
        if key == "Value" and isinstance(value, list):
            scalars = next((i for i, v in enumerate(value) if isinstance(v, list | dict)), None)
            result[key][:scalars] = [url(v) if isinstance(v, str) else v for v in value[:scalars]]
        if key in ("Value", "00081190") or isinstance(value, list | dict):
            break
    return result


def url(text: str) -> str:
    bases = {
        ARCHIVE: PUBLIC,
        "http://archive:8042/qido": PUBLIC,
        "http://archive:8042/wado": f"{PUBLIC}/wado",
        "http://localhost/dicom-web/rs": PUBLIC,
    }
    for base, public in bases.items():
        if text.startswith(base) and text[len(base) : len(base) + 1] in ("", "/", "?", "#"):
            return public + text[len(base) :]
    return text


FRAGMENTS = [
    ARCHIVE,
    f"{ARCHIVE}/studies/1.2/series/3",
    "http://archive:8042/qido/w?w",
    "http://archive:8042/wado",
    "http://localhost/dicom-web/rs/x",
    f"{ARCHIVE}2/studies",
    "https://bucket.example/dicom-web/studies",
    "../bulk/w",
    "00081190",
    "BulkDataURI",
    "Value",
    f'"BulkDataURI":"{ARCHIVE}/s"',
    f'"00081190":{{"vr":"UR","Value":["{ARCHIVE}/s"]}}',
    f'{{"vr":"UR","Value":["{ARCHIVE}',
    '"',
    '":"',
    '","',
    "\\",
    "\\/",
    "w",
    "\n",
    "é☃\U0001f600",
    "\ud800",
    "}]",
    "'<>&",
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=3).map("".join) | st.text(max_size=4)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.just(-1.5e300) | texts
keys = st.sampled_from(["00081190", "BulkDataURI", "Value", "vr", "7FE00010"]) | texts
retrieve_urls = st.lists(texts | st.none(), max_size=3).flatmap(
    lambda values: st.sampled_from(
        [
            {"vr": "UR", "Value": values},
            {"Value": values, "vr": "UR"},
            {"x": 1.5, "vr": "UR", "y": None, "Value": values, "z": "w"},
        ]
    )
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.just("00081190"), retrieve_urls | inner, min_size=1)
    ),
    max_leaves=12,
)
randoms = st.builds(Random, st.integers(0, 1 << 32))


def written(tree: JSON, random: Random) -> str:
    """Write `tree` as JSON, with a taste of its own for white space and escapes."""
    escapes = random.choice([0, 0, 0.05, 1])
    spaces = random.choice([[""], [" "], ["", "", "\n  ", "\t\r\n"]])

    def character(char: str) -> str:
        if random.random() < escapes and ord(char) < 0x10000:
            if char == "/" and random.random() < 0.5:
                return "\\/"
            return f"\\u{ord(char):04{random.choice('xX')}}"
        return json.dumps(char, ensure_ascii="\ud800" <= char <= "\udfff")[1:-1]

    def value(node: JSON) -> str:
        space = random.choice(spaces)
        if isinstance(node, str):
            text = '"' + "".join(map(character, node)) + '"'
        elif isinstance(node, list):
            text = f"[{space}" + ",".join(map(value, node)) + "]"
        elif isinstance(node, dict):
            members = [f"{value(name)}:{value(member)}" for name, member in node.items()]
            text = f"{{{space}" + ",".join(members) + "}"
        else:
            text = json.dumps(node)
        return space + text + space

    return value(tree)


@contextmanager
def far_reach() -> Iterator[None]:
    """The laws know no bounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(url_search, "_REACH", 1 << 20)
        patch.setattr(url_search, "_LONGEST_BASE", 1 << 20)
        yield


@settings(deadline=None)
@given(trees, randoms)
def test_only_urls_in_their_positions_change(tree: JSON, random: Random) -> None:
    text = written(tree, random)
    with far_reach():
        assert json.loads(rewritten(DICOM_JSON, text)) == positions(tree)


@settings(deadline=None)
@given(trees, randoms, st.integers(2, 40))
def test_what_is_repeated_is_rewritten_each_time(tree: JSON, random: Random, times: int) -> None:
    text = ",".join([written(tree, random)] * times)
    with far_reach():
        assert json.loads(f"[{rewritten(DICOM_JSON, text)}]") == [positions(tree)] * times


def chunks(random: Random, data: bytes) -> Iterator[bytes]:
    longest = random.choice([1, 3, 40, 1000])
    while data:
        size = random.randint(0, longest)
        yield data[:size]
        data = data[size:]


def damaged(random: Random, data: bytes) -> bytes:
    """`data` with something lost, or something in it that isn't of it."""
    for _ in range(random.randint(0, 2)):
        at, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
        data = (
            data[:at]
            + random.choice([b"", b"\xff", b'"', b"\0", b"\\", data[at:end] * 2])
            + data[end:]
        )
    return data


@settings(deadline=None)
@given(trees, randoms)
def test_json_is_rewritten_alike_however_it_is_split(tree: JSON, random: Random) -> None:
    data = damaged(random, written(tree, random).encode())
    assert passed(DICOM_JSON, *chunks(random, data)) == passed(DICOM_JSON, data)


@settings(deadline=None)
@given(trees, trees, randoms)
def test_what_one_body_teaches_changes_no_other(first: JSON, second: JSON, random: Random) -> None:
    archive = ArchiveURLs([ARCHIVE], aliases=["http://localhost/dicom-web/rs"])
    taught, fresh = (URLRewriter(archive.for_public_url(PUBLIC.encode())) for _ in range(2))
    data = damaged(random, written([first] * 3, random).encode())
    passed(DICOM_JSON, data, rewriter=taught)
    data = damaged(random, written([second, first], random).encode())
    assert passed(DICOM_JSON, data, rewriter=taught) == passed(DICOM_JSON, data, rewriter=fresh)


@settings(deadline=None)
@given(st.binary() | trees.map(lambda tree: json.dumps(tree).replace("http:", "ftp:").encode()))
def test_what_names_no_url_of_the_archive_passes_byte_for_byte(data: bytes) -> None:
    for media_type in (DICOM_JSON, DICOM_XML, MULTIPART):
        assert passed(media_type, data) == data


@settings(deadline=None)
@given(trees, randoms)
def test_rewriting_twice_is_rewriting_once(tree: JSON, random: Random) -> None:
    once = rewritten(DICOM_JSON, written(tree, random))
    assert rewritten(DICOM_JSON, once) == once


BASES = st.sampled_from(["http://a", "http://a/b", ARCHIVE])
PUBLICS = st.sampled_from([b"http://p", PUBLIC.encode(), LONG_PUBLIC[:269], LONG_PUBLIC])


def full_of(base: str, times: int, random: Random) -> Iterator[tuple[str, str]]:
    """Return bodies that say little else than `base`, with their media types."""
    values = f'"{base}",' * times
    yield DICOM_JSON, f'{{"00081190":{{"Value":[{values}""]}}}}' + f'{{"BulkDataURI":"{base}"}}' * 9
    yield (
        DICOM_JSON,
        written([{"00081190": {"Value": [base] * times}, "BulkDataURI": base}], random),
    )
    document = f"<Value>{base}</Value>" * times + f'<BulkData uri="{base}">'
    yield DICOM_XML, f'<DicomAttribute tag="00081190">{document}'


@settings(deadline=None)
@given(BASES, PUBLICS, st.integers(0, 100), randoms)
def test_a_body_grows_by_a_bounded_factor(
    base: str, public: bytes, times: int, random: Random
) -> None:
    """No body grows by more than the length of the public URL over that of a base URL.

    Each replacement takes the place of one base URL, and no two overlap. The host of the public URL
    comes from the client: 261 bytes make 10 times the body of an archive that calls itself
    http://archive:8042/dicom-web, and 35 times that of one called http://a. The longest prefix that
    a trusted proxy may add and the shortest name make 226 times.
    """
    rewriter = URLRewriter(ArchiveURLs([base]).for_public_url(public))
    factor = max(1, -(-len(public) // len(base)))
    for media_type, text in full_of(base, times, random):
        data = damaged(random, text.encode())
        found = passed(media_type, *chunks(random, data), rewriter=rewriter)
        assert len(found) <= factor * len(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"00081190":{"vr":"UR","Value":["%s","http://foreign/w","%s"]}}',
        '{"00081199":{"vr":"SQ","Value":[{"00081190":{"Value":["%s/a"],"vr":"UR"}}]}}',
        '{ "7FE00010" : {\n"vr" : "OW",\n"BulkDataURI"\t:\r\n"%s/bulk/w" } }',
        r'{"\u00300\u003081190":{"\u0076r":"UR","V\u0061lue":["%s"]},"BulkD\u0061taURI":"%s/"}',
        '{"00081190":{"vr":"UR","Value":[null,7,"%s"]},"00081190":{"Value":[]}}',
        '\ufeff[{"BulkDataURI":"%s/\\u00e9\\"w"}]',
    ],
)
def test_json_positions(text: str) -> None:
    bases = text.count("%s")
    assert rewritten(DICOM_JSON, text % ((ARCHIVE,) * bases)) == text % ((PUBLIC,) * bases)


@pytest.mark.parametrize(
    "text",
    [
        '{"00104000":{"vr":"LT","Value":["%s"]}}',
        '{"00100010":{"vr":"PN","Value":[{"Alphabetic":"%s"}]}}',
        '{"00081190":"%s"}',
        '{"00081190":["%s"]}',
        '{"00081190":{"vr":"UR","value":["%s"]}}',
        '{"00081190":{"vr":"UR","Value":"%s"}}',
        '{"00081190":{"vr":"UR","Value":[["%s"]]}}',
        '{"00081190":{"vr":"UR","Value":[{"x":"%s"}]}}',
        '{"00081190":{"vr":"UR"},"Value":["%s"]}',
        '["00081190","%s","BulkDataURI","%s"]',
        '{"BulkDataURI":["%s"]}',
        '{"BulkDataURI":null,"x":"%s"}',
        '{"BulkDataURI":" %s"}',
        r'{"x\"BulkDataURI":"%s"}',
        r'{"x\"00081190":{"Value":["%s"]}}',
        r'["\"BulkDataURI\":\"%s\""]',
        r'{"BulkDataURI":"%s\u0022"}',
        r'{"BulkDataURI":"%s\\/w"}',
        r'{"BulkDataURI":"%s\u00e9/w"}',
        '{"BulkDataURI":%s}',
        '{"BulkDataURI":"%s2/w"}',
        '{"00081190":{"00081190":1,"Value":["%s"]}}',
        '{"BulkDataURI":"%s',
    ],
)
def test_json_elsewhere(text: str) -> None:
    text = text.replace("%s", ARCHIVE)
    known = f'{{"BulkDataURI":"{ARCHIVE}"}},{{"00081190":{{"vr":"UR","Value":["{ARCHIVE}"]}}}},'
    assert rewritten(DICOM_JSON, text) == text
    assert rewritten(DICOM_JSON, known + text) == known.replace(ARCHIVE, PUBLIC) + text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_pass(encoding: str) -> None:
    data = f'[{{"BulkDataURI":"{ARCHIVE}/w"}}]<BulkData uri="{ARCHIVE}/w"/>'.encode(encoding)
    assert passed(DICOM_JSON, data) == passed(DICOM_XML, data) == data


@pytest.mark.parametrize("alias", ["http://localhost/dicom-web/rs", "http://a/dicom-web"])
def test_what_an_archive_repeats_is_told_by_comparison_from_wherever_it_comes(alias: str) -> None:
    rewriter = URLRewriter(ArchiveURLs([ARCHIVE], aliases=[alias]).for_public_url(PUBLIC.encode()))
    members = [
        f'"{tag}":{{"vr":"UN","BulkDataURI":"{base}/{tag}"}}'
        for base in (ARCHIVE, alias, ARCHIVE)
        for tag in range(20)
    ]
    members += [f'"BulkDataURI"{" " * n}:"{ARCHIVE}/{n}"' for n in (*range(20), *range(20))]
    text = "{" + ",".join(members) + "}"
    assert rewritten(DICOM_JSON, text, rewriter) == (
        text.replace(ARCHIVE, PUBLIC).replace(alias, PUBLIC)
    )


def test_a_chunk_may_end_wherever_a_known_base_url_does() -> None:
    rewriter = URLRewriter(
        ArchiveURLs(["http://archive/ww"]).for_public_url(b"https://p.example/dw")
    )
    text = '[{"BulkDataURI":"http://archive/ww"},{"BulkDataURI":"http://archive/ww"},1]'
    for at in range(len(text)):
        assert (
            passed(DICOM_JSON, text[:at].encode(), text[at:].encode(), rewriter=rewriter)
            == text.replace("http://archive/ww", "https://p.example/dw").encode()
        )


@pytest.mark.parametrize("before", ["", r'["\u00e9\u003c\n\"\\"]' * 100])
@pytest.mark.parametrize(
    "base",
    [ARCHIVE, r"http://archive:8042/dicom-\u0077eb", r"\u0068ttp:\/\/Archi\u0056e:8042/dicom-web"],
)
def test_escapes_of_letters_and_of_no_matter(before: str, base: str) -> None:
    text = before + f'{{"BulkDataURI":"{base}/s"}}'
    rewriter = URLRewriter(ArchiveURLs([ARCHIVE]).for_public_url(PUBLIC.encode()))
    assert rewritten(DICOM_JSON, text, rewriter) == text.replace(base, PUBLIC)


def test_an_escape_after_a_base_url_counts() -> None:
    rewriter = URLRewriter(ArchiveURLs(["http://archive/dw"]).for_public_url(b"http://p"))
    text = r'{"BulkDataURI":"https:\/\/archive:443\/dw%s"}'
    assert rewritten(DICOM_JSON, text % r"\/s", rewriter) == r'{"BulkDataURI":"http://p\/s"}'
    assert rewritten(DICOM_JSON, text % "2", rewriter) == text % "2"


def test_letters_of_the_base_url_all_over() -> None:
    text = f'{{"BulkDataURI":"{ARCHIVE}/w"}},"InlineBinary":"{"w" * 9999}",'
    once = text.replace(ARCHIVE, PUBLIC)
    assert passed(DICOM_JSON, text.encode(), text.encode(), text.encode()) == once.encode() * 3


@pytest.mark.parametrize("other", [ARCHIVE.replace("http:", "https:"), "http://a/dicom-web"])
def test_a_known_form_that_holds_another_url_is_no_short_cut(other: str) -> None:
    rewriter = URLRewriter(
        ArchiveURLs([ARCHIVE], aliases=["http://a/dicom-web"]).for_public_url(PUBLIC.encode())
    )
    text = f'{{"00081190":{{"vr":"UR","Value":["{ARCHIVE}/studies/1","{other}/studies/1"]}}}}'
    for _ in range(2):
        assert rewritten(DICOM_JSON, text, rewriter) == (
            text.replace(ARCHIVE, PUBLIC).replace(other, PUBLIC)
        )


# The bytes to search for in their bodies: a word, a letter, a letter of a key, a slash.
SERVICES = [
    ["http://h/ww-web"],
    ["http://h/x"],
    ["http://h/x", "http://h/xx"],
    ["http://h/k"],
    ["http://h"],
    ["http://h/a", "http://i/b"],
]
FIELDS = {
    DICOM_JSON: (*['{"00081190":{"Value":["'] * 3, 'x"BulkDataURI":"'),
    DICOM_XML: ('<BulkData uri="', *['<DicomAttribute tag="00081190"><Value>'] * 3),
}
SEPARATORS = {
    DICOM_JSON: (*['","'] * 5, '"}', '"', r"\u003f"),
    DICOM_XML: (*["</Value><Value>"] * 5, "</Value>", '"/>', "&#x3f;"),
}


@settings(deadline=None, max_examples=5 * settings().max_examples)
@given(st.sampled_from(SERVICES), st.sampled_from([*FIELDS]), randoms)
def test_a_split_at_the_usual_form_is_the_search_for_each_url(
    services: list[str], media_type: str, random: Random
) -> None:
    urls = ArchiveURLs(services).for_public_url(PUBLIC.encode())
    bases = [*services, services[0].replace("http:", "https:")]
    pick = random.choice

    def field() -> bytes:
        values = [
            pick(bases) + pick(["/1", "/1", "?k", "2", ""]) for _ in range(random.randint(1, 3))
        ]
        separated = [value + pick(SEPARATORS[media_type]) for value in values]
        return "".join([pick(FIELDS[media_type]), *separated]).encode()

    fields = [field() for _ in range(2)]
    texts = [b"".join(random.choices(fields, k=random.choice([1, 1, 2, 4]))) for _ in range(4)]
    texts += [pick([text, text, damaged(random, text)]) for text in texts]
    bodies = [pick([[text], [*chunks(random, text)]]) for text in texts]

    def results() -> list[bytes]:
        rewriter = URLRewriter(urls)
        sent = []
        for parts in bodies:
            text = body(media_type, rewriter)
            sent.append(b"".join([*map(text.feed, parts), text.flush()]))
        return sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(url_search.URLReplacer, "_replace_usual", lambda *_: None)
        expected = results()
    assert results() == expected


# -- XML -------------------------------------------------------------------------------------------


def xml(random: Random, depth: int = 0) -> str:
    """Write attributes of the Native DICOM Model, some of which hold what looks like such."""
    parts = []
    prefix = random.choice(["", "", "d:"])
    for _ in range(random.randint(0, 4)):
        tag = random.choice(["00081190", "00081190", "00081199", "00104000"])
        names = {"tag": tag, "vr": "UR", "privateCreator": text_of(random)}
        children = [child(random, prefix, depth) for _ in range(random.randint(0, 3))]
        parts.append(element(random, f"{prefix}DicomAttribute", names, "".join(children)))
    return "".join(parts)


def child(random: Random, prefix: str, depth: int) -> str:
    number = {"number": "1"}
    match random.randint(0, 9):
        case 0:
            return element(random, f"{prefix}BulkData", {"uri": text_of(random), "x": ">"}, "")
        case 1 if depth < 2:
            return element(random, f"{prefix}Item", number, xml(random, depth + 1))
        case 2:
            return element(random, f"{prefix}Family", {}, escaped(random, text_of(random), "<"))
        case _:
            text = text_of(random)
            section = f"<![CDATA[{text}]]>"
            if random.random() < 0.8 or "]]>" in text or url(text) in (PUBLIC, f"{PUBLIC}/wado"):
                section = escaped(random, text, "<")
            return element(random, f"{prefix}Value", number, misc(random) + section)


def text_of(random: Random) -> str:
    text = "".join(random.choices([*FRAGMENTS, *XML_FRAGMENTS], k=random.choice([0, 1, 1, 1, 3])))
    return text.replace("\ud800", "")


XML_FRAGMENTS = [
    f'<BulkData uri="{ARCHIVE}/s"/>',
    f'<DicomAttribute tag="00081190"><Value number="1">{ARCHIVE}/s</Value></DicomAttribute>',
    f'" uri="{ARCHIVE}/',
    " tag='00081190'",
    "<!-- ",
    "<![CDATA[",
    "<?",
    "?>",
    "-->",
]


def misc(random: Random) -> str:
    """What XML allows between the lines: nothing, a comment, a processing instruction."""
    text = text_of(random).replace("--", "").replace("?>", "").rstrip("-")
    return random.choice([""] * 8 + [f"<!-- {text} -->", f"<?w {text}?>"])


def element(random: Random, name: str, attributes: dict[str, str], content: str) -> str:
    items = list(attributes.items())
    random.shuffle(items)
    space = random.choice([" ", " ", "\n\t"])
    tag = name
    for key, value in items:
        quote = random.choice("\"'")
        tag += f"{space}{key}={quote}{escaped(random, value, '<' + quote)}{quote}"
    end = "" if content or random.random() < 0.5 else "/"
    return f"<{tag}{end}>{content}" + ("" if end else f"</{name}>") + misc(random)


def escaped(random: Random, text: str, needed: str) -> str:
    some = random.choice([0, 0, 0, 0.1, 1])
    return "".join(
        random.choice([f"&#{ord(char)};", f"&#x{ord(char):x};", f"&#x00{ord(char):X};"])
        if random.random() < some or char in needed or char == ">"
        else "&amp;"
        if char == "&"
        else char
        for char in text
    )


def xml_positions(root: ET.Element) -> ET.Element:
    """The reference, as `positions`."""
    for node in root.iter():
        name = node.tag.removeprefix("{d}")
        if name == "BulkData":
            node.set("uri", url(node.get("uri", "")))
        if name == "DicomAttribute" and node.get("tag") == "00081190":
            for value in node:
                if value.tag != node.tag.replace("DicomAttribute", "Value"):
                    break
                value.text = value.text and url(value.text)
    return root


@settings(deadline=None)
@given(randoms)
def test_only_urls_in_their_positions_change_in_xml(random: Random) -> None:
    text = f'<?xml version="1.0"?><NativeDicomModel xmlns:d="d">{xml(random)}</NativeDicomModel>'
    with far_reach():
        result = ET.fromstring(rewritten(DICOM_XML, text))
    assert ET.tostring(result) == ET.tostring(xml_positions(ET.fromstring(text)))


@settings(deadline=None)
@given(randoms)
def test_xml_is_rewritten_alike_however_it_is_split(random: Random) -> None:
    data = damaged(random, f"<NativeDicomModel>{xml(random)}</NativeDicomModel>".encode())
    assert passed(DICOM_XML, *chunks(random, data)) == passed(DICOM_XML, data)


@pytest.mark.parametrize(
    "text",
    [
        '<BulkData uri="%s"/>',
        '<BulkData URI="%s/w"/>',
        "<BulkData x='\"' uri = '%s/w'></BulkData>",
        '<m:BulkData\n\turi="%s&#x2f;w&amp;"/>',
        '<DicomAttribute tag="00081190" vr="UR"><Value number="1">%s/</Value></DicomAttribute>',
        "<DicomAttribute\ntag='00081190' >\n <Value/> <Value>x</Value>\n <Value>%s/</Value>",
        '<DicomAttribute tag="&#48;0081190"><!-- w --><Value><?w?>%s&#x0002F;w</Value>',
        '<DicomAttribute tag="00081190"><Value><![CDATA[%s/w<BulkData uri=""]]></Value>',
        '<DicomAttribute tag="00081190"><Value><![CDATA[%s/w]]></Value><Value>%s</Value>',
        '<!--><BulkData uri=""--><?x <BulkData uri=""?><BulkData uri="%s"/>',
    ],
)
def test_xml_positions(text: str) -> None:
    bases = text.count("%s")
    assert rewritten(DICOM_XML, text % ((ARCHIVE,) * bases)) == text % ((PUBLIC,) * bases)


@pytest.mark.parametrize(
    "text",
    [
        '<DicomAttribute tag="00104000"><Value number="1">%s</Value></DicomAttribute>',
        '<DicomAttribute tag="00104000" privateCreator=" tag=\'00081190\'"><Value>%s</Value>',
        '<DicomAttribute tag="00081190"/><Value number="1">%s</Value>',
        '<DicomAttribute tag="00081190"><Item number="1"><Value>%s</Value></Item>',
        '<DicomAttribute tag="00081190"><Value>see %s</Value>',
        '<DicomAttribute tag="00081190"><Value>%s&lt;w</Value>',
        '<BulkData uuid="1"/><Data uri="%s"/>',
        '<BulkData uri="http:&#65583;/archive:8042/dicom-web/w"/>',
        '<DicomAttribute tag="00081190"><Value><![CDATA[w<BulkData uri="%s/w"]]>',
        '<DicomAttribute tag="00081190"><Value><![CDATA[<%s/w]]></Value>',
        "<BulkData x=\"uri='%s'\"/>",
        '<!-- <BulkData uri="%s"/> -->',
        '<?w <BulkData uri="%s"/> ?>',
        '<![CDATA[<BulkData uri="%s"/>]]>',
        '<Value>x<![CDATA[y<BulkData uri="%s"/>]]></Value>',
        '<!DOCTYPE m [<!ENTITY e "x">]><BulkData uri="%s"/>',
        '<BulkData uri="%s',
        "<!-",
    ],
)
def test_xml_elsewhere(text: str) -> None:
    text = text.replace("%s", ARCHIVE)
    known = (
        f'<BulkData uri="{ARCHIVE}/w"/><DicomAttribute tag="00081190"><Value>{ARCHIVE}/w</Value>'
    )
    result = known.replace(ARCHIVE, PUBLIC) + text
    assert rewritten(DICOM_XML, text) == text
    assert rewritten(DICOM_XML, known + text) == result
    assert passed(DICOM_XML, *map(str.encode, known + text)) == result.encode()


def test_the_public_url_is_escaped() -> None:
    rewriter = URLRewriter(
        ArchiveURLs([ARCHIVE]).for_public_url("https://p.example/a&b'\xe9".encode("latin-1"))
    )
    text = '<BulkData uri="%s/w"/>'
    assert rewritten(DICOM_XML, text % ARCHIVE, rewriter) == (
        text % "https://p.example/a&amp;b&apos;&#233;"
    )
    section = f'<DicomAttribute tag="00081190"><Value><![CDATA[{ARCHIVE}/]]></Value>'
    assert rewritten(DICOM_XML, section, rewriter) == section
    assert rewritten(DICOM_JSON, f'{{"BulkDataURI":"{ARCHIVE}"}}', rewriter) == (
        r"""{"BulkDataURI":"https://p.example/a&b'\u00e9"}"""
    )


# -- Multipart -------------------------------------------------------------------------------------

POSITION = f'<BulkData uri="{ARCHIVE}/w"/>'.encode()
REWRITTEN = f'<BulkData uri="{PUBLIC}/w"/>'.encode()


def part(head: str, content: bytes) -> bytes:
    return f"--edge\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (part("Content-Type: application/dicom+xml", POSITION), None),
        (
            part(
                f"content-length : {len(POSITION)}\r\nContent-Location: {ARCHIVE}/w\r\n"
                "Content-Type: Application/DICOM+XML;charset=utf-8",
                POSITION,
            ),
            part(
                f"Content-Location: {ARCHIVE}/w\r\n"
                "Content-Type: Application/DICOM+XML;charset=utf-8",
                REWRITTEN,
            ),
        ),
        (b"ignored\r\n" + part("Content-Type: application/dicom+xml", POSITION), None),
        (b"--edge\nContent-Type: application/dicom+xml\n\n" + POSITION + b"\n", None),
        (part("Content-Type: application/dicom+xml", b"") * 2, None),
        (
            part("Content-Type: application/dicom+xml", POSITION) + part("y" * 20000, POSITION),
            part("Content-Type: application/dicom+xml", REWRITTEN) + part("y" * 20000, POSITION),
        ),
        (b"--edge\r\nContent-Type: application/dicom+xml\r\n\r\n--edge\r\n\r\n" + POSITION, b""),
        (part("Content-Type: image/jpeg\r\nContent-Length: 9", POSITION), b""),
        (part("Content-Type: application/dicom+xml\r\nContent-Encoding: gzip", POSITION), b""),
        (
            part(
                "Content-Type: application/dicom+xml\r\nContent-Transfer-Encoding: 8bit", POSITION
            ),
            b"",
        ),
        (part("x: y", POSITION), b""),
        (part("", POSITION), b""),
        (POSITION, b""),
        (b"", None),
        (b"--edge", None),
        (b"x--edge\r\nContent-Type: application/dicom+xml\r\n\r\n" + POSITION, b""),
        (part("x: " + "y" * 20000 + "\r\nContent-Type: application/dicom+xml", POSITION), b""),
        (
            part("Content-Type: application/dicom+json", b'{"BulkDataURI":"' + ARCHIVE.encode())
            + part("Content-Type: application/dicom+xml", POSITION),
            None,
        ),
    ],
)
@pytest.mark.parametrize("end", [b"--edge--", b"--edge--\r\nignored\r\n\r\n" + POSITION, b""])
def test_parts(data: bytes, expected: bytes | None, end: bytes) -> None:
    """`expected` is None for every position rewritten, empty for none."""
    data += end
    if expected is None:
        text = data.removesuffix(end).replace(POSITION, REWRITTEN) + end
    else:
        text = (expected + end) if expected else data
    assert passed(MULTIPART, data) == text


@settings(deadline=None)
@given(randoms, st.lists(st.binary(max_size=40) | st.just(POSITION), max_size=4))
def test_multipart_is_rewritten_alike_however_it_is_split(
    random: Random, contents: list[bytes]
) -> None:
    types = ["application/dicom+xml", "application/dicom+json", "image/jpeg"]
    parts = [
        part(f"Content-Length: 7\r\nContent-Type: {random.choice(types)}", content)
        for content in contents
    ]
    data = damaged(random, b"".join(parts) + b"--edge--\r\n")
    assert passed(MULTIPART, *chunks(random, data)) == passed(MULTIPART, data)


# -- Bounds ----------------------------------------------------------------------------------------

ENDLESS = [
    b'{"BulkDataURI":"' + ARCHIVE.encode() + b"/",
    b'{"BulkDataURI":"http://elsewhere/',
    b'"http',
    b'"\\u0068',
    b"[",
    b'{"00081190":',
    b'{"00081190":{"vr":"UR","Value":["",',
    b"\\",
    b" ",
    b'<BulkData uri="http://',
    b"<Value>http",
    b"<![CDATA[",
    b"<!-- ",
    b"<",
    b"]]",
    b"&#x2f;",
    b"--edge\r\nContent-Type: application/dicom+xml\r\n\r\n",
    b"\r\n--edge",
    b"\r\n",
    b"\xff\xc0",
]


@pytest.mark.parametrize("again", [b"", b"w", b" ", b'"', None], ids=repr)
@pytest.mark.parametrize("start", ENDLESS, ids=repr)
@pytest.mark.parametrize(
    ("media_type", "bound"), [(DICOM_JSON, 1024), (DICOM_XML, 1024), (MULTIPART, 16384)]
)
def test_little_is_held_back(
    media_type: str, bound: int, start: bytes, again: bytes | None
) -> None:
    same_length = ArchiveURLs([ARCHIVE]).for_public_url(
        ARCHIVE.replace("archive", "reached").encode()
    )
    rewriter = body(media_type, URLRewriter(same_length))
    chunk = (start if again is None else again) * (bound // 16)
    late = len(start) - len(rewriter.feed(start))
    for _ in range(32):
        late += len(chunk) - len(rewriter.feed(chunk))
        assert late <= bound


def test_what_is_held_back_is_a_url_at_most() -> None:
    rewriter = body(DICOM_JSON)
    assert rewriter.feed(b'[{"BulkDataURI":') == b'[{"BulkDataURI":'
    assert rewriter.feed(b'"') == b'"'
    assert rewriter.feed(ARCHIVE.encode()) == b""
    assert rewriter.feed(b'/w"') == f'{PUBLIC}/w"'.encode()
    assert rewriter.feed(b"}]") == b"}]"
    assert rewriter.flush() == b""


def test_a_value_too_far_from_its_key_stays() -> None:
    text = '{"00081190":{"Value":[%s"%s"]}}'
    near = text % (" " * 2000, ARCHIVE)
    far = text % (" " * 2048, ARCHIVE)
    assert rewritten(DICOM_JSON, near) == near.replace(ARCHIVE, PUBLIC)
    assert rewritten(DICOM_JSON, far) == far


def test_a_base_url_too_long_stays() -> None:
    rewriter = URLRewriter(
        ArchiveURLs([f"http://archive/{'w' * 2000}"]).for_public_url(PUBLIC.encode())
    )
    text = f'{{"BulkDataURI":"http://archive/{"w" * 2000}/"}}'
    assert rewritten(DICOM_JSON, text, rewriter) == text


def takes_linear_time(work: Callable[[int], object], few: int) -> bool:
    """Return whether eight times as much takes less than sixteen times as long, not sixty-four.

    One of three attempts is enough, because the machine may be busy with other things.
    """

    def seconds(size: int) -> float:
        begun = time.process_time()
        work(size)
        return time.process_time() - begun

    return any(seconds(8 * few) < 16 * seconds(few) for _ in range(3))


def test_a_multipart_of_many_parts_takes_linear_time() -> None:
    def work(parts: int) -> None:
        rewriter = REWRITER.body(200, {b"content-type": b"multipart/related; boundary=b"})
        assert rewriter is not None
        body = b"\r\n--b\r\n\r\n" * parts
        assert rewriter.feed(body) + rewriter.flush() == body

    assert takes_linear_time(work, 10_000)


@pytest.mark.parametrize("name", ["link", "warning"])
@pytest.mark.parametrize("end", ["", "\\", '"'])
def test_a_quoted_string_without_an_end_takes_linear_time(name: str, end: str) -> None:
    def work(quotes: int) -> None:
        line = name + ': "' + '\\"' * quotes + f"<{ARCHIVE}/>" + end
        assert REWRITER.headers(lines(line)) == lines(line)

    assert takes_linear_time(work, 2000)


def test_a_value_that_is_none_of_ours_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    found = url_search.URLReplacer._found  # noqa: SLF001

    def counted(text: url_search.URLReplacer, data: bytes, start: int) -> object:
        looks.append(start)
        return found(text, data, start)

    monkeypatch.setattr(url_search.URLReplacer, "_found", counted)
    text = f'["{ARCHIVE}/{"dicom-web/" * 50}",{{"BulkDataURI":"{ARCHIVE}/1"}}]'
    rewriter = URLRewriter(ArchiveURLs([ARCHIVE]).for_public_url(PUBLIC.encode()))
    expected = text.replace(f'{ARCHIVE}/1"', f'{PUBLIC}/1"')
    assert body(DICOM_JSON, rewriter).whole(text.encode()) == expected.encode()
    assert len(looks) == 2
