"""The graphs of one answer in ONNX Runtime, with every input and output bound to memory once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import GraphError, first_line
from ..bundle.manifest import TensorRecord, Variant
from ..session import Session, checked

_ROLES = ("prefill", "decode")


def can_be_bound(variant: Variant) -> bool:
    """Whether the graphs return new keys and values alone, in fixed shapes and types that ONNX Runtime binds."""
    graphs = [variant.graphs[role] for role in _ROLES if role in variant.graphs]
    tensors = [tensor for graph in graphs for tensor in (*graph.inputs.values(), *graph.outputs.values())]
    slices = len(graphs) == len(_ROLES) and any(name.startswith("new_") for name in graphs[1].outputs)
    return slices and not any(-1 in tensor.shape or tensor.dtype == "bfloat16" for tensor in tensors)


class BoundSteps:
    """Runs the graphs of an answer; prefill and decode are bound to one set of KV caches.

    Prefill writes the caches where decode reads them, and the caller writes the slices that decode returns into them:
    nothing of the length of a cache is ever copied. All outputs but the logits are valid until the next call.

    Args:
        session: on the CPU. Other execution providers copy an input when it is bound, and would miss what is written.
        loaded: the onnxruntime.InferenceSession of a role.
    """

    def __init__(self, session: Session, loaded: Callable[[str], Any]) -> None:
        self._session, self._loaded = session, loaded
        self._caches: dict[str, np.ndarray] = {}
        self._bound: dict[str, tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]] = {}

    def __call__(self, role: str, /, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        """See `Session.run`."""
        if role not in _ROLES:
            return self._session.run(role, **inputs)
        given = checked(role, self._session.bundle.graph(role, self._session.variant.name), inputs)
        graph = self._loaded(role)
        try:
            binding, fed, made = self._bound.get(role) or self._bind(role, graph)
            for name, array in fed.items():
                if given[name] is not array:
                    np.copyto(array, given[name])
            graph.run_with_iobinding(binding)
        except Exception as error:
            # onnxruntime's exceptions have no public base class.
            raise GraphError(f"ONNX Runtime failed: {first_line(error)}", where=role) from error
        return {name: array.copy() if name == "logits" else array for name, array in made.items()}

    def _bind(self, role: str, graph: Any) -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
        record, binding = self._session.bundle.graph(role, self._session.variant.name), graph.io_binding()
        fed = {name: self._memory(name, tensor) for name, tensor in record.inputs.items()}
        made = {name: self._memory(name, tensor) for name, tensor in record.outputs.items()}
        for name, array in fed.items():
            binding.bind_cpu_input(record.inputs[name].name, array)
        for name, array in made.items():
            to = (array.dtype.type, list(array.shape), array.ctypes.data)
            binding.bind_output(record.outputs[name].name, "cpu", 0, *to)
        self._bound[role] = binding, fed, made
        return self._bound[role]

    def _memory(self, name: str, tensor: TensorRecord) -> np.ndarray:
        """An array for a tensor; one for what prefill makes as present_*, cross_* or state_* and decode reads."""
        array = np.empty(tensor.shape, tensor.dtype)
        if not name.startswith(("present_", "past_", "cross_", "state_")):
            return array
        return self._caches.setdefault(name.replace("present_", "past_", 1), array)
