"""`tokexport debug` on one attention layer with a planted defect: each is found, and named, by one command."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from toy_debug import CHANNELS, TOKENS, Graph, found, layer, renamed, saved, typed

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(layer(), tmp_path_factory.mktemp("debug") / "right.onnx")


DEFECTS = {
    "swapped axis": (
        {"split": (0, 1, 2, 3)},
        "q_turned",
        "Transpose",
        "[0, 2, 1, 3] in A and [0, 1, 2, 3] in B",
    ),
    "wrong epsilon": ({"epsilon": 1e-5}, "normal", "LayerNormalization", "epsilon is 1e-12 in A"),
    "missing mask": ({"masked": False}, "filled", "Where", "only A has Add /causal_scores"),
    "stale KV length": ({"length": TOKENS}, "filled", "Where", "is 3 in A and 4 in B"),
    "another weight": ({"seed": 1}, "q", "MatMul", "differs by up to"),
}


@pytest.mark.parametrize(
    ("defect", "names"),
    [
        *((defect, "same names") for defect in DEFECTS),
        *((defect, "other names") for defect in ("swapped axis", "missing mask", "stale KV length")),
    ],
)
def test_a_planted_defect_is_found_by_one_command(defect: str, names: str, right: Path, tmp_path: Path) -> None:
    spelled, value, op, cause = DEFECTS[defect]
    model = layer(**spelled)  # type: ignore[arg-type]
    wrong = saved(model if names == "same names" else renamed(model), tmp_path / "wrong.onnx")
    graph = found(right, "--against", wrong, "-o", tmp_path / "out")
    if defect == "missing mask" and names == "other names":
        # What reads the mask there has no like here; the value after it has.
        value, op = "weights", "Softmax"
    assert (graph["first"]["value"], graph["first"]["b"]["op"]) == (value, op)
    assert not graph["first"]["ok"] and graph["first"]["node"] == f"/{value}"
    assert any(cause in said for said in graph["piece"]["causes"]), graph["piece"]["causes"]
    # The part alone still fails, in the files and by the command that are named.
    assert 1 <= graph["piece"]["nodes"] <= 4
    assert all(Path(file).is_file() for file in graph["piece"]["files"])
    if names == "other names":
        return
    again = found(*shlex.split(graph["piece"]["command"])[2:], "-o", tmp_path / "again")
    assert not again["ok"] and again["first"]["cosine"] == pytest.approx(graph["piece"]["check"]["cosine"], abs=1e-6)


def test_a_graph_that_does_not_run_is_compared_up_to_where_it_stops(right: Path, tmp_path: Path) -> None:
    model = layer()
    turned = next(node for node in model.graph if node.outputs[0].name == "k_turned")
    # Width by tokens by heads: no product with the queries.
    turned.attributes["perm"] = ir.AttrInt64s("perm", [0, 3, 1, 2])
    for node in model.graph:
        node.outputs[0].shape = None
    graph = found(right, "--against", saved(model, tmp_path / "wrong.onnx"), "-o", tmp_path / "out")
    assert any(note.startswith("B does not run") for note in graph["notes"])
    assert graph["first"]["value"] == "k_turned" and "instead of [1, 4, 2, 4]" in graph["first"]["detail"]
    assert "perm is [0, 2, 3, 1] in A and [0, 3, 1, 2] in B" in graph["piece"]["causes"][0]


def test_what_differs_on_the_way_to_an_agreement_is_not_the_cause(right: Path, tmp_path: Path) -> None:
    model = layer()
    for name, factor in (("q", 2.0), ("k", 0.5), ("out", 1.5)):
        weight = model.graph.initializers[f"{name}.weight"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name=weight.name)  # type: ignore
    wrong = saved(model, tmp_path / "wrong.onnx")
    graph = found(right, "--against", wrong, "--layers", "-o", tmp_path / "out")
    # Scores are products of both: they agree, and so does all that follows up to the last product.
    assert [row["value"] for row in graph["layers"] if not row["ok"]][:2] == ["q", "q_heads"]
    assert graph["first"]["value"] == "out" and graph["piece"]["nodes"] == 1
    # Found by looking: no part had to be built for it.
    assert graph["first"]["how"] == "name" and graph["notes"] == []


def test_what_a_person_reads_fits_a_terminal(right: Path, tmp_path: Path) -> None:
    wrong = saved(renamed(layer(length=TOKENS)), tmp_path / "wrong.onnx")
    said = typed(right, "--against", wrong, "-o", tmp_path / "out", code=1).stdout
    for part in (
        "first difference",
        "matched: 21 by structure, 1 by place",
        "A: filled [1, 4, 4, 4], Where /filled",
        "smallest part of B that fails: 2 nodes, from values that agree",
        "cause: Less",
        f"again: tokexport debug {tmp_path / 'out' / 'a.onnx'} --against",
        "DIFFER",
    ):
        assert part in " ".join(said.split()), said
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line), said


def test_two_that_agree(right: Path, tmp_path: Path) -> None:
    same = saved(renamed(layer()), tmp_path / "same.onnx")
    assert "agree" in typed(right, "--against", same, "-o", tmp_path / "out").stdout
    graph = found(right, "--against", same, "--layers", code=0)
    assert graph["ok"] and not (tmp_path / "out").exists()
    # All values are compared, however they are called: only `there` follows from constants.
    assert {row["value"] for row in graph["layers"]} >= {"small", "normal", "q", "scores", "filled", "tokens", "y"}
    assert graph["matched"]["structure"] > 15 and all(row["ok"] for row in graph["layers"])


def test_a_threshold_of_ones_own(right: Path, tmp_path: Path) -> None:
    near = layer()
    weight = near.graph.initializers["out.weight"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.0004), name="out.weight")  # type: ignore
    path = saved(near, tmp_path / "near.onnx")
    assert found(right, "--against", path, code=0)["ok"]
    graph = found(right, "--against", path, "--norm", "5e-5", "-o", tmp_path / "out")
    assert graph["first"]["value"] == "out"
    assert "--norm 5e-05" in graph["piece"]["command"]


def test_values_that_are_not_finite(right: Path, tmp_path: Path) -> None:
    broken = layer()
    broken.graph.initializers["down.scale"].const_value = ir.tensor(np.float32(np.nan), name="down.scale")
    graph = found(right, "--against", saved(broken, tmp_path / "nan.onnx"), "-o", tmp_path / "out")
    assert graph["first"]["value"] == "down" and "32 NaN in B, where A reaches" in graph["first"]["detail"]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(5).standard_normal((1, TOKENS, CHANNELS)).astype(np.float32)}


def test_inputs_of_a_file(right: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    assert found(right, "--against", right, "--inputs", tmp_path / "in.npz", code=0)["inputs"].endswith("in.npz")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"z": np.zeros((1, TOKENS, CHANNELS), np.float32)}, "input 'x' of"),
        ({"x": np.zeros((1, TOKENS, 3), np.float32)}, "is [1, 4, 3], and"),
        ({"x": np.full((1, TOKENS, CHANNELS), np.nan, np.float32)}, "NaN or inf"),
        ({"x": np.zeros((1, TOKENS, CHANNELS), np.int64)}, "is int64, and"),
    ],
)
def test_inputs_that_do_not_fit(given: dict[str, np.ndarray], said: str, right: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **given)  # type: ignore[arg-type]
    assert said in typed(right, "--against", right, "--inputs", tmp_path / "in.npz", code=2).stderr


def test_an_inputs_file_that_is_none(right: Path, tmp_path: Path) -> None:
    assert "cannot be read" in typed(right, "--against", right, "--inputs", tmp_path / "no.npz", code=2).stderr


def test_models_that_take_or_give_something_else(right: Path, tmp_path: Path) -> None:
    wide = ir.val("x", ir.DataType.FLOAT, (1, 9))
    node = ir.node("Relu", [wide], name="relu")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", wide.type, wide.shape
    graph = ir.Graph([wide], node.outputs, nodes=[node], opset_imports={"": 18}, name="wide")
    other = saved(ir.Model(graph, ir_version=10), tmp_path / "wide.onnx")
    assert "input 'x' of" in typed(right, "--against", other, code=2).stderr
    inner = layer()
    inner.graph.outputs[:] = [node.outputs[0] for node in inner.graph][1:3]
    said = typed(right, "--against", saved(inner, tmp_path / "inner.onnx"), code=2).stderr
    assert "no output of" in said and "y and normal, q" in said


def test_nothing_between_the_ends_can_be_matched(right: Path, tmp_path: Path) -> None:
    x = ir.val("x", ir.DataType.FLOAT, (1, TOKENS, CHANNELS))
    node = ir.node("Tanh", [x], name="tanh")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, x.shape
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}, name="other")
    other = saved(ir.Model(graph, ir_version=10), tmp_path / "other.onnx")
    result = found(right, "--against", other, "-o", tmp_path / "out")
    assert any("nothing between the inputs and the outputs" in note for note in result["notes"])
    assert result["first"]["value"] == "y" and result["piece"]["whole"]


def test_an_axis_without_a_length(tmp_path: Path) -> None:
    x = ir.val("x", ir.DataType.FLOAT, (None, "frames", 3))
    node = ir.node("Relu", [x], name="relu")
    node.outputs[0].name, node.outputs[0].type = "y", x.type
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 18}, name="loose")
    path = saved(ir.Model(graph, ir_version=10), tmp_path / "loose.onnx")
    assert "--input-shape x=" in typed(path, "--against", path, code=2).stderr
    assert found(path, "--against", path, "--input-shape", "x=2,5,3", code=0)["outputs"][0]["ok"]
    np.savez(tmp_path / "in.npz", x=np.ones((1, 7, 3), np.float32) * np.arange(3))
    assert found(path, "--against", path, "--inputs", tmp_path / "in.npz", code=0)["ok"]
    assert "neither takes" in typed(path, "--against", path, "--input-shape", "z=1", "--input-shape", "x=2,5,3",
                                    code=2).stderr  # fmt: skip


def branching(factor: float, path: Path) -> Path:
    """Its If reads a value of the graph around it."""
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    branching (float[1,4,8] x) => (float[1,4,8] y) <float two = {{2}}, float factor = {{{factor}}}> {{
      scaled = Mul (x, factor)
      sum = ReduceSum <keepdims = 0> (x)
      right = Less (sum, two)
      either = If (right) <
        then_branch = then () => (float[1,4,8] a) {{ a = Mul (scaled, two) }},
        else_branch = or () => (float[1,4,8] b) {{ b = Add (scaled, two) }}>
      y = Add (either, x)
    }}"""
    return saved(ir.from_proto(onnx.parser.parse_model(text)), path)


