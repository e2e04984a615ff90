"""The CORS policies that the settings describe, and the issues with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomweb_cors_proxy.config.issues import SettingIssue, redacted
from dicomweb_cors_proxy.cors import validation
from dicomweb_cors_proxy.cors.options import PolicyOptions
from dicomweb_cors_proxy.cors.policy import CompiledPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from dicomweb_cors_proxy.config.fields import CORSSettings
    from dicomweb_cors_proxy.cors.problems import PolicyIssue

__all__ = ["any_origin_keys", "policies", "policy_problems", "policy_warnings"]


def policies(cors: CORSSettings) -> list[CompiledPolicy]:
    """Compile the policies in the order in which they are tried."""
    return [CompiledPolicy.compile(options, key) for key, options, _ in _described(cors)]


def any_origin_keys(cors: CORSSettings) -> Iterator[str]:
    """Yield the keys of the origin lists that hold `*`."""
    if "*" in cors.allow_origins:
        yield "cors.allow_origins"
    for index, policy in enumerate(cors.per_origin):
        if "*" in policy.allow_origins:
            yield f"cors.per_origin[{index}].allow_origins"


def policy_problems(cors: CORSSettings) -> Iterator[SettingIssue]:
    """Yield the reasons why the settings cannot become policies."""
    return _issues(cors, validation.policy_problems)


def policy_warnings(cors: CORSSettings) -> Iterator[SettingIssue]:
    """Yield warnings about valid policies that are probably mistakes."""
    return _issues(cors, validation.policy_warnings)


def _described(cors: CORSSettings) -> Iterator[tuple[str, PolicyOptions, Collection[str]]]:
    """Yield each policy's key, options, and the names of those that are not inherited."""
    base = cors.model_dump(exclude={"per_origin"})
    for index, entry in enumerate(cors.per_origin):
        own = entry.own()
        yield f"cors.per_origin[{index}]", PolicyOptions(**(base | own)), own
    yield "cors", PolicyOptions(**base), base


def _issues(
    cors: CORSSettings, find: Callable[[PolicyOptions], Iterable[PolicyIssue]]
) -> Iterator[SettingIssue]:
    """Check all policies, and report an issue with inherited keys only once."""
    *special, (key, options, _) = _described(cors)
    inherited = tuple(find(options))
    yield from (_full(issue, key) for issue in inherited)
    for key, options, own in special:
        for issue in find(options):
            if issue.key in own or issue not in inherited:
                yield _full(issue, key)


def _full(issue: PolicyIssue, section: str) -> SettingIssue:
    value = issue.value if issue.value == "[]" else redacted(issue.value)
    return SettingIssue(f"{section}.{issue.key}", f"{value} {issue.reason}")
