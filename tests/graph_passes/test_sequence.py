"""Steps in sequence in a graph: each sees what the one before left, and outputs are about the tokens of the first."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.insertion.sequence import Step, insert_steps, places
from tokexport.graph_passes.ir_tools.extract import extract
from tokexport.graph_passes.seams.seam import METADATA_KEY, Seam
from toy_steps import First, LastByKeys, Pairs
from toy_vit import encoder_output, projector_input, run, text, toy_vit

HALF = "1/2"
NOTES = ("kept_indices", "sizes", "assignment")


def step(compressor, ratio=HALF, keep=None, **how) -> Step:
    return Step(compressor, None if keep else ratio, keep, **how)


def layer(index: int) -> Seam:
    """The seam in front of block `index`."""
    return Seam(f"encoder_layer:{index}", f"h{index}", 16, 8, prefix=1)


def results(model: ir.Model) -> dict[str, list]:
    return {name: array[0].tolist() for name, array in run(model).items() if name in NOTES}


def at(model: ir.Model, tensor: str) -> np.ndarray:
    return run(extract(model, [tensor])[0])[tensor]


def test_two_merges_at_one_seam() -> None:
    model = toy_vit()
    plain = run(model)["out"]
    done = insert_steps(model, [step(Pairs()), step(Pairs())], [projector_input(), projector_input()])
    assert results(model) == {
        "kept_indices": [0, 4, 8, 12],
        "sizes": [4.0] * 4,
        "assignment": [i // 4 for i in range(16)],
    }
    assert [one.seam.tokens for one in done.steps] == [16, 8] and done.steps[0].keep == 8
    assert [value.name for value in model.graph.outputs] == ["out", *NOTES]
    assert plain.shape == (1, 16, 12) and run(model)["out"].shape == (1, 4, 12)


def test_a_merge_of_a_selection_and_a_selection_of_a_merge() -> None:
    model = toy_vit()
    insert_steps(model, [step(First()), step(Pairs())], [encoder_output()] * 2)
    assert results(model) == {
        "kept_indices": [0, 2, 4, 6],
        "sizes": [2.0] * 4,
        "assignment": [0, 0, 1, 1, 2, 2, 3, 3] + [-1] * 8,
    }
    model = toy_vit()
    insert_steps(model, [step(Pairs()), step(First())], [encoder_output()] * 2)
    assert results(model) == {
        "kept_indices": [0, 2, 4, 6],
        "sizes": [2.0] * 4,
        "assignment": [0, 0, 1, 1, 2, 2, 3, 3] + [-1] * 8,
    }


def test_two_seams_and_three_steps() -> None:
    model = toy_vit()
    whole = at(toy_vit(), "patches")
    seams = [encoder_output(), projector_input(), projector_input()]
    done = insert_steps(model, [step(Pairs()), step(Pairs()), step(First())], seams)
    assert results(model) == {
        "kept_indices": [0, 4],
        "sizes": [4.0] * 2,
        "assignment": [0] * 4 + [1] * 4 + [-1] * 8,
    }
    # What stands at the second seam is the first one's slots without the prefix.
    np.testing.assert_allclose(at(model, done.tokens_out), whole.reshape(1, 4, 4, 8).mean(2)[:, :2], atol=1e-5)


def test_all_steps_are_put_into_one_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    clones, clone = [], ir.Model.clone
    monkeypatch.setattr(ir.Model, "clone", lambda model: clones.append(model) or clone(model))
    model = toy_vit()
    insert_steps(model, [step(Pairs()), step(Pairs())], [layer(0), layer(1)])
    assert clones == [model]


def test_at_the_end_of_a_graph_its_output_keeps_its_name() -> None:
    model = toy_vit()
    seam = Seam("projector_output", "out", 16, 12)
    done = insert_steps(model, [step(Pairs()), step(Pairs())], [seam, seam])
    values = {value.name for node in model.graph for value in node.outputs}
    assert {done.steps[0].tokens_out, done.steps[0].node_outputs["tokens"], done.tokens_out} <= values
    plain = run(toy_vit())["out"]
    np.testing.assert_allclose(run(model)["out"], plain.reshape(1, 4, 4, 12).mean(2), rtol=1e-5)


def equal_in_fours() -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Tokens that are equal in fours in front of the first block."""
    model = toy_vit()
    zeros = ir.tensor(np.zeros((1, 17, 8), np.float32), name="pos")
    model.graph.initializers["pos"].const_value = zeros
    four = np.random.default_rng(2).standard_normal((1, 4, 6)).astype(np.float32)
    return model, {"pixels": four.repeat(4, axis=1)}


