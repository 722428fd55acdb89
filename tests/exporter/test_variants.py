"""Several budgets in one bundle: every weight once, each variant proved, verified and run by its name."""

from __future__ import annotations

import hashlib
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import junitparser
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from tokexport.errors import RequestError
from tokexport.exporter.bundling import variants
from tokexport.exporter.cli import main
from tokexport.exporter.pipeline import Exported, export
from tokexport.exporter.proof.gate import failure
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.load import load

RATIOS = ("0.5", "0.75", "11/12")
NAMES = ["kcenter_merge-0.5", "kcenter_merge-0.75", "kcenter_merge-11_12"]
KEPT = [12, 6, 2]
TOY = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[1,24,16] x) => (float[1,24,32768] y)
<float[16,32768] w>
{ features = Tanh (x)  y = MatMul (features, w) }"""


def tokexport(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of 2 MB of weights, and its bundles of one ratio and of three."""
    folder = tmp_path_factory.mktemp("variants")
    model = onnx.parser.parse_model(TOY)
    weight = np.random.default_rng(0).standard_normal((16, 32768)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "toy.onnx")
    how = [folder / "toy.onnx", "--method", "kcenter_merge", "--seam", "tensor:features"]
    rates = [word for ratio in RATIOS for word in ("--ratio", ratio)]
    how += ["--device", "orin-nano-8gb", "--precision", "fp32"]
    tokexport("model", *how, "--ratio", RATIOS[0], "-o", folder / "one")
    made = tokexport("model", *how, *rates, "-o", folder / "three", "--json")
    (folder / "made.json").write_text(made.stdout)
    return folder


@pytest.fixture
def three(folder: Path) -> Path:
    return folder / "three"


def size(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def test_the_weights_are_there_once(folder: Path, three: Path) -> None:
    assert size(three) < 1.1 * size(folder / "one")
    assert [path.name for path in three.glob("*.data")] == ["encoder.onnx.data"]
    assert (three / "encoder.onnx.data").read_bytes() == (folder / "one" / "encoder.onnx.data").read_bytes()


def test_the_first_keeps_the_plain_names_and_the_graph_of_a_bundle_of_one(folder: Path, three: Path) -> None:
    found = open_bundle(three).manifest.variants
    assert [variant.name for variant in found] == NAMES
    assert [variant.compression[0].tokens_out for variant in found] == KEPT
    assert [variant.compression[0].ratio for variant in found] == list(RATIOS)
    forms = [variant.graphs["encoder"].forms for variant in found]
    assert forms[0] == {"portable": "encoder.onnx", "plugin": "encoder.plugin.onnx"}
    assert forms[2] == {"portable": f"encoder.{NAMES[2]}.onnx", "plugin": f"encoder.{NAMES[2]}.plugin.onnx"}
    assert (three / "encoder.onnx").read_bytes() == (folder / "one" / "encoder.onnx").read_bytes()


def test_each_was_proved_and_fitted_to_the_device(folder: Path, three: Path) -> None:
    said = json.loads((folder / "made.json").read_text())
    manifest = open_bundle(three).manifest
    results = [said, *said["further"]]
    assert [one["variant"] for one in results] == NAMES
    recorded = [manifest.parity, *manifest.parity["variants"].values()]
    proved = json.loads((three / "parity.json").read_text())
    written = [proved, *proved["variants"].values()]
    for one, variant, record, proof in zip(results, manifest.variants, recorded, written, strict=True):
        checks = one["proof"]["checks"]
        assert checks and all(check["ok"] for check in checks)
        assert record["checks"] == checks == proof["checks"]
        assert variant.device is not None and variant.device.name == "orin-nano-8gb"
    assert list(manifest.parity["variants"]) == list(proved["variants"]) == NAMES[1:]


def test_a_session_of_a_variant_keeps_its_tokens(folder: Path, three: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 24, 16)).astype(np.float32)
    sessions = [load(three, variant=name) for name in (None, *NAMES)]
    tokens = [session.encode(x)["tokens"] for session in sessions]
    assert [found.shape[1] for found in tokens] == [KEPT[0], *KEPT]
    np.testing.assert_array_equal(tokens[0], load(folder / "one").encode(x)["tokens"])
    with pytest.raises(RequestError, match=r"no variant 'kcenter_merge-0\.9'"):
        load(three, variant="kcenter_merge-0.9")


@pytest.fixture
def copied(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(three, tmp_path / "b"))


@pytest.fixture
def broken(copied: Path) -> Path:
    """The second variant gives the negative of its tokens; every hash is right."""
    bundle = copied
    file = bundle / f"encoder.{NAMES[1]}.onnx"
    model = onnx.load(file, load_external_data=False)
    (function,) = model.functions
    (last,) = [node for node in function.node if node.output[0] == function.output[0]]
    last.op_type = "Neg"
    onnx.save(model, file)
    rewrite(bundle, files={file.name: file.read_bytes()})
    return bundle