def test_what_only_a_branch_reads_is_found(tmp_path: Path) -> None:
    a, b = branching(3, tmp_path / "a.onnx"), branching(4, tmp_path / "b.onnx")
    graph = found(a, "--against", b, "-o", tmp_path / "out")
    assert graph["first"]["value"] == "scaled" and graph["piece"]["nodes"] == 1


def chain(factor: float, path: Path, steps: int = 8) -> Path:
    g = Graph()
    x = value = ir.val("x", ir.DataType.FLOAT, (1, TOKENS, CHANNELS))
    for i in range(steps):
        value = g.op("Mul", value, g.weight(f"factor_{i}", factor), name=f"step{i}x")
    return saved(g.model([x], [value]), path)


def test_a_difference_that_builds_up_over_several_nodes(tmp_path: Path) -> None:
    a, b = chain(1.0, tmp_path / "a.onnx"), chain(1.0004, tmp_path / "b.onnx")
    graph = found(a, "--against", b, "-o", tmp_path / "out")
    # 1.0004 alone is within the threshold of 0.001, and so is its square: no part of fewer nodes fails by itself.
    assert graph["first"]["value"] == "step2x" and graph["piece"]["nodes"] == 3 and graph["piece"]["whole"]
    assert graph["first"]["how"] == "name" and graph["notes"] == []


