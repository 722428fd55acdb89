"""The PyTorch operations that the kernels replace: as in the papers' released code, and in static shapes.

Reimplemented from the behaviour of the released code. Where it indexes by a boolean mask, the host waits for the
device, which is part of its cost in eager mode. The static forms compute the same without waiting, for torch.compile
and CUDA graphs: they index by sorted positions instead of masks. A static form is a function of tokens, K and `step`,
one pick of its loop, so that a loop of hundreds of picks can be compiled pick by pick.

All take tokens [B, N, D] and return tokens [B, K, D] in spatial order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cosine_similarity, normalize

Step = Callable[..., tuple[torch.Tensor, ...]]


def _gather(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[2]))


def farthest_points(x: torch.Tensor, k: int, start: torch.Tensor | None = None) -> torch.Tensor:
    """k positions [B, k]: squared L2 in the tokens' own dtype, from `start` [B], at random where there is none."""
    batch, count, _ = x.shape
    picks = torch.zeros(batch, k, dtype=torch.long, device=x.device)
    nearest = torch.full((batch, count), 1e10, device=x.device)
    last = torch.randint(0, count, (batch,), device=x.device) if start is None else start
    for i in range(k):
        picks[:, i] = last
        centre = x[torch.arange(batch), last][:, None]
        nearest = torch.min(nearest, ((x - centre) ** 2).sum(-1))
        last = nearest.max(1)[1]
    return picks


