from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compressors import Case, Compressed, compressor, make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.ir_tools.builder import Builder
from tokexport.graph_passes.ir_tools.extract import extract
from tokexport.graph_passes.seams.seam import Seam, Signal
from toy_vit import encoder_output, projector_input, run, text, toy_vit


@compressor("first_k", family="baseline", modalities=("image",), merges=False, source="test", summary="the first K")
@dataclass(frozen=True)
class FirstK:
    """Keeps the first K tokens, times `factor`."""

    factor: float = 1.0

    def signals(self) -> tuple[str, ...]:
        return ()

    def check(self, case: Case) -> None:
        if case.keep == 13:
            raise RequestError("13 is not reached")

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        k, n = case.keep, case.tokens
        kept = b.op("Slice", tokens, [0], [k], [1])
        batch = b.op("Shape", tokens, start=0, end=1)
        rows = {
            name: b.op("Expand", array, b.op("Concat", batch, [array.shape[1]], axis=0))
            for name, array in {
                "kept_indices": np.arange(k)[None],
                "sizes": np.ones((1, k), np.float32),
                "assignment": np.where(np.arange(n) < k, np.arange(n), -1)[None],
            }.items()
        }
        return Compressed(tokens=b.op("Mul", kept, self.factor), **rows)


@dataclass(frozen=True)
class ByAttention(FirstK):
    """Scales the first K tokens by the mean CLS attention, so that the signal shows in the output."""

    def signals(self) -> tuple[str, ...]:
        return ("cls_attention",)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, cls_attention: ir.Value) -> Compressed[ir.Value]:
        result = super().onnx(b, case, tokens)
        mean = b.op("Unsqueeze", b.op("ReduceMean", cls_attention, [1]), [2])
        return Compressed(b.op("Mul", result.tokens, mean), result.kept_indices, result.sizes, result.assignment)


def values(model: ir.Model) -> dict[str, ir.Value]:
    return {v.name: v for node in model.graph for v in node.outputs}


