"""The probe: what it asks, what it finds, what it says, and what it never says."""

from __future__ import annotations

import json
import re
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml
from click.testing import CliRunner

from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.probe import client
from dicomweb_cors_proxy.probe.addresses import Space, space_of_address, space_of_origin
from dicomweb_cors_proxy.probe.advice import Advisor
from dicomweb_cors_proxy.probe.fetch import BEFORE, CORS_CHECK, PREFLIGHT, Request, Rule, Step
from dicomweb_cors_proxy.probe.links import Instance, Link, instance_of, links, shown_origin
from dicomweb_cors_proxy.probe.page import FetchResult, Stage
from dicomweb_cors_proxy.probe.reasons import why
from dicomweb_cors_proxy.probe.responses import Response
from tests.support.faults import FAULTS, always, on_preflights, with_a_login
from tests.support.probing import (
    ALLOW_CREDENTIALS,
    ALLOW_HEADERS,
    ALLOW_METHODS,
    ALLOW_ORIGIN,
    EXPOSE_HEADERS,
    MAX_AGE,
    STUDY,
    VIEWER,
    Answered,
    Fault,
    archive,
    found,
    probed,
    with_settings,
)
from tests.support.servers import LOOPBACK, Reply, free_port, silence, stub

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def run(root: str, *flags: str, origin: str = VIEWER, colour: bool = False) -> Result:
    """Run the command in this process, as on a terminal with `colour`."""
    words = ["probe", root, "--origin", origin, *flags]
    return CliRunner().invoke(main, words, color=colour, catch_exceptions=False)


def status(code: int, *, below: str = "/studies") -> Fault:
    def fault(answer: Answered) -> None:
        if not answer.is_preflight and below in answer.path:
            answer.status = code

    return fault


# Wrong usage


ROOT = "https://pacs.example/dicom-web"
SECRET = "canary-secret"
MISUSES = {
    "no URL": (["--origin", VIEWER], "Missing argument 'URL'"),
    "no origin": ([ROOT], "Missing option '--origin'"),
    "a path": (["/dicom-web", "--origin", VIEWER], "such as https://pacs.example/dicom-web"),
    "no host": (["https:///dicom-web", "--origin", VIEWER], "must be a DICOMweb root"),
    "a port that is none": (["https://pacs.example:x", "--origin", VIEWER], "DICOMweb root"),
    "another scheme": (["ftp://pacs.example", "--origin", VIEWER], "DICOMweb root"),
    "a password": (
        [f"https://user:{SECRET}@pacs.example", "--origin", VIEWER],
        "a login goes into --header 'Authorization: …'",
    ),
    "a query": ([f"{ROOT}?PatientName={SECRET}", "--origin", VIEWER], "leave out what follows"),
    "an empty query": ([f"{ROOT}?", "--origin", VIEWER], "leave out what follows"),
    "a fragment": ([f"{ROOT}#{SECRET}", "--origin", VIEWER], "leave out what follows"),
    "a space": (["https://pacs.example/a b", "--origin", VIEWER], "must be percent-encoded"),
    "an umlaut": (["https://pacs.example/ü", "--origin", VIEWER], "must be percent-encoded"),
    "an origin with a slash": (
        [ROOT, "--origin", f"{VIEWER}/"],
        f"'{VIEWER}/' has a trailing slash",
    ),
    "an origin without a scheme": ([ROOT, "--origin", "viewer.example"], "viewer.example"),
    "any origin": ([ROOT, "--origin", "*"], "write the viewer's, such as https://viewer.example"),
    "a pattern": ([ROOT, "--origin", "https://*.example.edu"], "write the origin of one page"),
    "no header": ([ROOT, "--origin", VIEWER, "--header", SECRET], "is written 'Name: value'"),
    "a line more": (
        [ROOT, "--origin", VIEWER, "--header", f"X-A: a\nX-B: {SECRET}"],
        "is written 'Name: value'",
    ),
    "a forbidden header": (
        [ROOT, "--origin", VIEWER, "--header", f"Host: {SECRET}"],
        "Browsers do not let a page set Host",
    ),
    "a cookie alone": (
        [ROOT, "--origin", VIEWER, "--header", f"Cookie: {SECRET}"],
        "add --credentials",
    ),
    "no file": ([ROOT, "--origin", VIEWER, "--ca-file", "/nowhere.pem"], "does not exist"),
    "no certificates": (
        [ROOT, "--origin", VIEWER, "--ca-file", __file__],
        "has no certificate in PEM",
    ),
}


