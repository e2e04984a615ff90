"""A token in a file, in front of an archive that looks at what it is shown."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dicomweb_cors_proxy.upstream.token_file import MAX_FILE_BYTES
from tests.support.sockets import Archive, Proxy, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.sockets import Head, Wire


class Setting(NamedTuple):
    file: Path
    archive: Archive
    proxy: Proxy

    def shown(self) -> list[bytes]:
        return [head.get(b"authorization") or b"" for head in self.archive.requests]

    async def problem(self) -> str:
        head, body = await self.proxy.ask(request())
        assert head.status == 502
        return str(json.loads(body)["detail"])


@asynccontextmanager
async def fronting(file: Path, good: bytes = b"") -> AsyncIterator[Setting]:
    """A proxy in front of an archive that accepts the token `good`, by default all."""

    async def handle(wire: Wire, head: Head) -> None:
        is_good = head.get(b"authorization") in (b"Bearer " + good, b"Bearer " * (not good))
        status = b"200 OK" if is_good or not good else b"401 Unauthorized"
        await wire.send(answer(b"hello", status=status))

    async with archive(handle) as a:
        auth = {"type": "bearer", "token_file": str(file)}
        async with proxy(settings(a.url, upstream={"auth": auth})) as p:
            yield Setting(file, a, p)


async def test_it_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    async with fronting(file) as s:
        for token in ("one", "two", "three"):
            file.write_text(token + "\n")
            for _ in range(2):
                mine = request("GET", "/dicom-web/studies", "Authorization: Bearer mine")
                assert (await s.proxy.ask(mine))[0].status == 200
        assert s.shown() == [
            b"Bearer " + each for each in (b"one", b"two", b"three") for _ in range(2)
        ]


async def test_it_may_be_replaced_as_kubernetes_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    link = tmp_path / "current"
    link.symlink_to("one")
    async with fronting(link / "token") as s:
        await s.proxy.ask(request())
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(link)
        await s.proxy.ask(request())
        assert s.shown() == [b"Bearer one", b"Bearer two"]


async def test_readiness_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    async with fronting(file) as s:
        assert (await s.proxy.ask(request("GET", "/readyz")))[0].status == 200
        assert s.shown() == [b"Bearer one"]


async def test_a_rejected_token_is_a_502_and_is_not_sent_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with fronting(file, b"new") as s:
        assert "upstream.auth" in await s.problem()
        assert s.shown() == [b"Bearer old"]


async def test_a_file_that_is_missing_is_a_502(tmp_path: Path) -> None:
    async with fronting(tmp_path / "token") as s:
        assert "cannot be read (No such file or directory). Check" in await s.problem()
        s.file.write_text("late")
        assert (await s.proxy.ask(request()))[0].status == 200
        s.file.unlink()
        assert "cannot be read" in await s.problem()
        assert s.shown() == [b"Bearer late"]


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"hunter two", b"hunter\ntwo", "hünter".encode(), b"h" * (MAX_FILE_BYTES + 1)],
    ids=["empty", "blank", "two words", "two lines", "not ASCII", "too long"],
)
async def test_what_is_not_a_token_is_a_502_that_does_not_show_it(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    async with fronting(file) as s:
        detail = await s.problem()
        assert "does not hold a token" in detail
        assert "nter" not in detail
        assert s.archive.requests == []
