"""plugins/schema.py says everything about a kernel's parameters: what is written from it is current, and C agrees."""

from __future__ import annotations

import ctypes
import shutil
import typing
from pathlib import Path

import pytest
from kernel_build import KERNELS as SOURCES
from kernel_build import PLUGINS as FOLDER
from kernel_build import run
from tokexport.graph_passes.compressors import compressor_class
from tokexport.plugins import generate, structs
from tokexport.plugins.schema import ENUMS, LIMITS, PLUGINS, Choice

WRITTEN = [
    "structs.py",
    "kernels/parameters.h",
    "tensorrt/methods.cpp",
    "kernels/tokexport_kernels.h",
    "tensorrt/README.md",
]


def must_be(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): text for path, text in generate.generated(folder)}


def test_every_written_file_is_tried_here() -> None:
    assert [*must_be(FOLDER)] == WRITTEN


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_current(name: str) -> None:
    assert (FOLDER / name).read_text() == must_be(FOLDER)[name], "Run: python -m tokexport.plugins.generate"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The written files in a folder of their own."""
    for name in WRITTEN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(FOLDER / name, tmp_path / name)
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("structs.py", "MAX_BASIS = 64"),
        ("kernels/parameters.h", "p.contextual < 0"),
        ("kernels/tokexport_kernels.h", "TOKEXPORT_BASIS_BLEND = 1"),
        ("tensorrt/methods.cpp", '"overwrite", "blend"'),
        ("tensorrt/README.md", "`inverted` 0, 1"),
    ],
)
def test_an_edit_is_found_and_written_over(copy: Path, name: str, old: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = (copy / name).read_text()
    (copy / name).write_text(right.replace(old, "edited"))
    assert "edited" in (copy / name).read_text() and must_be(copy)[name] == right
    generate.main()
    assert (copy / name).read_text() == right and capsys.readouterr().out == f"{name}\n"
    generate.main()
    assert capsys.readouterr().out == ""


def test_what_is_written_by_hand_stays_and_a_lost_marker_is_named(copy: Path) -> None:
    readme = copy / "tensorrt" / "README.md"
    readme.write_text(readme.read_text().replace("## How it works", "## How it really works"))
    assert "## How it really works" in must_be(copy)["tensorrt/README.md"]
    readme.write_text(readme.read_text().replace("<!-- End of", "<!-- The end of"))
    with pytest.raises(ValueError, match=r"tensorrt/README.md lacks the line <!-- End of what is generated. -->"):
        must_be(copy)


def test_structures_lie_in_memory_as_in_c(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("structures in C: there is no gcc")
    known = {"shape": structs.Shape, "outputs": structs.Outputs, "workspace": structs.Workspace}
    known |= {f"{name}_params": made for name, made in structs.PARAMETERS.items()}
    lines, expected = [], []
    for name, made in known.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(tokexport_{name}));')
        expected.append(f"{name} {ctypes.sizeof(made)}")
        for field, *_ in made._fields_:
            inner = f"grid.{field}" if field in ("frames", "height", "width") else field
            lines.append(f'printf("{field} %zu\\n", offsetof(tokexport_{name}, {inner}));')
            expected.append(f"{field} {getattr(made, field).offset}")
    for limit, value in LIMITS.items():
        lines.append(f'printf("{limit} %d\\n", TOKEXPORT_MAX_{limit});')
        expected.append(f"{limit} {value}")
    for enum in ENUMS:
        for code, word in enumerate(enum.words):
            lines.append(f'printf("{word} %d\\n", {enum.constant(word)});')
            expected.append(f"{word} {code}")
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include "tokexport_kernels.h"\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    run("gcc", "-std=c11", f"-I{SOURCES}", source, "-o", tmp_path / "layout")
    assert run(tmp_path / "layout").splitlines() == expected


@pytest.mark.parametrize("method", PLUGINS)
def test_words_are_those_of_the_method(method: str) -> None:
    hints = typing.get_type_hints(compressor_class(method))
    for one in PLUGINS[method].attributes:
        if isinstance(one, Choice):
            assert {*one.enum.words} == {*typing.get_args(hints[one.name])}, one.name
