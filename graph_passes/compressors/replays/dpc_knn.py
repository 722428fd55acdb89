"""Checks centres and joins of DPC-KNN by the error of squared distances for which they would be the best.

Its scores jump where two densities are nearly equal, so they cannot be compared directly. Every squared distance is
assumed to be off by at most t times the scale of its rounding. That bounds densities, distances to denser tokens, and
scores from both sides. The regret is the smallest t of a ladder for which no lost token must beat a kept one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..blocks.select import gather, slots_of

if TYPE_CHECKING:
    import torch

_LADDER = (0.0, *(10.0 ** (step / 2) for step in range(-16, 1)))

# Tokens far from zero lose small differences when the mean is subtracted: by half a rounding of the token,
# of which a tolerance is about a hundred.
_OFFSET = 0.03


def square_scale(tokens: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """The scale of the rounding of squared distances [B, N, N] per channel, for tokens [B, N, D]."""
    x = tokens.double()
    return pair_scale(square, x.square().mean(2), (x - x.mean(1, keepdim=True)).square().mean(2))


def pair_scale(square: torch.Tensor, own: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """As `square_scale`, for the squared lengths [B, N] per channel of tokens and of tokens minus their mean."""
    owns, arounds = own[:, :, None] + own[:, None], around[:, :, None] + around[:, None]
    return arounds + _OFFSET * (square * owns).sqrt() + 1e-6 * owns


def centres_regret(square: torch.Tensor, scale: torch.Tensor, kept: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Regret [B] of centres kept [B, K], for squared distances [B, N, N] float64."""
    import torch

    nearest = square.topk(neighbours, dim=2, largest=False)
    sparseness, rounded = nearest.values.mean(2), scale.gather(2, nearest.indices).mean(2)
    mine = slots_of(kept, square.shape[1]) >= 0
    lost = ~mine
    # Of two tokens that may be equally dense, the kept one counts as denser. Of two kept ones it does not matter which
    # one does: the lower score of the two is the same.
    earlier = torch.ones(square.shape[1:], dtype=torch.bool, device=square.device).tril(-1)
    first = mine[:, None] & (lost[:, :, None] | earlier)
    apart, together = sparseness[:, :, None] - sparseness[:, None], rounded[:, :, None] + rounded[:, None]
    regret = torch.full((len(square),), torch.inf, dtype=torch.float64, device=square.device)
    for t in _LADDER:
        tied = apart.abs() <= t * together
        denser = torch.where(tied, first, apart > 0)
        far = square + t * scale
        high = torch.where(denser, far, far.amax((1, 2), keepdim=True)).amin(2).log() / 2 - sparseness + t * rounded
        bar = high.masked_fill(lost, torch.inf).amin(1)[:, None]
        # The least score of each token if its nearest denser one was this.
        near = (square - t * scale).clamp(min=0).log() / 2
        least = (sparseness + t * rounded)[:, :, None]
        low = near - least
        below = mine | (torch.where(denser, low, near.amax((1, 2), keepdim=True) - least).amin(2) <= bar)
        # A lost token whose score stays low on its own, or due to such a token, may be denser than the next.
        helps = tied & lost[:, None] & (low <= bar[..., None])
        for _ in range(square.shape[1]):
            more = below | (helps & below[:, None]).any(2)
            if bool((more == below).all()):
                break
            below = more
        fits = below.all(1)
        regret = torch.where(fits & regret.isinf(), t, regret)
        if bool(regret.isfinite().all()):
            break
    return regret.cpu()


def joined_regret(
    square: torch.Tensor, scale: torch.Tensor, kept: torch.Tensor, assignment: torch.Tensor
) -> torch.Tensor:
    """Regret [B] of tokens having joined slots [B, N]: each its nearest centre, a centre itself."""
    import torch

    cost, rounded = gather(square, kept).mT, gather(scale, kept).mT
    chosen = assignment.clamp(min=0)[..., None]
    excess = cost.gather(2, chosen) - cost
    regret = torch.where(excess > 0, excess / (rounded.gather(2, chosen) + rounded), 0.0).amax(2)
    own = slots_of(kept, square.shape[1])
    regret = torch.where(own >= 0, 0.0, regret)
    wrong = (assignment < 0) | ((own >= 0) & (own != assignment))
    return torch.where(wrong, torch.inf, regret).amax(1).cpu()
