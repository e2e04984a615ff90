"""An instance to ask for: one that searches show, otherwise a made-up one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from dicomweb_cors_proxy.probe.links import Instance, instance_of, instances_of
from dicomweb_cors_proxy.probe.session import (
    BELOW,
    JSON,
    MAX_BODY,
    SEARCH,
    SERIES_BELOW,
    SERIES_INSTANCES,
    STUDIES,
    PlannedRequest,
    ProbeSession,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find_instance", "instances_of_studies", "made_up_uid"]


def find_instance(session: ProbeSession) -> dict[str, str]:
    """Return the UIDs of an instance that the search shows, otherwise made-up ones."""
    uids = _complete(session, instance_of(session.exchanges[SEARCH.check].body))
    if uids is None:
        session.is_made_up = True
        return dict.fromkeys(("study", "series", "instance"), made_up_uid())
    return uids


def instances_of_studies(session: ProbeSession) -> Iterator[dict[str, str]]:
    """Yield the UIDs of one instance of each of the first studies."""
    request = session.request(STUDIES, {}, JSON)
    for study in instances_of(session.page.fetch(request, body=MAX_BODY).body):
        uids = _complete(session, study)
        if uids is not None:
            yield uids


def _complete(session: ProbeSession, found: Instance) -> dict[str, str] | None:
    """Return the UIDs of an instance of a study that was found; None if there is none.

    Some archives search only the instances of a series, so the series is searched for if needed.
    """
    study, series, instance = found.study, found.series, found.instance
    if study is None:
        return None
    if series is None or instance is None:
        more = _first(session, BELOW, {"study": study})
        series, instance = more.series, more.instance
    if series is None:
        series = _first(session, SERIES_BELOW, {"study": study}).series
    if series is None:
        return None
    if instance is None:
        instance = _first(session, SERIES_INSTANCES, {"study": study, "series": series}).instance
    if instance is None:
        return None
    return {"study": study, "series": series, "instance": instance}


def _first(session: ProbeSession, planned: PlannedRequest, uids: dict[str, str]) -> Instance:
    """Return the UIDs of the first result of a search."""
    request = session.request(planned, uids, JSON)
    return instance_of(session.page.fetch(request, body=MAX_BODY).body)


def made_up_uid() -> str:
    """Return a UID that no archive holds."""
    return f"2.25.{uuid4().int}"
