"""`--provider` on the command line: it reaches ONNX Runtime, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import plain
from click.testing import CliRunner, Result
from tokexport.exporter.cli import main
from tokexport.exporter.proof import verify
from tokexport.graph_passes.ir_tools import providers

ort = pytest.importorskip("onnxruntime")
LACKING = providers.CUDA not in ort.get_available_providers()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provider")
    compress = ["--method", "kcenter_merge", "--keep", "3", "--seam", "tensor:features"]
    typed("model", plain(folder / "m.onnx"), *compress, "-o", folder / "b")
    return folder / "b"


def typed(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, [*map(str, arguments), "-q"], env={"COLUMNS": "300"})
    assert done.exit_code == code, done.output
    return done


@pytest.mark.skipif(not LACKING, reason="onnxruntime-gpu is installed here")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_what_is_not_here_is_refused_with_the_command(bundle: Path, provider: str, tmp_path: Path) -> None:
    for command in (["verify", bundle], ["run", bundle, "--image", tmp_path / "a.png"]):
        said = typed(*command, "--provider", provider, code=3).stderr
        assert "without" in said and "pip" in said and said.count("\n") == 1
    said = typed("debug", bundle / "encoder.onnx", "--against", bundle / "encoder.onnx", "--provider", provider, code=3)
    assert "without" in said.stderr


def test_verify_proves_with_the_provider_and_says_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = verify.ort_runner

    def runner(model: object, *, provider: str) -> object:
        asked.append(provider)
        return real(model)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "ort_runner", runner)
    result = json.loads(typed("verify", bundle, "--provider", "cuda", "--json").stdout)
    assert {*asked} == {"cuda"} and result["provider"] == "cuda" and result["ok"]
    assert "proved by ONNX Runtime's provider cuda, at the tolerances of fp32 that the CPU has" in result["notes"]
    asked.clear()
    result = json.loads(typed("verify", bundle, "--json").stdout)
    assert {*asked} == {"cpu"} and result["provider"] == "cpu" and not any("proved by" in n for n in result["notes"])


def test_a_provider_is_of_onnx_runtime_alone(bundle: Path) -> None:
    for command in (["verify", bundle], ["run", bundle, "--image", "a.png"]):
        said = typed(*command, "--runtime", "tensorrt", "--provider", "cuda", code=2).stderr
        assert "is of ONNX Runtime" in said and "(--provider) out" in said
