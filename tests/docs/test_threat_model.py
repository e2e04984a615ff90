"""Every claim of the threat model names tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "threat-model.md").read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\[(\w+)\]\(([^)]+)\)", TEXT)))
CLAIMS = [
    line
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)
    for line in section.splitlines()
    if (section.startswith("Who can do what") and line.startswith("- "))
    or (section.startswith("What each setting opens") and line.startswith("| `"))
]


@pytest.mark.parametrize(("test", "file"), LINKS)
def test_a_link_leads_to_a_test(test: str, file: str) -> None:
    source = (DOCS / file).read_text(encoding="utf-8")
    assert re.search(rf"^(?:async )?def {test}\(", source, re.MULTILINE)
    assert test.startswith("test_")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[2:40])
def test_a_claim_names_a_test(claim: str) -> None:
    assert re.search(r"\[test_\w+\]\(\.\./tests/", claim)


def test_there_are_claims() -> None:
    assert len(CLAIMS) > 30
