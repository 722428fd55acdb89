"""What `insert` is going to do to a graph, decided and proved before the first edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError, nearest
from ..blame import blamed
from ..compressors.base import OUTPUTS, Case, Compressor, Learned, Widens, weights
from ..compressors.blocks.texts import text_length
from ..ir_tools.builder import DTYPES
from ..ir_tools.extract import values_by_name
from ..ir_tools.input_shapes import fix_of
from ..ir_tools.model_io import ensure_opset
from ..resize.plan import Plan as Resize
from ..resize.plan import plan_downstream
from ..seams.seam import INSIDE, Seam
from .inserted import Inserted
from .placeholder import replaced_value
from .signals import check_signal
from .size_bias import pools_by_attention

EXTRA_OUTPUTS = OUTPUTS[1:]


@dataclass(frozen=True)
class Insertion:
    """One compressor, its place in a graph, and what changes around it.

    Attributes:
        seam: where.
        compressor: with its parameters.
        case: the shapes that it is built for.
        learned: its weights by name.
        outputs: kept_indices, sizes, assignment -> name of the graph output that is added for it.
        tokens: the seam's tensor [B, prefix + N, D] or [prefix + N, D].
        replaced: the value in whose place the compressed tokens come: `tokens`, or what the placeholder makes of it.
        uses: (node, index of its input) that read `replaced`, before anything is added.
        readers: nodes that read `tokens`, likewise.
        resize: the constants and shapes downstream that hold the old token count.
        weigh: whether means over the tokens are weighted by the sizes.
        bias: whether attention downstream gets log(sizes).
        pooled: whether a pooling head downstream does, at any seam.
        until: the value at which the next compressor will sit, or None.
        after: the previous step, or None.
    """

    seam: Seam
    compressor: Compressor
    case: Case
    learned: Mapping[str, np.ndarray]
    outputs: Mapping[str, str]
    tokens: ir.Value
    replaced: ir.Value
    uses: Sequence[tuple[ir.Node, int]]
    readers: frozenset[ir.Node]
    resize: Resize
    weigh: bool
    bias: bool
    pooled: bool
    until: ir.Value | None = None
    after: Inserted | None = None

    @property
    def tensor(self) -> str:
        """The name of the seam's tensor."""
        return self.tokens.name or self.seam.tensor


def plan_insertion(
    model: ir.Model,
    seam: Seam,
    compressor: Compressor,
    keep: int,
    *,
    outputs: Sequence[str] | Mapping[str, str],
    size_bias: bool,
    after: Inserted | None = None,
    until: str = "",
) -> Insertion:
    """Check the request and prove that the graph downstream can live with `keep` tokens.

    `model` is only read, except for its IR version and for shapes that the file leaves out.

    Args:
        model: opset 18 or more.
        seam: a valid one of this graph.
        compressor: with its parameters.
        keep: K, prefix tokens not counted.
        outputs: as `insert`; about the tokens of the first step.
        size_bias: likewise, and also where a step before this one merges.
        after: the previous step, or None; with one, `seam` is the result of `sequence.follow`.
        until: name of the value at which the next step will sit: attention downstream of it is left to that step.

    Raises:
        RequestError, GraphError: as `insert`.
    """
    ensure_opset(model)
    names = output_names(model, outputs)
    tokens = _seam_value(model, seam)
    for name in compressor.signals():
        check_signal(model, seam, name, text_length(compressor))
    if not compressor.method.positions and seam.name.startswith((*INSIDE, "decoder_layer:")):
        raise RequestError(
            f"slots of {compressor.method.name} have no positions, but the layers after seam {seam.name} need them",
            fix="Put it at encoder_output, projector_input or projector_output.",
        )
    case = Case(seam.tokens, seam.dim, keep, seam.dtype, seam.grid)
    with blamed(compressor, "check"):
        compressor.check(case)
    learned = weights(compressor, case)
    replaced, prefix = replaced_value(model, seam, compressor, case), seam.prefix
    end = values_by_name(model.graph)[until] if until else None
    counts = prefix + case.tokens, prefix + case.keep
    no_rows = _no_rows(compressor, seam)
    resize = plan_downstream(model, replaced, seam.axis, *counts, prefix=prefix, no_rows=no_rows)
    weigh = size_bias and (compressor.method.merges or (after is not None and after.merges))
    return Insertion(
        seam=seam,
        compressor=compressor,
        case=case,
        learned=learned,
        outputs=names,
        tokens=tokens,
        replaced=replaced,
        uses=tuple(replaced.uses()),
        readers=frozenset(tokens.consumers()),
        resize=resize,
        weigh=weigh,
        # A seam after the last layer has no attention downstream for sizes to act on.
        bias=weigh and seam.name.startswith(INSIDE) and resize.attends(model, end),
        pooled=weigh and pools_by_attention(model, replaced, end),
        until=end,
        after=after,
    )


