"""`tokexport verify --junit` and `--min-accuracy`: what a CI job reads, however the verification ends."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import junitparser
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from tokexport.exporter.cli import main
from tokexport.exporter.proof import verify
from tokexport.exporter.proof.junit import _xml
from tokexport.exporter.proof.junit_cases import Case

TOY = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[1,12,8] x) => (float[1,12,4] y)
<float[8,4] w>
{ features = Tanh (x)  y = MatMul (features, w) }"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with the same toy twice: fp32 and bf16."""
    folder = tmp_path_factory.mktemp("bundles")
    model = onnx.parser.parse_model(TOY)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, 4, dtype=np.float32), "w"))
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "toy.onnx")
    for precision in ("fp32", "bf16"):
        command = ["model", str(folder / "toy.onnx"), "--method", "kcenter_merge", "--keep", "3"]
        command += ["--seam", "tensor:features", "--precision", precision, "-o", str(folder / precision)]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def bundle(exported, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(exported / "fp32", "b"))


def verified(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["verify", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def report(bundle: Path, *arguments: object, code: int = 0) -> dict[str, list[junitparser.TestCase]]:
    """The cases by suite, of a report whose own counts are right."""
    verified(bundle, "--junit", "report.xml", *arguments, code=code)
    read = junitparser.JUnitXml.fromfile("report.xml")
    suites = {suite.name: list(suite) for suite in read}
    cases = [case for suite in suites.values() for case in suite]
    assert (read.tests, read.failures + read.errors + read.skipped) == (len(cases), sum(bool(c.result) for c in cases))
    assert len({(case.classname, case.name) for case in cases}) == len(cases), "GitLab drops cases of equal names"
    return suites


def verdicts(cases: list[junitparser.TestCase]) -> set[str]:
    return {type(result).__name__ for case in cases for result in case.result}


def rehashed(bundle: Path, name: str, **parity: object) -> None:
    """Write the changed file's hash, and `parity`, into the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    data = (bundle / name).read_bytes()
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["parity"] |= parity
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def negated(bundle: Path) -> None:
    """The compressor gives the negative of its tokens, and every hash is right."""
    model = onnx.load(bundle / "encoder.onnx", load_external_data=False)
    (function,) = model.functions
    (last,) = [node for node in function.node if node.output[0] == function.output[0]]
    last.op_type = "Neg"
    onnx.save(model, bundle / "encoder.onnx")
    rehashed(bundle, "encoder.onnx")


def test_a_suite_for_the_files_and_for_each_part_and_a_case_for_each_file_and_tensor(bundle):
    suites = report(bundle)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    assert list(suites) == ["files", "head", "compressor", "tail"]
    assert {case.name for case in suites["files"]} == {"manifest.json", *files}
    (tokens,) = suites["compressor"]
    assert tokens.name.endswith("tokens") and tokens.classname == "b.compressor" and tokens.time > 0
    assert not verdicts([*suites["files"], tokens])


def test_parts_without_a_proof_are_skipped_with_the_reason(bundle):
    suites = report(bundle)
    for part in ("head", "tail"):
        (case,) = suites[part]
        (skipped,) = case.result
        assert isinstance(skipped, junitparser.Skipped) and "foreign ONNX file" in skipped.message


def test_properties_say_what_was_verified_and_with_what(bundle):
    report(bundle)
    for suite in junitparser.JUnitXml.fromfile("report.xml"):
        said = {one.name: one.value for one in suite.properties()}
        assert said["bundle"] == "b" and said["tokens"].startswith("N=12 K=3") and "onnxruntime" in said
        assert said["method"].startswith("kcenter_merge ") and "exported with onnx" in said


def test_a_failed_proof_says_what_where_how_far_and_what_to_try(bundle):
    negated(bundle)
    (case,) = report(bundle, code=1)["compressor"]
    (failure,) = case.result
    assert isinstance(failure, junitparser.Failure)
    lines = dict(line.split(": ", 1) for line in failure.text.strip().splitlines())
    assert list(lines) == ["what", "where", "how far", "at the export", "what to try"]
    assert lines["how far"].startswith("cosine -1.0") and lines["at the export"].startswith("cosine 1.0")
    assert case.name in lines["where"] and "compressor" in lines["where"]
    assert "The export proved this tensor" in lines["what to try"]


def test_what_the_export_did_not_prove_either_is_said_so(bundle):
    negated(bundle)
    checks = json.loads((bundle / "manifest.json").read_text())["parity"]["checks"]
    rehashed(bundle, "encoder.onnx", checks=[{**check, "ok": False} for check in checks])
    assert "Do not ship it" in report(bundle, code=1)["compressor"][0].result[0].text


def test_a_changed_file_is_an_error_and_no_file_passes_beside_it(bundle):
    data = bytearray((bundle / "encoder.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "encoder.onnx").write_bytes(data)
    suites = report(bundle, code=2)
    assert list(suites) == ["files"] and len(suites["files"]) == 1
    (error,) = suites["files"][0].result
    assert isinstance(error, junitparser.Error) and "encoder.onnx has changed" in error.message
    assert "Export it again" in error.text


@pytest.mark.parametrize("gone", ["encoder.onnx", "manifest.json", ""])
def test_a_missing_file_or_bundle_is_an_error(bundle, gone):
    shutil.rmtree(bundle) if not gone else (bundle / gone).unlink()
    suites = report(bundle, code=2)
    assert list(suites) == ["files"] and verdicts(suites["files"]) == {"Error"}


def test_an_error_in_a_part_stands_in_its_suite_behind_the_files_that_passed(bundle):
    (bundle / "proof.npz").write_bytes(b"no archive")
    rehashed(bundle, "proof.npz")
    suites = report(bundle, code=2)
    assert list(suites) == ["files", "compressor"]
    assert not verdicts(suites["files"]) and verdicts(suites["compressor"]) == {"Error"}


def test_what_no_runtime_here_computes_is_skipped_and_the_exit_code_stays_3(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suites = report(exported / "bf16", code=3)
    assert verdicts(suites["compressor"]) == {"Skipped"} and not verdicts(suites["files"])
    assert "no bfloat16 kernels" in suites["compressor"][0].result[0].message


def test_a_bug_is_an_error_with_its_name(bundle, monkeypatch):
    monkeypatch.setattr(verify.probe_file, "load", lambda path: 1 // 0)
    (case,) = report(bundle, code=70)["compressor"]
    assert case.result[0].message.startswith("ZeroDivisionError")


def test_interrupted_it_leaves_neither_its_own_report_nor_an_older_one(bundle, monkeypatch):
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    report(bundle)
    monkeypatch.setattr(verify.probe_file, "load", interrupt)
    verified(bundle, "--junit", "report.xml", code=130)
    assert not Path("report.xml").exists()


def test_without_junitparser_it_says_what_to_install_before_it_reads_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "junitparser", None)
    said = verified("no bundle at all", "--junit", "report.xml", code=3).stderr
    assert 'pip install "tokexport[junit]"' in said and not Path("report.xml").exists()


@pytest.mark.parametrize("file", ["nowhere/report.xml", ".", "b/encoder.onnx", "b/report.xml"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_read(bundle, file, monkeypatch):
    monkeypatch.setattr(verify, "open_bundle", lambda path: pytest.fail("the bundle was opened"))
    before = {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    said = verified(bundle, "--junit", file, code=2).stderr
    assert "--junit report.xml" in said and said.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()}


def test_names_that_xml_cannot_hold_are_written_all_the_same():
    text = _xml(
        [Case("head", "a\x00<b>\ud800", verdict="error", message="\x1b[1m", text="&\x07")], "b", [("n", "\x01")]
    )
    (suite,) = junitparser.JUnitXml.fromstring(text)
    (case,) = suite
    assert case.name == "a\ufffd<b>\ufffd" and case.result[0].text == "&\ufffd"


@pytest.mark.parametrize(("least", "code", "found"), [("0.8", 0, set()), ("0.81", 1, {"Failure"})])
def test_the_recorded_accuracy_is_gated(bundle, least, code, found):
    rehashed(bundle, "encoder.onnx", accuracy={"questions": 512, "compressed": 0.8, "uncompressed": 0.99})
    suites = report(bundle, "--min-accuracy", least, code=code)
    assert verdicts(suites["accuracy"]) == found and not verdicts(suites["compressor"])
    printed = " ".join(verified(bundle, "--min-accuracy", least, code=code).stdout.split())
    assert "accuracy at the export: 80.0%" in printed and "NOT PROVED" not in printed
    assert ("FAILED: accuracy 0.8000 is below --min-accuracy 0.81" in printed) == bool(code)
    data = json.loads(verified(bundle, "--min-accuracy", least, "--json", code=code).stdout)
    assert data["ok"] == (not code) and data["accuracy"]["compressed"] == 0.8


def test_an_accuracy_that_nobody_measured_passes_no_gate(bundle):
    suites = report(bundle, "--min-accuracy", "0", code=2)
    assert verdicts(suites["accuracy"]) == {"Error"} and "compressor" not in suites
    assert "records no accuracy" in verified(bundle, "--min-accuracy", "0", code=2).stderr
    verified(bundle)


@pytest.mark.parametrize("record", ["high", {"compressed": 0.9}, {"compressed": 90, "uncompressed": 1}])
def test_a_damaged_record_of_accuracy_is_refused(bundle, record):
    rehashed(bundle, "encoder.onnx", accuracy=record)
    assert "accuracy is damaged" in verified(bundle, "--min-accuracy", "0.5", code=2).stderr


@pytest.mark.parametrize("least", ["85", "-1", "nan"])
def test_a_least_accuracy_that_is_no_share_is_refused(bundle, least):
    assert "outside 0..1" in verified(bundle, f"--min-accuracy={least}", code=2).stderr
