"""What an archive's CORS has wrong, each as a change to the answer of a right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.probing import ALLOW_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.probing import Answered, Fault


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


def without_cors(answer: Answered) -> None:
    answer.headers = [line for line in answer.headers if not line[0].startswith("Access-Control")]


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