def test_each_block_weighs_slots_by_all_the_tokens_that_they_stand_for() -> None:
    """Equal tokens merged twice with log(size) in between change nothing, exactly."""
    model, feeds = equal_in_fours()
    plain = run(model, feeds)["out"]
    done = insert_steps(model, [step(Pairs()), step(Pairs())], [layer(0), layer(1)])
    first, second = done.steps
    assert len(first.biased) == len(second.biased) == 1 and first.biased != second.biased
    found = run(model, feeds)
    assert found["sizes"].tolist() == [[4.0] * 4]
    np.testing.assert_allclose(found["out"].repeat(4, axis=1), plain, rtol=1e-3, atol=1e-3)
    off, _ = equal_in_fours()
    insert_steps(off, [step(Pairs()), step(Pairs())], [layer(0), layer(1)], size_bias=False)
    assert np.abs(run(off, feeds)["out"].repeat(4, axis=1) - plain).max() > 1e-2


def test_a_selection_behind_a_merge_still_weighs() -> None:
    model, feeds = equal_in_fours()
    done = insert_steps(model, [step(Pairs()), step(First(), ratio="1/4")], [layer(0), layer(1)])
    assert done.biased and done.merges and not done.compressor.method.merges
    assert run(model, feeds)["sizes"].tolist() == [[2.0] * 6]


