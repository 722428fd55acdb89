"""tome against its reference, and what it has beyond it against the paper's formula in float64 NumPy.

Where two choices are equal but for rounding, both are right: a choice must be within a tolerance of the best.
"""

from __future__ import annotations

import numpy as np
import torch
from kernel_abi import Library
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make
from tokexport.plugins.structs import Tome

TOLERANCE = 2e-6


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, np.round(np.diag(cosine)))
    return cosine


def check_tome(
    library: Library, keep: int, protect: int, tokens: torch.Tensor, metric: torch.Tensor, sizes: torch.Tensor | None
) -> None:
    batch, count, _ = tokens.shape
    got = library.run("tome", keep, Tome(metric.shape[2], protect), tokens, metric, sizes)
    if sizes is None and not protect:
        case = Case(*tokens.shape[1:], keep, str(tokens.dtype).removeprefix("torch."))
        agreement = compare(make("tome"), case, tokens.float().numpy(), got, {"keys": metric.float().numpy()})
        assert agreement.ok, agreement
    weights = np.ones((batch, count)) if sizes is None else sizes.double().numpy()
    for element in range(batch):
        similarity = cosines(metric[element].double().numpy())
        left, right = np.arange(0, count, 2), np.arange(1, count, 2)
        left, right = left[left >= protect], right[right >= protect]
        kept = got.kept_indices[element]
        merged = np.setdiff1d(np.arange(count), kept)
        assert set(merged) <= set(left)
        best = similarity[np.ix_(left, right)].max(1, initial=-1)
        lost = np.isin(left, merged)
        if lost.any() and not lost.all():
            assert best[lost].min() >= best[~lost].max() - TOLERANCE
        partner = kept[got.assignment[element, merged]]
        assert set(partner) <= set(right)
        assert (similarity[merged, partner] >= similarity[np.ix_(merged, right)].max(1, initial=-1) - TOLERANCE).all()
        np.testing.assert_array_equal(got.assignment[element, kept], np.arange(keep))

        members = got.assignment[element] == np.arange(keep)[:, None]
        weight = members * weights[element]
        np.testing.assert_allclose(got.sizes[element], weight.sum(1), rtol=1e-6)
        expected = weight @ tokens[element].double().numpy() / weight.sum(1, keepdims=True)
        step = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[tokens.dtype]
        np.testing.assert_allclose(got.tokens[element].astype(np.float64), expected, rtol=step, atol=step)
