"""mkdocs hook: adds files of the root as pages, and removes links to files outside the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; their links into `docs/` become links between pages."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_unlink(text, "")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links to these files lead to their pages."""
    up = "../" * page.file.src_uri.count("/")
    for name, target in PAGES.items():
        markdown = markdown.replace(f"]({up}../{name}", f"]({up}{target}")
    return _unlink(markdown, f"{up}../")


def _unlink(markdown: str, root: str) -> str:
    """Replace links to files that the site does not have by their text."""
    return re.sub(rf"\[([^]]*)\]\({re.escape(root)}examples/[^)]*\)", r"\1", markdown)
