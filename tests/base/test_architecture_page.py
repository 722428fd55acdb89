"""docs/architecture.md: every folder of the package is in its diagram, and every path that it names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()


def test_every_folder_is_in_the_diagram() -> None:
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    # The models of the zoo stand for themselves.
    names = {package.rpartition(".")[2] for package in packages if ".zoo." not in package} - {"tokexport"}
    assert {name for name in names if not re.search(rf"\b{name}\b", diagram)} == set()


def test_every_path_on_the_page_is_there() -> None:
    table = PAGE.partition("## Where to put what")[2].partition("## The bundle")[0]
    paths = re.findall(r"`([\w./]+/[\w./]*)`", table)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
