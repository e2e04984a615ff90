"""The outputs in docs/probe.md are what the command prints."""

from __future__ import annotations

import re

import pytest

from tests.support import orthanc as archives
from tests.support.probe_examples import MARKED, PAGE, examples
from tests.support.probing import NGINX

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(not archives.INSTALLED, reason="needs Debian's orthanc-dicomweb"),
    pytest.mark.skipif(NGINX is None, reason="needs Debian's nginx"),
]


def without_ports(text: str) -> str:
    """Ports are any that were free; lines break elsewhere if they are shorter. Times differ."""
    text = re.sub(r"\d+\.\d\d s\b", "0.00 s", " ".join(text.split()))
    return re.sub(r"(127\.0\.0\.1):\d+", r"\1:0", text)


def test_the_outputs_are_up_to_date() -> None:
    outputs = dict(examples())
    page = PAGE.read_text(encoding="utf-8")
    shown = {match[2]: match[3] for match in MARKED.finditer(page)}
    assert shown.keys() == outputs.keys()
    for name, output in outputs.items():
        assert without_ports(shown[name]) == without_ports(output), (
            f"{name}: run python -m tools.probe_examples"
        )
