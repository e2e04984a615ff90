"""What people are told about a browser's messages, by what it says now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.messages import TRIALS, Stage, Trial, observe, stage
from tests.support.tabs import Firefox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILE = Path(__file__).parents[3] / "docs" / "browser-messages.json"


@pytest.fixture(scope="module")
def pages() -> Iterator[Stage]:
    with stage() as pages:
        yield pages


@pytest.mark.parametrize(("fault", "trial"), TRIALS.items(), ids=TRIALS)
async def test_a_fault(fault: str, trial: Trial, running: Browser | Firefox, pages: Stage) -> None:
    """If a newer browser words it otherwise: `python -m tools.browser_messages`, and the guide."""
    name = "Firefox" if isinstance(running, Firefox) else "Chromium"
    known = {
        (line["fault"], line["browser"]): {"message": line["message"], "script": line["script"]}
        for line in json.loads(FILE.read_text(encoding="utf-8"))
    }
    assert await observe(running, trial, pages) == known[fault, name]
