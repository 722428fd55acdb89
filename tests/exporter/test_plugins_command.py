"""`tokexport plugins`, typed; with a cmake that takes no time (tests/plugins/toy_cmake.py)."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.graph_passes.compress import compress

from plugins import toy_cmake
from runtimes import toy_bundle


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that can build; nothing is built yet."""
    toy_cmake.install(tmp_path, monkeypatch)
    return tmp_path


def typed(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["plugins", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def graph(folder: Path, method: str, form: str = "plugin") -> Path:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }'
    params = {"metric": "tokens"} if method == "tome" else {}
    model = compress(onnx.parser.parse_model(text), method, keep=12, seam="tensor:t", form=form, params=params)
    onnx.save(model, folder / f"{method}.{form}.onnx")
    return folder / f"{method}.{form}.onnx"


def test_build_and_path(machine: Path) -> None:
    assert "no plugin library on this machine. Run: tokexport plugins build" in typed("path", code=3)
    kernels = typed("build", "--kernels-only").splitlines()[0]
    assert kernels.endswith("libtokexport_kernels.so")
    only = typed("path", code=3)
    assert f"no plugin library on this machine, only one with the kernels ({kernels}). Run: tokexport pl" in only
    (machine / "NvInferRuntime.h").touch()
    said = typed("build", "--architectures", "87", "--include", machine).splitlines()
    assert said[1] == "TokexportApet, TokexportTopk" and Path(said[0]).is_file()
    assert typed("path").strip() == said[0]
    made = json.loads(typed("build", "--json"))
    assert made == {"library": said[0], "plugins": ["TokexportApet", "TokexportTopk"]}
    assert json.loads(typed("path", "--json")) == {"library": said[0]}
    assert "'87,89' is no list" in typed("build", "--architectures", "87,89", code=2)


def test_check_of_a_file(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apet = graph(machine, "apet")
    assert "MISSING: TokexportApet. Run: tokexport plugins build" in typed("check", apet, code=3)
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(machine / "toy.c"))
    assert "cannot be used" in (said := typed("check", apet, code=3)) and "Unset TOKEXPORT_PLUGINS, and" in said
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(machine / "toy.so"))
    assert "MISSING: TokexportTome. Unset TOKEXPORT" in typed("check", graph(machine, "tome"), code=3)
    monkeypatch.delenv("TOKEXPORT_PLUGINS")
    typed("build")
    said = json.loads(typed("check", apet, "--json"))
    assert said["ok"] and said["needs"] == {"apet.plugin.onnx": ["TokexportApet"]} and said["missing"] == []
    assert said["has"] == ["TokexportApet", "TokexportTopk"] and Path(said["library"]).is_file()
    text = typed("check", graph(machine, "tome"), code=3)
    assert "needs TokexportTome" in text and "it has TokexportApet" in text and "MISSING: TokexportTome" in text
    assert "needs no plugin" in typed("check", graph(machine, "tome", "portable"))
    for form in ("portable", "plugin"):  # a Gather, inlined in the plugin form
        assert "needs no plugin" in typed("check", graph(machine, "uniform", form))


def test_check_of_a_bundle(machine: Path, tmp_path: Path) -> None:
    folder = toy_bundle.write(tmp_path / "bundle")
    assert "no graph has a plugin form" in typed("check", folder)
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_text())
    file = graph(folder, "kcenter_merge")
    data["variants"][0]["graphs"]["encoder"]["forms"]["plugin"] = file.name
    data["files"][file.name] = {"size": file.stat().st_size, "sha256": "0" * 64}
    manifest.write_text(json.dumps(data))
    assert "MISSING: TokexportKcenterMerge" in typed("check", folder, code=3)


def test_what_is_no_bundle_and_no_model_is_a_wrong_request(machine: Path) -> None:
    assert "error: " in typed("check", machine / "nothing.onnx", code=2)
    assert "error: " in typed("check", machine / "bin", code=2)
