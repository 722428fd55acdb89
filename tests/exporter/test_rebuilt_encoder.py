"""A whole model whose tokens are compressed inside its encoder, put back at their places, and compressed behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from tokexport.exporter.cli import main

pytest.importorskip("transformers")

INSIDE = """
[[steps]]
method = "tome"
seam = "encoder_layer:0"
ratio = "1/2"
rebuild = true
"""
BEHIND = """
[[steps]]
method = "kcenter_merge"
seam = "projector_output"
ratio = "1/2"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.internvl(tmp_path_factory.mktemp("models") / "tiny")


def asked(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["model", *map(str, arguments)])


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("bundles") / "out"
    (recipe := out.with_name("both.toml")).write_text(INSIDE + BEHIND)
    done = asked(folder, "--recipe", recipe, "--prompt-length", 24, "--answer-length", 16, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_part_and_the_answers_are_proved(exported):
    parts = [check["part"] for check in exported["proof"]["checks"]]
    assert all(check["ok"] for check in exported["proof"]["checks"])
    assert {"head", "compressor", "between", "rebuild", "prefill", "decode", "generation"} <= {*parts}
    assert parts.count("rebuild") == 1 and "sequence" not in parts
    assert any("are put back at their places behind the encoder's last layer" in note for note in exported["notes"])


def test_the_bundle_says_so_and_counts_what_leaves_the_encoder(exported):
    session = tokexport.load(exported["bundle"])
    inside, behind = session.variant.compression
    assert session.bundle.manifest.schema_ == "2.4" and session.variant.grid == (4, 4)
    assert (inside.tokens_in, inside.tokens_out, inside.rebuilt.tokens) == (64, 32, 16) and behind.rebuilt is None
    assert inside.size_bias and behind.size_bias
    assert session.variant.generation.image_span[1] == behind.tokens_out == 8
    encoded = session.encode(np.zeros((60, 80, 3), np.uint8))
    assert encoded["assignment"].shape == (1, 16) and encoded["sizes"].sum() == 16


def test_a_seam_inside_is_refused_with_the_cure(folder, tmp_path):
    common = (folder, "--method", "tome", "--ratio", "0.5", "--parts", "encoder", "--no-verify", "-o", tmp_path / "out")
    refused = asked(*common, "--seam", "encoder_layer:0")
    assert refused.exit_code == 2 and "--seam encoder_layer:1/4 --rebuild" in " ".join(refused.output.split())
    cured = asked(*common, "--seam", "encoder_layer:1/4", "--rebuild")
    assert cured.exit_code == 0 and "64 -> 32 tokens" in cured.output
    behind = asked(*common, "--force", "--seam", "projector_output", "--rebuild")
    assert behind.exit_code == 2 and "has no layer of the encoder behind it" in " ".join(behind.output.split())


def test_a_recipe_says_itself_what_is_rebuilt(folder, tmp_path):
    (recipe := tmp_path / "inside.toml").write_text(INSIDE)
    refused = asked(folder, "--recipe", recipe, "--rebuild", "-o", tmp_path / "out")
    assert refused.exit_code == 2 and "together with --recipe" in refused.output


@pytest.mark.slow
def test_accuracy_stands_beside_as_many_random_tokens_that_are_rebuilt_too(tmp_path):
    done = asked("tiny-vlm", "--method", "kcenter_merge", "--ratio", "0.75", "--seam", "encoder_layer:1", "--rebuild",
                 "-o", tmp_path / "out", "--json")  # fmt: skip
    accuracy = json.loads(done.stdout)["accuracy"]
    assert accuracy["compressed"] > 0.95 and {*accuracy["baselines"]} == {"random", "uniform"}
    assert accuracy["baselines"]["random"]["mean"] < 0.8 and accuracy["baselines"]["uniform"]["accuracy"] < 0.8


def test_the_report_shows_what_is_left_behind_each_compressor(exported):
    page = (Path(exported["bundle"]) / "report.html").read_text(encoding="utf-8")
    assert "1. tome at encoder_layer:0: 64 → 32" in page and "2. kcenter_merge at projector_output: 16 → 8" in page
    assert "Kept: 32 tokens" in page and "Kept: 8 tokens" in page
    assert page.count('type="radio" name="stage-0"') == 2 and page.count("<symbol id='input-0'") == 1
