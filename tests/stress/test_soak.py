"""Short runs of `soak` and `chaos`: no request is lost, and no promise is broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import Child

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "arguments", "verdict"),
    [
        ("tests.stress.soak", ["--requests", "5000"], "nothing lost\n"),
        ("tests.stress.chaos", ["--seconds", "12"], "every promise kept\n"),
    ],
    ids=["soak", "chaos"],
)
@pytest.mark.native_only("httpx sends writes on kept connections, which may be dead: a 502")
def test_the_short_form(
    module: str, arguments: list[str], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with Child([sys.executable, "-m", module, *arguments]) as child:
        assert child.wait(seconds=110) == 0, child.output
    assert child.output.endswith(verdict)
