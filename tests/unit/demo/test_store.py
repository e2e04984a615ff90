from __future__ import annotations

import sys

import pytest

from dicomweb_cors_proxy.demo import store
from tests.support.servers import LOOPBACK, Reply, free_port, stub


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the command says before it fails."""
    monkeypatch.setattr(sys, "argv", ["store", *arguments])
    with pytest.raises(SystemExit) as caught:
        store.main()
    return str(caught.value)


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
def test_store_reports_what_is_not_stored(
    reply: Reply, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub(reply) as archive:
        assert text in said(monkeypatch, archive.url)


def test_the_command_without_a_url_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Usage" in said(monkeypatch)
