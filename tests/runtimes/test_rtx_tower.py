"""CLIP-L/336 with LLaVA's projector at its real size: TensorRT builds it, compressed, in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.model_io import save_model
from tokexport.graph_passes.precision import half as precision
from tokexport.runtimes.tensorrt import rtx

pytest.importorskip("tensorrt_rtx")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LAYERS = 24


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pixel_values [1, 3, 336, 336] -> tokens [1, 576, 4096], float16, all layers with the weights of the first.

    One layer's weights are a twenty-fourth to make, to export and to read; the graph is the whole one.
    """
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.sources.torch_export import export_graph

    folder = tmp_path_factory.mktemp("clip")
    checkpoint = tiny_checkpoints.llava(
        folder / "checkpoint", hidden=1024, layers=2, heads=16, size=336, text=4096, dtype="float16"
    )
    encoder = open_source(str(checkpoint)).encoder
    parts = encoder.module.modules()
    (tower,) = [part for part in parts if isinstance(getattr(part, "layers", None), torch.nn.ModuleList)]
    tower.layers = torch.nn.ModuleList([tower.layers[0]] * LAYERS)
    model = export_graph(encoder)
    precision.to_half(model)
    assert sum(node.op_type == "Softmax" for node in model.graph) == LAYERS
    save_model(model, folder / "tower.onnx", "tower.data")
    return folder / "tower.onnx"


@pytest.mark.parametrize(
    "form", [*(pytest.param(form, marks=pytest.mark.slow) for form in ("portable", "inlined")), "plugin"]
)
def test_the_compressed_tower_builds(tower: Path, form: Any, tmp_path: Path) -> None:
    model = compress(tower, "apet", ratio="0.85", form=form)
    assert list(model.graph.outputs[0].shape or ()) == [1, 86, 4096]
    save_model(model, tmp_path / "m.onnx", "m.data")
    built = rtx.build(tmp_path / "m.onnx", plugins="python")
    assert built.ok, "\n".join(map(str, built.errors))
    # The weights of one layer and the projector, in half precision, are in it.
    assert built.bytes > 60e6
