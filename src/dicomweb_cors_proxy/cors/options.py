"""The options of a policy, as users configure them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PolicyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """One policy as configured, valid or not.

    | key            | permitted                                                            |
    |----------------|----------------------------------------------------------------------|
    | allow_origins  | what `OriginPattern` reads, `*`; one at least                        |
    | allow_methods  | methods in their exact case, `*`; GET, HEAD and POST always pass     |
    | allow_headers  | request headers that pages can set, in any case, `*`                 |
    | expose_headers | response headers except Set-Cookie, in any case, `*`                 |
    | max_age        | seconds up to 86400; browsers do not cache preflights at 0 and -1    |

    Without credentials a `*` is sent as it is; it covers Authorization only if that is listed too.
    With credentials browsers read `*` as a name: for methods and request headers the proxy sends
    what the preflight asks for; elsewhere `*` is invalid. With credentials, all subdomains of a
    public suffix are invalid as well, and so are origins over plain http, unless
    `dangerously_allow_insecure_origins` is set.
    """

    allow_origins: Sequence[str]
    allow_methods: Sequence[str]
    allow_headers: Sequence[str]
    expose_headers: Sequence[str]
    max_age: int
    allow_credentials: bool
    dangerously_allow_insecure_origins: bool