@pytest.mark.parametrize(("words", "remedy"), MISUSES.values(), ids=MISUSES)
def test_wrong_usage(words: list[str], remedy: str) -> None:
    result = CliRunner().invoke(main, ["probe", *words], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (2, "")
    assert remedy in result.stderr
    assert SECRET not in result.stderr


# What is asked


def test_a_store_that_is_wanted_is_sent_once_and_empty() -> None:
    with archive() as there:
        report = probed(there.url, "--write")
    (store,) = (headers for method, _, headers in there.requests if method == "POST")
    assert (store["Content-Length"], store["Transfer-Encoding"]) == ("0", None)
    assert found(report, "store")["status"] == 400
    assert found(report, "store")["verdict"] == "pass"


def read_only(answer: Answered) -> None:
    if answer.method == "POST":
        answer.status = 405


def test_a_store_that_is_refused_names_the_setting() -> None:
    with archive(read_only) as there:
        report = probed(there.url, "--write")
    assert not report["blocked"]
    assert found(report, "store")["settings"] == {"access.mode": "read-write"}
    assert report["first"].startswith("Nothing is blocked, but first, have the server accept store")


def web_page(answer: Answered) -> None:
    """Answer every path with a page, as single-page applications do."""
    if not answer.is_preflight:
        answer.status, answer.body = 200, b"<!doctype html>"
        answer.put("Content-Type", "text/html")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (status(404, below="/"), "requests got 404."),
        (status(404), "requests got 404."),
        (status(405), "requests got 405."),
        (status(404, below="/studies?"), "the search got 404."),
        (web_page, "the search got 200, and the body is not DICOM JSON."),
    ],
    ids=["everywhere", "studies", "405", "search", "a page"],
)
def test_a_wrong_url_is_never_a_pass(fault: Fault, said: str) -> None:
    with archive(fault) as there:
        report = probed(there.url)  # checks the exit status
    assert report["blocked"]
    nothing = found(report, "root")
    assert nothing["verdict"] == "fail"
    assert nothing["text"].startswith(f"There is no DICOMweb here: {said}")
    assert found(report, "search")["verdict"] == "pass", "CORS is right all the same"


@pytest.mark.parametrize("code", [401, 403, 500, 204])
def test_a_server_that_refuses_or_has_no_study_is_there(code: int) -> None:
    with archive(status(code)) as there:
        report = probed(there.url)
    assert not [check for check in report["checks"] if check["check"] == "root"]


def test_a_store_whose_preflight_is_refused_is_not_sent() -> None:
    with archive(FAULTS["no headers allowed"]) as there:
        report = probed(there.url, "--write")
    assert "POST" not in {method for method, _, _ in there.requests}
    assert found(report, "store")["verdict"] == "fail"


def test_a_store_without_a_preflight_is_not_sent_either() -> None:
    with archive() as there:
        report = probed(there.url, "--header", "Content-Type: text/plain")
    assert "POST" not in {method for method, _, _ in there.requests}
    assert "no preflight is needed" in found(report, "store")["text"]


def test_it_asks_as_a_browser_does() -> None:
    with archive() as there:
        run(there.url, "--header", "X-Site: a", "--header", "accept: application/json")
    preflights = [headers for method, _, headers in there.requests if method == "OPTIONS"]
    for headers in preflights:
        assert headers["Origin"] == VIEWER
        assert headers["Access-Control-Request-Headers"].split(",")[-1] == "x-site"
        assert not {"X-Site", "Authorization", "Cookie"} & set(headers)
    reads = [headers for method, _, headers in there.requests if method == "GET"]
    for headers in reads:
        # What is asked without an origin has to do with caches.
        assert headers["Origin"] in (VIEWER, None)
        assert (headers["X-Site"], headers.get_all("Accept")) == ("a", ["application/json"])
    assert {headers["Sec-Fetch-Mode"] for headers in preflights} == {"cors"}


def test_frames_are_asked_for_with_quotes() -> None:
    with archive() as there:
        run(there.url)
    frames = [h["Accept"] for m, path, h in there.requests if m == "GET" and "frames" in path]
    assert frames
    assert all('type="application/octet-stream"' in accept for accept in frames)


def test_cookies_go_with_credentials_but_not_with_preflights() -> None:
    with archive() as there:
        assert run(there.url, "--credentials", "--header", "Cookie: a=b").exit_code == 0
    for method, _, headers in there.requests:
        assert headers["Cookie"] == (
            None if method == "OPTIONS" or not headers["Origin"] else "a=b"
        )


def test_a_login_does_not_follow_a_redirect_to_another_host() -> None:
    with archive(FAULTS["redirected elsewhere"]) as there:
        run(there.url, "--header", "Authorization: Bearer a")
    assert [h["Authorization"] for _, _, h in there.requests if h["Host"].startswith("local")]
    for method, _, headers in there.requests:
        if headers["Host"].startswith("localhost"):
            assert headers["Authorization"] is None, method


# What is found


def no_vary(answer: Answered) -> None:
    answer.drop("Vary")


def unkept(answer: Answered) -> None:
    answer.drop("Vary")
    answer.put("Cache-Control", "no-store")


def announces_ranges(answer: Answered) -> None:
    if answer.status == 206:
        answer.status = 200
    answer.put("Accept-Ranges", "bytes")
    answer.put(EXPOSE_HEADERS)


def part_refused(answer: Answered) -> None:
    if answer.asked["Range"]:
        answer.put(ALLOW_ORIGIN)


def empty(answer: Answered) -> None:
    if "?" in answer.path:
        answer.body = b"[]"


def at_study_level(answer: Answered) -> None:
    if answer.path.endswith("studies?limit=1"):
        answer.body = json.dumps([{"0020000D": {"vr": "UI", "Value": [STUDY]}}]).encode()


def answers_all(answer: Answered) -> None:
    if answer.status == 404:
        answer.status = 200


def not_http(answer: Answered) -> None:
    answer.status = 0


