"""Put a compressor at a seam, in portable form: one node with a local function of standard operators as its body.

Plan (check the request, prove the graph downstream) -> emit (signals, function, node) -> rewire (readers, outputs,
counts downstream) -> size bias, all on a clone that takes the place of the graph at the end. Several in one graph are
put there by `sequence`, on one clone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ..compressors.base import Compressor
from ..ir_tools.transaction import all_or_nothing
from ..seams.find import refresh_seams
from ..seams.seam import Seam
from .emit import emit
from .inserted import Inserted
from .plan import EXTRA_OUTPUTS, Insertion, plan_insertion
from .rewire import rewire
from .size_bias import add_size_bias
from .weighted_pool import weigh_pools


def insert(
    model: ir.Model,
    seam: Seam,
    compressor: Compressor,
    keep: int,
    *,
    outputs: Sequence[str] | Mapping[str, str] = EXTRA_OUTPUTS,
    size_bias: bool = True,
) -> Inserted:
    """Edit `model` in place; if this raises, nothing was edited.

    Everything that read the seam's tensor, or its placeholder, reads the compressed tokens. Where that tensor is a
    graph output, the output keeps its name and becomes the compressed one. `model.graph` is another object afterwards
    (see `transaction.all_or_nothing`).

    Args:
        model: opset 18 or more.
        seam: a valid one of this graph.
        compressor: with its parameters.
        keep: K, prefix tokens not counted.
        outputs: which of kept_indices [B, K] int64, sizes [B, K] float32, assignment [B, N] int64 become graph
            outputs; a mapping gives them other names.
        size_bias: where the method merges tokens, weight means over them by their sizes and, at a seam
            ``encoder_layer:<i>``, add log(sizes) to the attention of the layers downstream.

    Raises:
        RequestError: an invalid seam, a count or signal the method does not take there, an output name that is taken,
            slots with another number of channels than what reads them takes, a tensor ``text`` that is none.
        GraphError: a dynamic token axis, or a graph that cannot live with fewer tokens.
    """
    with all_or_nothing(model) as clone:
        return carry_out(clone, plan_insertion(clone, seam, compressor, keep, outputs=outputs, size_bias=size_bias))


def carry_out(model: ir.Model, plan: Insertion) -> Inserted:
    """Emit, rewire and weigh what was planned for `model`, which may be half edited where this raises.

    Raises:
        RequestError, GraphError: as `insert`.
    """
    emitted = emit(model, plan)
    rewritten, before = rewire(model, plan, emitted)
    biased: list[str] = []
    weighed: list[str] = []
    if plan.weigh:
        weighed = weigh_pools(model, plan.resize.pools, emitted.composed["sizes"], plan.until)
    if plan.bias or plan.pooled:
        sizes, prefix = emitted.composed["sizes"], plan.seam.prefix
        biased = add_size_bias(model, emitted.slots, sizes, prefix, plan.until, layers=plan.bias)
    refresh_seams(model)
    return Inserted(
        seam=plan.seam,
        compressor=plan.compressor,
        keep=plan.case.keep,
        node_name=emitted.node.name or "",
        function_name=emitted.node.op_type,
        rewritten=[*rewritten, *weighed],
        outputs=dict(plan.outputs),
        tokens_in=plan.tokens.name or "",
        tokens_out=emitted.slots.name or "",
        node_outputs={name: output.name or "" for name, output in emitted.outputs.items()},
        composed_outputs={name: output.name or "" for name, output in emitted.composed.items()},
        reads=dict(emitted.reads),
        biased=biased,
        weighed=weighed,
        placed=any(edit.rows is not None for edit in plan.resize.edits),
        token_axes=tuple(plan.resize.axes.get(plan.until, ())) if plan.until is not None else (),
        before=before,
    )
