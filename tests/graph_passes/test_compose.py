"""Two compressors as one: the nodes agree with PyTorch, and both with counting by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tokexport.graph_passes.compressors.base import Compressed
from tokexport.graph_passes.insertion.compose import COMPOSED, compose, emit_compose, emit_gathered, gathered
from tokexport.graph_passes.ir_tools.builder import Builder
from toy_vit import run

# 6 tokens into 3 slots, which lie at 1, 2 and 5; token 0 is lost. Then these 3 into 2, at slots 0 and 2.
FIRST = {"kept_indices": [[1, 2, 5]], "sizes": [[1, 2, 2]], "assignment": [[-1, 0, 1, 1, 2, 2]]}
SECOND = {"kept_indices": [[0, 2]], "sizes": [[2, 1]], "assignment": [[0, 0, 1]]}
LOSES = {"kept_indices": [[0, 2]], "sizes": [[1, 1]], "assignment": [[0, -1, 1]]}


def arrays(given: dict) -> dict[str, np.ndarray]:
    return {name: np.array(row, np.float32 if name == "sizes" else np.int64) for name, row in given.items()}


def in_torch(first: dict, second: dict, *, merges: bool) -> dict[str, np.ndarray]:
    tokens = torch.zeros(1, 1, 1)
    both = [Compressed(tokens, *(torch.from_numpy(x) for x in arrays(given).values())) for given in (first, second)]
    composed_outputs = compose(*both, merges=merges)
    return {name: getattr(composed_outputs, name).numpy() for name in COMPOSED}


def in_onnx(first: dict, second: dict, *, merges: bool) -> dict[str, np.ndarray]:
    kinds = {"kept_indices": ir.DataType.INT64, "sizes": ir.DataType.FLOAT, "assignment": ir.DataType.INT64}
    values, feeds, b = [], {}, Builder()
    for side, given in (("first", arrays(first)), ("second", arrays(second))):
        values.append(
            {
                n: ir.Value(name=f"{side}.{n}", shape=ir.Shape(given[n].shape), type=ir.TensorType(kinds[n]))
                for n in COMPOSED
            }
        )
        feeds |= {f"{side}.{name}": given[name] for name in COMPOSED}
    keep = len(second["kept_indices"][0])
    composed_outputs = emit_compose(b, *values, keep, merges=merges)
    for name, value in composed_outputs.items():
        value.name, value.type = name, ir.TensorType(kinds[name])
        value.shape = ir.Shape([1, len(first["assignment"][0]) if name == "assignment" else keep])
    inputs = [value for side in values for value in side.values()]
    graph = ir.Graph(inputs, list(composed_outputs.values()), nodes=b.nodes, opset_imports={"": 18}, name="composed")
    return run(ir.Model(graph, ir_version=10), feeds)


@pytest.mark.parametrize("way", [in_torch, in_onnx])
def test_two_merges_count_tokens_of_the_first(way) -> None:
    found = way(FIRST, SECOND, merges=True)
    assert found["kept_indices"].tolist() == [[1, 5]]
    assert found["sizes"].tolist() == [[3, 2]]
    assert found["assignment"].tolist() == [[-1, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("way", [in_torch, in_onnx])
def test_a_selection_behind_a_merge_keeps_sizes_and_loses_what_it_drops(way) -> None:
    found = way(FIRST, LOSES, merges=False)
    assert found["kept_indices"].tolist() == [[1, 5]]
    assert found["sizes"].tolist() == [[1, 2]]
    assert found["assignment"].tolist() == [[-1, 0, -1, -1, 1, 1]]


@pytest.mark.parametrize("way", [in_torch, in_onnx])
def test_a_slot_that_nothing_went_into_has_the_size_of_the_one_it_lies_at(way) -> None:
    nothing = {"kept_indices": [[0, 1]], "sizes": [[3, 1]], "assignment": [[0, 0, 0]]}
    assert way(FIRST, nothing, merges=True)["sizes"].tolist() == [[5, 2]]


def test_nodes_agree_with_pytorch_on_anything() -> None:
    rng = np.random.default_rng(0)
    for merges in (True, False):
        for _ in range(20):
            sides = []
            for n, k in ((12, 7), (7, 3)):
                assignment = rng.integers(-1, k, (1, n))
                sizes = np.maximum((assignment[:, None] == np.arange(k)[:, None]).sum(2), 1)
                kept = np.sort(rng.permutation(n)[:k])[None]
                sides.append({"kept_indices": kept, "sizes": sizes, "assignment": assignment})
            expected, got = (way(*sides, merges=merges) for way in (in_torch, in_onnx))
            for name in COMPOSED:
                np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3)])
def test_a_signal_is_gathered_at_the_positions_that_slots_inherit(shape) -> None:
    signal, kept = np.random.default_rng(0).standard_normal(shape).astype(np.float32), np.array([[1, 4], [0, 2]])
    expected = np.stack([row[at] for row, at in zip(signal, kept)])
    np.testing.assert_array_equal(gathered(torch.from_numpy(signal), torch.from_numpy(kept)), expected)
    b = Builder()
    given = ir.Value(name="signal", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    at = ir.Value(name="kept", shape=ir.Shape(kept.shape), type=ir.TensorType(ir.DataType.INT64))
    out = emit_gathered(b, given, at)
    out.name, out.type, out.shape = "out", given.type, ir.Shape(expected.shape)
    graph = ir.Graph([given, at], [out], nodes=b.nodes, opset_imports={"": 18}, name="gathered")
    got = run(ir.Model(graph, ir_version=10), {"signal": signal, "kept": kept})
    np.testing.assert_array_equal(got["out"], expected)
