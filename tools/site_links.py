"""A hook of MkDocs: links from docs/ to other files of the repository work in the site as well.

The site gets a copy of each linked file below `source/`. A link to a missing file stays as it is,
and the strict build rejects it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)")


def _source(page: str, link: str) -> str | None:
    """Return the path of a linked file that is outside docs/, relative to the repository."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") or not (ROOT / path).exists() else path


def _copy(path: str) -> str:
    """Return the copy's path in the site; as text, because MkDocs would make pages of Markdown."""
    if (ROOT / path).is_dir():
        path += "/index"
    return f"source/{path}{'' if Path(path).suffix in ('.json', '.yaml') else '.txt'}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files to which pages link."""
    for page in files.documentation_pages():
        for _, link in _LINK.findall(page.content_string):
            path = _source(page.src_uri, link)
            if path is not None and files.get_file_from_path(_copy(path)) is None:
                target = ROOT / path
                content = (
                    "".join(f"{each.name}\n" for each in sorted(target.iterdir()))
                    if target.is_dir()
                    else target.read_text(encoding="utf-8")
                )
                files.append(File.generated(config, _copy(path), content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links to other files of the repository into links to their copies."""

    def replaced(match: re.Match[str]) -> str:
        path = _source(page.file.src_uri, match[2])
        if path is None:
            return match[0]
        folder = posixpath.dirname(page.file.src_uri) or "."
        return match[1] + posixpath.relpath(_copy(path), folder)

    return _LINK.sub(replaced, markdown)
