"""These tests are about $IMAGE_UNDER_TEST, which `deploy/check-container` builds."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "IMAGE_UNDER_TEST" in os.environ else ["test_*.py"]
