"""A server of access tokens, which does as it is told."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_plus

from tests.support.sockets import Archive, Head, Wire, answer, archive

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable
    from ssl import SSLContext

CLIENT, SECRET = "proxy:1", "hunter 2%ü"


@dataclass
class Login:
    """Gives out `token-1`, `token-2` and so on, each for `life`, to its `client`.

    Attributes:
        life: what is sent as `expires_in`; None: nothing.
        script: sends the next responses in its place, the first first.
        gate: if set, it is waited for before every response.
        reads: the ways in which it takes the client's secret.
        forms: what was asked for.
        ways: how the secret came each time, `header` or `body`.
        name: of the tokens.
    """

    life: object = 3600
    script: list[Callable[[Wire], Awaitable[None]]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    reads: tuple[str, ...] = ("header", "body")
    forms: list[dict[str, str]] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    given: int = 0
    client: tuple[str, str] = (CLIENT, SECRET)
    name: str = "token"
    server: Archive = field(init=False)

    @property
    def url(self) -> str:
        return f"{self.server.scheme}://127.0.0.1:{self.server.port}/token"

    @property
    def asked(self) -> int:
        return len(self.forms)

    def auth(self, **more: object) -> dict[str, Any]:
        """The settings under `upstream.auth`."""
        return {
            "type": "oauth2_client_credentials",
            "token_url": self.url,
            "client_id": self.client[0],
            "client_secret": self.client[1],
            **more,
        }

    async def handle(self, wire: Wire, head: Head) -> None:
        form = dict(parse_qsl((await wire.body(head)).decode(), strict_parsing=True))
        self.forms.append(form)
        way, client = self._client(head, form)
        self.ways.append(way)
        assert head.first_line.partition(b"?")[0] in (b"POST /token HTTP/1.1", b"POST /token")
        assert head.get(b"content-type") == b"application/x-www-form-urlencoded"
        if self.gate is not None:
            await self.gate.wait()
        if self.script:
            await self.script.pop(0)(wire)
        elif way not in self.reads or client != self.client:
            await wire.send(refusal("invalid_client", b"401 Unauthorized"))
        else:
            self.given += 1
            token = {"access_token": f"{self.name}-{self.given}", "token_type": "Bearer"}
            life = {} if self.life is None else {"expires_in": self.life}
            await wire.send(answer(json.dumps(token | life).encode()))

    def _client(self, head: Head, form: dict[str, str]) -> tuple[str, tuple[str, ...]]:
        """RFC 6749 §2.3.1."""
        header = head.get(b"authorization")
        if header is None:
            return "body", (form.get("client_id", ""), form.get("client_secret", ""))
        kind, pair = header.split()
        assert kind == b"Basic"
        parts = base64.b64decode(pair).decode().split(":")
        return "header", tuple(map(unquote_plus, parts))


def refusal(error: str, status: bytes = b"400 Bad Request") -> bytes:
    """RFC 6749 §5.2, with a description that quotes what nobody may read."""
    said = {"error": error, "error_description": f"not {CLIENT} with {SECRET}"}
    return answer(json.dumps(said).encode(), status=status)


def saying(raw: bytes) -> Callable[[Wire], Awaitable[None]]:
    """Answer with these bytes."""

    async def send(wire: Wire) -> None:
        await wire.send(raw)

    return send


@asynccontextmanager
async def login(*, tls: SSLContext | None = None, **how: Any) -> AsyncIterator[Login]:  # noqa: ANN401
    there = Login(**how)
    async with archive(there.handle, tls=tls) as server:
        there.server = server
        yield there
