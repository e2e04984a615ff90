"""What the proxies under test send their requests by: TEST_TRANSPORT, else our own engine."""

from __future__ import annotations

import os
from typing import Final

TRANSPORT: Final = os.environ.get("TEST_TRANSPORT", "native")

# Whether these proxies have open connections to their archives from the beginning: TEST_WARM=1.
# Requests without a body are then relayed without a task (proxy/relay.py).
WARM: Final = os.environ.get("TEST_WARM") == "1"
