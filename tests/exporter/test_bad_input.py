"""What bad input gets, through the command line: its exit code, one paragraph that says what to do, nothing written."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.exporter.proof import gate


def test_an_unknown_method_gets_the_nearest_names(refused):
    refused("model", "--method", "appet", "--ratio", "0.85", says=("'appet'", "Did you mean apet?", "kcenter_merge"))


@pytest.mark.parametrize("ratio", ["0", "1", "-0.5", "1.5", "abc", "nan"])
def test_a_ratio_outside_0_and_1(refused, ratio):
    refused("model", "--method", "apet", "--ratio", ratio, says=(f"{ratio}", "0.85"))


def test_85_for_085_says_what_was_meant(refused):
    refused("model", "--method", "apet", "--ratio", "85", says=("ratio 85", "write --ratio 0.85"))


def test_keep_above_n(refused):
    refused("model", "--method", "topk", "--keep", "145", says=("keep 145", "144"))


def test_k_not_above_the_basis(refused):
    refused("model", "--method", "apet", "--keep", "10", says=("10", "basis", "11"))


def test_both_ratio_and_keep(refused):
    refused("model", "--method", "apet", "--ratio", "0.85", "--keep", "21", says=("both", "--keep"))


def test_neither_ratio_nor_keep(refused):
    refused("model", "--method", "apet", says=("neither", "--ratio 0.85"))


def test_an_unknown_parameter_lists_the_known(refused):
    refused("model", "--method", "apet", "--ratio", "0.5", "--set", "basi=3", says=("'basi'", "Did you mean basis"))


@pytest.mark.parametrize("setting", ["basis=0", "basis=ten", "start=middle", "ridge=-1"])
def test_a_parameter_out_of_range(refused, setting):
    name, value = setting.split("=")
    refused("model", "--method", "apet", "--ratio", "0.5", "--set", setting, says=(name, value))


@pytest.mark.parametrize("setting", ["basis", "=3"])
def test_a_setting_that_is_none(refused, setting):
    refused("model", "--method", "apet", "--ratio", "0.5", "--set", setting, says=("KEY=VALUE", "--set basis=16"))


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("pool", ["--set", f"grid={LONG}"], "is not written in numbers"),
        ("pool3d", ["--set", "grid=1x12x12", "--set", f"shape={LONG}x1x1"], "is not FRAMESxHEIGHTxWIDTH"),
        ("topk", ["--seam", f"encoder_layer:{LONG}/4"], "encoder_output"),
        ("topk", ["--input-shape", f"x={LONG}"], "is not NAME=SIZES"),
    ],
)
def test_a_number_of_more_digits_than_python_reads(refused, method, options, says):
    refused("model", "--method", method, "--keep", "9", *options, says=(says,))


def test_a_seam_that_does_not_exist_lists_those_that_do(refused):
    refused("model", "--method", "topk", "--keep", "9", "--seam", "encodr_output",
            says=("'encodr_output'", "encoder_output", "projector_input", "encoder_layer:0"))  # fmt: skip


def test_an_output_folder_that_is_not_empty(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    refused("model", "--method", "apet", "--ratio", "0.5", "-o", "mine", says=("thesis.txt", "--force"))


def test_an_output_folder_that_cannot_be_written(refused):
    refused("model", "--method", "apet", "--ratio", "0.5", "-o", "/proc/out", says=("/proc", "-o"))


def test_a_missing_package_exits_3_with_its_command(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else real(name, *a))
    monkeypatch.setattr("tokexport.exporter.sources.torch_export.find_spec", importlib.util.find_spec)
    refused("model", "--method", "apet", "--ratio", "0.5", says=("onnxscript", "pip install"), code=3)


def test_a_low_accuracy_exits_1_and_keeps_the_result_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        main, ["model", "--method", "uniform", "--keep", "1", "--min-accuracy", "0.99", "-o", "out"]
    )
    assert result.exit_code == 1, result.output
    assert "below --min-accuracy 0.99" in result.stderr and "out.failed" in result.stderr
    assert not (tmp_path / "out").exists() and (tmp_path / "out.failed/manifest.json").is_file()
    report = (tmp_path / "out.failed/report.html").read_text(encoding="utf-8")
    assert "<strong>FAILED</strong>accuracy" in report and "tokexport verify out.failed" in report
    assert "--min-accuracy 0.98 at most" in result.stderr and "kcenter_merge" not in result.stderr
    # The graphs are proved, and the bundle is none to ship, by whatever name it goes.
    (tmp_path / "out.failed").rename(tmp_path / "shipped")
    again = CliRunner().invoke(main, ["verify", "shipped", "--json"])
    assert again.exit_code == 1 and "below --min-accuracy 0.99" in json.loads(again.stdout)["failed"]
    said = CliRunner().invoke(main, ["verify", "shipped"], env={"COLUMNS": "200"})
    assert said.exit_code == 1 and "proved; FAILED: at the export: accuracy" in said.stdout


def test_the_cure_for_a_low_accuracy_can_cure() -> None:
    measured = {"compressed": 0.5, "uncompressed": 0.987}
    assert "--min-accuracy 0.98 at most" in gate.cure(measured, 0.99, "toy")
    assert "fewer tokens" in gate.cure(measured, 0.9, "toy") and "at most" not in gate.cure(measured, 0.987, "toy")


@pytest.mark.parametrize("share", ["nan", "85", "-1"])
def test_a_least_accuracy_outside_0_and_1(refused, share):
    refused("model", "--method", "uniform", "--keep", "9", f"--min-accuracy={share}", says=("outside 0..1", "0.95"))


@pytest.mark.parametrize("keep", ["0", "-3"])
def test_keep_below_1(refused, keep):
    refused("model", "--method", "uniform", f"--keep={keep}", says=(f"keep {keep} leaves no token", "--keep 1"))
