"""The pages under docs/: their blocks, links and headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block in a line of a page: `kind` is what stands behind the fence."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.stem}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A line of a `console` block: variables before a program, and its arguments."""

    page: Path
    variables: dict[str, str]
    program: str
    arguments: list[str]

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.program} {' '.join(self.arguments)}"


def blocks(page: Path, kind: str | None = None) -> list[Block]:
    """All blocks of a page, or those of one kind."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, *match.groups())
        for match in _BLOCK.finditer(text)
        if kind in (None, match[1])
    ]


def commands(page: Path) -> list[Command]:
    lines = (line for block in blocks(page, "console") for line in block.text.splitlines())
    return [_command(page, shlex.split(line)) for line in lines]


def guide(name: str) -> Path:
    return ROOT / "docs" / "guides" / f"{name}.md"


def command(name: str, program: str) -> Command:
    """The one command of a guide that runs this program."""
    (only,) = (each for each in commands(guide(name)) if each.program == program)
    return only


def _command(page: Path, words: list[str]) -> Command:
    start = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    variables = dict(word.split("=", 1) for word in words[:start])
    return Command(page, variables, words[start], words[start + 1 :])


def links(page: Path) -> list[str]:
    return _LINK.findall(page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What a link to this page may have behind its #, as GitHub makes it of headings."""
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in _HEADING.findall(prose)
    }


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
