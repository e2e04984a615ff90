"""A token in a file that another program renews: a token helper, or a workload identity."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.upstream.token_cache import no_token

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TokenFile"]

MAX_FILE_BYTES: Final = 65536


class TokenFile:
    """A file with the proxy's own token, which is read again when the file changes.

    Each request looks at the file's time, size and inode, which takes 2 µs on a local disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._token = b""

    async def get(self) -> bytes:
        """Return the token, or raise `UpstreamProblem` 502, which says why there is none."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._token = self._read()
                self._stamp = stamp
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or "it is not a valid path"
            raise no_token(
                f"the file that upstream.auth.token_file names cannot be read ({cause}). Check "
                "the path, and that the proxy's user may read the file."
            ) from None
        return self._token

    async def replacement_for(self, value: bytes) -> bytes | None:
        """Return the token if it is another one by now."""
        token = await self.get()
        return None if token == value else token

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1).strip()
        if len(content) > MAX_FILE_BYTES or not re.fullmatch(rb"[!-~]+", content):
            raise no_token(
                "the file that upstream.auth.token_file names does not hold a token. Write one "
                "word of visible ASCII, without 'Bearer'."
            )
        return content
