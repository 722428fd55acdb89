"""Tokens compressed inside an encoder leave its layers complete; against layers that are run by hand in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import toy_vit
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.insertion.compose import compose
from tokexport.graph_passes.insertion.schedule import spread
from tokexport.graph_passes.insertion.sequence import Step, insert_steps, places
from tokexport.graph_passes.seams.find import find_seams

torch = pytest.importorskip("torch")
F = torch.nn.functional
nn = torch.nn

N, D, TAP = 16, 8, 1


class Layer(nn.Module):
    """One head of attention and a product, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mlp = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x: Any, sizes: Any = None) -> Any:
        """[1, n, D]; with sizes [1, n], log(sizes) on the logits."""
        query, key, value = self.qkv(x)[:, None].chunk(3, -1)
        mask = None if sizes is None else sizes.log()[:, None, None]
        x = x + F.scaled_dot_product_attention(query, key, value, mask)[:, 0]
        return x + F.gelu(self.mlp(x))


class Tower(nn.Module):
    """Four layers, a CLS token, and a pixel shuffle of 4 x 4 tokens; the output of layer `TAP` goes on beside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cls = nn.Linear(6, D), nn.Parameter(torch.randn(1, 1, D))
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.norm, self.projector = nn.LayerNorm(D), nn.Linear(8 * D, 12)

    def first(self, pixels: Any) -> Any:
        """[1, N, 6] -> [1, 1 + N, D]."""
        return torch.cat([self.cls, self.embed(pixels)], 1)

    def last(self, x: Any, tap: Any) -> Any:
        """Two times [1, 1 + N, D] -> [1, N / 4, 12]."""
        return self.projector(torch.cat([_shuffled(self.norm(x)[:, 1:]), _shuffled(tap[:, 1:])], 2))

    def forward(self, pixels: Any) -> Any:
        """[1, N, 6] -> [1, N / 4, 12]."""
        x, tap = self.first(pixels), None
        for i, layer in enumerate(self.layers):
            x = layer(x)
            tap = x if i == TAP else tap
        return self.last(x, tap)


def _shuffled(x: Any) -> Any:
    return x.reshape(1, 2, 2, 2, 2, D).permute(0, 1, 3, 2, 4, 5).reshape(1, 4, 4 * D)


@pytest.fixture(scope="module")
def tower() -> Any:
    return Tower().eval()


@pytest.fixture(scope="module")
def exported(tower: Any) -> ir.Model:
    from tokexport.exporter.sources.source import GraphSource
    from tokexport.exporter.sources.torch_export import export_graph

    inputs = {"pixels": torch.zeros(1, N, 6)}
    return export_graph(GraphSource("encoder", tower, inputs, ("tokens",), grid=(4, 4)))


Inside = tuple[int, str, dict[str, Any], int]  # layer, method, parameters, K


def by_hand(tower: Any, pixels: np.ndarray, steps: Sequence[Inside], *, bias: bool = True) -> np.ndarray:
    """The tower with compressors behind some layers, each undone where tokens leave the layers."""
    todo = {layer: (make(method, params), keep) for layer, method, params, keep in steps}
    done: list[tuple[Any, Any]] = []
    whole = tap = None
    with torch.no_grad():
        x = tower.first(torch.from_numpy(pixels))
        for i, layer in enumerate(tower.layers):
            merged = whole is not None and bias
            x = layer(x, torch.cat([torch.ones(1, 1), whole.sizes], 1) if merged else None)
            tap = undone(x, done) if i == TAP else tap
            if i in todo:
                compressor, keep = todo[i]
                small = compressor.reference(Case(x.shape[1] - 1, D, keep), x[:, 1:])
                done.append((x, small))
                whole = small if whole is None else compose(whole, small, merges=compressor.method.merges)
                x = torch.cat([x[:, :1], small.tokens], 1)
        return tower.last(undone(x, done), tap).numpy()


def undone(x: Any, done: Sequence[tuple[Any, Any]]) -> Any:
    for before, small in reversed(done):
        rows = before.clone()
        rows[:, 0] = x[:, 0]
        for place, slot in enumerate(small.assignment[0].tolist()):
            if slot >= 0:
                rows[0, 1 + place] += x[0, 1 + slot] - small.tokens[0, slot]
        x = rows
    return x


def pixels(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, N, 6)).astype(np.float32)


def test_the_hand_run_tower_is_the_exported_one(tower, exported):
    np.testing.assert_allclose(
        toy_vit.run(exported, {"pixels": pixels()})["tokens"], by_hand(tower, pixels(), []), atol=1e-5
    )


@pytest.mark.parametrize(
    "steps",
    [
        [(0, "tome", {"metric": "tokens"}, 8)],
        [(0, "topk", {"score": "norm"}, 6)],
        [(TAP, "kcenter_merge", {}, 6)],
        [(2, "kcenter_merge", {}, 6)],
        [(0, "kcenter_merge", {}, 10), (2, "tome", {"metric": "tokens"}, 5)],
    ],
    ids=["merged", "dropped", "where features leave", "behind that", "twice"],
)
def test_each_token_gets_what_the_layers_added_to_its_slot(tower, exported, steps):
    model = exported.clone()
    asked = [Step(make(method, params), None, keep, f"encoder_layer:{layer}") for layer, method, params, keep in steps]
    asked[-1] = Step(asked[-1].compressor, None, asked[-1].keep, asked[-1].seam, rebuild=True)
    done = insert_steps(model, asked, places(model, asked))
    got = toy_vit.run(model, {"pixels": pixels()})
    np.testing.assert_allclose(got["tokens"], by_hand(tower, pixels(), steps), atol=1e-5)
    assert got["kept_indices"].tolist() == got["assignment"].tolist() == [[0, 1, 2, 3]]
    assert got["sizes"].tolist() == [[1, 1, 1, 1]] and done.leaving == 4 and done.counted == []


def test_without_a_size_bias(tower, exported):
    step = (0, "kcenter_merge", {}, 6)
    model = compress(exported, "kcenter_merge", keep=6, seam="encoder_layer:0", rebuild=True, size_bias="off")
    expected = by_hand(tower, pixels(), [step], bias=False)
    np.testing.assert_allclose(toy_vit.run(model, {"pixels": pixels()})["tokens"], expected, atol=1e-5)
    assert np.abs(expected - by_hand(tower, pixels(), [step])).max() > 1e-3


def test_a_step_behind_begins_anew(tower, exported):
    model = exported.clone()
    steps = [
        Step(make("kcenter_merge", {}), None, 6, "encoder_layer:0", rebuild=True),
        Step(make("tome", {"metric": "tokens"}), None, 3, "projector_output"),
    ]
    done = insert_steps(model, steps, places(model, steps))
    got = toy_vit.run(model, {"pixels": pixels()})
    whole = torch.from_numpy(by_hand(tower, pixels(), [(0, "kcenter_merge", {}, 6)]))
    small = steps[1].compressor.reference(Case(4, 12, 3), whole)
    np.testing.assert_allclose(got["tokens"], small.tokens.numpy(), atol=1e-5)
    for name in ("kept_indices", "sizes", "assignment"):
        assert got[name].tolist() == getattr(small, name).tolist(), name
    assert done.leaving == 3 and [step.method for step in done.counted] == ["tome"]
    assert done.before is not None and done.before.rebuilt and not done.follows


def test_a_schedule_removes_an_equal_part_behind_every_layer_but_the_last(tower, exported):
    asked = [Step(make("tome", {"metric": "tokens"}), "1/2", None, "encoder_layer:*", rebuild=True)]
    steps = spread(exported, asked)
    assert [(step.seam, step.keep, step.rebuild) for step in steps] == [
        ("encoder_layer:0", 14, False),
        ("encoder_layer:1", 11, False),
        ("encoder_layer:2", 8, True),
    ]
    model = compress(exported, "tome", "1/2", seam="encoder_layer:*", params={"metric": "tokens"}, rebuild=True)
    expected = by_hand(tower, pixels(), [(i, "tome", {"metric": "tokens"}, keep) for i, keep in enumerate((14, 11, 8))])
    np.testing.assert_allclose(toy_vit.run(model, {"pixels": pixels()})["tokens"], expected, atol=1e-5)


def test_layers_at_which_no_token_is_due_have_no_step(exported):
    asked = [Step(make("topk", {"score": "norm"}), None, 14, "encoder_layer:*", rebuild=True)]
    assert [(step.seam, step.keep) for step in spread(exported, asked)] == [
        ("encoder_layer:1", 15),
        ("encoder_layer:2", 14),
    ]


def test_schedules_that_cannot_be(exported):
    every = Step(make("topk", {"score": "norm"}), None, 8, "encoder_layer:*")
    with pytest.raises(RequestError, match="step 2 is at encoder_layer:"):
        spread(exported, [inside(), every])
    with pytest.raises(RequestError, match="none were found in this graph"):
        spread(toy_vit.toy_vit(), [every])


def test_the_graph_that_was_given_is_not_changed(exported):
    before = toy_vit.text(exported)
    compress(exported, "topk", keep=6, seam="encoder_layer:0", params={"score": "norm"}, rebuild=True)
    with pytest.raises(RequestError):
        compress(exported, "topk", keep=6, seam="projector_output", params={"score": "norm"}, rebuild=True)
    assert toy_vit.text(exported) == before


def refused(model: ir.Model, *steps: Step) -> str:
    with pytest.raises((RequestError, GraphError)) as error:
        insert_steps(model.clone(), steps, places(model, steps))
    return str(error.value)


def inside(
    method: str = "kcenter_merge", seam: str = "encoder_layer:0", *, rebuild: bool = True, **params: Any
) -> Step:
    return Step(make(method, params), "1/2", None, seam, rebuild=rebuild)


def test_what_is_refused_and_its_cure(exported):
    said = refused(exported, inside(rebuild=False))
    assert "moves or merges tokens by position" in said and "--rebuild" in said
    assert "no layer of the encoder behind it" in refused(exported, inside(seam="projector_output"))
    assert "no layer of the encoder behind it" in refused(exported, inside(seam="encoder_layer:3"))
    assert "is not behind the encoder's last layer" in refused(exported, inside(), inside("tome", "encoder_layer:2"))
    behind = inside("tome", "projector_output", rebuild=False, metric="keys")
    assert "reads keys, which upstream of the rebuilt tokens is of fewer slots" in refused(exported, inside(), behind)


def test_a_graph_without_layers_says_so():
    model = toy_vit.toy_vit()
    said = refused(model, inside(seam="tensor:h1"))
    assert "none were found in this graph" in said and "Leave rebuild out" in said


def test_a_graph_that_ends_at_its_last_layer_needs_no_rebuilding(exported):
    model = exported.clone()
    last = next(seam.tensor for seam in find_seams(model) if seam.name == "encoder_layer:3")
    model.graph.outputs.append(next(v for node in model.graph for v in node.outputs if v.name == last))
    assert "nothing follows that would need every token at its place" in refused(model, inside())
