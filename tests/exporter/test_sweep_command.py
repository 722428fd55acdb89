"""`tokexport sweep`, typed: on the built-in model's questions, and on a folder of pictures."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")

from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.evaluate import bench as sweep_bench
from tokexport.exporter.evaluate.judges import Folder, Questions
from tokexport.exporter.opening import open_source
from tokexport.exporter.sweeps import rows as sweep_rows
from tokexport.exporter.sweeps import study as studying
from tokexport.exporter.sweeps import sweep as sweeping
from tokexport.exporter.sweeps.rows import label, method_of
from tokexport.exporter.zoo.tiny_vlm.scenes import scene
from tokexport.graph_passes.compressors import make

TINY = ["sweep", "--method", "kcenter_merge", "--method", "apet:basis=40", "--ratio", "0.85"]
ASKED = [*TINY, "--questions", "4", "--seeds", "2", "-o", "out"]
SHOWN = [*TINY, "--inputs", "mine", "--prompt", "how many red objects are there ?", "-o", "agreed"]


def tokexport(arguments: list[str], code: int = 0) -> Any:
    done = CliRunner().invoke(main, [*arguments, *(["--json"] if code == 0 else [])])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return json.loads(done.stdout) if code == 0 else done.stderr


def found(data: dict[str, Any], method: str) -> dict[str, Any]:
    (row,) = [row for row in data["rows"] if row["method"] == method]
    return row


@pytest.fixture(scope="module")
def bench() -> sweep_bench.Bench:
    """tiny-vlm; its graphs are exported once for all tests here."""
    return sweep_bench.Bench(open_source("tiny-vlm", parts="all"))


@pytest.fixture
def folder(tmp_path, monkeypatch, bench) -> Path:
    monkeypatch.setattr(
        studying, "Bench", lambda source, *at: bench if source.name == "tiny-vlm" else sweep_bench.Bench(source, *at)
    )
    monkeypatch.setattr(sweep_bench, "ROUNDS", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(scene(np.random.default_rng([5, number])).to_png())
    return folder


def test_it_is_stopped_and_goes_on_to_a_table_with_every_row(folder, monkeypatch):
    made = []
    original = Questions.score

    def score(self, *arguments):
        made.append(arguments[-2:])
        if len(made) == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Questions, "score", score)
    assert "goes on from there" in tokexport(ASKED, code=130)
    data = tokexport(ASKED)
    # Both seeds of: all tokens, with and without bias, uniform, random's ten, pool's two, a lower resolution, two
    # oracles; one stopped.
    figures = 2 * (1 + 2 + 1 + 10 + 2 + 1 + 2)
    assert len(made) == 1 + figures
    assert data["cells"]["found"] >= 5
    assert json.loads(Path("out/sweep.json").read_text())["rows"] == data["rows"]
    assert Image.open("out/sweep.png").size[0] > 1000
    merged, chance = found(data, "kcenter_merge"), found(data, "random")
    assert merged["keep"] == 21 and {"accuracy_without_bias", "share", "compressor_ms"} <= merged.keys()
    assert merged["prefill_gain"] > 1.2 and merged["stderr"] >= 0
    assert chance["baseline"] and 0 < chance["deviation"] < 0.5 and "accuracy_without_bias" not in chance
    # What a method cannot reach is a row with its reason.
    assert found(data, "apet:basis=40")["keep"] == 21 and "40" in found(data, "apet:basis=40")["reason"]
    # pool reaches 4 x 4 at most.
    assert found(data, "pool")["keep"] == 16 and found(data, "pool")["prefill_gain"] > 1.2
    # Of 4 x 4 patches too, and the encoder itself has less to do.
    smaller = found(data, "resolution")
    assert smaller["keep"] == 16 and smaller["baseline"] and not smaller["merges"]
    assert smaller["encoder_gain"] > 1.5 and smaller["prefill_gain"] > 1.2 and "compressor_ms" not in smaller
    text, cells = CliRunner().invoke(main, ASKED).output, data["cells"]["all"]
    assert "apet:basis=40" in text and "results: out" in text and f"{cells} of {cells} cells were there" in text
    assert len(made) == 1 + figures
    random_is_the_mean_and_deviation_over_its_ten_seeds(chance)


def random_is_the_mean_and_deviation_over_its_ten_seeds(row: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in Path("out/cells.jsonl").read_text().splitlines()]
    seeds: dict[int, list[float]] = {}
    for line in lines:
        if line["key"]["what"] == "answers" and line["key"]["method"] == "random":
            seeds.setdefault(line["key"]["params"]["seed"], []).append(line["value"]["accuracy"])
    means = [np.mean(shares) for shares in seeds.values()]
    assert len(means) == 10 and all(len(shares) == 2 for shares in seeds.values())
    assert row["accuracy"] == pytest.approx(np.mean(means)) and row["deviation"] == pytest.approx(np.std(means))


def test_pictures_of_the_users_own_are_judged_by_the_uncompressed_answers(folder):
    pictures(folder / "mine")
    data = tokexport(SHOWN)
    assert data["figure"] == "agreement" and data["inputs"] == 3 and data["uncompressed"]["agreement"] == 1
    merged = found(data, "kcenter_merge")
    assert merged["agreement"] in (0, 1 / 3, 2 / 3, 1) and 0.5 < merged["cosine"] < 1
    assert merged["cosine"] > found(data, "uniform")["cosine"] > 0.3
    assert not any(row["method"] == "oracle" for row in data["rows"])
    assert 0 < found(data, "resolution")["cosine"] < 0.99


def test_keeping_all_tokens_agrees_in_full(folder, bench):
    judge = Folder(bench, pictures(folder / "mine"), "is there a red circle ?")
    uniform = make("uniform")
    question_set, seam = judge.question_set(bench.base, 0), bench.base.seam(uniform)
    scores = judge.score(question_set, seam, question_set.encode(seam, uniform, 144), 144, 0)
    assert scores == {"cosine": pytest.approx(1), "agreement": 1.0, "stderr": 0.0}


def test_a_checkpoint_folder_is_judged_by_its_tokens(folder, tiny_llava_folder):
    pictures(folder / "mine", 2)
    arguments = ["sweep", str(tiny_llava_folder), "--inputs", "mine", "--ratio", "0.5", "--method", "kcenter_merge"]
    arguments += ["--parts", "encoder"]
    data = tokexport([*arguments, "--method", "apet"])
    assert data["figure"] == "cosine" and data["tokens"] == 36 and Path("tiny-llava-sweep/sweep.png").is_file()
    assert 0 < found(data, "kcenter_merge")["cosine"] < 1 and "prefill_ms" not in found(data, "kcenter_merge")
    assert "error" in tokexport([*arguments, "--prompt", "what ?"], code=2)


def test_an_onnx_file_takes_arrays(folder, tiny_llava_encoder_onnx):
    pictures(folder / "mine", 1)
    arguments = [
        "sweep",
        str(tiny_llava_encoder_onnx),
        "--inputs",
        "mine",
        "--ratio",
        "0.5",
        "--method",
        "kcenter_merge",
    ]
    assert "does not say how a picture" in tokexport(arguments, code=2)
    np.save("mine/0.npy", np.random.default_rng(0).normal(size=(1, 3, 84, 84)).astype(np.float32))
    data = tokexport(arguments)
    assert 0 < found(data, "kcenter_merge")["cosine"] < 1
    assert "not the grid of a picture" in found(data, "resolution")["reason"]


MODULE = """
import torch


