"""The site of docs/, built by `make docs`: Sphinx reads the pages as MyST Markdown.

The first page is the README. Links to files outside docs/ lead to the repository where its address is known: GitHub's
workflows set ``GITHUB_REPOSITORY``, and `TOKEXPORT_REPOSITORY` names another; elsewhere only their text is left.
"""

import os
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[1]
OWNER = os.environ.get("GITHUB_REPOSITORY")
REPOSITORY = os.environ.get("TOKEXPORT_REPOSITORY") or (f"https://github.com/{OWNER}" if OWNER else "")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)

project = "tokexport"
copyright = "the tokexport authors"
version = release = re.findall(r'"(.+)"', (ROOT / "version.py").read_text())[-1]

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
nitpicky = True
# A shell session is shown as it is; lexers have nothing to add to it.
highlight_language = "text"

html_theme = "furo"
html_title = f"tokexport {release}"
html_extra_path = ["llms.txt"]
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
linkcheck_timeout = 20
linkcheck_ignore = [r"https://github\.com/OWNER/.*"]


def _outside(link: re.Match[str], folder: Path, page: str) -> str:
    """A link as the site has it; one that leads nowhere is a warning, of which the build makes an error."""
    text, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in target:
        return link[0]
    file = (folder / path).resolve()
    if not file.exists():
        logging.getLogger(__name__).warning("%s is not in the repository", target, location=page)
        return link[0]
    if file.is_relative_to(ROOT / "docs"):
        inside = file.relative_to(ROOT / "docs").as_posix()
        return f"[{text}]({inside}{'#' * bool(anchor)}{anchor})"
    where = file.relative_to(ROOT).as_posix()
    if REPOSITORY:
        kind = "tree" if file.is_dir() else "blob"
        return f"[{text}]({REPOSITORY}/{kind}/main/{where}{'#' * bool(anchor)}{anchor})"
    return text if where in text else f"{text} (`{where}`)"


def _linked(text: str, folder: Path, page: str) -> str:
    """The text of a page that lies in `folder`, with all links as the site has them; code is left alone."""
    parts = _CODE.split(text)
    return "".join(
        part if number % 2 else _LINK.sub(lambda link: _outside(link, folder, page), part)
        for number, part in enumerate(parts)
    )


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    folder = Path(app.srcdir)
    if docname == "index":
        readme = (ROOT / "README.md").read_text()
        app.env.note_dependency(str(ROOT / "README.md"))
        readme = re.sub(r"(!\[[^\]]*\]\()docs/", r"\1", readme)
        source[0] = _linked(readme, ROOT, docname) + source[0]
    else:
        source[0] = _linked(source[0], folder, docname)


def _beside(app: Sphinx, error: Exception | None) -> None:
    """The text of each page beside its HTML: that is what llms.txt leads to."""
    if error is None and app.builder.name == "html":
        for page in (ROOT / "docs").glob("*.md"):
            shutil.copy(page if page.stem != "index" else ROOT / "README.md", Path(app.outdir) / page.name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what this site does to its pages."""
    app.connect("source-read", _read)
    app.connect("build-finished", _beside)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