FOUND: dict[str, tuple[Fault, tuple[str, ...], str, str, str | None, str]] = {
    # what is wrong: flags, then check, verdict, rule, words
    "CORS on success only": (
        FAULTS["CORS on success only"], (),
        "errors", "fail", "allow-origin-missing", "CORS headers come on success only: the 404",
    ),
    "a login before preflights": (
        FAULTS["401 to preflights"], (),
        "frames", "fail", "allow-origin-missing", "the server asks for a login before it looks at",
    ),
    "preflights redirected": (
        FAULTS["preflights redirected"], (),
        "frames", "fail", "preflight-redirected", "(308) to another path, and browsers follow no",
    ),
    "preflights without an answer": (
        FAULTS["preflights without an answer"], (),
        "frames", "fail", "no-http-answer", "The preflight (OPTIONS): The server did not send HTTP",
    ),
    "no HTTP": (not_http, (), "search", "fail", "no-http-answer", "The server did not send HTTP"),
    "headers doubled": (
        FAULTS["the origin twice"], (),
        "search", "fail", "allow-origin-several", "twice: two layers set it",
    ),
    "credentials doubled": (
        FAULTS["credentials twice"], (),
        "doubled", "warn", "doubled", "Access-Control-Allow-Credentials comes twice",
    ),
    "max-age doubled": (
        FAULTS["max-age twice"], (),
        "doubled", "warn", "doubled", "Access-Control-Max-Age comes twice",
    ),
    "max-age doubled is unreadable": (
        FAULTS["max-age twice"], (), "max-age", "warn", "max-age", "an unreadable",
    ),
    "no max-age": (on_preflights(MAX_AGE), (), "max-age", "warn", "max-age", "forget it after 5"),
    "max-age 0": (
        on_preflights(MAX_AGE, "0"), (), "max-age", "warn", "max-age", "forbids to keep it",
    ),
    "max-age -1": (
        on_preflights(MAX_AGE, "-1"), (), "max-age", "warn", "max-age", "forbids to keep it",
    ),
    "max-age in minutes": (
        on_preflights(MAX_AGE, "10m"), (), "max-age", "warn", "max-age", "an unreadable",
    ),
    "a short max-age": (
        on_preflights(MAX_AGE, "10"), (), "max-age", "warn", "max-age", "for 10 seconds only",
    ),
    "a long max-age": (
        on_preflights(MAX_AGE, "86401"), (), "max-age", "note", None, "Chrome stops at 7200",
    ),
    "a max-age of 5000 digits": (
        on_preflights(MAX_AGE, "9" * 5000), (), "max-age", "note", None, "for 2147483648 seconds",
    ),
    "Content-Range not exposed": (
        FAULTS["nothing exposed"], (),
        "range", "fail", "content-range-not-exposed", "take a part of an image for the whole",
    ),
    "Content-Range not exposed, perhaps": (
        announces_ranges, (),
        "range", "warn", "content-range-not-exposed", "announces Accept-Ranges",
    ),
    "Content-Range exposed by a star": (
        FAULTS["everything exposed"], (), "range", "pass", None, "sees which part it got",
    ),
    "a star with credentials": (
        FAULTS["everything exposed"], ("--credentials",),
        "range", "fail", "content-range-not-exposed", "can't see Content-Range",
    ),
    "parts without CORS": (
        part_refused, (), "range", "fail", "allow-origin-missing", "can't read parts of frames",
    ),
    "no Vary": (no_vary, (), "vary", "warn", "vary-missing", "lacks Vary: Origin"),
    "a star for credentials": (
        FAULTS["any origin"], ("--credentials",),
        "search", "fail", "allow-origin-any-with-credentials", "lets * in, which counts for",
    ),
    "a star for authorization": (
        FAULTS["any header"], ("--header", "Authorization: Bearer a"),
        "search", "fail", "authorization-not-named", "a * there never covers it",
    ),
    "a star for headers": (
        FAULTS["any header"], ("--credentials",),
        "frames", "fail", "header-not-allowed", "a * in Access-Control-Allow-Headers is a name",
    ),
    "an origin in capitals": (
        FAULTS["capitals in the origin"], (),
        "search", "fail", "allow-origin-other", "capitals count",
    ),
    "a slash after the origin": (
        FAULTS["a slash after the origin"], (),
        "search", "fail", "allow-origin-other", "it ends with a slash",
    ),
    "null": (FAULTS["null"], (), "search", "fail", "allow-origin-other", "it says null"),
    "no origin": (
        FAULTS["an empty origin"], (), "search", "fail", "allow-origin-other", "it is no origin",
    ),
    "a pattern": (
        always(ALLOW_ORIGIN, "https://*.example"), (),
        "search", "fail", "allow-origin-other", "it is a pattern",
    ),
    "a path": (
        always(ALLOW_ORIGIN, f"{VIEWER}/a"), (),
        "search", "fail", "allow-origin-other", "it has a path",
    ),
    "another port": (
        always(ALLOW_ORIGIN, f"{VIEWER}:8443"), (),
        "search", "fail", "allow-origin-other", "its port is another",
    ),
    "another scheme": (
        always(ALLOW_ORIGIN, VIEWER.replace("https", "http")), (),
        "search", "fail", "allow-origin-other", "its scheme is another",
    ),
    "another host": (
        always(ALLOW_ORIGIN, "https://other.example"), (),
        "search", "fail", "allow-origin-other", "its host is another",
    ),
    "a list of origins": (
        FAULTS["a list of origins"], (), "search", "fail", "allow-origin-several", "only one",
    ),
    "three lines": (
        always(ALLOW_ORIGIN, *[VIEWER] * 3), (),
        "search", "fail", "allow-origin-several", "3 times",
    ),
    "redirected": (FAULTS["redirected"], (), "search", "pass", None, "saves the viewer a request"),
    "redirected without CORS": (
        FAULTS["redirected without CORS"], (),
        "search", "fail", "allow-origin-missing", "is a redirect (307) to another path, and has no",
    ),
    "redirected for ever": (
        FAULTS["redirected for ever"], (),
        "search", "fail", "redirect-loop", "redirects in an endless loop",
    ),
    "redirected to nowhere": (
        FAULTS["redirected to a file"], (),
        "search", "fail", "redirect-not-http", "a URL that is not http or https",
    ),
    "a readable 401": (with_a_login, (), "search", "pass", None, "With a login it tells more"),
    "a wrong login": (
        status(401), ("--header", "Authorization: Bearer a"),
        "search", "pass", None, "does not take the login",
    ),
    "a readable 404": (
        status(404), (), "search", "pass", None, "The URL may not be that of the DICOMweb root.",
    ),
    "a readable 405": (
        status(405), (), "search", "pass", None, "CORS is right, the server refuses: a page reads",
    ),
    "a readable 406": (
        status(406, below="frames"), (), "frames", "pass", None, "no frames of the media type",
    ),
    "a readable 502": (status(502), (), "search", "pass", None, "the server fails: a page reads"),
    "an empty archive": (empty, (), "metadata", "pass", None, "so a made-up one was asked for"),
    "a search by study": (at_study_level, (), "frames", "pass", None, "can read frames (200)"),
    "an archive that has everything": (answers_all, (), "errors", "pass", None, "(200)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "flags", "check", "verdict", "rule", "words"), FOUND.values(), ids=FOUND
)
def test_what_is_found(  # noqa: PLR0917  (the table's columns)
    fault: Fault, flags: tuple[str, ...], check: str, verdict: str, rule: str | None, words: str
) -> None:
    with archive(fault) as there:
        finding = found(probed(there.url, *flags), check)
    assert (finding["verdict"], finding["rule"]) == (verdict, rule)
    assert words in finding["text"]
    assert (verdict == "fail") <= bool(finding["step"] or rule == "no-http-answer")


def test_search_and_metadata_are_timed() -> None:
    with archive() as there:
        report = probed(there.url)
    assert report["seconds"].keys() == {"search", "metadata"}
    for times in report["seconds"].values():
        assert 0 < times["first_byte"] <= times["total"]
    assert re.fullmatch(
        r"Search: first byte after \d+\.\d\d s, all after \d+\.\d\d s\. "
        r"Metadata: first byte after \d+\.\d\d s, all after \d+\.\d\d s\. "
        r"Each request has opened a connection\.",
        found(report, "time")["text"],
    )


def test_what_was_not_sent_is_not_timed() -> None:
    def fault(answered: Answered) -> None:
        if not answered.is_preflight:
            answered.status = 500

    with archive(fault) as there:
        report = probed(there.url)
    assert report["seconds"] == {}
    assert "time" not in {check["check"] for check in report["checks"]}


def test_a_long_response_is_timed_as_far_as_it_is_read() -> None:
    def fault(answered: Answered) -> None:
        if answered.body.startswith(b"["):
            answered.body += b" " * (5 << 20)

    with archive(fault) as there:
        report = probed(there.url)
    assert "the first 4 MiB after" in found(report, "time")["text"]


def test_what_is_right_passes() -> None:
    with archive() as there:
        report = probed(there.url)
    assert {c["check"]: c["verdict"] for c in report["checks"]} == {
        **dict.fromkeys(
            ["search", "metadata", "frames", "store", "errors", "range", "max-age", "vary"], "pass"
        ),
        **dict.fromkeys(["time", "local-network"], "note"),
    }
    assert report["first"] == "Nothing to do: pages on this origin can use the archive."


def test_a_server_that_fails_is_not_called_right() -> None:
    def down(answer: Answered) -> None:
        if not answer.is_preflight:
            answer.status, answer.body = 502, b""

    with archive(down) as there:
        report = probed(there.url)
    assert not report["blocked"]
    assert report["first"].startswith("Browsers block nothing, but the server fails (502): ")


def closed_without_origin(answer: Answered) -> None:
    answer.drop("Vary")
    if not answer.origin:
        answer.status = 0


def another_without_origin(answer: Answered) -> None:
    answer.drop("Vary")
    if not answer.origin:
        answer.status = 403


@pytest.mark.parametrize("fault", [unkept, closed_without_origin, another_without_origin])
def test_vary_is_not_missed_where_it_says_nothing(fault: Fault) -> None:
    with archive(fault) as there:
        assert "vary" not in {check["check"] for check in probed(there.url)["checks"]}


def test_a_sandboxed_frame_that_is_let_in() -> None:
    with archive() as there:
        assert not probed(there.url, origin="null")["blocked"]


def silent_on_preflights(answer: Answered) -> None:
    FAULTS["no CORS"](answer)
    answer.drop("Vary")
    FAULTS["preflights without an answer"](answer)


def test_a_proxy_is_no_cure_for_a_server_that_leaves_preflights_unanswered() -> None:
    with archive(silent_on_preflights) as there:
        report = probed(there.url)
    assert report["first"].startswith(
        "First, have every response carry Access-Control-Allow-Origin"
    )


def picky(answer: Answered) -> None:
    """As this proxy: it refuses a preflight whole, and says nothing of what it would allow."""
    wanted = (answer.asked["Access-Control-Request-Headers"] or "").split(",")
    if answer.is_preflight and "x-site" in wanted:
        answer.status = 403
        answer.headers = []


def picky_without_credentials(answer: Answered) -> None:
    picky(answer)
    answer.drop("Access-Control-Allow-Credentials")


def test_lacking_credentials_hide_no_header() -> None:
    with archive(picky_without_credentials) as there:
        report = probed(there.url, "--header", "X-Site: a", "--credentials")
    assert "does not allow the request's x-site header." in found(report, "frames")["text"]


def test_an_origin_that_is_null_cannot_be_listed() -> None:
    with archive(always(ALLOW_ORIGIN)) as there:
        report = probed(there.url, origin="null")
    assert report["first"].startswith("First, serve the viewer over http or https")


def test_the_header_for_which_a_preflight_is_refused_is_found() -> None:
    with archive(picky) as there:
        report = probed(there.url, "--header", "X-Site: a", "--header", "Authorization: a")
        text = found(report, "frames")["text"]
        assert "does not allow the request's x-site header." in text
        flags = [word for number in range(9) for word in ("--header", f"X-A-{number}: a")]
        report = probed(there.url, *flags, "--header", "X-Site: a")
    # That many are not asked for one by one.
    assert "was refused with 403, most likely for its origin" in found(report, "frames")["text"]


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        (FAULTS["no CORS"], "First, let https://viewer.example in, letter by letter"),
        (always(ALLOW_ORIGIN), "First, let https://viewer.example in, letter by letter"),
        (FAULTS["401 to preflights"], "First, have preflights (OPTIONS) answered with 204"),
        (FAULTS["no headers allowed"], "First, name accept in Access-Control-Allow-Headers"),
        (FAULTS["max-age twice"], "Nothing is blocked, but first, let browsers keep preflights"),
        (with_a_login, "Nothing is blocked, but first, get a login for --header"),
        (status(404), "First, see whether the URL, or upstream.url of the dicomweb-cors-proxy"),
        (
            status(502),
            "Browsers block nothing, but the server fails (502): see what the page reads",
        ),
    ],
)
def test_it_ends_with_what_to_do_first(fault: Fault, first: str) -> None:
    with archive(fault) as there:
        report = probed(there.url)
        text = run(there.url).stdout
    assert report["first"].startswith(first)
    assert report["first"].endswith(", then probe again.")
    ending = text.rstrip("\n").rpartition("\n\n")[2]
    assert ending.replace("\n", " ") == report["first"]


