"""The language rules of CONTRIBUTING.md that a program can check."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    ]
)

MAX_SENTENCE_WORDS = 25

# A docstring that opens with one of these names no subject and no action.
VAGUE_OPENING = re.compile(
    r"(?:What|Who|Whose|Whom|Where|When|Why|How|Whether|Of|By|All that|That|Those|These|They|It"
    r"|The same|Or|But|And|Nothing|Nobody|As|For|In|With|Without|There)\b"
)

# Metaphors and turns of phrase, each with the plain word that replaces it.
PLAIN_WORDS = {
    r"farewell": "shutdown",
    r"canary": "marker",
    r"patience": "timeout, or limit",
    r"nobody": "no client, no caller, ...",
    r"anybody": "any client, any caller, ...",
    r"neighbours?": "peer",
    r"lets? (?:\w+ )?in\b": "allow",
    r"counts? for nothing": "is ignored",
    r"but for": "except",
    r"be it\b": "whether it is",
    r"whither": "where",
    r"is told of": "is reported",
    r"goes? by": "uses, follows",
    r"cut short": "truncated",
    r"takes? it for": "treats it as",
}

# "Response" is the term of RFC 9110 for what a server sends back.
ANSWER = re.compile(
    r"\b(?:an?|the|its|this|each|every|no|all|whole|first|last|next|of) answers?\b", re.IGNORECASE
)

# Words that end with a full stop and end no sentence.
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|approx)\.")


class Text(NamedTuple):
    """A docstring, a comment or a paragraph, and where it stands."""

    place: str
    content: str


def docstrings() -> Iterator[Text]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and (content := ast.get_docstring(node)):
                line = getattr(node, "lineno", 1)
                yield Text(f"{path.relative_to(ROOT)}:{line}", content)


def comments() -> Iterator[Text]:
    """Return each run of comment lines as one text."""
    for path in SOURCES:
        block: list[str] = []
        first = last = 0
        source = path.read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type != tokenize.COMMENT or token.string.startswith(("# type:", "# noqa")):
                continue
            line = token.start[0]
            text = token.string.removeprefix("#").strip()
            is_whole_line = token.line.lstrip().startswith("#")
            if line == last + 1 and is_whole_line:
                block.append(text)
            else:
                if block:
                    yield Text(f"{path.relative_to(ROOT)}:{first}", "\n".join(block))
                block, first = [text], line
            last = line
        if block:
            yield Text(f"{path.relative_to(ROOT)}:{first}", "\n".join(block))


def paragraphs() -> Iterator[Text]:
    """Return the prose of the pages: no code blocks, tables, headings or generated parts."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        text = re.sub(
            r"^```.*?^```$|^<!--.*?-->$",
            lambda match: "\n" * match[0].count("\n"),
            text,
            flags=re.MULTILINE | re.DOTALL,
        )
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith(("|", "#", "[", "!", "<")):
                yield Text(f"{path.relative_to(ROOT)}:{number}", line)


def sentences(text: str) -> Iterator[str]:
    """Return sentences, with code, links and what stands in parentheses shortened to a word."""
    text = re.sub(r"^\s*\|.*$", "", text, flags=re.MULTILINE)  # tables
    text = re.sub(r"`[^`]*`", "X", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\([^()]*\)", "", text)
    text = ABBREVIATION.sub(r"\1", text)
    for part in re.split(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*[-*] |^\s*\w+: ", text, flags=re.MULTILINE):
        yield " ".join(part.split())


def too_long(text: str) -> list[str]:
    return [
        sentence
        for sentence in sentences(text)
        if len(re.findall(r"[A-Za-z0-9][\w'./-]*", sentence)) > MAX_SENTENCE_WORDS
    ]


def faults(text: Text) -> Iterator[str]:
    for pattern, plain in PLAIN_WORDS.items():
        for match in re.finditer(rf"\b(?:{pattern})", text.content, re.IGNORECASE):
            yield f"{text.place}: {match[0]!r}: write {plain!r}"
    for sentence in too_long(text.content):
        yield f"{text.place}: more than {MAX_SENTENCE_WORDS} words: {sentence!r}"


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    found = [
        f"{text.place}: {text.content.splitlines()[0]!r}"
        for text in docstrings()
        if VAGUE_OPENING.match(text.content)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", [docstrings, comments], ids=lambda kind: kind.__name__)
def test_source_is_in_plain_english(kind: type) -> None:
    found = [fault for text in kind() for fault in faults(text)]
    found += [
        f"{text.place}: {match[0]!r}: write 'response'"
        for text in kind()
        for match in ANSWER.finditer(text.content)
    ]
    assert not found, "\n".join(found)


def test_pages_are_in_plain_english() -> None:
    found = [fault for text in paragraphs() for fault in faults(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_long"),
    [
        ("word " * 25 + ".", False),
        ("word " * 26 + ".", True),
        ("word " * 20 + ". " + "word " * 20 + ".", False),
        ("word " * 20 + "(" + "word " * 20 + ").", False),
        ("word " * 20 + "`" + "code " * 20 + "`.", False),
    ],
)
def test_a_sentence_is_counted_in_words(text: str, *, is_long: bool) -> None:
    assert bool(too_long(text)) is is_long
