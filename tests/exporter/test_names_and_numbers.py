"""Names and numbers as people of other languages type them: they work, or are refused with what to type."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import plain
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.files import utf8_name
from tokexport.graph_passes.budget import parse_ratio

# As Python reads names where neither the locale nor the interpreter says that they are UTF-8.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def command(folder: Path, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tokexport", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
    )


MAKE = ("model", "m.onnx", "--method", "uniform", "--keep", "3", "--seam", "tensor:features", "-q", "-o")


def test_a_name_with_an_umlaut_works_in_every_locale(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    plain(tmp_path / "m.onnx")
    done = command(tmp_path, *MAKE, "bündel", **ASCII)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "bündel/manifest.json").is_file()
    assert command(tmp_path, "verify", "bündel", **ASCII).returncode == 0


def test_a_name_that_is_no_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    plain(tmp_path / "m.onnx")
    done = command(tmp_path, *MAKE, b"b\xfcndel")
    assert done.returncode == 2 and b"no UTF-8" in done.stderr and b"convmv" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_name_for_other_libraries_is_utf8() -> None:
    assert utf8_name(Path("a/bündel")) == "a/bündel"
    with pytest.raises(RequestError, match="convmv"):
        utf8_name(os.fsdecode(b"b\xfcndel"))


@pytest.mark.parametrize("ratio", ["٠.٨٥", "0.8_5", "٨/٩", "1e-9999", "", "half", "0.5 0"])
def test_a_ratio_is_written_in_plain_digits(ratio: str) -> None:
    with pytest.raises(RequestError, match=r"is not a number.*0\.85 or"):
        parse_ratio(ratio)


@pytest.mark.parametrize("option", ["--keep", "--min-accuracy", "--window", "--prompt-length", "--answer-length"])
@pytest.mark.parametrize("number", ["٣", "1_0", "１"])
def test_so_is_every_number(option: str, number: str) -> None:
    done = CliRunner().invoke(main, ["model", "--method", "uniform", option, number])
    assert done.exit_code == 2 and "not a number in the digits 0 to 9" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("sweep", "--seeds", "٣"), ("sweep", "--questions", "٣"), ("run", "b", "--max-new-tokens", "٣"),
     ("verify", "b", "--min-accuracy", "٠")],
)  # fmt: skip
def test_and_of_the_other_commands(arguments: tuple[str, ...]) -> None:
    assert "not a number in the digits 0 to 9" in CliRunner().invoke(main, list(arguments)).stderr
