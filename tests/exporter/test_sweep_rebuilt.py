"""`sweep --rebuild` and `recommend --rebuild`: of methods and baselines inside the encoder, put back behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from bad_input import plain
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("transformers")

from tokexport.exporter.cli import main
from tokexport.exporter.evaluate import bench as sweep_bench
from tokexport.exporter.opening import open_source
from tokexport.exporter.sweeps import rows as sweep_rows
from tokexport.exporter.sweeps import study as studying

HOW = ["--method", "kcenter_merge", "--questions", "16", "--seeds", "1", "-o", "out"]
REBUILT = [*HOW, "--seam", "encoder_layer:1", "--rebuild"]
RATIO = ["--ratio", "0.75"]


def asked(*arguments: Any, code: int = 0) -> Any:
    done = CliRunner().invoke(main, [*map(str, arguments), *(["--json"] if code == 0 else ["-q"])])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in; two figures of random, and times, for which nothing is run, are made up."""
    folder = tmp_path_factory.mktemp("rebuilt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_rows, "SEEDS", 2)
        for name, times in {
            "times": {"encoder_ms": 5.0, "compressor_ms": 0.1},
            "prefill_times": {"prefill_ms": 1.0},
        }.items():
            patch.setattr(sweep_bench.Bench, name, lambda *_, times=times, **__: {"uncompressed_ms": 9.0, **times})
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def swept(folder: Path) -> dict[str, Any]:
    """Of tiny-vlm."""
    return asked("sweep", *REBUILT, *RATIO)


def test_methods_and_baselines_are_rebuilt(folder, swept):
    rows = {row["method"]: row for row in swept["rows"]}
    assert rows["kcenter_merge"]["accuracy"] > max(rows[name]["accuracy"] for name in ("uniform", "random", "pool"))
    assert {row["keep"] for row in rows.values()} == {36} and swept["tokens"] == 144
    assert {"accuracy"} <= rows["oracle"].keys() & rows["oracle, merged"].keys()
    assert "here it reads all" in rows["resolution"]["reason"]
    keys = [json.loads(line)["key"] for line in Path("out/cells.jsonl").read_text().splitlines()]
    # The language model reads all tokens: prefill is one figure for all rows.
    assert [key["keep"] for key in keys if key["what"] == "prefill"] == [144]
    assert {key["slots"] for key in keys if "slots" in key} == {144} and all(key["rebuild"] for key in keys)


def test_what_is_recommended_is_typed_with_it(swept):
    data = asked("recommend", *REBUILT, "--tokens", "36")
    assert data["cells"]["found"] == data["cells"]["all"]
    method = data["recommended"]["method"]
    assert data["command"] == f"tokexport model tiny-vlm --method {method} --keep 36 --seam encoder_layer:1 --rebuild"


@pytest.mark.parametrize("seam", [(), ("--seam", "projector_output"), ("--seam", "encoder_layer:3")])
def test_where_nothing_can_be_rebuilt_it_says_what_model_says(folder, seam, monkeypatch):
    (folder / "none").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "none")
    source = open_source("tiny-vlm", parts="all")
    monkeypatch.setattr(studying, "open_source", lambda *_, **__: source)
    said = asked("sweep", *HOW, *RATIO, *seam, "--rebuild", code=2)
    assert "has no layer of the encoder behind it" in said and said.count("\n") == 1
    assert said == asked("model", "--method", "uniform", *RATIO, *seam, "--rebuild", "--parts", "encoder", code=2)
    assert not list(Path().iterdir())


def test_a_graph_without_layers_is_refused(folder):
    plain(folder / "encoder.onnx")
    how = ("--inputs", folder, "--seam", "tensor:features", "--rebuild")
    said = asked("sweep", folder / "encoder.onnx", *how, code=2)
    assert "none were found in this graph" in said and said.count("\n") == 1


def test_where_every_token_needs_its_place_the_printed_cure_measures(folder):
    model = tiny_checkpoints.internvl(folder / "tiny")
    (folder / "mine").mkdir()
    Image.radial_gradient("L").convert("RGB").save("mine/a.png")
    how = ["sweep", model, "--inputs", "mine", "--parts", "encoder", "--method", "tome", "--ratio", "0.5"]
    assert "--seam encoder_layer:1/4 --rebuild" in asked(*how, "--seam", "encoder_layer:0", code=2)
    data = asked(*how, "--seam", "encoder_layer:1/4", "--rebuild")
    # Of 64 tokens inside; 16 leave the encoder.
    assert data["tokens"] == 64 and data["uncompressed"]["cosine"] == pytest.approx(1)
    figures = {row["method"]: row for row in data["rows"]}
    assert figures["tome"]["keep"] == 32 and 0.9 < figures["random"]["cosine"] < figures["tome"]["cosine"] < 1