def test_an_archive_that_knows_no_cors_gets_a_proxy() -> None:
    with stub(Reply(body=b"[]")) as there:
        report = probed(f"{there.url}/rs")
    assert report["first"].startswith("First, put dicomweb-cors-proxy, or nginx")
    assert found(report, "search")["settings"] == {
        "upstream.url": f"{there.url}/rs",
        "cors.allow_origins": [VIEWER],
    }


def test_the_same_origin_needs_no_cors() -> None:
    with archive(FAULTS["no CORS"]) as there:
        report = probed(there.url, origin=there.url.removesuffix("/dicom-web"))
    assert not report["blocked"]
    assert found(report, "same-origin")["verdict"] == "note"
    for method, _, headers in there.requests:
        assert method == "GET"
        assert headers["Origin"] is None


# URLs in responses


@pytest.mark.parametrize(
    ("there", "words", "verdict", "aliases"),
    [
        ("http://internal:8042/dicom-web", "lead to http://internal:8042: a page on", "fail",
            ["http://internal:8042/dicom-web"]),
        ("https://internal:8042/other", "lead to https://internal:8042: a page that", "warn",
            ["https://internal:8042/PATH"]),
        ("http://Canary^Jane/a", "a URL that can't be read", "fail", []),
        ("http://[", "a URL that can't be read", "warn", []),
    ],
)  # fmt: skip
def test_urls_that_lead_elsewhere(there: str, words: str, verdict: str, aliases: list[str]) -> None:
    with archive(links=there) as running:
        finding = found(probed(running.url), "links")
    assert (finding["verdict"], finding["rule"]) == (verdict, "links-elsewhere")
    assert words in finding["text"]
    assert "(BulkDataURI and RetrieveURL)" in finding["text"]
    assert "public_url has to be the root above" in finding["text"]
    assert finding["settings"] == {"rewrite_urls": True, "upstream.aliases": aliases}