class Patches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed({seed})
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = tokens + layer(tokens).tanh()
        return tokens


def make():
    return Patches().eval(), (torch.zeros(1, 3, 32, 32),)
"""


def test_a_module_that_was_changed_is_measured_again(folder, monkeypatch):
    (folder / "mine").mkdir()
    np.save("mine/0.npy", np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def cells(seed: int) -> list[str]:
        (folder / "patches.py").write_text(MODULE.format(seed=seed))
        sys.modules.pop("patches", None)
        opened = sweep_bench.Bench(open_source("patches:make"))
        row = sweep_rows.Plan(opened, Folder(opened, Path("mine"), None)).uncompressed()
        return [cell.name for cell in row.cells()]

    first, again, other = cells(1), cells(1), cells(2)
    assert first == again and not {*first} & {*other}


def test_a_seam_of_the_users_choice_is_where_all_methods_go(bench):
    inside = copy.copy(bench)
    inside.base = dataclasses.replace(bench.base, where="encoder_layer:1")
    rebuilt = copy.copy(inside)
    rebuilt.base = dataclasses.replace(inside.base, rebuild=True)
    names = {
        seam: [cell.name for cell in sweep_rows.Plan(judged, Questions(judged, 16, 1)).uncompressed().runs[0]]
        for seam, judged in {"auto": bench, "encoder_layer:1": inside, "rebuilt": rebuilt}.items()
    }
    assert len({tuple(cells) for cells in names.values()}) == 3
    # Cells that were measured before there was such a choice stay what they are.
    assert not any("rebuild" in name for name in (*names["auto"], *names["encoder_layer:1"]))
    assert inside.base.seam(make("kcenter_merge")).name == "encoder_layer:1"
    with pytest.raises(RequestError, match=r"seam 'encoder_layer:9' was not found.*--seam"):
        dataclasses.replace(bench.base, where="encoder_layer:9").seam(make("kcenter_merge"))


def test_times_are_of_one_machine_and_answers_of_any(folder, bench, monkeypatch):
    judge = Folder(bench, pictures(folder / "mine", 1), "is there a red circle ?")
    here = sweep_rows.Plan(bench, judge).uncompressed()
    monkeypatch.setattr(sweep_rows, "machine", lambda: {"machine": {"cpu": "another"}})
    there = sweep_rows.Plan(bench, judge).uncompressed()
    assert [cell.name for cell in there.runs[0]] == [cell.name for cell in here.runs[0]]
    for mine, others in (here.encoder, there.encoder), (here.prefill, there.prefill):
        assert [cell.name for cell in mine] != [cell.name for cell in others]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "nothing"], "unknown method 'nothing'"),
        (["--method", "apet:basis"], "'basis' is not one parameter with its value"),
        (["--method", "apet:no=1"], "has no parameter 'no'"),
        (["--ratio", "85"], "is outside (0, 1)"),
        (["--seeds", "0"], "0 seeds"),
        (["--prompt", "what ?"], "--prompt goes with --inputs"),
        (["--inputs", "nowhere", "--prompt", "what ?"], "no folder nowhere"),
        (["--inputs", "."], "none is asked"),
    ],
)
def test_a_request_that_cannot_be_is_one_paragraph(folder, arguments, message):
    said = tokexport(["sweep", *arguments], code=2)
    assert message in said and "Traceback" not in said and said.count("\n") == 1
    assert not list(folder.iterdir())


def test_a_model_without_questions_asks_for_a_folder(folder, tiny_llava_folder):
    assert "--inputs FOLDER" in tokexport(["sweep", str(tiny_llava_folder)], code=2)


def test_a_model_that_answers_nothing_right_has_nothing_to_lose(folder):
    study = studying.Study(studying.Request("tiny-vlm", ("uniform",), ("0.85",), 1, 1))
    nothing = {"accuracy": 0.0, "stderr": 0.0}

    def compute(cells):
        yield from ((cell, {**nothing, "encoder_ms": 1, "prefill_ms": 1, "uncompressed_ms": 1}) for cell in cells)

    with pytest.raises(RequestError, match=r"tiny-vlm answers none of these questions right.*--questions 512"):
        sweeping.measured(study, None, compute, lambda *_: None)


def test_a_method_is_written_as_it_is_read():
    assert label(method_of("apet:basis_slots=none,basis=10")) == "apet:basis_slots=none"
    assert label(method_of("topk:score=norm")) == "topk:score=norm" and label(method_of("apet")) == "apet"