def parts(model: ir.Model, done: object) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All outputs of the model, and tokens before and after the compressor."""
    head, _ = extract(model, [done.tokens_in, done.tokens_out])  # type: ignore[attr-defined]
    inner = run(head)
    return run(model), {"in": inner[done.tokens_in], "out": inner[done.tokens_out]}  # type: ignore[attr-defined]


def test_prefix_stays_and_tokens_are_compressed() -> None:
    model = toy_vit()
    plain = run(model)["out"]
    done = insert(model, encoder_output(), FirstK(), 5)
    results, tokens = parts(model, done)
    assert results["out"].shape == (1, 5, 12)
    np.testing.assert_array_equal(tokens["out"], tokens["in"][:, :6])
    np.testing.assert_allclose(results["out"], plain[:, :5], rtol=1e-5)
    assert results["kept_indices"].tolist() == [[0, 1, 2, 3, 4]]
    assert results["sizes"].tolist() == [[1.0] * 5]
    assert results["assignment"].tolist() == [[0, 1, 2, 3, 4] + [-1] * 11]


def test_without_a_prefix_only_the_node_is_added() -> None:
    model = toy_vit()
    n = len(model.graph)
    done = insert(model, projector_input(), FirstK(), 5)
    assert len(model.graph) == n + 1
    assert done.rewritten == []
    assert run(model)["out"].shape == (1, 5, 12)


def test_the_node_says_what_it_is() -> None:
    model = toy_vit()
    done = insert(model, projector_input(), FirstK(factor=2.0), 5)
    node = next(node for node in model.graph if node.name == done.node_name)
    assert (node.domain, node.op_type) == ("tokexport", done.function_name)
    assert node.op_type.startswith("TokexportFirstK_") and len(node.op_type) == len("TokexportFirstK_") + 8
    assert node.metadata_props["tokexport.method"] == "first_k"
    assert node.metadata_props["tokexport.keep"] == "5"
    assert json.loads(node.metadata_props["tokexport.params"]) == {"factor": 2.0}
    assert [list(v.shape) for v in node.outputs] == [[1, 5, 8], [1, 5], [1, 5], [1, 16]]
    assert model.graph.opset_imports["tokexport"] == 1
    assert model.ir_version == 10
    assert done.outputs == {name: name for name in ("kept_indices", "sizes", "assignment")}


def test_every_count_and_parameter_has_a_function_of_its_own_and_equal_ones_share() -> None:
    names = set()
    for keep, factor in ((5, 1.0), (6, 1.0), (5, 2.0), (5, 1.0)):
        names.add(insert(toy_vit(), projector_input(), FirstK(factor), keep).function_name)
    assert len(names) == 3


def test_two_uses_of_one_case_share_one_function() -> None:
    model = toy_vit()
    bodies = []
    for name in ("h1", "h2"):
        insert(model, Seam(f"tensor:{name}", name, tokens=17, dim=8), FirstK(), 17, outputs=())
        bodies += model.functions.values()
    assert len(bodies) == 2 and bodies[0] is bodies[1]
    assert run(model)["out"].shape == (1, 16, 12)


def test_compressors_are_inserted_upstream_first() -> None:
    model = toy_vit()
    insert(model, encoder_output(), FirstK(), 8, outputs=())
    insert(model, Seam("tensor:p2", "p2", tokens=8, dim=8), FirstK(), 3, outputs=())
    assert run(model)["out"].shape == (1, 3, 12)
    backwards = toy_vit()
    insert(backwards, Seam("tensor:p2", "p2", tokens=16, dim=8), FirstK(), 8, outputs=())
    with pytest.raises(GraphError, match="upstream first"):
        insert(backwards, encoder_output(), FirstK(), 3, outputs=())


def test_inside_the_encoder_baked_counts_behind_are_rewritten() -> None:
    model = toy_vit()
    done = insert(model, encoder_output(name="tensor:h1", tensor="h1", signals={}), FirstK(), 5)
    assert len(done.rewritten) == 4 and all("17 to 6" in line for line in done.rewritten)
    assert run(model)["out"].shape == (1, 5, 12)
    assert list(values(model)["probs1"].shape) == [1, 2, 6, 6]
    assert list(values(model)["probs0"].shape) == [1, 2, 17, 17]


def test_batch_of_two() -> None:
    model = toy_vit("float[2,16,12] out", b=2)
    insert(model, encoder_output(batch=2), FirstK(), 5)
    results = run(model)
    assert results["out"].shape == (2, 5, 12) and results["kept_indices"].shape == (2, 5)


def test_seam_that_is_an_output_keeps_its_name_and_is_compressed() -> None:
    model = toy_vit("float[1,17,8] encoded, float[1,16,12] out")
    plain = run(model)["encoded"]
    done = insert(model, encoder_output(), FirstK(), 5)
    results = run(model)
    assert list(results)[:2] == ["encoded", "out"]
    np.testing.assert_array_equal(results["encoded"], plain[:, :6])
    assert (done.tokens_in, done.tokens_out) == ("encoded.uncompressed", "encoded")


def test_signals_reach_the_compressor() -> None:
    model = toy_vit()
    done = insert(model, encoder_output(), ByAttention(), 5)
    _, tokens = parts(model, done)
    attention = run(extract(model, ["probs1"])[0])["probs1"][:, :, 0, 1:].mean(axis=(1, 2))
    np.testing.assert_allclose(tokens["out"][:, 1:], tokens["in"][:, 1:6] * attention, rtol=1e-5)
    np.testing.assert_array_equal(tokens["out"][:, 0], tokens["in"][:, 0])


def test_signal_that_is_computed_behind_the_first_reader_of_the_tokens() -> None:
    more = "pt = Transpose<perm=[0,2,1]>(pixels) pk = MatMul(pixels, pt) pu = Unsqueeze(pk, one) late = Softmax(pu)"
    model = toy_vit(more=more)
    insert(model, projector_input(signals={"cls_attention": Signal("attention", ("late",))}), ByAttention(), 5)
    assert run(model)["out"].shape == (1, 5, 12)


@pytest.mark.parametrize("outputs", [("sizes",), {"sizes": "token_sizes"}, ()])
def test_outputs_are_chosen_and_renamed(outputs: object) -> None:
    model = toy_vit()
    done = insert(model, encoder_output(), FirstK(), 5, outputs=outputs)  # type: ignore[arg-type]
    wanted = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)  # type: ignore[call-overload]
    assert [v.name for v in model.graph.outputs] == ["out", *wanted] == ["out", *done.outputs.values()]
    assert set(run(model)) == {"out", *wanted}


def refused(model: ir.Model, seam: Seam, *words: str, method: object = None, keep: int = 5, **more: object) -> None:
    before = text(model)
    with pytest.raises((GraphError, RequestError)) as caught:
        insert(model, seam, method or FirstK(), keep, **more)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)
    assert text(model) == before


def test_output_names_that_are_taken_or_unknown_are_refused() -> None:
    refused(toy_vit(), encoder_output(), "'out'", outputs={"sizes": "out"})
    refused(toy_vit(), encoder_output(), "'size'", "sizes", outputs=("size",))
    model = toy_vit()
    insert(model, encoder_output(), FirstK(), 8)
    refused(model, Seam("tensor:p2", "p2", tokens=8, dim=8), "kept_indices", keep=3)


def test_seams_that_do_not_fit_are_refused() -> None:
    refused(toy_vit(), encoder_output(valid=False, why="a pixel shuffle follows"), "a pixel shuffle follows")
    refused(toy_vit(), encoder_output(tensor="nowhere"), "nowhere")
    refused(toy_vit(), encoder_output(tokens=17), "17 tokens", "[1, 17, 8]")
    refused(toy_vit(), encoder_output(dtype="float16"), "float16")
    refused(toy_vit(), encoder_output(), "13 is not reached", keep=13)
    refused(toy_vit(), encoder_output(signals={}), "cls_attention", "uniform", method=ByAttention())


def test_dynamic_token_axis_is_refused_with_the_command() -> None:
    model = toy_vit()
    values(model)["encoded"].shape = ir.Shape([1, "tokens", 8])
    model.graph.inputs[0].shape = ir.Shape([1, "tokens", 6])
    refused(model, encoder_output(), "tokens", "--input-shape pixels=1,")


def test_graph_that_needs_every_token_is_refused_unchanged() -> None:
    model = toy_vit()
    table = ir.tensor(np.arange(128, dtype=np.float32).reshape(1, 16, 8), name="late_positions")
    model.graph.register_initializer(ir.Value(name="late_positions", const_value=table, shape=table.shape))
    node = ir.node("Add", [values(model)["p2"], model.graph.initializers["late_positions"]], name="add_late")
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = "p3", ir.DataType.FLOAT, ir.Shape([1, 16, 8])
    last = model.graph.outputs[0].producer()
    assert last is not None
    last.prepend(node)
    last.replace_input_with(0, node.outputs[0])
    refused(model, encoder_output(), "add_late", "late_positions", "16 tokens")


def test_old_opset_is_refused_with_the_command() -> None:
    model = toy_vit()
    model.graph.opset_imports[""] = 17
    refused(model, encoder_output(), "opset 17", "version_converter")


def test_merging_inside_the_encoder_adds_the_size_bias() -> None:
    seam = encoder_output(name="encoder_layer:0", tensor="h1", signals={})
    merging = make("kcenter_merge")
    biased, plain, outside = toy_vit(), toy_vit(), toy_vit()
    assert len(insert(biased, seam, merging, 5).biased) == 1
    assert insert(plain, seam, merging, 5, size_bias=False).biased == []
    assert insert(outside, encoder_output(signals={}), merging, 5).biased == []
    assert not np.array_equal(run(biased)["out"], run(plain)["out"])


def test_selection_inside_the_encoder_needs_no_size_bias() -> None:
    seam = encoder_output(name="encoder_layer:0", tensor="h1", signals={})
    assert insert(toy_vit(), seam, FirstK(), 5).biased == []


def test_after_the_last_layer_there_is_nothing_to_bias() -> None:
    model = toy_vit()
    seam = encoder_output(name="encoder_layer:1", tensor="h2", signals={})
    assert insert(model, seam, make("kcenter_merge"), 5).biased == []
    assert run(model)["out"].shape == (1, 5, 12)


def test_size_bias_that_cannot_be_added_leaves_the_graph_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> list[str]:
        raise GraphError("no place for a bias")

    monkeypatch.setattr("tokexport.graph_passes.insertion.insert.add_size_bias", fail)
    seam = encoder_output(name="encoder_layer:0", tensor="h1", signals={})
    refused(toy_vit(), seam, "no place for a bias", method=make("kcenter_merge"))


def test_a_failure_after_the_last_edit_leaves_the_graph_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: ir.Model) -> None:
        assert "TokexportFirstK" in text(model)
        raise GraphError("too late")

    monkeypatch.setattr("tokexport.graph_passes.insertion.insert.refresh_seams", fail)
    refused(toy_vit("float[1,17,8] encoded, float[1,16,12] out"), encoder_output(), "too late")


def test_weights_are_shared_and_not_copied() -> None:
    model = toy_vit()
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    insert(model, encoder_output(), FirstK(), 5)
    assert before and all(model.graph.initializers[name].const_value is tensor for name, tensor in before.items())


def test_nodes_that_are_not_in_order_are_refused_with_the_command(tmp_path: Path) -> None:
    model = toy_vit()
    last = model.graph[-1]
    model.graph.remove(last)
    model.graph.insert_before(model.graph[0], last)
    ir.save(model, tmp_path / "MODEL.onnx")
    with pytest.raises(GraphError, match="which a later node computes") as caught:
        insert(model, encoder_output(), FirstK(), 5)
    command = caught.value.fix.split("`")[1].removeprefix("python ")
    subprocess.run([sys.executable, *shlex.split(command)], cwd=tmp_path, check=True)
    whole = ir.load(tmp_path / "SORTED.onnx")
    insert(whole, encoder_output(), FirstK(), 5)
    assert run(whole)["out"].shape == (1, 5, 12)
