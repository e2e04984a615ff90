"""`check` with a login of clients, and of the proxy."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.login import SECRET, login, saying
from tests.support.processes import Child
from tests.support.proxy import fronting
from tests.support.sockets import ORIGIN, answer, archive
from tests.support.tokens import provider, signing_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sockets import Head, Wire


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


async def checked(directory: Path, **sections: Any) -> tuple[int, str]:  # noqa: ANN401
    """Return the exit status and the output of `check` with these settings."""
    async with archive(hello) as a:
        file = directory / "config.yaml"
        settings = fronting(a.url, ORIGIN.decode(), **sections.pop("upstream", {})) | sections
        file.write_text(yaml.safe_dump(settings))
        env = {k: v for k, v in os.environ.items() if not k.startswith("DICOMWEB_PROXY_")}
        command = [sys.executable, "-m", "dicomweb_cors_proxy", "check", "--config", str(file)]
        with Child(command, env=env) as child:
            status = await asyncio.to_thread(child.wait)
        return status, child.output


async def test_check_asks_the_issuer(tmp_path: Path) -> None:
    async with provider(keys=[signing_key(), signing_key("two", "ES256")]) as there:
        status, output = await checked(tmp_path, access={"auth": there.auth()})
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
        status, output = await checked(tmp_path, access={"auth": there.auth(**changes)})
        assert status == 1
        assert said in output


@pytest.mark.parametrize(
    ("reads", "code", "said"),
    [
        (("header",), 0, "right path"),
        ((), 1, "the token endpoint responded 401 (invalid_client)"),
    ],
)
async def test_check_tries_it(reads: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    async with login(reads=reads) as there:
        status, output = await checked(tmp_path, upstream={"auth": there.auth()})
    assert status == code
    assert said in output
    assert SECRET not in output
    assert re.search(r"^upstream\.auth\.client_secret +\*{8}  \(file", output, re.MULTILINE)
    assert there.asked == (1 if code == 0 else 2)
