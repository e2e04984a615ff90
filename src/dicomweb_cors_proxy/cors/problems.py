"""A problem with a policy, and the error that carries all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["PolicyError", "PolicyIssue", "listed"]


@dataclass(frozen=True, slots=True)
class PolicyIssue:
    """One thing wrong in a policy's configuration, or to be warned of.

    `reason` goes on from the value: it says what is wrong with it, then the remedy.
    """

    key: str
    value: str
    reason: str

    def __str__(self) -> str:
        """Return a sentence of key, value and reason."""
        return f"{self.key}: {self.value!r} {self.reason}"


class PolicyError(ValueError):
    """A configuration that can't become a policy, with all of its problems."""

    def __init__(self, problems: Iterable[PolicyIssue]) -> None:
        """Take the problems, of which there is one at least."""
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def listed(items: Sequence[str]) -> str:
    """Join items for a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))
