"""How Sphinx builds the documentation: `make docs`. Nothing is fetched from a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import merpo

DOCS = Path(__file__).resolve().parent

project = "merpo"
author = "The merpo developers"
version = release = merpo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"merpo {release}"
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
pygments_style = "friendly"
highlight_language = "none"  # indented blocks are commands and formulas; Python is fenced and says so

myst_heading_anchors = 3

default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # shapes and meanings stand in the docstrings; signatures stay short enough to read
python_use_unqualified_type_names = True

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
"""A Markdown link that climbs out of its folder; the pictures of such paths are copied into the site and stay."""
FENCE = re.compile(r"^ *(```+|~~~+)")


def name_outside(app: Any, docname: str, source: list[str]) -> None:
    """Turn links to files of the repository outside docs/ into their text and path: the site does not have them.

    On the pages as they stand in the repository the same links work. A path that does not exist is an error.
    """
    here = DOCS / Path(docname).parent

    def replaced(match: re.Match[str]) -> str:
        text, path = match[1], (here / match[2]).resolve()
        if path.is_relative_to(DOCS):
            return match[0]
        if not path.exists():
            raise ValueError(f"docs/{docname}.md links to {match[2]}, which does not exist. Correct the link.")
        name = path.relative_to(DOCS.parent).as_posix()
        return f"`{name}`" if text in (name, path.name) else f"{text} (`{name}`)"

    source[0] = LINK.sub(replaced, source[0])


SPECIAL = re.compile(r"(``.*?``|`[^`]*`)|([*|\\]|(?<=\w)_(?!\w))")


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: asterisks and bars are themselves, and an indented block is shown as it stands."""
    found: list[str] = []
    literal = example = False
    for line in lines:
        if not line.strip():
            example = False
        example = example or line.lstrip().startswith(">>>")
        item = bool(found) and re.match(r"\s*(- |\d+\. )", next((x for x in reversed(found) if x.strip()), ""))
        if not line.strip() or example:
            found.append(line)
            continue
        indented = line.startswith("  ")
        if indented and not literal and not item and (not found or not found[-1].strip()):
            found.extend(["::", ""])
            literal = True
        elif not indented:
            literal = False
        escaped = SPECIAL.sub(lambda m: m[1] or "\\" + m[2], line)
        found.append(line if literal else escaped)
    lines[:] = found


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", name_outside)
    app.connect("autodoc-process-docstring", plain)
    return {"parallel_read_safe": True}
