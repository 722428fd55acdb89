"""Proves an attached graph: nothing changes without a bias, a bias reaches every layer, and PyTorch says the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...errors import GraphError
from ...graph_passes.attach.attach import Attached
from ..debug.compare import Threshold, compare
from ..debug.onnx_side import OnnxSide
from ..debug.sides import Arrays
from ..proof.metrics import Check
from .feeds import Lengths, is_cache

# exp() of it is zero in float32 and float16, which has room for it.
_NOTHING = -1e4
_MASK = "attention_mask"


@dataclass(frozen=True)
class Pair:
    """A graph before and after.

    Attributes:
        before: as it was exported.
        after: with its new inputs.
        attached: what was done.
        feeds: every input of `after`.
        length: of the call.
    """

    before: OnnxSide
    after: OnnxSide
    attached: Attached
    feeds: Arrays
    length: Lengths

    @property
    def threshold(self) -> Threshold:
        """What counts as a difference."""
        return Threshold.of(self.before.precision, self.after.precision, None, None)

    def original(self, **changed: np.ndarray) -> tuple[Arrays, np.ndarray | None]:
        """The outputs of `before`, and the positions it counted, as [B, n] from 0, where it counts them."""
        feeds = {name: array for name, array in (self.feeds | changed).items() if name in self.before.inputs}
        outputs = self.before.run(feeds)
        if not self.attached.counted:
            return outputs, None
        return outputs, counted(self.before, feeds, self.attached.counted, self.length) - self.attached.offset

    def compared(self, part: str, expected: Arrays, positions: np.ndarray | None, **changed: np.ndarray) -> list[Check]:
        """Compare the outputs of `after`, at these positions."""
        feeds = self.feeds | changed
        if positions is not None:
            feeds[self.attached.positions] = positions.astype(feeds[self.attached.positions].dtype)
        got = self.after.run(feeds)
        return [replace(compare(name, array, got[name], self.threshold), part=part) for name, array in expected.items()]


def counted(before: OnnxSide, feeds: Arrays, name: str, length: Lengths) -> np.ndarray:
    """What a graph counts its tokens as, [B, n]."""
    return before.read(feeds, [name])[name].reshape(-1, length.new)


def offset(before: OnnxSide, feeds: Arrays, name: str, length: Lengths) -> int:
    """What a graph counts its first token as.

    Raises:
        GraphError: it does not count them one by one.
    """
    found = counted(before, {name: feeds[name] for name in before.inputs}, name, length)
    steps = found - (length.past + np.arange(length.new))
    first = int(steps.flat[0])
    if (steps != first).any():
        raise GraphError(
            f"what seems to be its positions does not count the tokens: {found.reshape(-1)[:8].tolist()}",
            where=f"tensor {name}",
            fix="Leave positions as they are with --positions keep.",
        )
    return first


def without_bias(pair: Pair) -> list[Check]:
    """With zeros for a bias the graph gives what it gave."""
    expected, positions = pair.original()
    return pair.compared("bias 0", expected, positions)


def as_mask(pair: Pair) -> tuple[list[Check], str]:
    """A token whose bias is so low that it has no weight equals one that the attention mask hides, in every layer.

    Returns:
        (checks, why there are none).
    """
    mask = pair.feeds.get(_MASK)
    if mask is None or mask.ndim != 2 or _MASK not in pair.before.inputs:
        return [], f"the graph has no input {_MASK} [B, keys], so that a bias reaches every layer is not proved by it"
    hidden = mask.copy()
    # Neither the first, which would see nothing, nor the last.
    at = mask.shape[1] // 2
    hidden[:, at] = 0
    bias = np.zeros_like(pair.feeds[pair.attached.bias])
    bias[:, at] = _NOTHING
    expected, positions = pair.original(**{_MASK: hidden})
    return pair.compared("as masked", expected, positions, **{pair.attached.bias: bias}), ""


def hidden(pair: Pair) -> tuple[list[Check], str]:
    """What lies in the caches for a token whose bias is so low that it has no weight changes nothing, in any layer.

    For a graph whose mask only counts tokens.

    Returns:
        (checks, why there are none).
    """
    model, tokens = pair.after.model, pair.attached.tokens
    assert model is not None
    caches = [value.name or "" for value in model.graph.inputs if is_cache(value, tokens)]
    if not caches or pair.length.past < 2:
        return [], f"its {_MASK} only counts tokens, and it has no cache: that a bias reaches every layer is not proved"
    at = pair.length.past // 2
    bias = np.zeros_like(pair.feeds[pair.attached.bias])
    bias[:, at] = _NOTHING
    feeds = pair.feeds | {pair.attached.bias: bias}
    other = {name: feeds[name].copy() for name in caches}
    for array in other.values():
        array[:, :, at] *= -3
    before, after = pair.after.run(feeds), pair.after.run(feeds | other)
    # Caches that are given back hold what was put in.
    compared = [name for name, array in before.items() if array.ndim < 4]
    return [replace(compare(one, before[one], after[one], pair.threshold), part="hidden") for one in compared], ""


def sizes(pair: Pair, seed: int) -> np.ndarray:
    """log of seeded sizes from 1 to 9, of every token."""
    bias = pair.feeds[pair.attached.bias]
    return np.log(np.random.default_rng(seed).integers(1, 10, bias.shape)).astype(bias.dtype)
