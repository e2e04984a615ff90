"""Write docs/browser-messages.json: what the consoles of Chromium and Firefox say of each fault.

Makes every fault and asks both browsers: `python -m tools.browser_messages`, where
tests/e2e/viewers/install has brought the driver of Firefox.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.support import browser
from tests.support.messages import TRIALS, observe, stage
from tests.support.tabs import Firefox

FILE = Path(__file__).parents[1] / "docs" / "browser-messages.json"


async def main() -> None:
    """Ask both browsers, and write the file."""
    with stage() as pages:
        async with (
            browser.chromium(browser.NAMES) as chromium,
            Firefox.running(acceptInsecureCerts=True) as firefox,
        ):
            found = [
                {"fault": fault, "what": trial.what, "browser": name}
                | await observe(running, trial, pages)
                for fault, trial in TRIALS.items()
                for name, running in (("Chromium", chromium), ("Firefox", firefox))
            ]
    text = json.dumps(found, indent=2, ensure_ascii=False)
    FILE.write_text(f"{text}\n", encoding="utf-8")


asyncio.run(main())
