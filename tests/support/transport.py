"""What the proxies under test send their requests by: TEST_TRANSPORT, else our own engine."""

from __future__ import annotations

import os
from typing import Final

TRANSPORT: Final = os.environ.get("TEST_TRANSPORT", "native")