def test_urls_to_another_path_of_the_same_server() -> None:
    with archive() as running, archive(links=running.url.replace("dicom-web", "wado")) as there:
        finding = found(probed(there.url), "links")
        assert finding["verdict"] == "warn"
    port = there.url.rpartition(":")[2].partition("/")[0]
    with archive(links=f"http://{LOOPBACK}:{port}/wado") as _:
        pass


def linked(*values: object) -> bytes:
    return json.dumps([{"00081190": {"vr": "UR", "Value": list(values)}}]).encode()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"<html>", []),
        (b"{}", []),
        (b"[" * 100_000, []),
        (linked(f"{ROOT}/studies/1", "studies/1", "/dicom-web/a", "urn:oid:1", 4), []),
        (linked("/other"), [Link("RetrieveURL", "https://pacs.example")]),
        (
            linked("http://pacs.example/dicom-web/a"),
            [Link("RetrieveURL", "http://pacs.example", is_mixed=True, keeps_path=True)],
        ),
        (
            linked("http://localhost:8042/dicom-web/a"),
            [Link("RetrieveURL", "http://localhost:8042", keeps_path=True)],
        ),
        (linked("https://a:b"), [Link("RetrieveURL", None)]),
        (
            b'[{"1": {"Value": [{"2": {"BulkDataURI": "https://cdn.example/x"}}]}}]',
            [Link("BulkDataURI", "https://cdn.example")],
        ),
    ],
)
def test_links(body: bytes, expected: list[Link]) -> None:
    assert list(links(body, url=f"{ROOT}/studies", root=ROOT, origin=VIEWER)) == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://pacs.example:8443/a?b", "https://pacs.example:8443"),
        ("http://[::1]:80/", "http://[::1]"),
        ("http://user:secret@pacs.example/", "http://pacs.example"),
        ("http://10.0.0.1/", "http://10.0.0.1"),
        ("http://Canary^Jane/", None),
        ("http://a%20b/", None),
        ("http:///", None),
        ("http://1.2.826.0.1.4711/", None),
    ],
)
def test_of_urls_only_hosts_are_shown(url: str, shown: str | None) -> None:
    assert shown_origin(url) == shown