def rewrite(bundle: Path, files: dict[str, bytes], **accuracy: Any) -> None:
    """Put the hashes of files, and accuracies by variant, into the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, data in files.items():
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for name, share in accuracy.items():
        record = manifest["parity"] if name == "first" else manifest["parity"]["variants"][NAMES[int(name[1:])]]
        record["accuracy"] = {"questions": 9, "compressed": share, "uncompressed": 1}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_verify_proves_all_of_them_or_the_one_that_is_named(broken: Path, three: Path) -> None:
    good = json.loads(tokexport("verify", three, "--json").stdout)
    assert good["ok"] and [one["variant"] for one in (good, *good["further"])] == NAMES
    bad = tokexport("verify", broken, code=1).stdout
    before, after = bad.split(f"variant {NAMES[1]}")
    assert "FAILED" not in before and "FAILED" in after.split(f"variant {NAMES[2]}")[0] and "NOT PROVED" in bad
    named = json.loads(tokexport("verify", broken, "--variant", NAMES[2], "--json").stdout)
    assert (named["variant"], named["further"]) == (NAMES[2], [])
    tokexport("verify", broken, "--variant", NAMES[1], code=1)
    assert NAMES[2] in tokexport("verify", broken, "--variant", "kcenter_merge-11_13", code=2).stderr


def test_junit_has_suites_for_each(broken: Path) -> None:
    tokexport("verify", broken, "--junit", "report.xml", code=1)
    suites = {suite.name: [*suite] for suite in junitparser.JUnitXml.fromfile("report.xml")}
    own = ["head", "compressor", "tail"]
    assert [*suites] == ["files", *own, *(f"{name} {part}" for name in NAMES[1:] for part in own)]
    failed = {name for name, cases in suites.items() for case in cases if case.result and case.is_failure}
    assert failed == {f"{NAMES[1]} compressor"}
    (case,) = suites[f"{NAMES[1]} compressor"]
    assert "The export proved this tensor" in case.result[0].text and case.time > 0


def test_the_accuracy_of_each_is_gated(three: Path, copied: Path) -> None:
    rewrite(copied, {}, first=0.9, v1=0.9, v2=0.7)
    chosen = [copied, "--variant", NAMES[2], "--min-accuracy"]
    assert "accuracy 0.7000 is below" in " ".join(tokexport("verify", *chosen, "0.8", code=1).stdout.split())
    tokexport("verify", *chosen, "0.6")
    said = " ".join(tokexport("verify", copied, "--min-accuracy", "0.8", code=1).stdout.split())
    assert f"FAILED: {NAMES[2]}: accuracy 0.7000" in said and f"FAILED: {NAMES[1]}" not in said
    assert "records no accuracy" in tokexport("verify", three, "--min-accuracy", "0.1", code=2).stderr


def test_the_report_has_a_table_of_them_and_the_command_that_makes_them(three: Path) -> None:
    text = (three / "report.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in text for name in NAMES) and "24 → 2" in text
    assert "--ratio 0.5 --ratio 0.75 --ratio 11/12" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ratio", "0.5", "--ratio", "1/2"], "--ratio 1/2 was given twice"),
        (["--keep", "3", "--keep", "3"], "--keep 3 was given twice"),
        (["--ratio", "0.9", "--ratio", "0.91"], "kcenter_merge-0.9 and kcenter_merge-0.91 both keep 2 of 24 tokens"),
        (["--ratio", "0.5", "--keep", "3"], "both ratio and keep were given"),
        (["--ratio", "0.5", "--ratio", "1.5"], "outside (0, 1)"),
        (["--keep", "3", "--keep", "25"], "keep 25 is outside 1..24"),
    ],
)
def test_budgets_that_make_no_bundle_are_refused(folder: Path, refused: Any, arguments: list[str], says: str) -> None:
    toy = folder / "toy.onnx"
    refused("model", toy, "--method", "kcenter_merge", "--seam", "tensor:features", *arguments, says=(says,))


def test_a_count_that_the_method_does_not_reach_is_refused_before_anything_is_proved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokexport.exporter.proof.prove.prove", lambda *_: pytest.fail("a variant was proved"))
    with pytest.raises(RequestError, match="5"):
        export(str(folder / "toy.onnx"), tmp_path / "b", method="stack", keep=[12, 5], seam="tensor:features")
    assert not [*tmp_path.iterdir()]


def test_python_takes_one_or_several() -> None:
    assert variants.budgets(0.5, None) == variants.budgets([0.5], ()) == [(0.5, None)]
    assert variants.budgets((Fraction(1, 2), "0.9"), None) == [(Fraction(1, 2), None), ("0.9", None)]
    assert variants.budgets(None, [3, 1]) == [(None, 3), (None, 1)]
    with pytest.raises(RequestError, match="neither"):
        variants.budgets((), ())


def test_a_gate_that_fails_names_its_variant() -> None:
    results = [
        Exported(Path("b"), "s", "fp32", [], variant=name, accuracy={"compressed": share})
        for name, share in zip(NAMES, (0.9, 0.8, 0.7))
    ]
    assert failure(results, 0.75) == f"variant {NAMES[2]}: accuracy 0.7000 is below --min-accuracy 0.75"
    assert failure(results, 0.7) == ""
