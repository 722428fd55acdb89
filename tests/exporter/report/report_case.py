"""A page made by hand: 16 tokens of a 32 x 32 image in 4 slots, with whatever a test wants to be otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tokexport.exporter.pipeline import Exported
from tokexport.exporter.report.figures import figure
from tokexport.exporter.report.look import Look
from tokexport.exporter.report.page import html
from tokexport.exporter.report.picks import Picks
from tokexport.exporter.report.pixels import pixels_of
from tokexport.exporter.report.view import View, view
from tokexport.graph_passes.compressors import make, parameters
from tokexport.graph_passes.insertion.sequence import Step
from tokexport.runtimes.bundle.manifest import (
    CompressionRecord,
    GraphRecord,
    Manifest,
    PreprocessRecord,
    SeamRecord,
    SourceRecord,
    TensorRecord,
    Variant,
)

HALF = (0.5, 0.5, 0.5)
PREPROCESS = PreprocessRecord(size=(32, 32), resample="bicubic", mean=HALF, std=HALF)

# Slot 0 keeps token 0 and took 1 and 4, slot 1 keeps 5 alone, slot 2 keeps 10 and took 11, slot 3 lies where token 15
# lay but holds something else. The others are lost.
PICKS = Picks(
    kept=np.array([0, 5, 10, 15]),
    sizes=np.array([3, 1, 2, 1], np.float32),
    assignment=np.array([0, 0, -1, -1, 0, 1, -1, -1, -1, -1, 2, 2, -1, -1, -1, -1]),
)


def check(part: str = "head", ok: bool = True, **how: Any) -> dict[str, Any]:
    return {
        "part": part,
        "tensor": f"{part}.out",
        "ok": ok,
        "cosine": 1.0 if ok else 0.5,
        "norm_ratio": 1.0,
        "max_abs": 1e-6,
        "flipped": 0,
        "detail": "" if ok else "needs cosine >= 0.9999",
        **how,
    }


def image(seed: int = 0) -> np.ndarray:
    """A normalised input [1, 3, 32, 32]."""
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)


def gathered(
    *,
    name: str = "model",
    method: str = "apet",
    kind: str = "builtin",
    precision: str = "fp32",
    looks: list[Look] | None = None,
    grid: tuple[int, ...] | None = (4, 4),
    preprocess: Any = PREPROCESS,
    failure: str = "",
    no_figures: str = "",
    keep: int | None = None,
    seam: str = "auto",
    size_bias: str = "auto",
    params: dict[str, Any] | None = None,
    **result: Any,
) -> View:
    compressor = make(method, params)
    record = CompressionRecord(
        method=method,
        params=parameters(compressor),
        ratio="0.75",
        tokens_in=16,
        tokens_out=4,
        size_bias=False,
        seam=SeamRecord(kind="encoder_output", graph="encoder", tensor=name, grid=list(grid) if grid else None),
    )
    tensor = {"t": TensorRecord(name="t", dtype="float32", shape=[1, 4, 8])}
    graph = GraphRecord(forms={"portable": "encoder.onnx"}, precision=precision, inputs=tensor, outputs=tensor)
    variant = Variant(name="v", compression=[record], graphs={"encoder": graph})
    manifest = Manifest(
        tokexport="0",
        source=SourceRecord(kind=kind, name=name),
        files={},
        variants=[variant],
        preprocess=preprocess,
    )
    path = Path(f"{name}.onnx") if kind == "onnx" else None
    source = SimpleNamespace(
        name=name, kind=kind, model_path=path, image_size=None, clip=None, inner=(), by_position=False
    )
    steps = (Step(compressor, "0.75" if keep is None else None, keep, seam),)
    plan = SimpleNamespace(
        source=source,
        steps=steps,
        asked=steps,
        parts="all",
        size_bias=size_bias,
        recipe="",
    )
    found = Exported(Path(f"made/{name}"), name, precision, [record.model_dump()], **result)
    looks = [Look(image(), PICKS)] if looks is None else looks
    figures = [figure(i, look, pixels_of(look.input, preprocess, grid), grid) for i, look in enumerate(looks)]
    return view(plan, manifest, found, figures, failure=failure, no_figures=no_figures)  # type: ignore[arg-type]


def page(**how: Any) -> str:
    return html(gathered(**how))