def test_random_ids_are_rows_of_the_table_that_they_index(tmp_path: Path) -> None:
    g = Graph()
    ids, mask = ir.val("ids", ir.DataType.INT32, (1, 6)), ir.val("mask", ir.DataType.INT64, (1, 6))
    table = g.weight("table", np.random.default_rng(0).standard_normal((5, 8)))
    rows = g.op("Gather", table, g.op("Cast", ids, name="wide", to=7), name="rows")
    kept = g.op("Cast", g.op("Unsqueeze", mask, g.weight("last", np.array([2])), name="column"), name="kept", to=1)
    path = saved(g.model([ids, mask], [g.op("Mul", rows, kept, name="embedded")]), tmp_path / "ids.onnx")
    assert found(path, "--against", path, code=0)["ok"]
    # What indexes nothing is a mask, of ones: with zeros no two models would differ.
    other = ir.load(path)
    other.graph.initializers["table"].const_value = ir.tensor(np.ones((5, 8), np.float32), name="table")
    assert not found(path, "--against", saved(other, tmp_path / "other.onnx"), "-o", tmp_path / "out")["ok"]


def test_a_graph_that_takes_more_is_named_first(tmp_path: Path) -> None:
    """The cure that is printed works."""
    text = '<ir_version: 10, opset_import: ["" : 18]> g ({}) => (float[2] y) {{ y = {} }}'
    for name, takes, body in (("a", "float[2] x", "Neg (x)"), ("b", "float[2] x, float[2] more", "Sub (more, x)")):
        onnx.save(onnx.parser.parse_model(text.format(takes, body)), tmp_path / f"{name}.onnx")
    refused = typed(tmp_path / "a.onnx", "--against", tmp_path / "b.onnx", code=2)
    assert "Name them the other way round" in " ".join(refused.output.split())
    assert not found(tmp_path / "b.onnx", "--against", tmp_path / "a.onnx", "-o", tmp_path / "out")["ok"]
