"""The language graphs in PyTorch, each fed the outputs of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..sources.arrays import to_tensors

if TYPE_CHECKING:
    from ..sources.source import GraphSource

Arrays = dict[str, np.ndarray]


def language_values(encoded: Mapping[str, np.ndarray]) -> Arrays:
    """What the language graphs read of an encoder's outputs, by role, in float32: tokens, kept_indices, token_bias, and
    assignment where it is given."""
    read = [name for name in ("tokens", "kept_indices", "assignment") if name in encoded]
    values = {name: encoded[name] for name in read} | {"token_bias": np.log(encoded["sizes"])}
    return {name: x if x.dtype.kind in "iu" else x.astype(np.float32) for name, x in values.items()}


def language_runs(
    graphs: list[GraphSource], values: Mapping[str, np.ndarray]
) -> list[tuple[GraphSource, Arrays, Arrays]]:
    """Run the module of each graph along the chain embed -> prefill -> decode, or of text alone.

    Args:
        graphs: in that order.
        values: by role, the inputs that no earlier graph computes: of the encoder tokens, kept_indices, token_bias; for
            text the input_ids.

    Returns:
        (graph, inputs, outputs) of each, by role.
    """
    import torch

    known = to_tensors(values)
    runs = []
    for graph in graphs:
        assert graph.module is not None
        inputs = {name: known.get(name, torch.as_tensor(example)) for name, example in graph.inputs.items()}
        with torch.no_grad():
            result = graph.module(*inputs.values())
        outputs = dict(zip(graph.outputs, result if isinstance(result, (tuple, list)) else (result,)))
        fed, made = ({name: value.numpy() for name, value in tensors.items()} for tensors in (inputs, outputs))
        runs.append((graph, fed, made))
        known |= outputs
        known |= {name.replace("present_", "past_", 1): value for name, value in outputs.items()}
    return runs
