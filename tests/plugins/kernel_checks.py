"""What every kernel must do, for a library on any device: agree with the PyTorch reference, and find the same ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from kernel_abi import Library, params_of
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, Compressor, make
from tokexport.graph_passes.compressors.base import Compressed
from tokexport.graph_passes.compressors.blocks.texts import text_length
from tokexport.plugins.schema import PLUGINS

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Parameters under which a method keeps 6 of 24 tokens, and the grid that they lie on; without any signal where it can.
SIX_OF_24: dict[str, dict[str, Any]] = {
    "apet": {"basis": 3},
    "cdpruner": {"text_length": 5},
    "evs": {"grid": "4x3x2"},
    "topk": {"score": "norm"},
}

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("apet", {"basis": 3}),
    ("apet", {"basis": 3, "basis_slots": "none", "start": "farthest_from_mean"}),
    ("apet", {"basis": 5, "basis_slots": "blend", "start": "max_norm"}),
    ("apet", {"basis": 3, "merge": False}),
    ("apet", {"basis": 3, "merge": False, "basis_slots": "none", "ridge": 0.1}),
    ("kcenter_merge", {}),
    ("kcenter_merge", {"start": "max_norm"}),
    ("kcenter_merge", {"start": "farthest_from_mean"}),
    ("topk", {"score": "cls_attention"}),
    ("topk", {"score": "norm"}),
    ("topk", {"score": "distance_to_mean"}),
    ("cls_topk", {}),
    ("audio_topk", {}),
    ("divprune", {}),
    ("cdpruner", {"text_length": 5}),
    ("cdpruner", {"text_length": 3, "inverted": False}),
    ("scope", {}),
    ("scope", {"alpha": 2.5, "attention": "received"}),
    ("dart", {}),
    ("dart", {"pivots": 6, "norm_of": "tokens"}),
    ("visionzip", {}),
    ("visionzip", {"contextual": 3, "merge": "mean", "attention": "received"}),
    ("tome", {}),
    ("tome", {"metric": "tokens"}),
]
# By cosine, which is exact for tokens of one channel only.
BY_COSINE = ("apet", "cdpruner", "dart", "divprune", "scope", "tome", "visionzip")

# With the shape [N, K] that they are possible for.
GRIDS: list[tuple[str, dict[str, Any], int, int]] = [("evs", {"grid": "5x2x3"}, 30, k) for k in (6, 13, 30)]

KINDS = ["normal", "integer", "axis", "duplicate", "near_duplicate", "constant", "zero", "sink", "large"]


def draw(kind: str, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """Tokens [B, N, D] float32 of one kind."""
    random = torch.Generator().manual_seed(seed)
    batch, count, dim = shape
    x = torch.randn(shape, generator=random)
    if kind == "integer":  # exact in every order of summation, so ties are ties
        return torch.randint(-2, 3, shape, generator=random).float()
    if kind == "axis":  # of one channel each, so that cosines are exact too
        which = torch.randint(0, dim, (batch, count), generator=random)
        return torch.nn.functional.one_hot(which, dim) * 2.0 ** torch.randint(0, 3, (batch, count, 1), generator=random)
    if kind in ("duplicate", "near_duplicate"):
        centres = 10 * torch.randn(batch, 4, dim, generator=random)
        which = torch.randint(0, 4, (count,), generator=random)
        return centres[:, which] + (1e-2 * x if kind == "near_duplicate" else 0)
    if kind == "constant":
        return x[:, :1].expand(shape).contiguous()
    if kind == "zero":
        return torch.zeros(shape)
    if kind == "sink":
        x[:, count // 2] *= 300
    if kind == "large":
        x *= 6e4 / x.abs().max()
    return x


def attention(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Scores [B, N] float32 of few different levels, so that ties are common."""
    return torch.randint(0, 6, shape, generator=torch.Generator().manual_seed(seed)) / 64


def signals_of(compressor: Compressor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a compressor reads beside the tokens, in their dtype: keys are those of the tokens, in another order; a text
    is the first of these and one row of padding."""
    keys, scores = tokens.roll(1, 1).flip(2).contiguous(), attention(tokens.shape[:2]).to(tokens.dtype)
    text = keys[:, : text_length(compressor)].clone()
    text[:, -1:] = 0
    given = {"keys": keys, "text": text}
    return {name: given.get(name, scores) for name in compressor.signals()}


def pointers(method: str, signals: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
    """What its kernel takes behind the tokens: None for a signal that these parameters do not read."""
    given = list(signals.values())
    return given + [None] * (len(PLUGINS[method].kernel.inputs) - len(given))


def run(
    library: Library, method: str, values: dict[str, Any], keep: int, tokens: torch.Tensor
) -> tuple[Compressed[np.ndarray], Compressed[torch.Tensor], Any]:
    """What the kernel returns, what the reference returns, and their agreement."""
    compressor, dtype = make(method, values), str(tokens.dtype).removeprefix("torch.")
    case = Case(tokens.shape[1], tokens.shape[2], keep, dtype)
    compressor.check(case)
    signals = signals_of(compressor, tokens)
    params = params_of(compressor, case, *signals.values())
    got = library.run(method, keep, params, tokens, *pointers(method, signals))
    as_float = {name: signal.float().numpy() for name, signal in signals.items()}
    agreement = compare(compressor, case, tokens.float().numpy(), got, as_float)
    return got, compressor.reference(case, tokens, **signals), agreement


def agrees(library: Library, method: str, params: dict[str, Any], keep: int, tokens: torch.Tensor) -> None:
    """The kernel's decisions are the best but for rounding, and its values are what follows from them."""
    _, _, agreement = run(library, method, params, keep, tokens)
    assert agreement.ok, agreement


def is_equal(library: Library, method: str, params: dict[str, Any], keep: int, tokens: torch.Tensor) -> None:
    """On tokens whose sums are exact: the same decisions, ties included."""
    got, expected, agreement = run(library, method, params, keep, tokens)
    assert agreement.ok, agreement
    np.testing.assert_array_equal(got.kept_indices, expected.kept_indices.numpy())
    np.testing.assert_array_equal(got.assignment, expected.assignment.numpy())
    np.testing.assert_array_equal(got.sizes, expected.sizes.numpy())
