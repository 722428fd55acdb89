"""What the manifest says of a compressor, and of the inputs and outputs of a graph."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from ...graph_passes.compressors import OUTPUTS, parameters

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.compressors import Case
    from ...graph_passes.insertion.inserted import Inserted
    from ...graph_passes.insertion.sequence import Step
    from ...runtimes.bundle.manifest import CompressionRecord, RebuiltRecord
    from ..sources.source import Source


def compression_record(
    source: Source, step: Step, done: Inserted, *, size_bias: bool, assume_no_padding: bool
) -> CompressionRecord:
    """What the manifest says of one compressor.

    Args:
        source: of the model.
        step: as it was asked for.
        done: as it was inserted.
        size_bias: whether attention reads log(sizes).
        assume_no_padding: see `Plan`.
    """
    from ...runtimes.bundle.manifest import CompressionRecord, SeamRecord

    seam = done.seam
    return CompressionRecord(
        method=done.method,
        params=done.params,
        ratio=step.budget if step.keep is None else str(1 - Fraction(done.keep, seam.tokens)),
        tokens_in=seam.tokens,
        tokens_out=done.keep,
        size_bias=size_bias,
        assume_no_padding=assume_no_padding or None,
        rebuilt=_rebuilt(source, done) if done.rebuilt else None,
        seam=SeamRecord(
            kind=seam.name,
            graph="encoder",
            tensor=seam.tensor,
            grid=list(seam.grid) if seam.grid else None,
            prefix=seam.prefix,
        ),
    )


def inner_record(source: Source, step: Step, case: Case, tensor: str, span: int) -> CompressionRecord:
    """What the manifest says of a compressor between the layers of the language model.

    Args:
        source: of the model.
        step: as it was asked for.
        case: as it is in prefill.
        tensor: name of the tokens that it reads there; empty where it removes all.
        span: K, how many tokens enter the language model.
    """
    from ...runtimes.bundle.manifest import CompressionRecord, SeamRecord

    generation, compressor = source.generation(span), step.made(case.keep)
    assert generation is not None, "there are language graphs"
    return CompressionRecord(
        method=compressor.method.name,
        params=parameters(compressor),
        ratio=step.budget if step.keep is None else str(1 - Fraction(case.keep, case.tokens)),
        tokens_in=case.tokens,
        tokens_out=case.keep,
        size_bias=source.inner_bias and compressor.method.merges and case.keep > 0,
        seam=SeamRecord(kind=step.seam, graph="prefill", tensor=tensor, span=(generation.image_span[0], case.tokens)),
    )


def _rebuilt(source: Source, done: Inserted) -> RebuiltRecord:
    """Where the tokens of a step are put back at their places."""
    from ...runtimes.bundle.manifest import RebuiltRecord

    grid = source.encoder.grid
    known = grid is not None and math.prod(grid) == done.leaving
    return RebuiltRecord(
        tensors=[one.tokens for one in done.rebuilt if one.steps],
        tokens=done.leaving,
        grid=list(grid) if grid and known else None,
    )


def graph_roles(
    source: Source, role: str, model: ir.Model, inserted: Inserted
) -> tuple[dict[str, str], dict[str, str]]:
    """Role -> tensor name, of inputs and outputs.

    An ONNX file of the user keeps its names; its first output is the tokens.
    """
    given = [value.name or "" for value in model.graph.inputs if value.name not in model.graph.initializers]
    outputs = {value.name or "": value.name or "" for value in model.graph.outputs}
    if role == "encoder" and source.model_path is not None and "tokens" not in outputs:
        first = next(name for name in outputs if name not in inserted.outputs.values())
        outputs = {"tokens": first, **{role: name for role, name in outputs.items() if name != first}}
    if role == "encoder":
        renamed = {name: role for role, name in inserted.outputs.items() if role in OUTPUTS}
        outputs = {renamed.get(key, key): name for key, name in outputs.items()}
    return {name: name for name in given}, outputs
