"""`tokexport debug` with a PyTorch module on one side: layers are matched by the paths of modules."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from toy_debug import Graph, saved

pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

TOWER = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.linear, self.act = nn.LayerNorm(8, eps=1e-5), nn.Linear(8, 8), nn.GELU()

    def forward(self, x):
        return x + self.act(self.linear(self.norm(x)))

class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block(seed) for seed in range(3))
        self.last = nn.LayerNorm(8)

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return self.last(hidden)

def tower():
    torch.manual_seed(7)
    return Tower(), torch.randn(1, 5, 8)

def other():
    model, example = tower()
    model.layers[1].norm.eps = 0.5
    return model, example
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tmp_path_factory.mktemp("modules")
    (made / "debug_tower.py").write_text(TOWER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.syspath_prepend(made)
        yield made


def exported(path: Path, *, wrong: str = "") -> Path:
    """What torch.onnx writes of it: the paths of modules in the metadata of nodes, and names that are counted."""
    from debug_tower import tower  # type: ignore[import-not-found]

    module, _ = tower()
    g = Graph()
    x = value = ir.val("hidden", ir.DataType.FLOAT, (1, 5, 8))

    def op(scope: str, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        output = g.op(op_type, *inputs, name=f"val_{len(g.nodes)}", **attributes)
        parts = scope.split(".")
        chain = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))] if scope else [""]
        g.nodes[-1].metadata_props["pkg.torch.onnx.name_scopes"] = repr([*chain, "call"])
        return output

    def weight(tensor: Any) -> ir.Value:
        return g.weight(f"w_{len(g.weights)}", tensor.detach().numpy())

    for i, block in enumerate(module.layers):
        at = f"layers.{i}"
        epsilon = 0.3 if wrong == f"{at}.norm" else 1e-5
        norm = weight(block.norm.weight), weight(block.norm.bias)
        y = op(f"{at}.norm", "LayerNormalization", value, *norm, epsilon=epsilon)
        y = op(f"{at}.linear", "MatMul", y, weight(block.linear.weight.T))
        y = op(f"{at}.linear", "Add", y, weight(block.linear.bias))
        half = op(f"{at}.act", "Mul", y, g.weight(f"root_{i}", np.sqrt(0.5)))
        gate = op(f"{at}.act", "Add", op(f"{at}.act", "Erf", half), g.weight(f"one_{i}", 1.0))
        y = op(f"{at}.act", "Mul", op(f"{at}.act", "Mul", y, gate), g.weight(f"half_{i}", 0.5))
        value = op(at, "Add", value, y)
    value = op("last", "LayerNormalization", value, weight(module.last.weight), weight(module.last.bias), axis=-1)
    value.name = "tokens"
    return saved(g.model([x], [value]), path)


def found(*words: object, code: int = 1) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["debug", *map(str, words), "--json", "-q"])
    assert done.exit_code == code, done.output
    (graph,) = json.loads(done.stdout)["graphs"]
    return graph


def test_a_module_agrees_with_its_export(folder: Path, tmp_path: Path) -> None:
    graph = found("debug_tower:tower", "--against", exported(tmp_path / "t.onnx"), "--layers", code=0)
    assert graph["ok"] and graph["inputs"] == "the example of debug_tower:tower"
    # Three blocks of a norm, a linear layer, an activation and their sum; `last` is the output.
    assert graph["matched"] == {"scope": 12, "place": 1}
    assert all(row["ok"] for row in graph["layers"])


def test_a_file_that_lost_the_paths_is_matched_by_kinds_of_layers(folder: Path, tmp_path: Path) -> None:
    for name, wrong in (("right", ""), ("wrong", "layers.1.norm")):
        model = ir.load(exported(tmp_path / f"{name}.onnx", wrong=wrong))
        for node in model.graph:
            node.metadata_props.clear()
        ir.save(model, tmp_path / f"{name}.onnx")
    graph = found("debug_tower:tower", "--against", tmp_path / "right.onnx", "--layers", code=0)
    # The last norm is the output.
    assert graph["matched"] == {"kind": 6, "place": 1} and all(row["ok"] for row in graph["layers"])
    graph = found("debug_tower:tower", "--against", tmp_path / "wrong.onnx", "-o", tmp_path / "out")
    assert graph["first"]["value"] == "layers.1.norm" and graph["first"]["b"]["op"] == "LayerNormalization"


@pytest.mark.parametrize("first", ["module", "file"])
def test_the_first_module_that_differs_is_named(first: str, folder: Path, tmp_path: Path) -> None:
    wrong = exported(tmp_path / "wrong.onnx", wrong="layers.1.norm")
    sides = ("debug_tower:tower", wrong) if first == "module" else (wrong, "debug_tower:tower")
    graph = found(sides[0], "--against", sides[1], "-o", tmp_path / "out")
    node, module = (graph["first"]["b"], graph["first"])[:: 1 if first == "module" else -1]
    assert module["node"] == "layers.1.norm" and module["op"] == "LayerNorm"
    assert node["scope"] == "layers.1.norm" and node["op"] == "LayerNormalization"
    # The graph is cut, whichever side it is; what the module gave stands beside it.
    assert graph["piece"]["nodes"] == 1 and graph["piece"]["of"] == ("b" if first == "module" else "a")
    assert not found(*shlex.split(graph["piece"]["command"])[2:], "-o", tmp_path / "again")["ok"]


def test_two_modules(folder: Path, tmp_path: Path) -> None:
    graph = found("debug_tower:tower", "--against", "debug_tower:other", "-o", tmp_path / "out")
    assert graph["first"]["value"] == "layers.1.norm" and graph["piece"] is None
    assert any("neither side has a graph" in note for note in graph["notes"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--input-shape", "hidden=1,5,8"), "is about ONNX files"),
        (("--level", "basic"), "is about ONNX Runtime"),
        (("--fix", "x.onnx"), "half-precision ONNX graph"),
    ],
)
def test_options_that_are_about_other_sides(option: tuple[str, str], said: str, folder: Path) -> None:
    done = CliRunner().invoke(main, ["debug", "debug_tower:tower", "--against", "debug_tower:other", *option, "-q"])
    assert done.exit_code == 2 and said in done.stderr


def test_an_axis_without_a_length_has_that_of_the_example(folder: Path, tmp_path: Path) -> None:
    model = ir.load(exported(tmp_path / "t.onnx"))
    model.graph.inputs[0].shape = ir.Shape([1, "length", 8])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    ir.save(model, tmp_path / "loose.onnx")
    assert found("debug_tower:tower", "--against", tmp_path / "loose.onnx", code=0)["ok"]


@pytest.mark.slow
def test_what_torch_really_writes(folder: Path, tmp_path: Path) -> None:
    import torch
    from debug_tower import other, tower  # type: ignore[import-not-found]

    for name, make, code in (("same", tower, 0), ("wrong", other, 1)):
        module, example = make()
        program = torch.onnx.export(module, (example,), dynamo=True, verbose=False)
        program.save(tmp_path / f"{name}.onnx")
        graph = found("debug_tower:tower", "--against", tmp_path / f"{name}.onnx", "-o", tmp_path / "out", code=code)
        assert graph["matched"]["scope"] >= 12 if code else graph["ok"]
    assert graph["first"]["value"] == "layers.1.norm"
