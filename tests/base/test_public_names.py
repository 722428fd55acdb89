"""The Python side of the first hour: what `help` and completion show, and what a wrong word is answered with."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import onnx
import pytest
import tokexport
from tokexport.errors import MissingError, RequestError

MODEL = """<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ})


def test_dir_and_help_show_the_public_names() -> None:
    assert {"compress", "export", "load", "methods", "reference", "__version__"} <= {*dir(tokexport)}
    code = "import sys, tokexport; dir(tokexport); print('onnx_ir' in sys.modules, 'torch' in sys.modules)"
    assert python("-c", code).stdout == "False False\n"
    shown = python("-c", "import pydoc, tokexport; print(pydoc.plain(pydoc.render_doc(tokexport)))").stdout
    assert "compress(model" in shown and "reference(method" in shown and "share of tokens removed" in shown


def test_the_package_runs_as_a_module() -> None:
    done = python("-m", "tokexport", "--version")
    assert done.returncode == 0 and tokexport.__version__ in done.stdout
    assert "Usage: python -m tokexport model" in python("-m", "tokexport", "model", "--help").stdout


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: tokexport.compress("m.onnx", methd="apet"),
            "compress() has no argument 'methd'. Did you mean method?",
        ),
        (lambda: tokexport.compress("m.onnx", compressor="apet"), "Did you mean method=?"),
        (lambda: tokexport.compress("m.onnx", "apet", ratios=[0.5]), "Did you mean ratio=?"),
        (lambda: tokexport.export(dtype="fp16"), "export() has no argument 'dtype'. Did you mean precision=?"),
        (lambda: tokexport.export(output_dir="x"), "Did you mean out=?"),
        (lambda: tokexport.export(model="x.onnx"), "Did you mean source=?"),
        (lambda: tokexport.reference("apet", None, keep=3, basis=5), "Write params={'basis': 5}."),
        (lambda: tokexport.reference("apet", None, kep=3), "Did you mean keep"),
    ],
)
def test_a_wrong_keyword_is_answered_with_the_right_one(call, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        call()
    assert says in str(refused.value)


def test_an_option_that_a_runtime_does_not_have_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(RequestError, match=r"load\(\) has no argument 'thread'. Did you mean threads"):
        tokexport.load(tmp_path, thread=3)


def test_the_reference_takes_a_ratio() -> None:
    torch = pytest.importorskip("torch")
    tokens = torch.randn(1, 40, 8)
    assert tokexport.reference("kcenter_merge", tokens, ratio="7/8").tokens.shape == (1, 5, 8)
    assert tokexport.reference("kcenter_merge", tokens, keep=5).tokens.shape == (1, 5, 8)
    for wrong in ({}, {"keep": 3, "ratio": 0.5}):
        with pytest.raises(RequestError, match="ratio"):
            tokexport.reference("kcenter_merge", tokens, **wrong)


def test_the_reference_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingError, match=r"torch is needed.*pip install \"tokexport\[export\]\""):
        tokexport.reference("apet", [[1.0]], keep=1)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="overloads can be listed from Python 3.11 on")
def test_compress_is_typed_by_what_it_is_given() -> None:
    from tokexport.graph_passes import compress as module

    kinds = {
        one.__annotations__["model"]: one.__annotations__["return"] for one in typing.get_overloads(module.compress)
    }
    assert next(iter(kinds.items())) == ("onnx.ModelProto", "onnx.ModelProto")
    assert kinds["str | Path"] == kinds["ir.Model"] == "ir.Model" and kinds["gs.Graph"] == "gs.Graph"
    taken = {*inspect.signature(module.compress).parameters} - {"model", "method", "ratio"}
    assert taken == {*module.Options.__annotations__}, "Options has every keyword of compress"


def test_python_and_the_command_line_refuse_the_same_gaps() -> None:
    with pytest.raises(RequestError, match="neither a method nor a recipe"):
        tokexport.compress(onnx.parser.parse_model(MODEL), keep=9)
    with pytest.raises(RequestError, match="neither a method nor a recipe"):
        tokexport.export(ratio=0.5)
