"""Graphs in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.insertion.fill import fill

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ...graph_passes.compressors import Case, Compressor

HALF = {"fp16": "float16", "bf16": "bfloat16"}
# What transformers and `decoders.states.prepare` call such a module.
LINEAR = "linear_attn"
SUMMED = "the state of a linear attention sums over a whole sequence"


def typed(
    model: ir.Model,
    precision: str,
    samples: list[dict[str, np.ndarray]] | None = None,
    inner: Sequence[tuple[Compressor, Case]] = (),
) -> tuple[ir.Model, list[str]]:
    """`model` in `precision`; real inputs `samples` show which of its sums overflow in float16.

    Its places for compressors stay open; a copy in which they are filled by `inner` runs the samples.
    """
    if precision not in HALF:
        return model, []
    from ...graph_passes.precision.half import to_half
    from ...graph_passes.precision.ranges import find_islands

    runnable = model
    if samples and inner:
        runnable = model.clone()
        fill(runnable, inner)
    islands = {**_summed(model), **(find_islands(runnable, samples) if samples else {})}
    report = to_half(model, HALF[precision], islands, typed_io=_typed_io(model))  # type: ignore[arg-type]
    notes = [f"fp32 island {name}: {why}" for name, why in islands.items() if why != SUMMED]
    kept = len(report.islands) - len(islands)
    return model, [*notes, f"{report.nodes} nodes compute in {precision}, {kept} by their kind in fp32"]


def _summed(model: ir.Model) -> dict[str, str]:
    """The nodes of linear attention, but for its projections: its state sums over a whole sequence."""
    from ...graph_passes.ir_tools.walk import Walk, node_keys
    from ...graph_passes.seams.scopes import Scopes

    if not any("state_linear_" in (value.name or "") for value in model.graph.outputs):
        return {}
    walk = Walk(model)
    keys, scopes = node_keys(walk.graph), Scopes(walk).paths
    return {keys[node]: SUMMED for node in walk.nodes if scopes.get(node, "").rpartition(".")[2] == LINEAR}


def _typed_io(model: ir.Model) -> list[str]:
    """What half-precision graphs pass to each other: a text, tokens, embeddings and KV caches; states stay float32."""
    caches = ("past_", "present_", "new_key_", "new_value_", "cross_")
    ends = [value.name or "" for value in (*model.graph.inputs, *model.graph.outputs)]
    return [name for name in ends if name in (TEXT, "tokens", "inputs_embeds") or name.startswith(caches)]
