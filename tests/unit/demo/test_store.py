from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from dicomweb_cors_proxy.demo import sample, store
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, Reply, free_port, stub
from tests.support.tiny_pacs import tiny_pacs

if TYPE_CHECKING:
    from pathlib import Path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dicomweb_cors_proxy.demo.store", *arguments]


def test_store_stores_the_study(tmp_path: Path) -> None:
    with tiny_pacs(tmp_path) as root, Child(command(root)) as child:
        assert child.wait() == 0, child.output
        [study] = httpx.get(f"{root}/studies").json()
    assert study["0020000D"]["Value"] == [sample.INSTANCES[0]["StudyInstanceUID"]]


def test_store_retries_until_the_archive_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"http://{LOOPBACK}:{free_port()}"
    attempts = iter([None, None])
    monkeypatch.setattr("time.sleep", lambda _: next(attempts))
    with pytest.raises(StopIteration):
        store.store(root)


def test_store_gives_up_in_the_end() -> None:
    root = f"http://{LOOPBACK}:{free_port()}"
    with pytest.raises(store.StoreError, match="cannot be reached"):
        store.store(root, max_wait=-1)


SOME = b'{"00081198": {"vr": "SQ", "Value": [{}]}, "00081199": {"vr": "SQ", "Value": [{}]}}'


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(401), "0 of 24 images: status 401"),
        (Reply(409, body=SOME), "0 of 24 images: status 409"),
        (Reply(202, body=SOME), "1 of 24 images: status 202"),
        (Reply(200, body=b"<html>"), "0 of 24 images: status 200"),
        (Reply(200, body=b"[]"), "0 of 24 images: status 200"),
    ],
)
def test_store_reports_what_is_not_stored(reply: Reply, text: str) -> None:
    with stub(reply) as archive, Child(command(archive.url)) as child:
        assert child.wait() == 1
    assert text in child.output
    assert "Traceback" not in child.output


def test_the_command_without_a_url_says_how() -> None:
    with Child(command()) as child:
        assert child.wait() == 1
    assert "Usage" in child.output
