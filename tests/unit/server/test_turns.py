"""The queue for small pieces of work."""

from __future__ import annotations

import asyncio

from dicomweb_cors_proxy.server.turns import Turns


async def test_each_iteration_resumes_a_few_in_order() -> None:
    turns = Turns(2)
    resumed: list[int] = []

    async def work(number: int) -> None:
        for _ in range(3):
            await turns.wait()
            resumed.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    while not all(task.done() for task in tasks):
        before = len(resumed)
        await asyncio.sleep(0)
        assert len(resumed) - before <= 2
    assert resumed == list(range(5)) * 3


async def test_a_cancelled_waiter_takes_no_turn() -> None:
    turns = Turns(1)
    first, second = (asyncio.create_task(turns.wait()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(1):
        await second
    assert first.cancelled()
