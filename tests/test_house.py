"""What keeps the house in order: short files, short functions, and lists of folders that name the folders there are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("devices", "exporter", "graph_passes", "plugins", "runtimes")
SOURCES = (".py", ".c", ".h", ".cpp", ".hpp", ".cu", ".cuh")
LINES, LINES_OF_A_FUNCTION = 350, 80


def sources() -> Iterator[Path]:
    yield from (file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in SOURCES)


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the line of its name to its last, the docstring counted."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_no_file_is_long() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in sources()}
    assert len(lines) > 100
    assert not {name: count for name, count in lines.items() if count > LINES}, "split these by what they do"


def test_no_function_is_long() -> None:
    found = [
        (str(file.relative_to(ROOT)), function.name, length(function))
        for file in sources()
        if file.suffix == ".py"
        for function in functions(file)
    ]
    assert len(found) > 1000
    assert not [one for one in found if one[2] > LINES_OF_A_FUNCTION], "split these into their steps"


def test_every_folder_of_the_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    there = {file.parent for folder in FOLDERS for file in (ROOT / folder).rglob("__init__.py")}
    names = [".".join(["tokexport", *folder.relative_to(ROOT).parts]) for folder in there]
    assert sorted(listed) == sorted(["tokexport", *names])
