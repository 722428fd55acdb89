"""`tokexport recommend`, typed: on the built-in model's questions, from the folder of a sweep."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from tokexport.errors import GraphError
from tokexport.exporter.bundling import device_fit
from tokexport.exporter.cli import main
from tokexport.exporter.evaluate.bench import Bench
from tokexport.exporter.opening import open_source
from tokexport.exporter.sweeps import rows as sweep_rows
from tokexport.exporter.sweeps import study

ASKED = ["--method", "kcenter_merge", "--method", "cls_topk", "--questions", "32", "--seeds", "1", "-o", "out"]
# Of 144 tokens, 21: what --ratio 0.85 keeps.
TOKENS, RATIO = ["--tokens", "21"], ["--ratio", "0.85"]


def tokexport(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(main, [*arguments, "--json", "-q"])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with out/, a sweep of tiny-vlm; it is exported once, and its times are made up."""
    bench = Bench(open_source("tiny-vlm", parts="all"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "Bench", lambda source, *at: bench)
        patch.setattr(sweep_rows, "SEEDS", 2)
        patch.setattr(Bench, "times", lambda *_: {"uncompressed_ms": 5.0, "encoder_ms": 5.0, "compressor_ms": 0.1})
        patch.setattr(Bench, "smaller_times", lambda *_: {"uncompressed_ms": 5.0, "encoder_ms": 1.0})
        patch.setattr(Bench, "prefill_times", lambda _, n, k, **__: {"uncompressed_ms": n / 10, "prefill_ms": k / 10})
        folder = tmp_path_factory.mktemp("swept")
        patch.chdir(folder)
        tokexport("sweep", *ASKED, *RATIO)
        yield folder


@pytest.fixture
def folder(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(swept)
    return swept


def test_the_best_at_so_many_tokens_comes_from_the_cells_of_a_sweep_with_a_command_that_works(folder):
    table = (folder / "out/sweep.json").read_text()
    data = tokexport("recommend", *ASKED, *TOKENS)
    assert data["cells"]["found"] == data["cells"]["all"] > 10 and (folder / "out/sweep.json").read_text() == table
    assert data["recommended"]["method"] == "kcenter_merge" and data["recommended"]["ms"] == pytest.approx(7.1)
    assert "uniform (21)" in data["why"] and "resolution (16)" in data["why"] and "random (21)" in data["why"]
    assert data["command"] == "tokexport model tiny-vlm --method kcenter_merge --keep 21"
    made = tokexport(*shlex.split(data["command"])[1:], "--no-verify", "-o", "made")
    assert [(one["method"], one["tokens_out"]) for one in made["compression"]] == [("kcenter_merge", 21)]


def test_the_least_time_for_a_loss_and_the_table_of_it(folder):
    said = CliRunner().invoke(main, ["recommend", *ASKED, *RATIO, "--loss", "0.1", "-q"]).output
    assert "recommended: kcenter_merge, 21 tokens. The fastest of 1" in said and "--keep 21\n" in said
    assert "one thread" in " ".join(said.split()) and said.count("baseline") == 4 and "not shown: 1 that" in said


def test_a_time_that_nothing_reaches_is_a_failed_gate(folder):
    data = tokexport("recommend", *ASKED, *RATIO, "--latency-ms", "2", code=1)
    assert data["recommended"] is None and data["command"] is None
    assert "resolution with 16 tokens: it takes 2.60 ms and misses by 0.60 ms" in data["why"]


def test_a_model_that_is_fast_enough_is_exported_as_it_is(folder):
    data = tokexport("recommend", *ASKED, *RATIO, "--latency-ms", "20")
    assert data["recommended"]["method"] == "uncompressed"
    assert data["command"] == "tokexport model tiny-vlm --method uniform --keep 144"
    made = tokexport(*shlex.split(data["command"])[1:], "--no-verify", "-o", "whole")
    assert made["compression"][0]["tokens_out"] == 144


def test_a_smaller_picture_has_no_command_and_what_else_there_is_has_one(folder):
    data = tokexport("recommend", *ASKED, *RATIO, "--latency-ms", "3")
    assert data["recommended"]["method"] == "resolution" and data["recommended"]["picture"] == [32, 32]
    assert data["command"] is None and data["instead"]["recommended"] is None
    said = CliRunner().invoke(main, ["recommend", *ASKED, *RATIO, "--latency-ms", "3", "-q"]).output
    assert "Give the model pictures of 32x32 pixels" in said


def test_what_the_device_refuses_is_left_out_by_name(folder, monkeypatch):
    def refusal(target, model):
        return GraphError("no TopK here") if any("KcenterMerge" in node.op_type for node in model.graph) else None

    monkeypatch.setattr(device_fit, "refusal", refusal)
    data = tokexport("recommend", *ASKED, *TOKENS, "--device", "orin-nano-8gb")
    (left,) = [row for row in data["rows"] if "reason" in row]
    assert left["method"] == "kcenter_merge" and left["reason"] == "no TopK here"
    # cls_topk is worse than chance here.
    assert data["recommended"]["method"] in ("uniform", "pool") and "No method at 21 tokens is clearly" in data["why"]
    assert data["command"].endswith("--device orin-nano-8gb") and any("not the device's" in it for it in data["notes"])


def test_a_device_that_runs_none_of_them_is_refused_before_anything_is_measured(folder):
    data = tokexport("recommend", *ASKED[:-1], "none", *TOKENS, "--device", "orin-nano-8gb@8.5", code=2)
    assert "cannot run the encoder" in data["error"]["what"] and "@10.3" in data["error"]["fix"]
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no goal is given"),
        ([*TOKENS, *RATIO], "--tokens and --ratio are given"),
        (["--tokens", "145"], "keep 145 is outside 1..144"),
        (["--tokens", "0"], "keep 0 leaves no token"),
        (["--loss", "0.001"], "32 answers cannot show a loss of 0.001"),
        (["--loss", "0.1", "--workers", "0"], "0 workers compute nothing"),
        (["--loss", "0.1", "--workers", "2", "--scheduler", "tcp://a:1"], "--workers and --scheduler are given"),
    ],
)
def test_a_request_that_cannot_be_leaves_no_folder(folder, arguments, said):
    data = tokexport("recommend", *ASKED[:-1], "none", *arguments, code=2)
    assert said in data["error"]["what"] and not (folder / "none").exists()


def test_on_the_users_own_arrays_a_loss_needs_enough_of_them(folder, tiny_llava_encoder_onnx, monkeypatch):
    monkeypatch.setattr(study, "Bench", Bench)
    (folder / "mine").mkdir()
    np.save("mine/0.npy", np.random.default_rng(0).normal(size=(1, 3, 84, 84)).astype(np.float32))
    arguments = [str(tiny_llava_encoder_onnx), "--inputs", "mine", "--method", "kcenter_merge", "--method", "topk"]
    data = tokexport("recommend", *arguments, "--tokens", "18", "-o", "own")
    assert data["figure"] == "cosine" and data["command"].startswith(f"tokexport model {tiny_llava_encoder_onnx}")
    assert {row["method"] for row in data["rows"]} == {
        "kcenter_merge",
        "topk",
        "uniform",
        "random",
        "pool",
        "resolution",
    }
