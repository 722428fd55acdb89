"""The language graphs of a bundle with their weights in 8 or 4 bits, in the form that the runtime of the bundle reads.

For a device, which runs TensorRT, that is the standard DequantizeLinear; without one it is ONNX Runtime's MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...files import size
from ...graph_passes.precision.blocks import BLOCK
from ...graph_passes.precision.weight_only import OPSET, WeightOnly
from .graphs import Built

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.precision.blocks import Weights
    from ...runtimes.bundle.manifest import Role, WeightsRecord
    from ..progress import Progress
    from ..sources.source import Source
    from .device_fit import Choice

ROLES: tuple[Role, ...] = ("embed", "prefill", "decode")


@dataclass(frozen=True)
class Asked:
    """What `--llm-weights` and `--min-agreement` said.

    Attributes:
        by: quantises the graphs of all variants, which share weights.
        opset: of the language graphs; None: the usual one.
        least: see `proof.agreement`.
    """

    by: WeightOnly
    opset: int | None
    least: float | None


def asked(
    weights: Weights | None, least: float | None, source: Source, parts: str, choice: Choice, *, verify: bool
) -> Asked | None:
    """None where no weights are to be quantised.

    Raises:
        RequestError: the model has no language graphs here, or they cannot be compared here; `least` is no share, or
            nothing is held against it.
    """
    _check_least(least, weights, verify=verify)
    if weights is None:
        return None
    if parts != "all" or not source.language(1):
        raise RequestError(
            f"--llm-weights is for the graphs of a language model, and {source.name} is exported without any",
            fix="Leave --llm-weights out." if parts == "all" else "Use --parts all, or leave --llm-weights out.",
        )
    if choice.precision == "bf16":
        raise RequestError(
            "--llm-weights needs graphs that run here, to compare what they say with what the float graphs say, and "
            "ONNX Runtime's CPU cannot run bf16",
            fix="Use --precision fp16.",
        )
    for_device = choice.target is not None
    by = WeightOnly(weights, "DequantizeLinear" if for_device else "MatMulNBits")
    return Asked(by, OPSET if weights == "int4" and for_device else None, least)


def _check_least(least: float | None, weights: str | None, *, verify: bool) -> None:
    """Refuse a least agreement that is no share, or that nothing would be held to.

    Raises:
        RequestError: it is outside 0..1; or no weights are quantised, or nothing is proved.
    """
    if least is None:
        return
    if weights is None or not verify:
        raise RequestError(
            "--min-agreement is held against graphs with quantised weights, in their proof",
            fix="Add --llm-weights int4." if weights is None else "Leave --no-verify out.",
        )
    if not 0 <= least <= 1:
        raise RequestError(f"--min-agreement {least} is outside 0..1", fix="For 95 % write --min-agreement 0.95.")


def quantised(built: Built, by: WeightOnly, step: Progress) -> Built:
    """The same graphs with quantised weights, and the float ones in `Built.floats`.

    Raises:
        GraphError: prefill or decode has no product with a constant matrix.
        MissingError: see `blocks.in_blocks`.
    """
    models, floats = dict(built.models), {}
    for role in ROLES:
        if role in models:
            step(f"quantising {role}")
            floats[role], models[role] = models[role], models[role].clone()
            by.quantise(models[role], needs_products=role != "embed")
    return replace(built, models=models, floats=floats, notes=[*built.notes, _note(by, floats)])


def record(by: WeightOnly) -> WeightsRecord:
    """The manifest's, without what a proof measures."""
    from ...runtimes.bundle.manifest import WeightsRecord

    in_blocks = by.form == "MatMulNBits" or by.weights == "int4"
    return WeightsRecord(weights=by.weights, form=by.form, block_size=BLOCK if in_blocks else None)


def _note(by: WeightOnly, floats: Mapping[Role, ir.Model]) -> str:
    what = "the matrices and the table of words" if by.form == "MatMulNBits" else "the matrices"
    return (
        f"{by.weights} weights: {what} of {', '.join(floats)} take {size(by.after)}, and took "
        f"{size(by.before)}, as {by.form}"
    )
