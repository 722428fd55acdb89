"""Shared by selecting and merging methods: PyTorch helpers for references, `emit_*` helpers for ONNX bodies.

Every choice breaks ties to the lowest index. PyTorch's topk promises no order, so references sort stably. The ONNX
operators TopK and ArgMax promise the lowest index, TensorRT's do not: a builder with `exact_ties` gets ranks by
counting instead (token j is before i if s_j > s_i, or they are equal and j < i), and so does a TopK above the limit
of TensorRT's parser.

Bodies compare indices as float32, which is exact below 2^24 and compiles everywhere, and turn them into int64 only to
gather and to return. Indices are read out of one-hot rows by a maximum, never by a MatMul: TF32 would round them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ....errors import RequestError
from ....lazy import np
from ..base import Case, Compressed

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder

TOPK_LIMIT = 3840  # largest K of TensorRT's TopK, 10.3 to 11.1
LOWEST = -3.0e38  # below every score; finite, because infinity times zero is NaN


def check_keep(case: Case, low: int = 1, why: str = "") -> None:
    """Raise `RequestError` unless `low` <= K <= N."""
    if not low <= case.keep <= case.tokens:
        raise RequestError(
            f"keep {case.keep} is outside {low}..{case.tokens}" + (f": {why}" if why else ""),
            where=f"{case.tokens} tokens of {case.dim} channels",
            fix=f"Use --keep {low} to {case.tokens}." if low <= case.tokens else "",
        )


def check_counts(case: Case, counts: Mapping[int, str], what: str) -> None:
    """Raise `RequestError` unless K is one of `counts`.

    Args:
        case: with K.
        counts: each possible K -> how, such as "stride 2".
        what: the method with the parameters that determine it, such as "pool with mode=max".
    """
    if case.keep in counts:
        return
    below = max((keep for keep in counts if keep < case.keep), default=None)
    above = min((keep for keep in counts if keep > case.keep), default=None)
    near = " or ".join(f"--keep {keep} ({counts[keep]})" for keep in (below, above) if keep)
    lies = "x".join(map(str, case.grid or (case.tokens,)))
    raise RequestError(
        f"{what} cannot keep {case.keep} of {lies} tokens",
        where=f"{case.tokens} tokens of {case.dim} channels",
        fix=f"The nearest counts: {near or 'none'}. All: {', '.join(map(str, sorted(counts, reverse=True)))}.",
    )


# PyTorch


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Indices [B, k] int64 of the k largest of [B, N], best first, the lowest index first among equals."""
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :k]