def test_two_steps_in_front_of_one_block_put_one_bias_there() -> None:
    model, feeds = equal_in_fours()
    plain = run(model, feeds)["out"]
    done = insert_steps(model, [step(Pairs()), step(Pairs())], [layer(0), layer(0)])
    assert [len(one.biased) for one in done.steps] == [0, 2]
    np.testing.assert_allclose(run(model, feeds)["out"].repeat(4, axis=1), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("second", [encoder_output(), projector_input(signals=encoder_output().signals)])
def test_the_best_of_the_best_are_the_best(second: Seam) -> None:
    """Attention in front of the first step is gathered for the second."""
    once, twice = toy_vit(), toy_vit()
    insert(once, encoder_output(), make("cls_topk"), 3)
    done = insert_steps(twice, [step(make("cls_topk")), step(make("cls_topk"), keep=3)], [encoder_output(), second])
    assert len(done.reads["cls_attention"].through) == 1
    for name, array in run(once).items():
        np.testing.assert_array_equal(run(twice)[name], array)


def test_keys_are_gathered_through_every_step_in_between() -> None:
    model = toy_vit()
    seams = places(model, [step(First(), seam="encoder_output"), *[step(First(), seam="projector_input")] * 2], str)
    done = insert_steps(model, [step(First(), ratio="1/4"), step(First(), ratio="1/3"), step(LastByKeys())], seams)
    assert len(done.reads["keys"].through) == 2
    keys = at(model, done.reads["keys"].source)[:, 4:8].sum(2, keepdims=True)
    np.testing.assert_allclose(at(model, done.tokens_out), np.broadcast_to(keys, (1, 4, 8)), rtol=1e-5)


def test_a_signal_behind_the_first_step_is_that_of_its_slots() -> None:
    """The attention of the second block sees 8 slots, so nothing is gathered."""
    model = toy_vit()
    done = insert_steps(model, [step(Pairs()), step(make("cls_topk"))], [layer(1), encoder_output()])
    assert done.reads["cls_attention"].through == ()
    assert run(model)["kept_indices"].shape == (1, 4) and run(model)["assignment"].shape == (1, 16)


def refused(kind: type[Exception], steps: list[Step], seams: list[Seam], *says: str) -> None:
    model = toy_vit()
    model.ir_version = 10
    before = text(model)
    with pytest.raises(kind) as error:
        insert_steps(model, steps, seams)
    assert all(words in str(error.value) for words in says), error.value
    assert text(model) == before


def test_what_cannot_be_in_a_row_is_refused_with_its_step() -> None:
    two = [step(First()), step(First())]
    refused(RequestError, two, [projector_input(), encoder_output()], "step 2", "not downstream", "front to back")
    count = [step(First()), step(First(), keep=9)]
    refused(RequestError, count, [encoder_output()] * 2, "step 2, toy_first", "ratio =", "1..8")
    wide = [step(make("pixel_unshuffle"), keep=4), step(First())]
    refused(RequestError, wide, [encoder_output()] * 2, "step 1, pixel_unshuffle", "--method pixel_unshuffle")
    wide = [step(First()), step(make("qformer"), keep=2)]
    refused(RequestError, wide, [encoder_output()] * 2, "step 2, qformer", "cannot be one of several steps")
    nothing = [step(First()), step(First(), keep=8)]
    refused(RequestError, nothing, [encoder_output()] * 2, "step 2", "all 8 tokens")
    none = [step(First()), step(make("tokenlearner"), keep=2)]
    refused(RequestError, none, [encoder_output()] * 2, "step 2, tokenlearner", "no positions")
    missing = [step(First()), step(make("dart"))]
    refused(RequestError, missing, [projector_input()] * 2, "step 2, dart", "keys")


def test_a_seam_whose_tokens_are_not_the_slots_is_refused() -> None:
    """There are as many channels as slots."""
    model = toy_vit(
        outputs="float[1,16,12] out, float[1,8,16] turned", more="turned = Transpose<perm=[0,2,1]>(patches)"
    )
    with pytest.raises(GraphError, match="not the 8 slots") as error:
        insert_steps(model, [step(First()), step(First())], [encoder_output(), Seam("tensor:turned", "turned", 8, 16)])
    assert "step 2" in str(error.value)


@pytest.mark.parametrize(("share", "layers", "index"), [("1/4", 24, 5), ("1/4", 23, 5), ("1/4", 4, 0), ("1/2", 3, 1)])
def test_a_share_of_the_layers_is_a_layer_of_this_graph(share: str, layers: int, index: int) -> None:
    model = toy_vit()
    known = [Seam(f"encoder_layer:{i}", "h2", 16, 8, prefix=1).to_json() for i in range(layers)]
    model.metadata_props[METADATA_KEY] = json.dumps(known)
    (found,) = places(model, [step(First(), seam=f"encoder_layer:{share}")])
    assert found.name == f"encoder_layer:{index}"


@pytest.mark.parametrize("share", ["0/4", "5/4", "1/0"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    model = toy_vit()
    model.metadata_props[METADATA_KEY] = json.dumps([Seam("encoder_layer:0", "h2", 16, 8, prefix=1).to_json()])
    with pytest.raises(RequestError, match="no share of the encoder's layers"):
        places(model, [step(First(), seam=f"encoder_layer:{share}")])


def test_a_share_of_layers_that_are_not_known_is_refused() -> None:
    with pytest.raises(RequestError, match="none were found"):
        places(toy_vit(), [step(First(), seam="encoder_layer:1/4")])


def test_counts_that_are_shares_follow_the_tokens_kept() -> None:
    half = step(make("visionzip"), shares={"contextual": Fraction(7, 306)})
    assert [half.made(keep).contextual for keep in (306, 75, 3)] == [7, 2, 0]
