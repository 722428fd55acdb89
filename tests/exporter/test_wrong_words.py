"""Wrong words, and what an error looks like: to a person, and with --json to a program."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from tokexport.exporter import pipeline
from tokexport.exporter.cli import main


def typed(*arguments: str, code: int = 2) -> Result:
    done = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("export", "model"),
        ("convert", "model"),
        ("benchmark", "bench"),
        ("suggest", "recommend"),
        ("infer", "run"),
        ("verfy", "verify"),
    ],
)
def test_a_command_of_another_tool_is_answered_with_ours(word: str, right: str) -> None:
    assert f"Did you mean `tokexport {right}`?" in typed(word, "--method", "apet").stderr


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (("model", "--dtype", "fp16"), "--precision"),
        (("model", "-m", "apet"), "--method"),
        (("model", "--output", "x"), "--out"),
        (("run", "b", "--question", "x"), "--prompt"),
        (("recommend", "--keep", "64"), "--tokens"),
        (("recommend", "--latency", "5"), "--latency-ms"),
        (("sweep", "--jobs", "2"), "--workers"),
    ],
)
def test_an_option_of_another_tool_too(arguments: tuple[str, ...], right: str) -> None:
    said = typed(*arguments).stderr
    assert f"Did you mean '{right}'?" in said


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("--nope", ""),
        ("--xyz", ""),
        ("--raito", "'--ratio'"),
        ("--precison", "'--precision'"),
        ("--methd", "'--method'"),
    ],
)
def test_only_what_is_near_is_suggested(name: str, near: str) -> None:
    said = typed("model", name, "x").stderr
    assert f"No such option '{name}'" in said and (near in said if near else "Did you mean" not in said)


def test_the_model_is_named_without_an_option() -> None:
    assert "tokexport model SOURCE" in typed("model", "--model", "x").stderr


@pytest.mark.parametrize("name", ["ApET", "APET", "ap-et"])
def test_a_method_written_as_in_its_paper(name: str) -> None:
    assert "Did you mean apet? Known" in typed("model", "--method", name, "--ratio", "0.5", "-q").stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (("model", "--method", "appet", "--ratio", "0.5"), "RequestError", 2),
        (("verify", "nowhere"), "BundleError", 2),
        (("model", "--dtype", "fp16"), "NoSuchOption", 2),
        (("export",), "UsageError", 2),
    ],
)
def test_with_json_an_error_is_an_object(arguments: tuple[str, ...], kind: str, code: int) -> None:
    done = typed(*arguments, "--json", code=code)
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == kind and error["exit_code"] == code and error["what"]
    assert error["what"] in done.stderr and "Traceback" not in done.stderr


def test_a_bug_and_an_interrupt_have_codes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ("model", "--method", "apet", "--ratio", "0.5", "--json")
    for raised, kind, code in ((ValueError("odd"), "Bug", 70), (KeyboardInterrupt(), "Interrupted", 130)):

        def export(raised: BaseException = raised, **request: object) -> None:
            raise raised

        monkeypatch.setattr(pipeline, "export", export)
        error = json.loads(typed(*ask, code=code).stdout)["error"]
        assert (error["kind"], error["exit_code"]) == (kind, code)
    said = typed("--help", code=0).stdout
    assert "70 a bug" in said and "130 interrupted" in said


@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        ("tokexport model --method", "kcen", "kcenter_merge"),
        ("tokexport methods", "ap", "apet"),
        ("tokexport model --device", "rtx-40", "rtx-4090"),
        ("tokexport model --seam", "projector_i", "projector_input"),
        ("tokexport model --method apet --set", "basis_", "basis_slots="),
        ("tokexport model", "tiny-v", "tiny-video"),
    ],
)
def test_the_shell_completes_names(words: str, last: str, expected: str) -> None:
    from click.shell_completion import ShellComplete

    found = ShellComplete(main, {}, "tokexport", "_TOKEXPORT_COMPLETE").get_completions(words.split()[1:], last)
    assert expected in [one.value for one in found]


def test_the_seams_of_an_onnx_file_are_completed(tmp_path) -> None:
    import onnx
    from click.shell_completion import ShellComplete

    layers = " ".join(
        f"n{i} = LayerNormalization<axis=-1>(h{i}, w) a{i} = Softmax(n{i}) h{i + 1} = Add(h{i}, a{i})" for i in range(4)
    )
    text = f"""<ir_version: 8, opset_import: ["" : 20]> toy (float[1,16,8] h0) => (float[1,16,8] h4)
        <float[8] w = {{1, 1, 1, 1, 1, 1, 1, 1}}> {{ {layers} }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "tower.onnx")
    asked = ["model", str(tmp_path / "tower.onnx"), "--seam"]
    found = ShellComplete(main, {}, "tokexport", "_TOKEXPORT_COMPLETE").get_completions(asked, "")
    assert [one.value for one in found] == ["auto", "encoder_output"]


def test_inspect_takes_what_model_takes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x + 1\n"
        "def build():\n    return Net(), torch.zeros(1, 16, 8)\n"
    )
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = json.loads(typed("inspect", "own:build", "--json", code=0).stdout)
    assert data["outputs"][0]["shape"] == [1, 16, 8] and data["producer"].startswith("pytorch")
    assert "no model 'nothing'" in typed("inspect", "nothing").stderr
