"""What is known of a node is kept by the node: names may be missing, or several nodes may carry one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.precision.half import to_half
from tokexport.graph_passes.precision.ranges import find_islands
from toy_graph import Toy


def two_large() -> ir.Model:
    """Two products far above 65504 one after the other, with a small one in between."""
    t = Toy(1, 4)
    x = t.x
    for i, size in enumerate((1e6, 1e-6, 1e6, 1e-6)):
        x = t.op("Mul", x, t.const(f"c{i}", np.full(4, size)), name=f"v{i}")
        x = t.op("Add", x, t.const(f"o{i}", np.zeros(4)), name=f"s{i}")
    return t.model(x)


@pytest.mark.parametrize("name", ["", "same"])
def test_islands_are_the_same_without_names(name: str) -> None:
    feeds = {"x": np.ones((1, 4), np.float32)}
    model = two_large()
    expected = [node.outputs[0].name for node in model.graph if node.name in find_islands(model, feeds)]
    assert len(expected) >= 6
    model = two_large()
    for node in model.graph:
        node.name = name
    islands = find_islands(model, feeds)
    assert list(islands) == [f"output:{value}" for value in expected]
    report = to_half(model, "float16", islands)
    assert set(islands) <= set(report.islands)
    types = {value.name: value.dtype for node in model.graph for value in node.outputs}
    assert all(
        types[value] == ir.DataType.FLOAT or types[f"{value}.float32"] == ir.DataType.FLOAT for value in ("v0", "v2")
    )


def test_a_name_that_several_nodes_carry_means_all_of_them_and_an_unknown_one_is_refused() -> None:
    model = two_large()
    for node in model.graph:
        node.name = "same" if node.op_type == "Add" else ""
    assert len([one for one in to_half(model, "float16", ["same"]).islands if one.startswith("output:s")]) == 4
    with pytest.raises(RequestError, match="no node 'nowhere'"):
        to_half(two_large(), "float16", ["nowhere"])
