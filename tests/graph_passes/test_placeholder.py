"""Slots with more channels than tokens: what takes them, what cannot, and that nothing is edited where it cannot."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.seams.find import resolve, write_seams
from tokexport.graph_passes.seams.seam import METADATA_KEY, Seam
from toy_vit import encoder_output, projector_input, run, text, toy_vit

SEAM = Seam("projector_input", "tokens", 16, 2, grid=(4, 4), placeholder="wide")


def toy(body: str, outputs: str) -> ir.Model:
    """pixels [1, 16, 6] -> tokens [1, 16, 2], then `body`, which may read w8 [8, 3] and w2 [2, 3]."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> toy (float[1,16,6] pixels) => ({outputs}) '
        f"{{ tokens = MatMul(pixels, w6) {body} }}"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w6": (6, 2), "w8": (8, 3), "w2": (2, 3)}.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def with_placeholder() -> ir.Model:
    return toy("wide = Concat<axis=2>(tokens, tokens, tokens, tokens) out = MatMul(wide, w8)", "float[1,16,3] out")


def blocks(tokens: np.ndarray) -> np.ndarray:
    """[1, 16, 2] on 4 x 4 -> [1, 4, 8]."""
    grid = tokens.reshape(4, 4, 2)
    return np.stack([grid[y : y + 2, x : x + 2].ravel() for y in (0, 2) for x in (0, 2)])[None]


def test_the_compressor_replaces_the_placeholder() -> None:
    model = with_placeholder()
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    pixels = np.random.default_rng(1).standard_normal((1, 16, 6)).astype(np.float32)
    done = insert(model, SEAM, make("pixel_unshuffle"), 4)
    assert [node.op_type for node in model.graph if not node.domain] == ["MatMul", "MatMul"]
    assert list(model.graph.outputs[0].shape) == [1, 4, 3]
    results = run(model, {"pixels": pixels})
    np.testing.assert_allclose(results["out"], blocks(pixels @ weights["w6"]) @ weights["w8"], rtol=1e-5, atol=1e-5)
    assert results["kept_indices"].tolist() == [[0, 2, 8, 10]]
    assert (done.tokens_in, done.keep) == ("tokens", 4)


def test_a_graph_that_ends_at_the_tokens_takes_any_width() -> None:
    model = toy("", "float[1,16,2] tokens")
    insert(model, Seam("encoder_output", "tokens", 16, 2, grid=(4, 4)), make("pixel_unshuffle"), 4)
    assert model.graph.outputs[0].name == "tokens" and list(model.graph.outputs[0].shape) == [1, 4, 8]
    assert run(model)["tokens"].shape == (1, 4, 8)


@pytest.mark.parametrize(
    ("model", "seam", "method", "params", "message"),
    [
        (
            toy_vit,
            projector_input(),
            "pixel_unshuffle",
            {},
            r"outputs 32 channels, but MatMul .* takes 8.*tiny-vlm has",
        ),
        (toy_vit, encoder_output(), "pixel_unshuffle", {}, r"outputs 32 channels.*takes 8"),
        (with_placeholder, SEAM, "pixel_unshuffle", {"r": 4}, r"outputs 32 channels, but the weights .* take 8"),
        (
            with_placeholder,
            SEAM,
            "uniform",
            {},
            r"uniform outputs 2 channels, but the weights .* take 8.*another compressor",
        ),
    ],
)
def test_another_width_is_refused_before_anything_is_edited(model, seam, method, params, message) -> None:
    graph = model()
    graph.ir_version = 10
    before = text(graph)
    with pytest.raises(RequestError, match=message):
        insert(graph, seam, make(method, params), 1 if params else 4)
    assert text(graph) == before


def test_compress_refuses_a_model_without_a_projector_for_it() -> None:
    with pytest.raises(RequestError, match="outputs 8 channels, but MatMul"):
        compress(
            toy("out = MatMul(tokens, w2)", "float[1,16,3] out"),
            "pixel_unshuffle",
            keep=4,
            seam="tensor:tokens",
            params={"grid": "4x4"},
        )


def scoped(body: str, outputs: str = "float[1,16,3] out") -> ir.Model:
    """A graph whose nodes carry the scopes of layers.0, placeholder and projector, by the name of their output."""
    model = toy(body, outputs)
    scopes = {"wide": "placeholder", "other": "", "out": "projector"}
    for node in model.graph:
        path = scopes.get(node.outputs[0].name or "", "")
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", *([path] if path else []), "op"])
    return model


def test_a_placeholder_that_does_not_follow_a_seam_is_an_error() -> None:
    with pytest.raises(GraphError, match="'placeholder' must be the only reader of a seam's tensor"):
        write_seams(
            scoped("wide = Concat<axis=2>(tokens, tokens, tokens, tokens) out = MatMul(wide, w8)"),
            placeholder="placeholder",
        )


def test_the_seam_of_an_export_names_its_placeholder(tiny_vlm_wide) -> None:
    seam = resolve(tiny_vlm_wide, "projector_input")
    assert (seam.dim, seam.tokens, seam.grid, seam.prefix) == (96, 144, (12, 12), 0)
    assert (seam.module, seam.side) == ("placeholder", "input")
    (wide,) = [v for node in tiny_vlm_wide.graph for v in node.outputs if v.name == seam.placeholder]
    assert list(wide.shape) == [1, 144, 384]
    model = tiny_vlm_wide.clone()
    insert(model, seam, make("pixel_unshuffle"), 36)
    assert list(model.graph.outputs[0].shape) == [1, 36, 96]
    assert seam.placeholder not in [value.name for node in model.graph for value in node.outputs]
    assert "projector_input" not in model.metadata_props[METADATA_KEY]


@pytest.fixture(scope="module")
def tiny_vlm_wide() -> ir.Model:
    """The encoder of tiny-vlm with its second projector, uncompressed."""
    pytest.importorskip("torch")
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.sources.torch_export import export_graph

    return export_graph(open_source("tiny-vlm").prepared(make("pixel_unshuffle")).encoder)
