"""Fixtures and rules for every test."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.proxy import Proxy, serving
from tests.support.transport import TRANSPORT

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

REQUIRE_ALL = bool(os.environ.get("REQUIRE_ALL_TESTS"))

# No deadline, because a busy machine is no fault of an example's. The gate (.ci/run) tries more
# examples, and the same ones for every change. Tests that need many take a multiple of this number.
settings.register_profile(
    "fast", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=20
)
settings.register_profile("exploring", settings.get_profile("fast"), max_examples=100)
settings.register_profile("ci", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") or REQUIRE_ALL else "fast")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Start proxies by `serve(settings, *flags, env=None)`; each must end well after the test."""
    with ExitStack() as running:

        def start(
            settings: Mapping[str, Mapping[str, Any]],
            *flags: str,
            env: Mapping[str, str] | None = None,
        ) -> Proxy:
            return running.enter_context(serving(settings, tmp_path, *flags, env=env))

        yield start


def pytest_configure() -> None:
    """Look for no garbage while tests are collected, because that takes a third of the time."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Look for garbage again, except among the tests themselves."""
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """A module that names `LOOPS` has its tests run in each of them."""
    module = item.getparent(pytest.Module)
    return getattr(module and module.obj, "LOOPS", {"asyncio": asyncio.new_event_loop})


def pytest_runtest_setup(item: pytest.Item) -> None:
    if (reason := _native_only(item)) is not None:
        pytest.skip(reason)


def _native_only(item: pytest.Item) -> str | None:
    """Why this test does not run on httpx's transport, if that is what is tested."""
    mark = item.get_closest_marker("native_only")
    return None if mark is None or TRANSPORT == "native" else str(mark.args[0])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under REQUIRE_ALL_TESTS a test that would be skipped fails."""
    with _no_collection():
        report = yield
    excused = hasattr(report, "wasxfail") or _native_only(item) is not None
    if REQUIRE_ALL and report.skipped and not excused:
        report.outcome = "failed"
    return report


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage while the block lasts.

    To report a failure, pytest parses the test's file. If a failed task is collected meanwhile,
    logging its traceback parses too, and Python 3.11 cannot do both at a time
    (https://github.com/python/cpython/issues/106905): pytest ends with an internal error.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
