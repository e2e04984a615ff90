"""The short forms of `bench.soak` and `bench.chaos`: nothing is lost, no promise is broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.processes import Child

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("module", "arguments", "verdict"),
    [
        ("bench.soak", ["--requests", "5000"], "nothing lost\n"),
        ("bench.chaos", ["--seconds", "12"], "every promise kept\n"),
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
