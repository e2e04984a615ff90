"""The CORS policies that the settings describe, and the issues with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.config.issues import SettingIssue, redacted
from dicomweb_cors_proxy.cors.policy import CORSPolicy
from dicomweb_cors_proxy.cors.problems import PolicyError, PolicyIssue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dicomweb_cors_proxy.config.fields import CORSSettings

__all__ = ["any_origin_keys", "policies", "policy_problems", "policy_warnings"]


def policies(cors: CORSSettings) -> list[CORSPolicy]:
    """Compile the policies in the order in which they are tried."""
    return [CORSPolicy.compile(**keys) for keys in (*_entries(cors), _base(cors))]


def any_origin_keys(cors: CORSSettings) -> Iterator[str]:
    """Yield the keys of the origin lists that hold `*`."""
    if "*" in cors.allow_origins:
        yield "cors.allow_origins"
    for index, policy in enumerate(cors.per_origin):
        if "*" in policy.allow_origins:
            yield f"cors.per_origin[{index}].allow_origins"


def policy_problems(cors: CORSSettings) -> Iterator[SettingIssue]:
    """Yield the reasons why the settings cannot become policies."""
    return _issues(cors, _problems)


def policy_warnings(cors: CORSSettings) -> Iterator[SettingIssue]:
    """Yield warnings about valid policies that are probably mistakes."""
    return _issues(cors, lambda keys: CORSPolicy.compile(**keys).warnings)


def _base(cors: CORSSettings) -> dict[str, Any]:
    return cors.model_dump(exclude={"per_origin"})


def _entries(cors: CORSSettings) -> Iterator[dict[str, Any]]:
    base = _base(cors)
    return (base | entry.own() for entry in cors.per_origin)


def _issues(
    cors: CORSSettings, judge: Callable[[dict[str, Any]], Iterable[PolicyIssue]]
) -> Iterator[SettingIssue]:
    """Judge all policies, and report an issue with inherited keys only once."""
    inherited = tuple(judge(_base(cors)))
    yield from (_full(issue, "cors") for issue in inherited)
    for index, keys in enumerate(_entries(cors)):
        own = cors.per_origin[index].own()
        for issue in judge(keys):
            if issue.key in own or issue not in inherited:
                yield _full(issue, f"cors.per_origin[{index}]")


def _problems(keys: dict[str, Any]) -> tuple[PolicyIssue, ...]:
    try:
        CORSPolicy.compile(**keys)
    except PolicyError as error:
        return error.problems
    return ()


def _full(issue: PolicyIssue, section: str) -> SettingIssue:
    value = issue.value if issue.value == "[]" else redacted(issue.value)
    return SettingIssue(f"{section}.{issue.key}", f"{value} {issue.reason}")
