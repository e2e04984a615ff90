"""Make absent what other systems lack, before anything else is imported in this process.

Python imports this module at its start if its folder is in PYTHONPATH. The variable ABSENT says
what is taken away: "uvloop", or "posix" for all that Windows does not have.
"""  # noqa: INP001  (must have this name, in a folder of its own)

from __future__ import annotations

import os
import sys
from typing import Any

# Modules that Windows does not have.
MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "uvloop")

# Parts of modules that Windows does not have, but asyncio's event loop for POSIX can do without.
PARTS = {
    "os": (
        "O_NOCTTY fork forkpty getegid geteuid getgid getppid getuid killpg posix_spawn "
        "register_at_fork sched_getaffinity set_blocking setpgid setsid statvfs sysconf"
    ),
    "_signal": (
        "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGUSR1 SIGUSR2 alarm pthread_kill "
        "pthread_sigmask setitimer sigpending sigwait"
    ),
    "_socket": "AF_UNIX MSG_DONTWAIT SO_REUSEPORT TCP_USER_TIMEOUT socketpair",
    "select": "POLLIN POLLOUT POLLRDHUP epoll poll",
}


def remove(module: str, names: str) -> None:
    """Remove names from a module that others copy them from."""
    loaded: Any = __import__(module)
    for name in names.split():
        if hasattr(loaded, name):
            delattr(loaded, name)


def no_handlers(*_: object) -> None:
    """Stand in for a method that event loops on Windows do not have."""
    raise NotImplementedError


if os.environ["ABSENT"] == "uvloop":
    sys.modules["uvloop"] = None  # type: ignore[assignment]
else:
    assert not sys.modules.keys() & {"signal", "socket", "selectors", "asyncio"}
    for absent in MODULES:
        sys.modules[absent] = None  # type: ignore[assignment]
    for changed, parts in PARTS.items():
        remove(changed, parts)
    import asyncio

    asyncio.SelectorEventLoop.add_signal_handler = no_handlers  # type: ignore[method-assign,assignment]
