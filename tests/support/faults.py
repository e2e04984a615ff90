"""What archives and proxies do to their CORS headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.probing import (
    ALLOW_CREDENTIALS,
    ALLOW_HEADERS,
    ALLOW_METHODS,
    ALLOW_ORIGIN,
    EXPOSE_HEADERS,
    MAX_AGE,
    Answered,
    Fault,
    right,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def always(name: str, *values: str) -> Fault:
    def fault(answer: Answered) -> None:
        answer.put(name, *values)

    return fault


def on_preflights(name: str, *values: str) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.is_preflight:
            answer.put(name, *values)

    return fault


def preflight_status(status: int, *, headers: bool) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.is_preflight:
            answer.status = status
            if not headers:
                answer.headers = []

    return fault


def allow_origin(make: Callable[[str], str]) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.origin:
            answer.put(ALLOW_ORIGIN, make(answer.origin))

    return fault


def other_scheme(origin: str) -> str:
    return origin.replace("http:", "https:")


def without_cors(answer: Answered) -> None:
    answer.headers = [line for line in answer.headers if not line[0].startswith("Access-Control")]


def without_cors_on_errors(answer: Answered) -> None:
    if answer.status >= 400:
        without_cors(answer)


def without_cors_on_answers(answer: Answered) -> None:
    if not answer.is_preflight:
        without_cors(answer)


def doubled(answer: Answered) -> None:
    if answer.origin:
        answer.put(ALLOW_ORIGIN, answer.origin, answer.origin)


def redirected_preflight(answer: Answered) -> None:
    if answer.is_preflight and not answer.path.endswith("/"):
        answer.status = 308
        answer.put("Location", f"{answer.path}/")


def redirected(*, cors: bool) -> Fault:
    def fault(answer: Answered) -> None:
        if not answer.is_preflight and "moved" not in answer.path:
            joint = "&" if "?" in answer.path else "?"
            answer.status = 307
            answer.put("Location", f"{answer.path}{joint}moved")
            if not cors:
                without_cors(answer)

    return fault


def redirected_for_ever(answer: Answered) -> None:
    if not answer.is_preflight:
        answer.status = 302
        answer.put("Location", answer.path)


def redirected_to_a_file(answer: Answered) -> None:
    if not answer.is_preflight:
        answer.status = 302
        answer.put("Location", "file:///tmp")


def redirected_elsewhere(answer: Answered) -> None:
    """By another name to the same server: the origin becomes null."""
    host = answer.asked["Host"]
    if host.startswith("127") and not answer.is_preflight:
        answer.status = 307
        answer.put("Location", f"http://{host.replace('127.0.0.1', 'localhost')}{answer.path}")


def redirected_elsewhere_and_refused(answer: Answered) -> None:
    redirected_elsewhere(answer)
    if answer.origin == "null":
        answer.put(ALLOW_ORIGIN, "http://viewer.example")


def with_a_login(answer: Answered) -> None:
    if answer.asked["Authorization"] is None and not answer.is_preflight:
        answer.status = 401


def gone_on_preflights(answer: Answered) -> None:
    if answer.is_preflight:
        answer.status = 0


def several_at_once(answer: Answered) -> None:
    """Redirected, to a preflight that is refused."""
    redirected(cors=True)(answer)
    if answer.is_preflight and "moved" in answer.path:
        answer.status = 403


FAULTS: dict[str, Fault] = {
    "right": right,
    "no CORS": without_cors,
    "CORS on preflights only": without_cors_on_answers,
    "CORS on success only": without_cors_on_errors,
    "401 to preflights": preflight_status(401, headers=False),
    "404 to preflights": preflight_status(404, headers=False),
    "500 to preflights, with CORS": preflight_status(500, headers=True),
    "304 to preflights, with CORS": preflight_status(304, headers=True),
    "200 to preflights": preflight_status(200, headers=True),
    "preflights without CORS": preflight_status(204, headers=False),
    "preflights redirected": redirected_preflight,
    "preflights without an answer": gone_on_preflights,
    "any origin": always(ALLOW_ORIGIN, "*"),
    "any origin, in quotes": always(ALLOW_ORIGIN, '"*"'),
    "null": always(ALLOW_ORIGIN, "null"),
    "an empty origin": always(ALLOW_ORIGIN, ""),
    "another origin": always(ALLOW_ORIGIN, "https://viewer.example"),
    "another scheme": allow_origin(other_scheme),
    "a slash after the origin": allow_origin(lambda origin: f"{origin}/"),
    "capitals in the origin": allow_origin(str.upper),
    "a list of origins": allow_origin(lambda origin: f"{origin}, https://viewer.example"),
    "a list with spaces": allow_origin(lambda origin: f"{origin} https://viewer.example"),
    "the origin twice": doubled,
    "no credentials": always(ALLOW_CREDENTIALS),
    "credentials in capitals": always(ALLOW_CREDENTIALS, "True"),
    "credentials twice": always(ALLOW_CREDENTIALS, "true", "true"),
    "no headers allowed": on_preflights(ALLOW_HEADERS),
    "accept not allowed": on_preflights(ALLOW_HEADERS, "content-type, authorization, x-site"),
    "any header": on_preflights(ALLOW_HEADERS, "*"),
    "any header, and authorization": on_preflights(ALLOW_HEADERS, "*, Authorization"),
    "headers on two lines": on_preflights(
        ALLOW_HEADERS, "Accept,X-Site", "CONTENT-TYPE,,authorization"
    ),
    "headers malformed": on_preflights(ALLOW_HEADERS, "accept; content-type"),
    "methods malformed": on_preflights(ALLOW_METHODS, "GET POST"),
    "no methods": on_preflights(ALLOW_METHODS),
    "POST not listed": on_preflights(ALLOW_METHODS, "DELETE"),
    "any method": on_preflights(ALLOW_METHODS, "*"),
    "max-age twice": on_preflights(MAX_AGE, "600", "600"),
    "nothing exposed": always(EXPOSE_HEADERS),
    "everything exposed": always(EXPOSE_HEADERS, "*"),
    "exposed malformed": always(EXPOSE_HEADERS, "content-range; etag"),
    "redirected": redirected(cors=True),
    "redirected without CORS": redirected(cors=False),
    "redirected for ever": redirected_for_ever,
    "redirected to a file": redirected_to_a_file,
    "redirected elsewhere": redirected_elsewhere,
    "redirected elsewhere and refused": redirected_elsewhere_and_refused,
    "redirected to a refused preflight": several_at_once,
    "a login": with_a_login,
}
