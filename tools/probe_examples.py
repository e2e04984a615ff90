#!/usr/bin/env python3
"""Renew the outputs in docs/probe.md: the probe of real servers, broken and right.

Needs the test group and Debian's orthanc, orthanc-dicomweb and nginx. Run from the top:

    python -m tools.probe_examples
"""

from __future__ import annotations

import sys

from tests.support.probe_examples import MARKED, PAGE, examples


def main() -> None:
    """Write the outputs into docs/probe.md."""
    text = PAGE.read_text(encoding="utf-8")
    outputs = dict(examples())
    if outputs.keys() != {match[2] for match in MARKED.finditer(text)}:
        sys.exit(f"{PAGE}: the marks must be those of {', '.join(outputs)}")
    renewed = MARKED.sub(lambda match: match[1] + outputs[match[2]], text)
    PAGE.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    main()
