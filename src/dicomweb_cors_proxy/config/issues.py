"""Issues with settings, and values shown without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ConfigurationError", "SettingIssue", "independent", "redacted"]

_SHOWN_CHARACTERS: Final = 100
_SHOWN_NUMBERS: Final = 10**15

# A URL's user information ends at its last @, and a query can be a signature.
_USER_INFORMATION: Final = re.compile(r"(?:(?<=://)|^(?!.*://)).*@")
_QUERY: Final = re.compile(r"\?.+")


def redacted(value: object) -> str:
    """Return `value` as a problem may show it: short, on one line, without likely secrets."""
    if isinstance(value, (str, Path)):
        return _shown_text(str(value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value) if abs(value) < _SHOWN_NUMBERS else "such a number"
    return "a mapping" if isinstance(value, dict) else "a list"


def _shown_text(text: str) -> str:
    if "\n" in text:
        return "a text of several lines"
    text = _QUERY.sub("?…", _USER_INFORMATION.sub("***@", text))
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")


class ConfigurationError(Exception):
    """A configuration that can't be used.

    `problems` are sentences, each naming a key, its value (never a secret's) and the remedy.
    """

    def __init__(self, problems: Iterable[SettingIssue]) -> None:
        self.found = tuple(problems)
        self.problems = tuple(map(str, self.found))
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class SettingIssue:
    """One thing wrong: what it is about, what is wrong and the remedy, and where it stands.

    It may be only a consequence, if there is a problem with one of the keys `because_of` as well.
    """

    subject: str
    reason: str
    source: str = ""
    because_of: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """The dotted key that the subject is, or is a part of."""
        return self.subject.partition("[")[0]

    def __str__(self) -> str:
        sentence = f"{self.subject}: {self.reason}{f' ({self.source})' if self.source else ''}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence)


def independent(
    problems: Iterable[SettingIssue], *, of: Sequence[SettingIssue]
) -> list[SettingIssue]:
    """Keep the problems that are not mere consequences of others."""
    reported = {problem.subject for problem in of}
    return [
        problem
        for problem in problems
        if not any(
            one == other
            or one.startswith((f"{other}.", f"{other}["))
            or other.startswith(f"{one}[")
            for one in (problem.subject, *problem.because_of)
            for other in reported
        )
    ]
