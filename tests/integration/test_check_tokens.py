"""`check` with a login of clients."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.login import saying
from tests.support.processes import Child
from tests.support.sockets import ORIGIN, answer, archive
from tests.support.tokens import provider, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sockets import Head, Wire


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


async def checked(auth: dict[str, Any], directory: Path) -> tuple[int, str]:
    async with archive(hello) as a:
        file = directory / "config.yaml"
        sections = {
            "upstream": {"url": a.url},
            "cors": {"allow_origins": [ORIGIN.decode()]},
            "access": {"auth": auth},
        }
        file.write_text(yaml.safe_dump(sections))
        env = {k: v for k, v in os.environ.items() if not k.startswith("DICOMWEB_PROXY_")}
        command = [sys.executable, "-m", "dicomweb_cors_proxy", "check", "--config", str(file)]
        with Child(command, env=env) as child:
            status = await asyncio.to_thread(child.wait)
        return status, child.output


async def test_check_asks_the_issuer(tmp_path: Path) -> None:
    async with provider(keys=[signing_key(), signing_key("two", "ES256")]) as there:
        status, output = await checked(there.auth(), tmp_path)
        assert status == 0
        assert f"http://127.0.0.1:{there.server.port}: has 2 keys for access tokens" in output


@pytest.mark.parametrize(
    ("script", "changes", "said"),
    [
        ([saying(answer(status=b"404 Not Found"))], {}, "responded 404 to the request for its"),
        ([], {"algorithms": ["ES512"]}, "its keys are for PS256"),
    ],
)
async def test_check_fails_without_usable_keys(
    script: list[Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    async with provider(script=script) as there:
        status, output = await checked(there.auth(**changes), tmp_path)
        assert status == 1
        assert said in output
