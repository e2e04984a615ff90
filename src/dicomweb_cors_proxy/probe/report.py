"""A probe's report: for people in 80 columns, for scripts as JSON."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import click

from dicomweb_cors_proxy.probe.findings import Verdict
from dicomweb_cors_proxy.probe.timing import timed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dicomweb_cors_proxy.probe.findings import Finding, Report, Target

__all__ = ["Text", "as_json"]

WIDTH: Final = 80
_COLOURS: Final = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "red",
    Verdict.NOTE: "cyan",
}
_NAMES: Final = 14  # columns, for the longest name of a check
_NGINX: Final = "nginx, in place of what sets the same"
_MARGIN: Final = " " * (len("pass") + 2)
_CODE: Final = _MARGIN + "  "


class Text:
    """A report as lines of text, without repeating an earlier reason."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._said: dict[str, str] = {}  # faults, and the checks that found them
        self._shown: list[tuple[tuple[str, ...], str]] = []  # settings, likewise

    def heading(self) -> list[str]:
        """Say what is probed and as whom."""
        manner = "with credentials" if self._target.credentials else "without credentials"
        return [
            click.style(self._target.root, bold=True),
            f"as a page on {self._target.origin} asks it, {manner}",
            "",
        ]

    def finding(self, finding: Finding) -> list[str]:
        """Lay out one finding: verdict, name, sentences, then what to change."""
        mark = click.style(finding.verdict, fg=_COLOURS[finding.verdict], bold=True)
        text = finding.text
        fault = text.partition(". ")[2]
        same = self._said.get(fault) if fault and finding.verdict is Verdict.FAIL else None
        if same:
            text = text.partition(". ")[0] + f", for the same reason as {same}."
        lines = textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"{_MARGIN}{finding.check:<{_NAMES}} ",
            subsequent_indent=_MARGIN + " " * (_NAMES + 1),
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines[0] = f"{mark}  {lines[0][len(_MARGIN) :]}"
        if not same:
            self._said.setdefault(fault, finding.check)
            lines += self._changes(finding)
        return lines

    def _changes(self, finding: Finding) -> Iterator[str]:
        if finding.advice.ours:
            yield from self._once("dicomweb-cors-proxy", _keys(finding.advice.ours), finding.check)
        if finding.advice.nginx:
            yield from self._once(_NGINX, finding.advice.nginx, finding.check)

    def _once(self, where: str, lines: tuple[str, ...], check: str) -> Iterator[str]:
        if said := next((c for shown, c in self._shown if _has(shown, lines)), None):
            yield f"{_MARGIN}{where.partition(',')[0]}: as under {said}"
            return
        self._shown.append((lines, check))
        yield f"{_MARGIN}{where}:"
        for line in lines:
            indent = _CODE + line[: len(line) - len(line.lstrip())]
            yield from textwrap.wrap(
                line.strip(),
                WIDTH,
                initial_indent=indent,
                subsequent_indent=f"{indent}  ",
                break_long_words=False,
                break_on_hyphens=False,
            )

    def ending(self, report: Report) -> list[str]:
        """Say what to do first."""
        worst = Verdict.FAIL if report.is_blocked else Verdict.WARN
        colour = _COLOURS[worst if report.has_first else Verdict.PASS]
        lines = textwrap.wrap(report.first, WIDTH, break_long_words=False, break_on_hyphens=False)
        return ["", *(click.style(line, fg=colour, bold=True) for line in lines)]


def _has(shown: tuple[str, ...], lines: tuple[str, ...]) -> bool:
    return any(shown[i : i + len(lines)] == lines for i in range(len(shown)))


def _keys(settings: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{key}: {_yaml(value)}" for key, value in settings.items())


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return _scalar(value)


def _scalar(value: object) -> str:
    return '"*"' if value == "*" else str(value)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON has it; its keys are for scripts to rely on."""
    target = report.target
    return {
        "root": target.root,
        "origin": target.origin,
        "credentials": target.credentials,
        "blocked": report.is_blocked,
        "first": report.first,
        "seconds": {
            check: {"first_byte": result.first_byte, "total": result.total}
            for check, result in timed(report.exchanges).items()
        },
        "checks": [
            {
                "check": finding.check,
                "verdict": finding.verdict.lower(),
                "text": finding.text,
                "request": finding.request,
                "status": finding.status,
                "rule": finding.rule,
                "step": finding.step,
                "settings": dict(finding.advice.ours),
                "nginx": list(finding.advice.nginx),
            }
            for finding in report.findings
        ],
    }