@pytest.mark.parametrize(
    ("body", "instance"),
    [
        (b"[]", Instance()),
        (b"null", Instance()),
        (b'[{"0020000D": {"Value": ["1.2"]}}]', Instance("1.2")),
        (b'[{"0020000D": {"Value": ["../admin"]}}]', Instance()),
        (b'[{"0020000D": {"Value": [12]}}]', Instance()),
        (b'[{"0020000D": {"Value": ["' + b"1" * 65 + b'"]}}]', Instance()),
    ],
)
def test_uids_of_a_search(body: bytes, instance: Instance) -> None:
    assert instance_of(body) == instance


# Private networks


@pytest.mark.parametrize(
    ("address", "space"),
    [
        ("127.0.0.1", Space.LOOPBACK),
        ("::1", Space.LOOPBACK),
        ("::ffff:127.0.0.1", Space.LOOPBACK),
        ("10.1.2.3", Space.LOCAL),
        ("192.168.0.1", Space.LOCAL),
        ("169.254.0.1", Space.LOCAL),
        ("100.64.0.1", Space.LOCAL),
        ("fd00::1", Space.LOCAL),
        ("fe80::1%eth0", Space.LOCAL),
        ("0.0.0.0", Space.LOOPBACK),
        ("::", Space.LOOPBACK),
        ("172.31.255.255", Space.LOCAL),
        ("172.32.0.0", Space.PUBLIC),
        ("100.127.255.255", Space.LOCAL),
        ("100.128.0.0", Space.PUBLIC),
        ("fec0::1", Space.LOCAL),
        # IPv6 addresses that stand for an IPv4 address.
        ("::ffff:10.0.0.1", Space.LOCAL),
        ("::ffff:0.0.0.0", Space.LOOPBACK),
        ("::127.0.0.1", Space.LOOPBACK),
        ("64:ff9b::127.0.0.1", Space.LOOPBACK),
        ("64:ff9b::192.168.0.1", Space.LOCAL),
        ("64:ff9b::8.8.8.8", Space.PUBLIC),
        ("64:ff9b:1::1", Space.LOCAL),
        ("2002:7f00:1::1", Space.LOOPBACK),
        ("2002:a01:203::1", Space.LOCAL),
        ("8.8.8.8", Space.PUBLIC),
        ("2001:4860:4860::8888", Space.PUBLIC),
    ],
)
def test_how_far_away_an_address_is(address: str, space: Space) -> None:
    assert space_of_address(address) is space


@pytest.mark.parametrize(
    ("origin", "space"),
    [
        ("http://localhost:3000", Space.LOOPBACK),
        ("http://a.localhost", Space.LOOPBACK),
        ("http://[::1]:3000", Space.LOOPBACK),
        ("http://192.168.0.2", Space.LOCAL),
        ("https://viewer.example", None),
        ("null", None),
    ],
)
def test_how_far_away_a_page_is(origin: str, space: Space | None) -> None:
    assert space_of_origin(origin) is space


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (VIEWER, "Chrome asks its user before a page from elsewhere"),
        ("http://viewer.example", "Chrome lets no page on plain http from elsewhere"),
        ("http://192.168.0.2", "Chrome asks its user"),
        ("http://localhost:3000", None),
    ],
)
def test_prompts_to_expect(origin: str, words: str | None) -> None:
    with archive() as there:
        report = probed(there.url, origin=origin)
    notes = [c["text"] for c in report["checks"] if c["check"] == "local-network"]
    assert len(notes) == (words is not None)
    assert all(words in note for note in notes if words)


# What is not reached, and certificates


