"""Two steps of `torch.onnx` that take longer than a small graph, where they need not be done.

A torch that keeps them elsewhere goes its own way.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_registries: dict[Any, Any] = {}


@contextlib.contextmanager
def shortcuts() -> Iterator[None]:
    """Let exports share torch's table of operators, and trace a module once where once is enough."""
    try:
        from torch.onnx._internal.exporter import _decomp, _fx_passes
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        make, own_make = ONNXRegistry.from_torchlib, vars(ONNXRegistry)["from_torchlib"]
        decompose, overloads = _fx_passes.decompose_with_registry, _decomp.get_onnx_implemented_overloads
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def shared(*arguments: Any, **options: Any) -> Any:
        key = (arguments, tuple(sorted(options.items())))
        if key not in _registries:
            _registries[key] = make(*arguments, **options)
        own = copy.copy(_registries[key])
        own.functions = {name: list(found) for name, found in own.functions.items()}
        return own

    def decomposed(exported_program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        known_alone = _in_known_operators(exported_program, set(overloads(registry)))
        return exported_program if known_alone else decompose(exported_program, registry)

    ONNXRegistry.from_torchlib = staticmethod(shared)  # type: ignore[method-assign]
    _fx_passes.decompose_with_registry = decomposed
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = own_make  # type: ignore[method-assign]
        _fx_passes.decompose_with_registry = decompose


def _in_known_operators(program: torch.export.ExportedProgram, known: Set[Any]) -> bool:
    """Write a traced program in operators that torch.onnx has, where that changes little more than its casts.

    torch would trace it a second time to find the parts of the others, which is two fifths of an export.
    """
    import torch

    aten = torch.ops.aten
    casts, asserts, reshapes, unpadded = [], [], [], []
    for node in program.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.op != "call_function":
            return False
        if node.target is aten._assert_tensor_metadata.default:
            asserts.append(node)
        elif node.target in (aten.to.dtype, aten.to.device, aten.to.dtype_layout):
            casts.append(node)
        elif node.target is aten.conv2d.padding and not node.kwargs and node.args[4:5] in ((), ("valid",)):
            unpadded.append(node)
        elif node.target not in known or getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            return False
        elif node.target in (aten.reshape.default, aten.view.default):
            reshapes.append(node)
    if any(user.op == "output" for node in (*casts, *reshapes) for user in node.users):
        return False
    for node in asserts:
        program.graph.erase_node(node)
    for node in unpadded:
        node.target = aten.conv2d.default
        node.args = tuple([0, 0] if argument == "valid" else argument for argument in node.args)
    for node in (*casts, *reshapes):
        source, result = node.args[0], node.meta["val"]
        if (source.meta["val"].dtype, source.meta["val"].shape) == (result.dtype, result.shape):
            node.replace_all_uses_with(source)
            program.graph.erase_node(node)
        elif node in casts:
            node.target, node.args, node.kwargs = aten._to_copy.default, (source,), {"dtype": result.dtype}
    program.graph.eliminate_dead_code()
    return True
