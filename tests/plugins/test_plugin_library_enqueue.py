"""The shells' enqueue, with the kernels' own source on the CPU, against the PyTorch references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_abi import as_numpy
from kernel_checks import DTYPES, GRIDS, METHODS, draw, signals_of
from plugin_host import Host
from test_plugin_library import APET, SCOPE, TOPK, op_type
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, Compressed, make
from tokexport.graph_passes.compressors.base import plugin_attributes

CASES = [*((method, params, 24, 9) for method, params in METHODS), *GRIDS]
IDS = ["-".join([method, *map(str, params.values()), str(k)]) for method, params, _, k in CASES]


@pytest.mark.parametrize(("method", "params", "n", "k"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_enqueue_agrees_with_the_reference(host: Host, method, params, n, k, dtype):
    tokens = draw("normal", (2, n, 8)).to(DTYPES[dtype])
    compressor, case = make(method, params), Case(n, 8, k, dtype)
    attributes = {name: value for name, value in plugin_attributes(compressor, case).items() if value is not None}
    plugin = host.create(op_type(method), {"keep": k, **attributes})
    plugin = host.restore(plugin, op_type(method)).attached()
    signals = signals_of(compressor, tokens)
    got = plugin.enqueue(tokens, *signals.values())
    assert host.log() == ""
    result = Compressed(*(as_numpy(value) for value in vars(got).values()))
    given = {name: value.float().numpy() for name, value in signals.items()}
    assert compare(compressor, case, tokens.float().numpy(), result, given).ok
    for name, expected in vars(compressor.reference(case, tokens, **signals)).items():
        if name in ("kept_indices", "assignment"):
            np.testing.assert_array_equal(getattr(result, name), expected.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "attributes"), [("TokexportTopk", TOPK), ("TokexportScope", SCOPE)])
def test_scores_have_a_type_of_their_own(host: Host, name, attributes, dtype):
    plugin = host.create(name, {**attributes, "keep": 6})
    scores = torch.arange(24).flip(0).repeat(2, 1).to(DTYPES[dtype])
    for tokens in DTYPES.values():
        # No token is like another, so that it is the attention that decides.
        got = plugin.enqueue(torch.eye(24).repeat(2, 1, 1).to(tokens), scores)
        assert got.kept_indices.tolist() == [list(range(6))] * 2


def test_a_workspace_that_is_not_there(host: Host):
    plugin = host.create("TokexportApet", APET)
    assert plugin.enqueue(draw("normal", (2, 24, 8)), scratch=0) is None
    assert host.log() == ("TokexportApet 'enc/compress': tokens [2, 24, 8] with keep 6: a required pointer is null\n")


def test_a_shape_that_came_later_is_checked_again(host: Host):
    plugin = host.create("TokexportTopk", TOPK)
    outputs = plugin.shapes((2, 24, 8), (2, 24))
    assert plugin.enqueue(draw("normal", (2, 24, 8)), torch.zeros(2, 23), scratch=1 << 16, outputs=outputs) is None
    assert "cls_attention does not have a value for each of the tokens [2, 24, 8]" in host.log()
