"""Read-only queries on a graph that every pass needs: what is constant, what is upstream, what is downstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from .fold_shapes import fold_shapes
from .infer_shapes import infer_missing_shapes

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})

# How large a value is, not what it holds.
_SIZES = frozenset({"Shape", "Size"})


class Walk:
    """An index over the main graph of a model, valid as long as the graph is not edited.

    Values without a shape or type get them first, and integers that follow from shapes are worked out (`fold_shapes`):
    that annotates the model and changes nothing else.
    """

    def __init__(self, model: ir.Model) -> None:
        refuse_unsorted(model.graph)
        infer_missing_shapes(model)
        self.shapes_before = fold_shapes(model)
        self.model, self.graph = model, model.graph
        self.nodes: list[ir.Node] = list(model.graph)
        self.order: dict[ir.Node, int] = {node: i for i, node in enumerate(self.nodes)}
        self._constant: dict[ir.Value, bool] = {}
        self._learned: dict[ir.Value, bool] = {}
        # In graph order a producer is always classified before its consumers, so nothing recurses.
        for node in self.nodes:
            inputs = [value for value in node.inputs if value is not None]
            alone = not has_subgraph(node)
            constant = alone and all(self.constant(value) for value in inputs)
            sized = node.domain in ("", "ai.onnx") and node.op_type in _SIZES
            learned = constant or sized or (alone and all(self.learned(value) for value in inputs))
            for output in node.outputs:
                self._constant[output], self._learned[output] = constant, learned

    def value(self, name: str) -> ir.Value | None:
        """The value of that name in the main graph."""
        return self._by_name().get(name)

    def names(self) -> list[str]:
        """Names of all values that are inputs or node outputs of the main graph."""
        return list(self._by_name())

    def constant(self, value: ir.Value | None) -> bool:
        """Whether the value is independent of all graph inputs."""
        if value is None or value.is_initializer() or value.const_value is not None:
            return True
        return self._constant.get(value, False)

    def learned(self, value: ir.Value) -> bool:
        """Whether the value follows from parameters and sizes alone, whatever the inputs hold."""
        return self.constant(value) or self._learned.get(value, False)

    def inputs(self, node: ir.Node) -> list[ir.Value]:
        """The inputs that depend on a graph input and are not integers (shapes and indices carry no token values)."""
        return [
            value
            for value in node.inputs
            if value is not None and not self.constant(value) and (value.dtype is None or value.dtype in FLOATS)
        ]

    def ancestors(self, value: ir.Value, until: Callable[[ir.Node], bool] | None = None) -> set[ir.Node]:
        """Nodes that `value` is computed from; the walk does not go above a node for which `until` is true."""
        found: set[ir.Node] = set()
        todo = [value]
        while todo:
            node = todo.pop().producer()
            if node is None or node in found:
                continue
            found.add(node)
            if until is None or not until(node):
                todo.extend(x for x in node.inputs if x is not None and not self.constant(x))
        return found

    def descendants(self, value: ir.Value, until: Callable[[ir.Node], bool] | None = None) -> set[ir.Node]:
        """Nodes that use `value`, directly or not; the walk does not go below a node for which `until` is true."""
        found: set[ir.Node] = set()
        todo = [value]
        while todo:
            for node in todo.pop().consumers():
                if node not in found and node in self.order:
                    found.add(node)
                    if until is None or not until(node):
                        todo.extend(node.outputs)
        return found

    def sorted(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        """In the order of the graph."""
        return sorted(nodes, key=self.order.__getitem__)

    def _by_name(self) -> dict[str, ir.Value]:
        values = [*self.graph.inputs, *(output for node in self.nodes for output in node.outputs)]
        return {value.name: value for value in values if value.name}


def read_in_subgraphs(node: ir.Node) -> Iterator[ir.Value]:
    """Values that the subgraphs of a node read or give, whether of their own or of the graph around them."""
    for attribute in node.attributes.values():
        if attribute.is_ref() or attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        for graph in [attribute.value] if attribute.type == ir.AttributeType.GRAPH else attribute.value:
            for inner in graph.all_nodes():
                yield from (value for value in inner.inputs if value is not None)
            yield from graph.outputs


def out_of_order(graph: ir.Graph) -> tuple[ir.Node, ir.Value] | None:
    """The first node that reads a value which a later node computes, and that value; None in topological order."""
    later = set(graph)
    for node in graph:
        for value in (*node.inputs, *read_in_subgraphs(node)) if node.attributes else node.inputs:
            if value is not None and value.producer() in later:
                return node, value
        later.discard(node)
    return None


def refuse_unsorted(graph: ir.Graph) -> None:
    """ONNX wants nodes in topological order; only such a graph can be cloned, or walked from front to back.

    Raises:
        GraphError: a node reads what a later node computes.
    """
    found = out_of_order(graph)
    if found is not None:
        node, value = found
        raise GraphError(
            f"node {node.name or node.op_type!r} reads {value.name!r}, which a later node computes",
            where=f"graph {graph.name or 'main'}",
            fix="Sort its nodes first: `python -c \"import onnx_ir as ir; model = ir.load('MODEL.onnx'); "
            "model.graph.sort(); ir.save(model, 'SORTED.onnx')\"`.",
        )


def dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Shape of a value with None for dynamic dimensions, or None where the rank is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def array(value: ir.Value | None) -> np.ndarray | None:
    """The content of an initializer or a Constant node, or None; for small values only."""
    tensor = _tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant with a single element."""
    tensor = _tensor(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """The integers in a short constant, such as axes or a shape."""
    tensor = _tensor(value)
    return None if tensor is None or tensor.size > 16 else tuple(int(x) for x in tensor.numpy().reshape(-1))


def attribute(node: ir.Node, name: str, default: ir.Attr | int | float | tuple[int, ...] | None) -> object:
    """The plain value of an attribute, or the default of the operator."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def node_keys(graph: ir.Graph) -> dict[ir.Node, str]:
    """What each node is called by: its name, or ``output:<first output>`` where it has none of its own."""
    names = Counter(node.name for node in graph)
    return {
        node: node.name if node.name and names[node.name] == 1 else f"output:{node.outputs[0].name}"
        for node in graph
        if node.outputs
    }


def unique_name(base: str, taken: set[str]) -> str:
    """`base`, or `base`_2, _3, ...: the first that is not in `taken` or a dotted prefix in it; added to `taken`."""
    name, i = base, 2
    while name in taken or any(other.startswith(f"{name}.") for other in taken):
        name, i = f"{base}_{i}", i + 1
    taken.add(name)
    return name


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is None or node.op_type != "Identity":
            return ir.convenience.get_const_tensor(value)
        value = node.inputs[0]
    return None if value is None else value.const_value


def has_subgraph(node: ir.Node) -> bool:
    """Whether a node holds a graph, as If, Loop and Scan do."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return bool(node.attributes) and any(attribute.type in kinds for attribute in node.attributes.values())