def gather(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows [B, K, D] of tokens [B, N, D] at index [B, K]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def slots_of(kept: torch.Tensor, n: int) -> torch.Tensor:
    """For kept positions [B, K], the slot of each of n tokens [B, N] int64; -1 if it is not kept."""
    import torch

    slots = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    return torch.full((kept.shape[0], n), -1, device=kept.device).scatter(1, kept, slots)


def selection(tokens: torch.Tensor, kept: torch.Tensor) -> Compressed[torch.Tensor]:
    """Keep the tokens at the ascending positions kept [B, K] unchanged, and lose the others."""
    sizes = kept.new_ones(kept.shape).float()
    return Compressed(gather(tokens, kept), kept, sizes, slots_of(kept, tokens.shape[1]))


def every_token(tokens: torch.Tensor) -> Compressed[torch.Tensor]:
    """K = N: the identity."""
    import torch

    return selection(tokens, torch.arange(tokens.shape[1], device=tokens.device).repeat(tokens.shape[0], 1))


# ONNX


def emit_float(b: Builder, tokens: ir.Value, case: Case) -> ir.Value:
    """The tokens in float32."""
    return tokens if case.dtype == "float32" else b.cast(tokens, "float32")


def emit_like(b: Builder, x: ir.Value, case: Case) -> ir.Value:
    """A float32 result in the dtype of the tokens."""
    return x if case.dtype == "float32" else b.cast(x, case.dtype)


def emit_rows(b: Builder, tokens: ir.Value, row: np.ndarray) -> ir.Value:
    """The constant `row`, once per batch element: [B, *row.shape]."""
    batch = b.op("Shape", tokens, start=0, end=1)
    return b.op("Expand", row[None], b.op("Concat", batch, list(row.shape), axis=0))


def emit_iota(b: Builder, *shape: int) -> ir.Value:
    """0, 1, 2, ... as float32 in `shape`, with one entry other than 1."""
    return b.const(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def emit_square_sum(b: Builder, x: ir.Value, *, keepdims: bool) -> ir.Value:
    """Sum of squares over the last axis of [B, n, d]: ONNX Runtime needs twice as long for ReduceSumSquare."""
    return b.op("ReduceSum", b.op("Mul", x, x), [2], keepdims=int(keepdims))


def emit_rank(b: Builder, scores: ir.Value, n: int, *, largest: bool = True) -> ir.Value:
    """How many of the n scores of a row [..., n] float32 are before each, by counting: 0 for the best."""
    here, other = b.op("Unsqueeze", scores, [-1]), b.op("Unsqueeze", scores, [-2])
    better = b.op("Greater" if largest else "Less", other, here)
    earlier = b.const(np.tri(n, k=-1, dtype=bool)[None])
    before = b.op("Or", better, b.op("And", b.op("Equal", other, here), earlier))
    return b.op("ReduceSum", b.cast(before, "float32"), [-1], keepdims=0)


def emit_top_k(b: Builder, scores: ir.Value, k: int, n: int, *, largest: bool = True) -> tuple[ir.Value, ir.Value]:
    """Values [B, k] and indices [B, k] int64 of the k best of scores [B, n] float32, best first."""
    if not b.exact_ties and k <= TOPK_LIMIT:
        values, index = b.ops("TopK", scores, [k], n=2, axis=-1, largest=int(largest), sorted=1)
        return values, index
    rank = emit_rank(b, scores, n, largest=largest)
    at_rank = b.op("Equal", b.op("Unsqueeze", rank, [1]), emit_iota(b, 1, k, 1))
    position = b.op("ReduceMax", b.op("Where", at_rank, emit_iota(b, 1, 1, n), -1.0), [2], keepdims=0)
    index = b.cast(position, "int64")
    return b.op("GatherElements", scores, index, axis=1), index


def emit_sort(b: Builder, index: ir.Value, k: int) -> tuple[ir.Value, ir.Value]:
    """Distinct indices [B, k] int64 in ascending order as float32 [B, k], and where each one was [B, k] int64."""
    return emit_top_k(b, b.cast(index, "float32"), k, k, largest=False)


def emit_argmax(b: Builder, scores: ir.Value, axis: int, shape: tuple[int, ...]) -> ir.Value:
    """The lowest index of the largest score along `axis`, as float32 with that axis kept as 1.

    Args:
        b: the builder.
        scores: float32.
        axis: counted from the front.
        shape: 1 except the length of `axis`: the shape of its indices.
    """
    if not b.exact_ties:
        return b.cast(b.op("ArgMax", scores, axis=axis, keepdims=1), "float32")
    best = b.op("Equal", scores, b.op("ReduceMax", scores, [axis], keepdims=1))
    return b.op("ReduceMin", b.op("Where", best, emit_iota(b, *shape), float(max(shape))), [axis], keepdims=1)


def emit_gather(b: Builder, tokens: ir.Value, index: ir.Value) -> ir.Value:
    """Rows [B, K, D] of tokens [B, N, D] at index [B, K] int64."""
    return b.op("GatherND", tokens, b.op("Unsqueeze", index, [2]), batch_dims=1)


def emit_slots(b: Builder, kept: ir.Value, n: int, slots: ir.Value, absent: float = -1.0) -> ir.Value:
    """For kept positions [B, k] float32 and their slots [1 or B, k], the slot of each of n tokens [B, n] float32."""
    here = b.op("Equal", b.op("Unsqueeze", kept, [2]), emit_iota(b, 1, 1, n))
    return b.op("ReduceMax", b.op("Where", here, b.op("Unsqueeze", slots, [2]), absent), [1], keepdims=0)


def emit_members(b: Builder, assignment: ir.Value, k: int) -> tuple[ir.Value, ir.Value]:
    """One-hot rows [B, k, N] of an assignment [B, N] float32, and how many members each has [B, k, 1] float32."""
    rows = b.op("Equal", b.op("Unsqueeze", assignment, [1]), emit_iota(b, 1, k, 1))
    members = b.cast(rows, "float32")
    return members, b.op("ReduceSum", members, [2], keepdims=1)


def emit_selection(b: Builder, case: Case, tokens: ir.Value, kept: ir.Value) -> Compressed[ir.Value]:
    """Keep the tokens at the ascending positions kept [B, K] float32 unchanged, and lose the others."""
    index = b.cast(kept, "int64")
    sizes = emit_rows(b, tokens, np.ones(case.keep, np.float32))
    slots = b.cast(emit_slots(b, kept, case.tokens, emit_iota(b, 1, case.keep)), "int64")
    return Compressed(emit_gather(b, tokens, index), index, sizes, slots)


def emit_fixed(b: Builder, case: Case, tokens: ir.Value, kept: np.ndarray) -> Compressed[ir.Value]:
    """Keep the tokens at the same ascending positions kept [K] in every batch element; all of them: the identity."""
    slots = np.full(case.tokens, -1, np.int64)
    slots[kept] = np.arange(case.keep)
    return Compressed(
        b.op("Gather", tokens, kept.astype(np.int64), axis=1) if case.keep < case.tokens else tokens,
        emit_rows(b, tokens, kept.astype(np.int64)),
        emit_rows(b, tokens, np.ones(case.keep, np.float32)),
        emit_rows(b, tokens, slots),
    )


def emit_every_token(b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
    """K = N: the identity."""
    return emit_fixed(b, case, tokens, np.arange(case.tokens))
