import numpy as np
import pytest
import torch
from body_runner import BodySession, body_model
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.blocks import select

ONE_OF_EACH = [
    ("apet", {"basis": 3}),
    ("kcenter_merge", {}),
    ("topk", {}),
    ("random", {}),
    ("uniform", {}),
]


def op_types(model):
    (function,) = model.functions.values()
    return {node.op_type for node in function}


@pytest.mark.parametrize(("method", "params"), ONE_OF_EACH)
def test_bodies_use_only_what_every_parser_accepts(method, params):
    model = body_model(make(method, params), Case(9, 4, 5))
    forbidden = {
        "NonZero",
        "Unique",
        "ScatterElements",
        "ScatterND",
        "If",
        "Loop",
        "Scan",
        "Compress",
        "Einsum",
        "CumSum",
    }
    assert not op_types(model) & forbidden
    (function,) = model.functions.values()
    assert {node.domain for node in function} == {""}
    assert all(value.name != "_" for node in function for value in node.outputs)


@pytest.mark.parametrize(("method", "params"), ONE_OF_EACH)
def test_exact_ties_use_no_operator_without_tie_order(method, params):
    assert not op_types(body_model(make(method, params), Case(9, 4, 5), exact_ties=True)) & {"TopK", "ArgMax", "ArgMin"}


def test_top_k_above_the_limit_of_the_parser_ranks_by_counting(monkeypatch):
    compressor, case = make("topk"), Case(9, 1, 5)
    assert "TopK" in op_types(body_model(compressor, case))
    monkeypatch.setattr(select, "TOPK_LIMIT", 4)
    assert "TopK" not in op_types(body_model(compressor, case))
    tokens = np.arange(9, dtype=np.float32).reshape(1, 9, 1)
    scores = np.array([[1, 3, 2, 3, 1, 2, 2, 0, 2]], np.float32)
    assert BodySession(compressor, case)(tokens, cls_attention=scores).kept_indices.tolist() == [[1, 2, 3, 5, 6]]


def test_check_keep_names_the_legal_range():
    with pytest.raises(RequestError, match=r"keep 12 is outside 3\.\.9: because.*Use --keep 3 to 9"):
        select.check_keep(Case(9, 4, 12), 3, "because")


def test_top_k_of_the_reference_is_stable():
    scores = torch.tensor([0.5, 0.25]).repeat(1, 2000)
    assert select.top_k(scores, 2100)[0].tolist() == [*range(0, 4000, 2), *range(1, 200, 2)]
