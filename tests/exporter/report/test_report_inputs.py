"""The report shows the user's own inputs, where a folder of them is given."""

from __future__ import annotations

import re

from click.testing import CliRunner
from PIL import Image
from tokexport.exporter.cli import main


def test_the_pictures_of_a_folder_are_shown_and_the_cost_is_told(tmp_path):
    (tmp_path / "mine").mkdir()
    for number, colour in enumerate(("red", "blue", "green", "white")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"mine/{number}.png")
    ask = ["model", "--method", "kcenter_merge", "--ratio", "0.85", "--parts", "encoder"]
    ask += ["--inputs", str(tmp_path / "mine"), "-o", str(tmp_path / "b")]
    result = CliRunner().invoke(main, ask)
    assert result.exit_code == 0, result.output
    assert re.search(r"cost on one thread here: encoder [\d.]+ ms \(uncompressed [\d.]+ ms\)", result.output)
    page = (tmp_path / "b/report.html").read_text()
    # Of four pictures the first three, and none of the questions of tiny-vlm.
    assert page.count("<article") == 3 and "Asked" not in page


def test_a_folder_that_is_not_there_is_refused_before_anything_is_built(tmp_path):
    ask = [
        "model",
        "--method",
        "uniform",
        "--ratio",
        "0.85",
        "--inputs",
        str(tmp_path / "none"),
        "-o",
        str(tmp_path / "b"),
    ]
    result = CliRunner().invoke(main, ask)
    assert result.exit_code == 2 and "no folder" in result.output and "exporting" not in result.output
    assert not (tmp_path / "b").exists()
