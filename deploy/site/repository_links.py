"""An mkdocs hook: links from the documents to files elsewhere in the repository work on the site too.

The repository's README is the site's first page. A file outside ``docs/`` that a page links to becomes
``repository/<path>`` of the site: Markdown as a page, whose own links are followed, anything else as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOM = "repository"
HOME = "README.md"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

log = get_plugin_logger(__name__)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README and every file outside the documents that is linked to."""
    root = Path(config.config_file_path).parent
    waiting = [root / HOME, *(Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path)]
    seen: set[Path] = set(waiting)
    for page in waiting:
        if page == root / HOME or not _is_document(page, root):
            files.append(File.generated(config, _site_path(page, root), abs_src_path=str(page)))
        if page.suffix == ".md":
            fresh = [target for target in _targets(page, root) if target not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave a page's folder tree into links within the site."""
    root = Path(config.config_file_path).parent
    source = Path(str(page.file.abs_src_path))

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / link["path"]))
        if not target.is_file():
            log.warning("%s: link %r leads to no file", source.relative_to(root), link["path"])
            return link[0]
        here = Path(page.file.src_uri).parent
        return os.path.relpath(_site_path(target, root), here) + (link["anchor"] or "")

    return LINK.sub(moved, markdown)


def _targets(page: Path, root: Path) -> Iterator[Path]:
    """Yield the files outside the documents that a page links to; one that is missing is reported with its page."""
    for link in LINK.finditer(FENCE.sub("", page.read_text("utf-8"))):
        target = Path(os.path.normpath(page.parent / link["path"]))
        if target.is_file() and target.is_relative_to(root) and not _is_document(target, root):
            yield target


def _is_document(path: Path, root: Path) -> bool:
    return path.is_relative_to(root / "docs")


def _site_path(path: Path, root: Path) -> str:
    """Return where a file of the repository is on the site."""
    if path == root / HOME:
        return HOME
    return str(path.relative_to(root / "docs")) if _is_document(path, root) else f"{ROOM}/{path.relative_to(root)}"
