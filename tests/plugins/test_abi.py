"""What a plugin node's attributes become, and the library as Python sees it."""

from __future__ import annotations

import pytest
from kernel_build import KERNELS as SOURCES
from kernel_checks import SIX_OF_24
from tokexport.errors import GraphError, MissingError
from tokexport.graph_passes.compressors import Case, make, methods
from tokexport.graph_passes.compressors.base import plugin_attributes
from tokexport.plugins.abi import Library, Signal, params_of, symbol
from tokexport.plugins.schema import PLUGINS
from tokexport.plugins.structs import Shape

CASE = Case(24, 8, 6)
SHAPE = Shape(1, 24, 8, 6, 1)


def fields(structure) -> dict[str, object]:
    return {name: getattr(structure, name) for name, *_ in structure._fields_}


def test_a_card_says_whether_there_is_a_plugin() -> None:
    assert {card.name for card in methods() if card.plugin} == {*PLUGINS}
    assert not any(card.plugin and card.fixed for card in methods())


@pytest.mark.parametrize("method", PLUGINS)
def test_every_method_reads_the_attributes_that_its_node_has(method: str) -> None:
    written = plugin_attributes(make(method, SIX_OF_24.get(method)), CASE)
    kinds = {name: int if isinstance(value, bool) else type(value) for name, value in written.items()}
    assert PLUGINS[method].types == kinds
    assert f" {symbol(method)}(" in (SOURCES / "tokexport_kernels.h").read_text()
    params = params_of(method, written, SHAPE)
    assert (params is None) == (method == "divprune")


def test_scores_are_of_their_own_dtype() -> None:
    given = {"score": "cls_attention"}
    assert fields(params_of("topk", given, SHAPE)) == {"score": 0, "scores_dtype": 1}
    assert fields(params_of("topk", given, SHAPE, [Signal(2, (1, 24))]))["scores_dtype"] == 2


def test_a_text_of_another_shape_than_the_node_says() -> None:
    given = {"text_length": 5, "inverted": 1}
    read = params_of("cdpruner", given, SHAPE, [Signal(2, (1, 5, 8))])
    assert fields(read) == {"text_length": 5, "inverted": 1, "text_dtype": 2}
    for shape in ((1, 4, 8), (1, 5, 9)):
        with pytest.raises(GraphError, match=r"text is .*, not \[B, 5, 8\]"):
            params_of("cdpruner", given, SHAPE, [Signal(2, shape)])


@pytest.mark.parametrize(
    ("method", "attributes", "message"),
    [
        ("kcenter_merge", {}, "kcenter_merge: it has no attribute 'start'"),
        ("kcenter_merge", {"start": "max_nrm"}, "attribute start is 'max_nrm'. Did you mean max_norm"),
        ("cls_topk", {"attention": "clss"}, "attention is 'clss'. Did you mean cls"),
        ("evs", {"grid": "6x4"}, r"grid is '6x4', not \[frames, height, width\]"),
        ("evs", {"grid": [6, 4]}, r"grid is \[6, 4\], not"),
    ],
)
def test_attributes_that_are_wrong_are_named(method: str, attributes: dict, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        params_of(method, attributes, SHAPE)


def test_a_library_says_what_is_in_it(library: Library) -> None:
    assert library.kernels() == list(PLUGINS)


def test_what_is_no_library_of_kernels_is_refused(tmp_path) -> None:
    (tmp_path / "none.so").write_bytes(b"")
    for path in (tmp_path / "none.so", tmp_path / "missing.so", "libm.so.6"):
        with pytest.raises(MissingError, match=r"cannot be used: .*tokexport plugins build"):
            Library(path)
