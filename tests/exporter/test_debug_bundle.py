"""`tokexport debug` on bundles: role by role, and one role against a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main

from runtimes import toy_bundle

pytest.importorskip("onnxruntime")


def found(*words: object, code: int = 1) -> list[dict[str, Any]]:
    done = CliRunner().invoke(main, ["debug", *map(str, words), "--json", "-q"])
    assert done.exit_code == code, done.output
    graphs: list[dict[str, Any]] = json.loads(done.stdout)["graphs"]
    return graphs


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle.write(tmp_path_factory.mktemp("bundles") / "right")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decode adds four where two are right."""
    decode = toy_bundle.DECODE.replace("float[1] two = {2}", "float[1] two = {4}")
    return toy_bundle.write(tmp_path_factory.mktemp("bundles") / "wrong", decode=decode)


def test_every_role_is_compared_and_the_wrong_one_is_named(right: Path, wrong: Path, tmp_path: Path) -> None:
    graphs = found(right, "--against", wrong, "-o", tmp_path / "out")
    assert {graph["role"]: graph["ok"] for graph in graphs} == {
        "encoder": True,
        "embed": True,
        "prefill": True,
        "decode": False,
    }
    decode = graphs[-1]
    assert decode["first"]["value"] == "wanted"
    assert any("is [2.0] in A and [4.0] in B" in x for x in decode["piece"]["causes"])
    assert (tmp_path / "out" / "decode.b.onnx").is_file()


def test_one_role(right: Path, wrong: Path) -> None:
    (graph,) = found(right, "--against", wrong, "--role", "prefill", code=0)
    assert graph["role"] == "prefill"


def test_a_role_against_a_file(right: Path, wrong: Path, tmp_path: Path) -> None:
    assert [one["role"] for one in found(right, "--against", right / "encoder.onnx", code=0)] == ["encoder"]
    found(right, "--against", wrong / "decode.onnx", "--role", "decode", "-o", tmp_path / "out")


def test_roles_that_are_not_there(right: Path) -> None:
    for words, said in (
        ((right, "--against", right, "--role", "decoder"), "Did you mean decode"),
        ((right / "decode.onnx", "--against", right / "decode.onnx", "--role", "decode"), "neither"),
        ((right / "decode.onnx", "--against", right), "Only models that take the same"),
    ):
        done = CliRunner().invoke(main, ["debug", *map(str, words), "-q"])
        assert done.exit_code == 2 and said in done.stderr, done.output
