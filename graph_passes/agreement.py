"""Compare what an implementation of a compressor returned with its PyTorch reference, where ties may fall either way.

Requiring equal outputs is too strict: rounding may legitimately decide between two equally good tokens, and everything
after such a flip differs. Accepting different outputs is too lenient. So the result is checked in three steps:

1. the contract: shapes, dtypes, ranges, order, sizes that count the assignment where tokens merge, finite values;
2. the decisions: how much worse than the best was the worst of them (its regret, see `compressors.replay`);
3. the values: the outputs that follow from exactly these decisions, slot by slot, by cosine and by norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .blame import blamed
from .compressors.base import Case, Compressed, Compressor, ascending, weights, width
from .compressors.blocks.replay import Replay, Replays

if TYPE_CHECKING:
    import torch

# Least cosine and largest relative error of the norm, by the precision of the tokens.
GATES = {"float32": (0.9999, 1e-3), "float16": (0.999, 1e-2), "bfloat16": (0.99, 3e-2)}

# Opposite tokens merge into almost nothing, and what remains is rounding error: below this share of the largest token's
# norm a slot counts as zero.
_CANCELLED = 1e-4


@dataclass(frozen=True)
class Agreement:
    """The outcome of `compare`.

    Attributes:
        ok: contract, decisions and values are all right.
        flipped: positions that were kept but that the reference does not keep, over the batch.
        moved: tokens whose content went to another position than in the reference, over the batch.
        regret: of the worst decision; 0 where each was the best.
        cosine: the least over all slots.
        norm_ratio: the largest relative error of a slot's norm.
        worst: what is wrong, or where the values differ most.
    """

    ok: bool
    flipped: int
    moved: int
    regret: float
    cosine: float
    norm_ratio: float
    worst: str


def compare(
    compressor: Compressor,
    case: Case,
    tokens: np.ndarray,
    got: Compressed[np.ndarray],
    signals: Mapping[str, np.ndarray] | None = None,
    *,
    tolerance: float = 1e-5,
    min_cosine: float | None = None,
    max_norm_ratio: float | None = None,
) -> Agreement:
    """Check `got`, the outputs of another implementation of `compressor` for `tokens`.

    Args:
        compressor: the method with its parameters.
        case: the static shapes and dtypes it was built for.
        tokens: [B, N, D], exactly the input of the other implementation.
        got: its four outputs.
        signals: what the method reads besides the tokens, by name.
        tolerance: largest regret that passes; selection is float32, so 1e-5 is about a hundred roundings.
        min_cosine: of each slot; by default that of `GATES` for the case's dtype.
        max_norm_ratio: of each slot; likewise.
    """
    import torch

    gates = GATES[case.dtype]
    min_cosine = gates[0] if min_cosine is None else min_cosine
    max_norm_ratio = gates[1] if max_norm_ratio is None else max_norm_ratio

    broken = _broken_contract(compressor, case, tokens.shape[0], got)
    if broken:
        return Agreement(False, 0, 0, float("inf"), 0.0, float("inf"), broken)

    x = torch.from_numpy(np.array(tokens, np.float32)).to(getattr(torch, case.dtype))
    extra = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in (signals or {}).items()}
    learned = weights(compressor, case).items()
    extra |= {name: torch.from_numpy(array).to(x.dtype).float() for name, array in learned}
    with blamed(compressor, "reference"):
        reference = compressor.reference(case, x, **extra)
    replay = _replay(compressor, case, x, got, reference, extra)

    own, expected = _arrays(reference), _arrays(replay.expected)
    flipped = sum(len(np.setdiff1d(a, b)) for a, b in zip(got.kept_indices, own.kept_indices))
    moved = int((_destination(got) != _destination(own)).sum())
    regret = float(replay.regret.max())
    cosine, norm_ratio, where = _values(np.asarray(tokens, np.float32), expected, got)

    problem = ""
    if not regret <= tolerance:
        element = int(replay.regret.argmax())
        problem = f"batch element {element}: a choice is {regret:.1e} worse than the best (tolerance {tolerance:.0e})"
    for name in ("kept_indices", "assignment", "sizes"):
        different = np.argwhere(getattr(expected, name) != getattr(got, name))
        if not problem and len(different):
            at = tuple(int(i) for i in different[0])
            problem = f"{name}{list(at)} is {getattr(got, name)[at]}, not {getattr(expected, name)[at]}"
    if not problem and not (cosine >= min_cosine and norm_ratio <= max_norm_ratio):
        problem = where
    return Agreement(not problem, flipped, moved, regret, cosine, norm_ratio, problem or where)


def _broken_contract(compressor: Compressor, case: Case, batch: int, got: Compressed[np.ndarray]) -> str:
    """The first violation of the contract of `Compressed`, or an empty string."""
    n, k = case.tokens, case.keep
    layout = {
        "tokens": ((batch, k), case.dtype),
        "kept_indices": ((batch, k), "int64"),
        "sizes": ((batch, k), "float32"),
        "assignment": ((batch, n), "int64"),
    }
    for name, (shape, dtype) in layout.items():
        array = getattr(got, name)
        if array.shape[:2] != shape or array.ndim != (3 if name == "tokens" else 2) or str(array.dtype) != dtype:
            return f"{name} is {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}"
    if got.tokens.shape[2] != width(compressor, case):
        return f"tokens have {got.tokens.shape[2]} channels, not {width(compressor, case)}"
    if got.kept_indices.min() < 0 or got.kept_indices.max() >= n:
        return f"kept_indices are not all in [0, {n})"
    if ascending(compressor) and (np.diff(got.kept_indices, axis=1) <= 0).any():
        return "kept_indices are not ascending"
    if got.assignment.min() < -1 or got.assignment.max() >= k:
        return f"assignment is not all in [-1, {k})"
    count = (got.assignment[:, None, :] == np.arange(k)[:, None]).sum(2)
    if (got.sizes != (np.maximum(count, 1) if compressor.method.merges else 1)).any():
        return "sizes do not equal the counts of the assignment" if compressor.method.merges else "sizes are not 1"
    return "" if np.isfinite(np.asarray(got.tokens, np.float32)).all() else "tokens are not finite"


def _replay(
    compressor: Compressor,
    case: Case,
    tokens: torch.Tensor,
    got: Compressed[np.ndarray],
    reference: Compressed[torch.Tensor],
    signals: dict[str, torch.Tensor],
) -> Replay:
    import torch

    if not isinstance(compressor, Replays):
        return Replay(reference, torch.zeros(tokens.shape[0], dtype=torch.float64))
    fields: list[Any] = [got.kept_indices, got.sizes, got.assignment]
    content = torch.from_numpy(np.array(got.tokens, np.float32)).to(tokens.dtype)
    return compressor.replay(
        case, tokens, Compressed(content, *(torch.from_numpy(np.array(field)) for field in fields)), **signals
    )


def _arrays(result: Compressed[torch.Tensor]) -> Compressed[np.ndarray]:
    return Compressed(
        result.tokens.float().numpy(), result.kept_indices.numpy(), result.sizes.numpy(), result.assignment.numpy()
    )


def _destination(result: Compressed[np.ndarray]) -> np.ndarray:
    """The position [B, N] whose slot each token's content went into, -1 where it was lost."""
    position = np.take_along_axis(result.kept_indices, np.maximum(result.assignment, 0), 1)
    return np.where(result.assignment < 0, -1, position)


def _values(
    tokens: np.ndarray, expected: Compressed[np.ndarray], got: Compressed[np.ndarray]
) -> tuple[float, float, str]:
    """The least cosine, the largest error of a norm, and where the worse of the two is."""
    a, b = expected.tokens.astype(np.float64), np.asarray(got.tokens, np.float64)
    norm_a, norm_b = np.linalg.norm(a, axis=2), np.linalg.norm(b, axis=2)
    floor = _CANCELLED * np.linalg.norm(tokens.astype(np.float64), axis=2).max(1, keepdims=True) + 1e-30
    cosine = np.where(norm_a > floor, (a * b).sum(2) / np.maximum(norm_a * norm_b, 1e-300), 1.0)
    ratio = np.abs(norm_b - norm_a) / np.maximum(norm_a, floor)
    element, slot = np.unravel_index(np.argmax(np.maximum(1 - cosine, ratio)), ratio.shape)
    where = (
        f"batch element {element}, slot {slot} (position {got.kept_indices[element, slot]}): "
        f"cosine {cosine[element, slot]:.6f}, norm off by {ratio[element, slot]:.1e}"
    )
    return float(cosine.min()), float(ratio.max()), where
