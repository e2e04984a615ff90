"""Deadlines: that waits end in time, and that nobody else's cancellation is taken for one."""

from __future__ import annotations

import asyncio

import pytest

from dicomweb_cors_proxy.deadline import WaitLimit


async def test_a_wait_that_takes_too_long_raises_and_the_next_one_does_not() -> None:
    limit = WaitLimit(0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError), limit:
            await asyncio.Event().wait()
        with limit:
            await asyncio.sleep(0)
    limit.close()
    await asyncio.sleep(0.02)


async def test_a_limit_does_not_run_between_waits() -> None:
    limit = WaitLimit(0.01)
    with limit:
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)
    with limit:
        await asyncio.sleep(0)
    limit.close()


@pytest.mark.parametrize("seconds", [0, 60])
async def test_the_cancellation_of_the_task_goes_on(seconds: float) -> None:
    limit = WaitLimit(seconds)
    waits = asyncio.Event()

    async def wait() -> None:
        with limit:
            waits.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await waits.wait()
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    limit.close()


async def test_other_errors_pass() -> None:
    limit = WaitLimit(60)
    with pytest.raises(KeyError), limit:
        raise KeyError
    limit.close()
