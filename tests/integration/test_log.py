"""The log of processes that fork, get a signal, or end by a bug."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.support.processes import Child

PATIENT = "Doe^Jane"

FORKS = """
import os, sys, warnings
from dicomweb_cors_proxy.observability.log_setup import setup_logging
from dicomweb_cors_proxy.observability.log_setup import flush
from dicomweb_cors_proxy.observability.log_setup import print_lines

# Python 3.12 and later warn of a fork in a process with threads.
warnings.simplefilter("ignore", DeprecationWarning)
setup_logging()
if sys.argv[1] == "before":
    print_lines(["parent"])
pid = os.fork()
if pid == 0:
    print_lines(["child"])
    flush()
    os._exit(0)
os.waitpid(pid, 0)
print_lines(["end"])
"""


@pytest.mark.parametrize(("parent", "count"), [("before", 1), ("silent", 0)])
def test_a_forked_process_writes_its_own_lines_once(parent: str, count: int) -> None:
    with Child([sys.executable, "-c", FORKS, parent]) as child:
        assert child.wait() == 0
    lines = child.output.splitlines()
    assert sorted(lines) == ["child", "end", *["parent"] * count]
    assert lines[-1] == "end"


SIGNALLED = """
import signal, sys
from dicomweb_cors_proxy.observability.log_setup import setup_logging
from dicomweb_cors_proxy.observability.log_setup import print_lines

setup_logging()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print_lines(["ready"])
input()
"""


def test_a_signal_interrupts_the_main_thread() -> None:
    reader, end = os.pipe()
    with Child([sys.executable, "-c", SIGNALLED], stdin=reader) as child:
        child.wait_for("ready")
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait() == 7
    os.close(reader)
    os.close(end)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_ends_the_process(workers: str) -> None:
    script = f"""
from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.server.uvicorn_server import Server

async def fail(*_, **__):
    raise ValueError("{PATIENT}")

Server.startup = fail
main()
"""
    flags = ("--upstream", "http://a", "--allow-origin", "https://viewer.example", "--port", "0")
    with Child([sys.executable, "-c", script, "serve", *flags, "--workers", workers]) as child:
        assert child.wait() == 1
    assert ": ValueError < fail (<string>:" in child.output
    assert PATIENT not in child.output
    assert "Traceback" not in child.output
