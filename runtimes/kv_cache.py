"""The KV caches of an answer, which the caller of the graphs owns: the generation contract of bundle/manifest.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..errors import GraphError


class Buffer(Protocol):
    """A cache [B, H, capacity, d] of a runtime that does not keep it in a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, H, capacity, d]."""
        ...

    def write(self, new: Any, at: np.ndarray) -> None:
        """Write `new` [B, H, 1, d], an output of the same runtime, into row b at slot at[b]; `at` [B] int64."""
        ...

    def replace(self, new: Any) -> None:
        """Write `new`, of the same shape, over all of it: it holds a state."""


class KVCache:
    """The caches from one step to the next.

    Args:
        prefilled: outputs of prefill by role name. Its caches become the buffers that are written.
        image_starts: of a bundle for several images, [B, I] int64; see the contract.

    Attributes:
        inputs: of decode: past_key_<i>, past_value_<i>, and where there are any cross_key_<i>, cross_value_<i>,
            state_<kind>_<i>, and token_bias_<j>.
    """

    def __init__(self, prefilled: Mapping[str, Any], image_starts: np.ndarray | None = None) -> None:
        self.inputs = {
            name.replace("present_", "past_", 1): value
            for name, value in prefilled.items()
            if name.startswith(("present_", "cross_", "state_", "token_bias_"))
        }
        slots = {name: value.shape[2] for name, value in self.inputs.items() if name.startswith("past_")}
        self._starts = image_starts
        images = 1 if image_starts is None else image_starts.shape[1]
        # How many tokens of each image were removed in front of a layer.
        self._removed = {name: (max(slots.values()) - count) // images for name, count in slots.items()}

    def keep(self, decoded: Mapping[str, Any], at: np.ndarray) -> None:
        """Keep what decode returned of a token: slices new_* for slot at[b] of row b, or whole caches present_*; states
        new_state_* take the place of those before.

        Args:
            decoded: outputs of decode by role name.
            at: the write_index that decode was given, [B] int64.

        Raises:
            GraphError: a cache has no such slot.
        """
        images: Any = 1 if self._starts is None else (self._starts < at[:, None]).sum(1)
        for name, buffer in self.inputs.items():
            rest = name.removeprefix("past_")
            if f"present_{rest}" in decoded:
                self.inputs[name] = decoded[f"present_{rest}"]
            elif name.startswith("state_"):
                _replace(buffer, decoded[f"new_{name}"])
            elif f"new_{rest}" in decoded:
                _write(name, buffer, decoded[f"new_{rest}"], at - self._removed[name] * images)


def _write(name: str, buffer: Any, new: Any, at: np.ndarray) -> None:
    # On a device nothing else would notice.
    if at.max() >= buffer.shape[2]:
        raise GraphError(
            f"the cache has {buffer.shape[2]} slots, and a token is to be written at slot {at.max()}",
            where=f"input {name} of decode",
            fix="The bundle says that more tokens may be generated than its graphs hold: export it again.",
        )
    if isinstance(buffer, np.ndarray):
        buffer[np.arange(len(at)), :, at] = new[:, :, 0]
    else:
        buffer.write(new, at)


def _replace(buffer: Any, new: Any) -> None:
    if isinstance(buffer, np.ndarray):
        np.copyto(buffer, new)
    else:
        buffer.replace(new)
