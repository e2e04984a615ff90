"""What importing the package does, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from tests.support.processes import Child
from tests.support.servers import Reply, stub
from tests.support.sockets import ORIGIN

# Runs `serve` and shows at its end which modules were imported.
SERVE = """
import atexit, sys
from dicomweb_cors_proxy.cli import main
atexit.register(lambda: print("imported", *sys.modules))
main(["serve", *sys.argv[1:]])
"""

# Each is imported when a request, a setting or a command first needs it.
NOT_FOR_A_SEARCH = {
    "cryptography",
    "dicomweb_cors_proxy.demo",
    "dicomweb_cors_proxy.observability.exposition",
    "dicomweb_cors_proxy.observability.shared_metrics",
    "dicomweb_cors_proxy.operations.supervisor",
    "dicomweb_cors_proxy.probe",
    "dicomweb_cors_proxy.tokens.verifier",
    "h11",
    "httpcore",
    "jwt",
    "prometheus_client",
    "publicsuffixlist",
    "yaml",
}

IMPORT_SETTINGS = "from dicomweb_cors_proxy import Settings"


def printed(code: str) -> str:
    """What a new process prints that runs `code`."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_serve_by_flags_answers_a_search_without_modules_for_other_uses() -> None:
    reply = Reply(headers={"Content-Type": "application/dicom+json"}, body=b"[]")
    with stub(reply) as archive:
        flags = ["--upstream", archive.url, "--allow-origin", ORIGIN.decode(), "--port", "0"]
        with Child([sys.executable, "-c", SERVE, *flags]) as child:
            root = child.wait_for(r"\bat +(\S+)")[1]
            assert httpx.get(f"{root}/studies", trust_env=False).content == b"[]"
            child.terminate()
            imported = {*child.wait_for(r"imported (.+)")[1].split()}
    assert "dicomweb_cors_proxy.server.connection" in imported
    assert not NOT_FOR_A_SEARCH & imported


def test_the_help_imports_no_command() -> None:
    code = """
import sys
from dicomweb_cors_proxy.cli import main
main(["--help"], standalone_mode=False)
print("imported", *sys.modules)
"""
    shown, _, imported = printed(code).rpartition("imported ")
    assert "Run the proxy." in shown
    ours = {name for name in imported.split() if name.startswith("dicomweb_cors_proxy")}
    assert ours == {"dicomweb_cors_proxy", "dicomweb_cors_proxy.cli"}


@pytest.mark.parametrize(("change", "expected"), [("enable", "True"), ("disable", "False")])
def test_the_import_leaves_the_collector_as_it_is(change: str, expected: str) -> None:
    code = f"import gc; gc.{change}(); {IMPORT_SETTINGS}; print(gc.isenabled())"
    assert printed(code) == expected


def test_what_is_frozen_stays_frozen() -> None:
    code = f"import gc; gc.freeze(); {IMPORT_SETTINGS}; print(gc.get_freeze_count() > 0)"
    assert printed(code) == "True"


def test_an_unknown_name_is_not_there() -> None:
    with pytest.raises(ImportError, match="nothing"):
        from dicomweb_cors_proxy import nothing  # noqa: F401, PLC0415
