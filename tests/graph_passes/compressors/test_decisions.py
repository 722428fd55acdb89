import numpy as np
import pytest
import torch
from body_runner import body_session
from properties import draw, draw_signals
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, Compressed, make
from tokexport.graph_passes.compressors.blocks.replay import explain

INF = float("inf")
METHODS = [
    ("divprune", {}),
    ("scope", {}),
    ("dpc_knn", {}),
    ("dart", {"norm_of": "tokens"}),
    ("dart", {}),
    ("tome", {"metric": "tokens"}),
    ("folder", {}),
    ("folder", {"metric": "keys", "attention": "cls"}),
]


@pytest.mark.parametrize(("method", "params"), METHODS)
@pytest.mark.parametrize("keep", [9, 17])
def test_decisions_made_for_other_tokens_are_refused(method, params, keep):
    compressor, case, rng = make(method, params), Case(25, 16, keep), np.random.default_rng(0)
    made_for, tokens = (draw("normal", rng, 2, 25, 16) for _ in range(2))
    other, signals = (draw_signals(compressor, case, rng, 2) for _ in range(2))
    got = body_session(compressor, case)(made_for, **other)
    # What these decisions give of the tokens, so that nothing but the decisions is wrong.
    as_torch = Compressed(*(torch.from_numpy(np.array(part)) for part in vars(got).values()))
    given = {name: torch.from_numpy(signal) for name, signal in signals.items()}
    forged = compressor.replay(case, torch.from_numpy(tokens), as_torch, **given).expected
    got = Compressed(forged.tokens.numpy(), got.kept_indices, got.sizes, got.assignment)
    agreement = compare(compressor, case, tokens, got, signals)
    assert not agreement.ok
    assert agreement.regret > 1e-3 and agreement.cosine > 0.9999, agreement


def tree(lacks):
    """What `explain` asks of nodes that are named by their way: "ab" comes of "a"."""

    def ways(node):
        if len(node) == 2:
            return None
        return [(lack, way) for way, lack in lacks.items() if way[:-1] == node]

    return ways


def test_the_best_way_explains():
    assert explain("", tree({"a": 0, "b": 0, "aa": 1e-7, "ba": 0})) == (1e-7, "aa")


def test_another_way_that_is_as_good_explains():
    assert explain("", tree({"a": 0, "b": 1e-6, "aa": 0.3, "ab": 0.4, "ba": 2e-6})) == (2e-6, "ba")
    assert explain("", tree({"a": 0, "b": 1e-6, "ba": 2e-6})) == (2e-6, "ba")


def test_no_worse_way_is_tried_once_the_best_has_ended():
    assert explain("", tree({"a": 0, "b": 1e-3, "aa": 0.3, "ba": 0})) == (0.3, "aa")


def test_nothing_leads_there():
    assert explain("", tree({"a": 0, "b": 0})) == (INF, None)
