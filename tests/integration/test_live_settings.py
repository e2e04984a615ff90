"""SIGHUP: what changes under running requests, what doesn't, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from dicomweb_cors_proxy.config.settings import Settings
from dicomweb_cors_proxy.operations.live_settings import reloaded
from tests.support.proxy import Proxy, fronting, serving
from tests.support.servers import LOOPBACK, Reply, stub
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, request
from tests.support.systemd import Manager, listening

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

VIEWER = ORIGIN.decode()
OTHER = "https://other.example"
NOBODY = f"http://{LOOPBACK}:9/dicom-web"

# So many connections that none of two workers is likely to be left out.
TRIES = 12

Sections = dict[str, dict[str, Any]]


@pytest.fixture(params=[1, 2], ids=["alone", "two workers"])
def workers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


class Reloading:
    """A running `serve`, and the manager that it tells about its reloads."""

    def __init__(self, proxy: Proxy, manager: Manager, settings: Sections) -> None:
        self.proxy = proxy
        self._manager = manager
        self._settings = settings

    def reload(self, **changes: object) -> str:
        """Change the file section by section; what is logged until the reload is over."""
        for name, change in changes.items():
            if isinstance(change, dict):
                self._settings[name] = self._settings.get(name, {}) | change
            else:
                self._settings[name] = change  # type: ignore[assignment]
        return self.reload_text(yaml.safe_dump(self._settings))

    def reload_text(self, text: str) -> str:
        self.proxy.file.write_text(text)
        said = len(self.proxy.child.output)
        os.kill(self.proxy.child.pid, signal.SIGHUP)
        assert self._manager.next().startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert self._manager.next() == "READY=1"
        # The log comes by another way.
        self.proxy.child.wait_for(rf"(?s).{{{said}}}.*(?:read again|not reloaded)")
        return self.proxy.child.output[said:]

    def ask(self, method: str = "GET", origin: str = VIEWER, **more: Any) -> list[httpx.Response]:  # noqa: ANN401
        """The same request on several connections."""
        headers = {"Origin": origin, "Connection": "close"}
        with httpx.Client(headers=headers, trust_env=False) as client:
            url = f"{self.proxy.url}/studies"
            return [client.request(method, url, **more) for _ in range(TRIES)]


@contextmanager
def reloading(
    folder: Path,
    workers: int,
    settings: Sections,
    *flags: str,
    env: Mapping[str, str] | None = None,
) -> Iterator[Reloading]:
    settings = settings | {"server": settings.get("server", {}) | {"workers": workers}}
    with listening() as manager:
        variables = {"NOTIFY_SOCKET": manager.address, **(env or {})}
        with serving(settings, folder, *flags, env=variables) as proxy:
            assert manager.next() == "READY=1"
            yield Reloading(proxy, manager, settings)


def allowed(answers: list[httpx.Response]) -> set[str | None]:
    return {each.headers.get("access-control-allow-origin") for each in answers}


def statuses(answers: list[httpx.Response]) -> set[int]:
    return {each.status_code for each in answers}


# What changes


def test_cors(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER)) as running,
    ):
        assert allowed(running.ask()) == {VIEWER}
        assert "changed: cors.allow_origins\n" in running.reload(cors={"allow_origins": [OTHER]})
        assert allowed(running.ask()) == {None}
        assert allowed(running.ask(origin=OTHER)) == {OTHER}


def test_access(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER)) as running,
    ):
        assert statuses(running.ask("POST")) == {405}
        assert "changed: access.mode\n" in running.reload(access={"mode": "read-write"})
        assert statuses(running.ask("POST")) == {200}


def test_upstream(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"old")) as old,
        stub(Reply(body=b"new")) as new,
        reloading(tmp_path, workers, fronting(old.url, VIEWER)) as running,
    ):
        assert {each.content for each in running.ask()} == {b"old"}
        auth = {"type": "bearer", "token": "open-sesame"}
        log = running.reload(upstream={"url": new.url, "auth": auth})
        assert "changed: upstream.url, upstream.auth.type, upstream.auth.token\n" in log
        assert "server.allowed_hosts" in log  # a new warning
        assert "open-sesame" not in log
        assert {each.content for each in running.ask()} == {b"new"}
        assert {headers["Authorization"] for _, _, headers in new.requests} == {
            "Bearer open-sesame"
        }
        assert "server.allowed_hosts" not in running.reload()  # an old one


def test_rewriting(tmp_path: Path, workers: int) -> None:
    archives_own = "http://pacs.internal/rs/studies/1.2"
    body = json.dumps([{"00081190": {"vr": "UR", "Value": [archives_own]}}]).encode()
    with (
        stub(Reply(headers={"Content-Type": "application/dicom+json"}, body=body)) as there,
        reloading(
            tmp_path, workers, fronting(there.url, VIEWER, aliases=["http://pacs.internal/rs"])
        ) as running,
    ):

        def urls() -> set[str]:
            return {each.json()[0]["00081190"]["Value"][0] for each in running.ask()}

        assert urls() == {f"{running.proxy.url}/studies/1.2"}
        running.reload(public_url="https://pacs.example/rs")
        assert urls() == {"https://pacs.example/rs/studies/1.2"}
        running.reload(rewrite_urls=False)
        assert urls() == {archives_own}


def test_logging(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER)) as running,
    ):
        running.ask()
        running.reload(logging={"format": "json"})
        said = len(running.proxy.child.output)
        running.ask()
        running.proxy.child.wait_for(rf"(?s).{{{said}}}(?:[^\n]*\n){{{TRIES}}}")
        lines = running.proxy.child.output[said:].splitlines()
        assert [json.loads(line)["status"] for line in lines] == [200] * TRIES
        running.reload(logging={"level": "error"})
        said = len(running.proxy.child.output)
        running.ask()
    assert running.proxy.child.output[said:] == ""


def test_a_secret_file(tmp_path: Path, workers: int) -> None:
    secret = tmp_path / "secrets" / "upstream__auth__password"
    secret.parent.mkdir()
    secret.write_text("first")
    env = {"DICOMWEB_PROXY_SECRETS_DIR": str(secret.parent)}
    auth = {"type": "basic", "username": "proxy"}
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER, auth=auth), env=env) as running,
    ):
        secret.write_text("second")
        assert "changed: upstream.auth.password\n" in running.reload()
        running.ask()
    assert {headers["Authorization"] for _, _, headers in there.requests} == {
        "Basic cHJveHk6c2Vjb25k"
    }


# What doesn't


async def test_running_responses_go_on_and_then_leave_the_old_pool(
    tmp_path: Path, workers: int
) -> None:
    go_on = asyncio.Event()

    async def slow(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"half", length=8))
        await go_on.wait()
        await wire.send(b"half")
        assert await wire.closed()  # idle in a pool that nobody uses
        left.set()

    async def quick(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"new"))

    left = asyncio.Event()
    async with archive(slow) as old, archive(quick) as new:
        with reloading(tmp_path, workers, fronting(old.url, VIEWER)) as running:
            host, port = running.proxy.root.removeprefix("http://").split(":")
            async with Wire(*await asyncio.open_connection(host, int(port))) as client:
                await client.send(request())
                head = await client.head()
                assert await client.reader.readexactly(4) == b"half"
                await asyncio.to_thread(running.reload, upstream={"url": new.url})
                answers = await asyncio.to_thread(running.ask)
                assert {each.content for each in answers} == {b"new"}
                go_on.set()
                assert head.get(b"content-length") == b"8"
                assert await client.reader.readexactly(4) == b"half"
                await left.wait()
                # The client's own connection stays, and leads to the new archive.
                await client.send(request())
                assert await client.body(await client.head()) == b"new"


def test_the_rest_needs_a_restart(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER)) as running,
    ):
        log = running.reload(
            server={"port": 1, "allowed_hosts": ["pacs.example"], "max_target_bytes": 64},
            cors={"allow_origins": [OTHER]},
        )
        assert "needs a restart: server.allowed_hosts, server.max_target_bytes\n" in log
        assert "changed: cors.allow_origins\n" in log
        long = running.ask(origin=OTHER, params={"PatientID": "1" * 100})
        assert (statuses(long), allowed(long)) == ({200}, {OTHER})
        # It is still waiting.
        assert "needs a restart: server.allowed_hosts, server.max_target_bytes\n" in (
            running.reload()
        )


def test_tls_is_not_switched() -> None:
    sections: Sections = {"upstream": {"url": NOBODY}, "cors": {"allow_origins": [VIEWER]}}
    plain = Settings(**sections)
    pair = {"tls_cert_file": "/cert.pem", "tls_key_file": "/key.pem"}
    secure = plain.model_copy(update={"server": plain.server.model_copy(update=pair)})
    for old, new in ((plain, secure), (secure, plain)):
        settings, waiting = reloaded(old, new)
        assert settings.server == old.server
        assert waiting == ["server.tls_cert_file", "server.tls_key_file"]


def test_flags_still_come_first(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(
            tmp_path, workers, {"upstream": {"url": there.url}}, "--allow-origin", VIEWER
        ) as running,
    ):
        log = running.reload(cors={"allow_origins": [OTHER]}, access={"mode": "read-write"})
        assert "changed: access.mode\n" in log
        assert allowed(running.ask()) == {VIEWER}
        assert allowed(running.ask(origin=OTHER)) == {None}


# What is refused


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            """
            upstream: {url: orthanc, auth: {type: basic, username: a, password: [SECRET]}}
            cors: {allow_origins: [https://v.example/]}
            server: {prot: SECRET}
            """,
            ["upstream.url: ", "upstream.auth.password: ", "cors.allow_origins: ", "server.port?"],
        ),
        ("upstream: {url: 'SECRET", ["is not valid YAML"]),
        ("", ["upstream.url: is missing", "cors.allow_origins: "]),
    ],
    ids=["bad values", "no YAML", "empty"],
)
def test_a_broken_file(tmp_path: Path, workers: int, text: str, sentences: list[str]) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER)) as running,
    ):
        running.reload_text(text)
        for sentence in sentences:
            running.proxy.child.wait_for(f"ERROR   not reloaded: .*{re.escape(sentence)}")
        assert running.proxy.child.output.count("not reloaded: ") == len(sentences)
        assert allowed(running.ask()) == {VIEWER}
        # Mended, it is taken.
        running.reload(cors={"allow_origins": [OTHER]})
        assert allowed(running.ask()) == {None}
    assert "SECRET" not in running.proxy.child.output
    assert "Traceback" not in running.proxy.child.output


def test_a_file_that_is_gone(tmp_path: Path, workers: int) -> None:
    with (
        stub(Reply(body=b"[]")) as there,
        reloading(tmp_path, workers, fronting(there.url, VIEWER)) as running,
    ):
        text = running.proxy.file.read_text()
        running.proxy.file.unlink()
        os.kill(running.proxy.child.pid, signal.SIGHUP)
        running.proxy.child.wait_for("not reloaded: .*No such file")
        assert allowed(running.ask()) == {VIEWER}
        running.proxy.file.write_text(text)
