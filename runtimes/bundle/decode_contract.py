"""What the inputs and outputs of decode must be, for caches and for states; see manifest.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

# Begins the name of an input of decode that is a state.
STATE = "state_"


class Tensor(Protocol):
    """A `TensorRecord`."""

    @property
    def dtype(self) -> str:
        """Of numpy, or bfloat16."""

    @property
    def shape(self) -> list[int]:
        """Its axes."""


class Graph(Protocol):
    """A `GraphRecord`."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """By role name."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Likewise."""


# By role.
Graphs = Mapping[Any, Graph]


def check_caches(graphs: Graphs, schema: str) -> None:
    """Under schema 2 decode returns new keys and values alone, under 1.x whole caches.

    Raises:
        ValueError: it returns something else.
    """
    whole = schema.startswith("1.")
    decode = graphs.get("decode")
    if decode is None:
        return
    for name in decode.inputs:
        if not name.startswith("past_"):
            continue
        past, wanted = decode.inputs[name], name.replace("past_", "present_" if whole else "new_", 1)
        if wanted not in decode.outputs:
            raise ValueError(f"the graph `decode` has no {wanted!r}, which schema {schema} asks for")
        found, shape = decode.outputs[wanted], past.shape if whole else [*past.shape[:2], 1, *past.shape[3:]]
        if (found.dtype, found.shape) != (past.dtype, shape):
            raise ValueError(
                f"{wanted!r} of the graph `decode` is {found.dtype} {found.shape}, and not {past.dtype} {shape}"
            )


def check_states(graphs: Graphs) -> None:
    """Prefill gives each state as decode takes it, and decode returns what takes its place.

    Raises:
        ValueError: one does not.
    """
    decode, prefill = graphs.get("decode"), graphs.get("prefill")
    if decode is None:
        return
    for name, state in decode.inputs.items():
        if not name.startswith(STATE):
            continue
        for role, graph, wanted in (("prefill", prefill, name), ("decode", decode, f"new_{name}")):
            if graph is None:
                continue
            if wanted not in graph.outputs:
                raise ValueError(f"the graph `{role}` has no {wanted!r}, and decode takes {name!r}")
            found = graph.outputs[wanted]
            if (found.dtype, found.shape) != (state.dtype, state.shape):
                raise ValueError(
                    f"{wanted!r} of the graph `{role}` is {found.dtype} {found.shape}, and decode takes "
                    f"{state.dtype} {state.shape}"
                )


def check_inner(graphs: Graphs, counts: Sequence[int], capacities: Sequence[int], images: int = 1) -> None:
    """Compressors between layers: prefill tells decode of each what is left, and caches are as long as is said.

    Args:
        graphs: by role.
        counts: K_j of each; of one that keeps none nothing is told.
        capacities: of the caches, by layer.
        images: I.

    Raises:
        ValueError: they do not.
    """
    decode, prefill = graphs.get("decode"), graphs.get("prefill")
    if not counts or decode is None or prefill is None:
        return
    for number, keep in enumerate(counts, 1):
        if not keep:
            continue
        for role, tensors, name in (
            ("prefill", prefill.outputs, f"kept_indices_{number}"),
            ("prefill", prefill.outputs, f"token_bias_{number}"),
            ("decode", decode.inputs, f"token_bias_{number}"),
        ):
            if name not in tensors or tensors[name].shape[1:] != [images * keep]:
                raise ValueError(
                    f"the graph `{role}` has no {name!r} [B, {images * keep}], of compressor {number} inside it"
                )
    for name, past in decode.inputs.items():
        layer = name.rpartition("_")[2]
        if not name.startswith("past_key_") or not layer.isdigit():
            continue
        said = capacities[int(layer)] if int(layer) < len(capacities) else 0
        if past.shape[2] != said:
            raise ValueError(f"{name!r} of the graph `decode` has {past.shape[2]} slots, and kv_capacity says {said}")


def has_states(graphs: Graphs) -> bool:
    """Whether decode takes any."""
    return "decode" in graphs and any(name.startswith(STATE) for name in graphs["decode"].inputs)