def _no_rows(compressor: Compressor, seam: Seam) -> str:
    """Why tables of positions cannot be read at the kept tokens; empty where they can."""
    combines = compressor.method.merges and not seam.merged_rows
    if combines or isinstance(compressor, (Learned, Widens)) or not compressor.method.positions:
        return "a merged slot has no single position: take a method that selects tokens, or a seam downstream of it"
    return "" if seam.batch == 1 else "each row of the batch keeps other tokens: export the model with one row"


def output_names(model: ir.Model, outputs: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """What becomes an output -> its name, checked; see `insert`."""
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise RequestError(f"outputs {outputs!r} is not a list of names", fix="Write for example outputs=['sizes'].")
    names = dict(outputs) if isinstance(outputs, Mapping) else {name: name for name in outputs}
    for name in names:
        if name not in EXTRA_OUTPUTS:
            raise RequestError(
                f"a compressor has no output {name!r} to add", fix=nearest(name, EXTRA_OUTPUTS, kind="outputs")
            )
    if not all(isinstance(name, str) and name for name in names.values()):
        raise RequestError(f"an output without a name in {names}", fix="Name it, or leave it out.")
    if len(set(names.values())) < len(names):
        raise RequestError(f"two outputs have the same name in {names}", fix="Give each its own.")
    taken = {*values_by_name(model.graph)}
    for name, wanted in names.items():
        if wanted in taken:
            raise RequestError(
                f"the graph has a tensor {wanted!r} already",
                where=f"graph {model.graph.name}",
                fix=f"Name the new output otherwise, outputs={{{name!r}: {wanted + '_2'!r}}}, or leave it out.",
            )
    return names


def _seam_value(model: ir.Model, seam: Seam) -> ir.Value:
    where = f"graph {model.graph.name}, tensor {seam.tensor}"
    if not seam.valid:
        raise RequestError(f"selecting at seam {seam.name!r} is not valid: {seam.why}", where=where)
    value = values_by_name(model.graph).get(seam.tensor)
    if value is None:
        raise GraphError(
            f"seam {seam.name!r}: its tensor is not in the graph", where=where, fix="Find the seams again."
        )
    shape = None if value.shape is None else list(value.shape)
    if shape is None or len(shape) != seam.rank:
        raise GraphError(f"tokens must be [B, N, D] or [N, D], but the shape is {shape}", where=where)
    if not isinstance(shape[-2], int) or not isinstance(shape[-1], int):
        raise GraphError(
            f"tokens and channels must be fixed numbers, but the shape is [{', '.join(map(str, shape))}]",
            where=where,
            fix=fix_of(model),
        )
    if shape[-2:] != [seam.prefix + seam.tokens, seam.dim] or value.dtype != DTYPES.get(seam.dtype):
        raise GraphError(
            f"seam {seam.name!r} says {seam.prefix} + {seam.tokens} tokens of {seam.dim} channels {seam.dtype}, the "
            f"graph has {shape} {value.dtype}",
            where=where,
            fix="Find the seams again after editing the graph.",
        )
    return value