@pytest.mark.parametrize(
    ("root", "check", "rule", "first"),
    [
        (
            "http://pacs.example/dicom-web",
            "mixed-content",
            "mixed-content",
            "give the server https",
        ),
        ("https://pacs.example:6000/a", "bad-port", "bad-port", "move the server to another port"),
        ("https://no-such-host.invalid/a", "reach", "name-unknown", "check the host name"),
        (f"http://{LOOPBACK}:{{free}}/a", "reach", "connection-refused", "start the server"),
    ],
)
def test_what_is_never_asked(root: str, check: str, rule: str, first: str) -> None:
    report = probed(root.format(free=free_port()))
    (finding,) = report["checks"]
    assert (finding["check"], finding["verdict"], finding["rule"]) == (check, "fail", rule)
    assert finding["text"].startswith("A page can't ask at all. ")
    assert report["first"].startswith(f"First, {first}")


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT", 0.1)
    with silence() as root:
        report = probed(root)
    (finding,) = report["checks"]
    assert (finding["check"], finding["rule"]) == ("reach", "no-answer")
    assert "an archive behind it" in report["first"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def serving_as(name: str, authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return str(file)


def test_a_certificate_that_no_browser_takes(authority: trustme.CA, ca_file: str) -> None:
    with archive(tls=serving_as("localhost", authority)) as there:
        report = probed(there.url)
        (finding,) = report["checks"]
        assert (finding["check"], finding["rule"]) == ("reach", "certificate")
        assert "an authority that is not trusted here" in finding["text"]
        assert finding["settings"] == {
            "server.tls_cert_file": "FILE",
            "server.tls_key_file": "FILE",
        }
        assert report["first"].startswith("First, give the server a certificate that browsers")
        assert not probed(there.url, "--ca-file", ca_file)["blocked"]
        insecure = probed(there.url, "--insecure")
    assert found(insecure, "certificate")["verdict"] == "note"
    assert not insecure["blocked"]


def test_a_certificate_for_another_name(authority: trustme.CA, ca_file: str) -> None:
    with archive(tls=serving_as("pacs.example", authority)) as there:
        (finding,) = probed(there.url, "--ca-file", ca_file)["checks"]
    assert "it is for another name" in finding["text"]


def test_a_name_in_the_subject_alone_counts_for_nothing(
    authority: trustme.CA, ca_file: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("user@pacs.example", common_name="localhost").configure_cert(context)
    with archive(tls=context) as there:
        (finding,) = probed(there.url, "--ca-file", ca_file)["checks"]
    assert (finding["rule"], "another name" in finding["text"]) == ("certificate", True)


def test_plain_http_where_tls_is_expected() -> None:
    with archive() as there:
        (finding,) = probed(there.url.replace("http://", "https://"))["checks"]
    assert (finding["rule"], finding["verdict"]) == ("tls", "fail")
    assert "speaks plain http at that port" in finding["text"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_tls_that_is_too_old(authority: trustme.CA, ca_file: str) -> None:
    context = serving_as("localhost", authority)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with archive(tls=context) as there:
        (finding,) = probed(there.url, "--ca-file", ca_file)["checks"]
    assert (finding["rule"], "TLS" in finding["text"]) == ("tls", True)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_asked_for(
    version: ssl.TLSVersion, authority: trustme.CA, ca_file: str
) -> None:
    context = serving_as("localhost", authority)
    authority.configure_trust(context)
    context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, version
    with archive(tls=context) as there:
        (finding,) = probed(there.url, "--ca-file", ca_file)["checks"]
    assert finding["rule"] == "tls"
    assert "a client certificate, which no preflight carries" in finding["text"]


# Reasons and advice


def exchange(step: Step, *, credentials: bool, origin: str, stage: Stage) -> FetchResult:
    request = Request("GET", f"{ROOT}/studies", origin, (("X-A", "a"),), credentials=credentials)
    headers = ((ALLOW_ORIGIN, "https://other.example"), (ALLOW_CREDENTIALS, "true"))
    answer = None if step in BEFORE else Response(200, headers)
    blocked_headers = ("x-a",) if step in PREFLIGHT[-2:] else ()
    return FetchResult(
        request, request, stage, step, response=answer, blocked_headers=blocked_headers
    )


CASES = [
    pytest.param(step, credentials, id=f"{step.rule}-{credentials}")
    for step in (*BEFORE, *PREFLIGHT)
    for credentials in (False, True)
    if step.rule is not Rule.PREFLIGHT_REDIRECTED
    and ("credentials" not in step.rule or credentials)
]


@pytest.mark.parametrize(
    "origin", [VIEWER, "http://viewer.example", "http://localhost:3000", "app://viewer", "null"]
)
@pytest.mark.parametrize(("step", "credentials"), CASES)
def test_every_step_has_a_reason_and_settings_that_the_proxy_accepts(
    step: Step, origin: str, credentials: bool, tmp_path: Path
) -> None:
    advisor = Advisor(ROOT, origin, ("x-a",), credentials=credentials)
    stages = [Stage.REQUEST] if step in BEFORE else [Stage.PREFLIGHT]
    stages += [Stage.RESPONSE] * (step in CORS_CHECK)
    for stage in stages:
        case = exchange(step, credentials=credentials, origin=origin, stage=stage)
        assert re.fullmatch(r"[A-Z].*\.", why(case, origin=origin, succeeded=False))
        advice = advisor.advice(case)
        assert advice.first
        assert advice.nginx
        if step in BEFORE or not advice.ours:
            assert step in BEFORE or (origin == "null" and credentials)
            continue
        file = tmp_path / f"{stage}.yaml"
        settings = with_settings(
            {"upstream": {"url": ROOT}, "cors": {"allow_origins": [VIEWER]}}, dict(advice.ours)
        )
        file.write_text(yaml.safe_dump(settings))
        assert load(config_file=file, environ={}).cors.allow_origins


@pytest.mark.parametrize(
    "rule", ["redirect-not-http", "redirect-with-credentials", "redirect-loop"]
)
def test_redirects_that_end_nowhere_have_a_reason(rule: str) -> None:
    request = Request("GET", f"{ROOT}/studies", VIEWER)
    step = Step(Rule(rule), "HTTP-redirect fetch", "6", lambda *_: True)
    case = FetchResult(request, request, Stage.REDIRECT, step, response=Response(302))
    assert why(case, origin=VIEWER, succeeded=False).startswith("The response redirects")
    assert not Advisor(ROOT, VIEWER, (), credentials=False).advice(case).ours


def test_a_redirect_to_plain_http() -> None:
    request = Request("GET", f"{ROOT}/studies", VIEWER)
    case = FetchResult(request, request, Stage.REDIRECT, BEFORE[1], sent=True)
    assert "the redirect's target on plain http" in why(case, origin=VIEWER, succeeded=False)


# The report


def untimed(text: str) -> str:
    """Return a report without the times, which differ."""
    return re.sub(r"\d+\.\d\d s\b", "0.00 s", " ".join(text.split()))


@pytest.mark.parametrize("flags", [(), ("--credentials",)], ids=["plain", "credentials"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_report_fits_a_terminal_and_nothing_is_stored(
    fault: Fault, flags: tuple[str, ...]
) -> None:
    with archive(fault, links="http://internal.example:8042/dicom-web") as there:
        result = run(there.url, *flags)
    assert {method for method, _, _ in there.requests} <= {"GET", "OPTIONS"}
    lines = result.stdout.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert lines[:3] == [
        there.url,
        f"as a page on {VIEWER} asks it, with{'' if flags else 'out'} credentials",
        "",
    ]


@pytest.mark.parametrize("name", ["right", "no CORS", "CORS on preflights only"])
def test_a_report_has_colours_only_if_asked(name: str) -> None:
    with archive(FAULTS[name], links="http://internal.example:8042/dicom-web") as there:
        result = run(there.url)
        coloured = run(there.url, colour=True)
    plain = re.sub(r"\x1b\[\d+m", "", coloured.stdout)
    assert untimed(plain) == untimed(result.stdout)
    for verdict, code in (("pass", 32), ("warn", 33), ("FAIL", 31), ("note", 36)):
        assert (f"\x1b[{code}m\x1b[1m{verdict}\x1b[0m" in coloured.stdout) is (
            re.search(f"^{verdict}", result.stdout, re.MULTILINE) is not None
        )


def test_headers_with_long_names_fit_a_terminal() -> None:
    names = [f"X-A-Header-With-A-Rather-Long-Name-{number}" for number in range(4)]
    flags = [word for name in names for word in ("--header", f"{name}: a")]
    with archive() as there:
        lines = run(there.url, *flags).stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_no_colour_where_it_is_not_wanted() -> None:
    with archive() as there:
        words = ["probe", there.url, "--origin", VIEWER]
        result = CliRunner().invoke(main, words, color=True, env={"NO_COLOR": "1"})
    assert "\x1b" not in result.stdout


def test_what_was_said_is_not_said_again() -> None:
    with archive(FAULTS["no CORS"]) as there:
        text = run(there.url).stdout
    assert "can't read metadata, for the same reason as search." in text
    assert "dicomweb-cors-proxy: as under search" in text
    assert "nginx: as under search" in text
    assert text.count("nginx, in place of what sets the same:") == 2


def test_json() -> None:
    with archive(FAULTS["no headers allowed"]) as there:
        report = probed(there.url)
    assert list(report) == [
        "root",
        "origin",
        "credentials",
        "blocked",
        "first",
        "seconds",
        "checks",
    ]
    assert (report["root"], report["origin"]) == (there.url, VIEWER)
    assert (report["credentials"], report["blocked"]) == (False, True)
    finding = found(report, "frames")
    assert {key: finding[key] for key in ("verdict", "request", "status", "rule", "step")} == {
        "verdict": "fail",
        "request": "GET studies/{study}/series/{series}/instances/{instance}/frames/1",
        "status": 204,
        "rule": "header-not-allowed",
        "step": "Fetch, CORS-preflight fetch, step 7.7",
    }
    assert "accept" in finding["settings"]["cors.allow_headers"]
    assert "  return 204;" in finding["nginx"]
    assert all(list(check) == list(finding) for check in report["checks"])


# What is never said


CANARY = "Canary"
NOSY: dict[str, Fault] = {
    name: always(name, value)
    for name, value in {
        ALLOW_ORIGIN: f"https://{CANARY}.example/{CANARY}",
        ALLOW_CREDENTIALS: CANARY,
        ALLOW_HEADERS: f"{CANARY};",
        ALLOW_METHODS: f"{CANARY} {CANARY}",
        EXPOSE_HEADERS: f"{CANARY};",
        MAX_AGE: CANARY,
        "Vary": CANARY,
        "Accept-Ranges": f"bytes {CANARY}",
        "WWW-Authenticate": f'Basic realm="{CANARY}"',
        "Cache-Control": CANARY,
        "Set-Cookie": f"a={CANARY}",
    }.items()
}


def redirected_to(location: str, *, preflights: bool) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.is_preflight is preflights:
            answer.status = 302
            answer.put("Location", location)

    return fault


for _location in (
    f"/{CANARY}?{CANARY}",
    f"https://{CANARY}:{CANARY}@{LOOPBACK}/",
    f"{CANARY}:{CANARY}",
    f"https://{CANARY}^Jane/",
    "https://[",
):
    for _preflights in (True, False):
        NOSY[f"Location {_location} {_preflights}"] = redirected_to(
            _location, preflights=_preflights
        )


@pytest.mark.parametrize("fault", [*FAULTS.values(), *NOSY.values()], ids=[*FAULTS, *NOSY])
def test_nothing_of_a_patient_or_a_login_is_printed(fault: Fault) -> None:
    def nosy(answer: Answered) -> None:
        if answer.body.startswith(b"["):
            (dataset,) = json.loads(answer.body)
            dataset["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": f"{CANARY}^Jane"}]}
            answer.body = json.dumps([dataset]).encode()
        answer.put("X-Patient", CANARY)
        fault(answer)

    headers = ["--header", f"Authorization: Bearer {CANARY}", "--header", f"X-Site: {CANARY}"]
    cookie = ["--credentials", "--write", "--header", f"Cookie: a={CANARY}"]
    with archive(nosy, links=f"https://internal.example/{CANARY}") as there:
        for flags in (cookie, ["--json"]):
            result = run(there.url, *flags, *headers)
            said = result.stdout + result.stderr
            assert result.exit_code in (0, 1)
            assert CANARY.lower() not in said.lower()
            assert STUDY not in said
            assert "2.25." not in said
            assert "no-such-resource" not in said or "errors" in said