def farthest_step(x: torch.Tensor, nearest: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(distances to the nearest pick [B, N], the next pick [B, 1]), after the pick `last` [B, 1]."""
    nearest = torch.minimum(nearest, ((x - _gather(x, last)) ** 2).sum(-1))
    return nearest, nearest.argmax(1, keepdim=True)


def farthest_points_static(x: torch.Tensor, k: int, step: Step) -> torch.Tensor:
    """`farthest_points` from token 0."""
    nearest = torch.full(x.shape[:2], 1e10, device=x.device)
    picks = [torch.zeros(len(x), 1, dtype=torch.long, device=x.device)]
    for _ in range(k - 1):
        nearest, last = step(x, nearest, picks[-1])
        picks.append(last)
    return torch.cat(picks, 1)


def _errors(x: torch.Tensor, basis: torch.Tensor, *, checked: bool) -> torch.Tensor:
    """The residual of each token [B, N] outside the span of the basis [B, M, D], all float32. `checked`: a singular
    solve is an error, for which the host waits."""
    gram = basis @ basis.mT
    gram.diagonal(dim1=-2, dim2=-1).add_(1e-5)
    right = basis @ x.mT
    solved = torch.linalg.solve(gram, right) if checked else torch.linalg.solve_ex(gram, right).result
    return torch.norm(x - solved.mT @ basis, dim=-1)


def _merge(lost: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """targets [B, T, D], each the mean of itself and the lost tokens most cosine-similar to it."""
    nearest = cosine_similarity(lost[:, :, None], targets[:, None], dim=3).argmax(2)
    sums = targets.scatter_add(1, nearest[..., None].expand(-1, -1, lost.shape[2]), lost)
    counts = torch.zeros(targets.shape[:2], dtype=torch.int, device=lost.device)
    counts = counts.scatter_add(1, nearest, torch.ones_like(nearest, dtype=torch.int))
    return sums / (1 + counts[..., None])


def apet(tokens: torch.Tensor, keep: int, basis: int, start: torch.Tensor | None = None) -> torch.Tensor:
    """ApET before the projector, LLaVA's seam: arXiv 2602.19870."""
    seeds = _gather(tokens, farthest_points(tokens, basis, start))
    order = _errors(tokens.float(), seeds.float(), checked=True).topk(keep, 1).indices
    nobody = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    taken, kept = (nobody.scatter(1, which, True) for which in (order[:, -basis:], order))
    x, best = tokens.clone(), order[:, :-basis]
    for b in range(len(x)):
        x[b][taken[b]] = seeds[b]
    lost = torch.stack([x[b][~kept[b]] for b in range(len(x))])
    targets = torch.stack([x[b][best[b]] for b in range(len(x))])
    merged = _merge(lost, targets).to(x.dtype)
    for b in range(len(x)):
        x[b, best[b]] = merged[b]
    return torch.stack([x[b][kept[b]] for b in range(len(x))])


def apet_static(tokens: torch.Tensor, keep: int, step: Step, basis: int = 10) -> torch.Tensor:
    """`apet` from token 0."""
    seeds = _gather(tokens, farthest_points_static(tokens, basis, step))
    errors = _errors(tokens.float(), seeds.float(), checked=False)
    best, taken, lost = errors.sort(1, descending=True).indices.split([keep - basis, basis, errors.shape[1] - keep], 1)
    merged = _merge(_gather(tokens, lost), _gather(tokens, best)).to(tokens.dtype)
    place = torch.cat([best, taken.sort(1).values], 1).argsort(1)
    return _gather(torch.cat([merged, seeds], 1), place)


def _means(x: torch.Tensor, slots: torch.Tensor, keep: int) -> torch.Tensor:
    sums = x.new_zeros(len(x), keep, x.shape[2]).scatter_add(1, slots[..., None].expand_as(x), x)
    sizes = x.new_zeros(len(x), keep).scatter_add(1, slots, torch.ones_like(slots, dtype=x.dtype))
    return sums / sizes[..., None]


def kcenter_merge(tokens: torch.Tensor, keep: int, start: torch.Tensor | None = None) -> torch.Tensor:
    """K farthest points, every token averaged into the nearest: no released code exists, so written like ApET's."""
    kept = farthest_points(tokens, keep, start).sort(1).values
    x = tokens.float()
    return _means(x, torch.cdist(x, _gather(x, kept)).argmin(2), keep).to(tokens.dtype)


def kcenter_merge_static(tokens: torch.Tensor, keep: int, step: Step) -> torch.Tensor:
    """`kcenter_merge` from token 0."""
    kept = farthest_points_static(tokens, keep, step).sort(1).values
    x = tokens.float()
    return _means(x, torch.cdist(x, _gather(x, kept)).argmin(2), keep).to(tokens.dtype)


def divprune(tokens: torch.Tensor, keep: int) -> torch.Tensor:
    """DivPrune: arXiv 2503.02175. One matrix of 1 - cosine; each pick reads the rows of all picks before it."""
    unit = normalize(tokens, dim=2)
    distance = 1 - unit @ unit.mT
    batch = torch.arange(len(tokens), device=tokens.device)[:, None]
    picks = distance.topk(2, 1, largest=False).values[:, 1].argmax(1, keepdim=True)
    for _ in range(keep - 1):
        picks = torch.cat([picks, distance[batch, picks].amin(1).argmax(1, keepdim=True)], 1)
    return _gather(tokens, picks.sort(1).values)


def max_min_step(
    distance: torch.Tensor, nearest: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`farthest_step` for a matrix of distances [B, N, N]."""
    nearest = torch.minimum(nearest, _gather(distance, last)[:, 0])
    return nearest, nearest.argmax(1, keepdim=True)


def divprune_static(tokens: torch.Tensor, keep: int, step: Step) -> torch.Tensor:
    """`divprune`; each pick reads one row, since the least of all before it is at hand."""
    unit = normalize(tokens, dim=2)
    distance = 1 - unit @ unit.mT
    picks = [distance.topk(2, 1, largest=False).values[:, 1].argmax(1, keepdim=True)]
    nearest = torch.full_like(distance[:, 0], torch.inf)
    for _ in range(keep - 1):
        nearest, last = step(distance, nearest, picks[-1])
        picks.append(last)
    return _gather(tokens, torch.cat(picks, 1).sort(1).values)


def _kernel(tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Cosines [B, N, N] float32, weighted on both sides by how unlike the text [B, L, D] a token is."""
    unit, words = normalize(tokens.float(), dim=2), normalize(text.float(), dim=2)
    relevance = -(unit @ words.mT).mean(2)
    low, high = relevance.amin(1, keepdim=True), relevance.amax(1, keepdim=True)
    relevance = (relevance - low + 1e-6) / (high - low)
    return relevance[:, :, None] * (unit @ unit.mT) * relevance[:, None]


def cdpruner(tokens: torch.Tensor, keep: int, text: torch.Tensor) -> torch.Tensor:
    """CDPruner: arXiv 2506.10967. One matrix of N x N; each pick reads the rows of the factor before it."""
    kernel = _kernel(tokens, text)
    factor = kernel.new_zeros(keep, *kernel.shape[:2])
    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    batch, picks = torch.arange(len(tokens), device=tokens.device), []
    for i in range(keep):
        picks.append(gain.argmax(1))
        explained = torch.einsum("ib,ibn->bn", factor[:i, batch, picks[-1]], factor[:i])
        factor[i] = (kernel[batch, picks[-1]] - explained) / gain[batch, picks[-1]].sqrt()[:, None]
        gain = gain - factor[i].square()
        gain[batch, picks[-1]] = -torch.inf
    return _gather(tokens, torch.stack(picks, 1).sort(1).values)


def determinant_step(
    kernel: torch.Tensor, factor: torch.Tensor, gain: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(the factor's next row [B, N], gains [B, N], the next pick [B, 1]), after the pick `last` [B, 1]."""
    explained = (factor.gather(2, last[:, None].expand(-1, factor.shape[1], -1)) * factor).sum(1)
    entry = (_gather(kernel, last)[:, 0] - explained) / gain.gather(1, last).sqrt()
    gain = (gain - entry.square()).scatter(1, last, -torch.inf)
    return entry, gain, gain.argmax(1, keepdim=True)


def cdpruner_static(tokens: torch.Tensor, keep: int, step: Step, text: torch.Tensor) -> torch.Tensor:
    """`cdpruner`; rows of the factor that are not computed yet are zeros, and are read too."""
    kernel = _kernel(tokens, text)
    factor, gain = torch.zeros_like(kernel[:, :keep]), kernel.diagonal(dim1=1, dim2=2)
    picks = [gain.argmax(1, keepdim=True)]
    for i in range(keep - 1):
        entry, gain, last = step(kernel, factor, gain, picks[-1])
        factor[:, i] = entry
        picks.append(last)
    return _gather(tokens, torch.cat(picks, 1).sort(1).values)
