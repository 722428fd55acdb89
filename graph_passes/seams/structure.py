"""Find seams in a graph without names: the residual chain is the encoder, the first weights after it the projector."""

from __future__ import annotations

from collections.abc import Container, Set
from dataclasses import dataclass

import onnx_ir as ir

from ..ir_tools.token_flow import (
    NORMS,
    QUANTISERS,
    batch_first,
    channels_first,
    ends_tokens,
    keeps_tokens,
    only_pointwise,
    pointwise,
    prefix_dropped,
    weight_product,
)
from ..ir_tools.walk import FLOATS, Walk, dims

_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_SAME_SUM = NORMS | {"Cast", "Identity", *QUANTISERS}
# Value -> (residual sums up to it, the value of the chain before it).
Chain = dict[ir.Value, tuple[int, "ir.Value | None"]]
# One transformer layer has two residual sums; a shorter chain is no encoder.
_SHORTEST = 2


@dataclass(frozen=True)
class Downstream:
    """The path from an encoder's output to the first weights after it.

    Attributes:
        projector_input: the value after the last operation that moves tokens; None if it cannot be proved.
        weight: the product with the first weights; None where there is none.
        mixing: nodes on the path that mix tokens by position.
        foreign: nodes on the path that join the tokens with other computed values, such as features of other layers.
    """

    projector_input: ir.Value | None
    weight: ir.Node | None
    mixing: tuple[ir.Node, ...]
    foreign: tuple[ir.Node, ...]

    @property
    def why(self) -> str:
        """Why tokens cannot be selected before this path; empty if they can."""
        if self.mixing:
            node = self.mixing[0]
            return f"{node.op_type} {_label(node)} downstream moves or merges tokens by position"
        if self.foreign:
            node = self.foreign[0]
            return f"{node.op_type} {_label(node)} downstream joins the tokens with others that are not selected"
        return ""


def residual_chain(walk: Walk) -> list[ir.Value]:
    """The longest chain of residual sums [.., n, D], first to last.

    Empty if none is as long as one layer, or if two are equally long (two parallel towers).
    """
    chain = residual_sums(walk)
    lengths = [length for value, (length, _) in chain.items() if is_sum(chain, value)]
    longest = max(lengths, default=0)
    if longest < _SHORTEST or lengths.count(longest) > 1:
        return []
    values: list[ir.Value] = []
    step: ir.Value | None = next(x for x, (n, _) in chain.items() if n == longest and is_sum(chain, x))
    while step is not None:
        values.append(step)
        step = chain[step][1]
    return values[::-1]


def residual_sums(walk: Walk) -> Chain:
    """Every residual sum, and every such sum after a norm or a cast, in the order of the graph.

    A residual sum adds a value to something computed from it. The chain runs through norms (post-norm models), and
    through the rounding of quantised ones.
    """
    chain: Chain = {}
    for node in walk.nodes:
        inputs = [value for value in node.inputs if value is not None]
        sums = node.op_type == "Add" or node.op_type in _SKIP_NORMS
        terms = inputs[:2]
        if sums and len(terms) == 2 and not any(walk.learned(value) for value in terms) and _same_tokens(terms):
            skip = max(terms, key=lambda value: chain.get(value, (0, None))[0])
            other = terms[1] if skip is terms[0] else terms[0]
            length = chain.get(skip, (0, None))[0]
            # Only the first sum needs the proof: a chain rarely starts at a join of two unrelated branches.
            if length == 0 and not _computed_from(walk, other, unrounded(skip)):
                skip, other = other, skip
                if not _computed_from(walk, other, unrounded(skip)):
                    continue
            output = _sum_output(node)
            chain[output] = (length + 1, skip if length else None)
            if output is not node.outputs[0]:
                chain[node.outputs[0]] = (length + 1, output)
        elif node.op_type in _SAME_SUM and inputs and inputs[0] in chain:
            chain[node.outputs[0]] = (chain[inputs[0]][0], inputs[0])
        elif (value := _stretched(walk, node, chain)) is not None:
            chain[node.outputs[0]] = (chain[value][0], value)
    return chain


def goes_on(chain: Chain, value: ir.Value) -> bool:
    """Whether a later residual sum adds to `value`: then a layer ends behind it, not at it."""
    later = {value}
    for step, (_, before) in chain.items():
        if before in later:
            if is_sum(chain, step):
                return True
            later.add(step)
    return False


def inside_norm(chain: Chain, value: ir.Value, named: Container[ir.Node]) -> bool:
    """Whether `value` is a step of a norm's arithmetic whose next step is not among the nodes with a name.

    Where names end in the middle of a norm, the module seems to end there too.
    """
    following = [node for node in value.consumers() if chain.get(node.outputs[0], (0, None))[1] is value]
    return not is_sum(chain, value) and any(node not in named and node.op_type not in NORMS for node in following)


def unrounded(value: ir.Value) -> ir.Value:
    """The value before casts and the rounding of quantised graphs."""
    node = value.producer()
    while node is not None and node.op_type in _SAME_SUM - NORMS and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def with_final_norm(walk: Walk, value: ir.Value) -> ir.Value:
    """The encoder's output, given its last residual sum: after a final norm that is the sum's only reader."""
    step = value
    users = list(step.consumers())
    while len(users) == 1 and users[0].op_type in QUANTISERS and not step.is_graph_output():
        step = users[0].outputs[0]
        users = list(step.consumers())
    if len(users) == 1 and users[0].op_type in NORMS and users[0].inputs[0] is step and not step.is_graph_output():
        return users[0].outputs[0]
    return value


def with_batch_first(value: ir.Value, heads: Set[ir.Node] = frozenset()) -> ir.Value:
    """[B, N, D] of a stream [N, B, D] that is turned round and goes nowhere else; else `value` itself.

    A pooling head may want [N, B, D]: what belongs to `heads` does not count.
    """
    users = list(value.consumers())
    turned = len(users) == 1 and batch_first(users[0]) and users[0] not in heads
    return users[0].outputs[0] if turned and not value.is_graph_output() else value


def downstream(walk: Walk, value: ir.Value, prefix: int = 0, heads: Set[ir.Node] = frozenset()) -> Downstream:
    """Walk from an encoder's output, with `prefix` leading tokens, to the first weights after it that are no head's."""

    def ends(node: ir.Node) -> bool:
        return ends_tokens(node, prefix) or node in heads

    after = walk.descendants(value, until=lambda node: ends(node) or _weights(walk, node))
    flow = [node for node in walk.sorted(after) if not ends(node) and (_float(node) or _weights(walk, node))]
    weight = next((node for node in flow if _weights(walk, node)), None)
    between = set(flow) if weight is None else walk.ancestors(_data(walk, weight)) & set(flow)
    path = [node for node in walk.sorted(between) if not _weights(walk, node)]
    kept = [node for node in path if keeps_tokens(walk, node) or prefix_dropped(node) or only_pointwise(node)]
    mixing = tuple(node for node in path if node not in kept)
    if weight is not None and weight.op_type == "Conv" and mixing and channels_first(mixing[0]):
        mixing = (weight, *mixing)
    known = {value, *(output for node in path for output in node.outputs)}
    foreign = tuple(node for node in path if any(x not in known for x in walk.inputs(node)))
    return Downstream(_last_move(walk, value, path, {*mixing, *foreign}, weight), weight, mixing, foreign)


def output_downstream(walk: Walk, value: ir.Value) -> ir.Value | None:
    """The graph output that holds the same tokens, if only per-token operations lie in between; else None."""
    after = walk.descendants(value)
    if any(not keeps_tokens(walk, node) for node in after):
        return None
    shape = dims(value)
    rank = len(shape or ())
    found = [x for x in walk.graph.outputs if x.producer() in after and len(dims(x) or ()) == rank in (2, 3)]
    if len(found) != 1 or shape is None or (dims(found[0]) or ())[rank - 2] != shape[rank - 2]:
        return None
    return found[0]


def moved_downstream(walk: Walk, value: ir.Value) -> str:
    """Why tokens may not be selected at `value`: a downstream operation that works on a grid; else empty."""
    grid = ("Conv", "AveragePool", "MaxPool", "Resize", "SpaceToDepth", "DepthToSpace")
    after = walk.sorted(walk.descendants(value, until=ends_tokens))
    node = next((n for n in after if n.op_type in grid and not pointwise(n)), None)
    return f"{node.op_type} {_label(node)} downstream moves or merges tokens by position" if node is not None else ""


def _last_move(
    walk: Walk, value: ir.Value, path: list[ir.Node], moving: set[ir.Node], weight: ir.Node | None
) -> ir.Value | None:
    """The value after the last node that moves or joins tokens, if all paths from there to the weights pass it."""
    if weight is None or (weight.op_type == "Conv" and not pointwise(weight)):
        return None
    moves = [node for node in path if node in moving or prefix_dropped(node)]
    start = moves[-1].outputs[0] if moves else value
    if len(dims(start) or ()) not in (2, 3):
        return None
    known = {start}
    for node in [*path[path.index(moves[-1]) + 1 :], weight] if moves else [*path, weight]:
        if any(x not in known for x in walk.inputs(node)):
            return None
        known.update(node.outputs)
    return start


def _weights(walk: Walk, node: ir.Node) -> bool:
    return weight_product(walk, node) or (node.op_type == "Conv" and len(node.inputs) > 1)


def _data(walk: Walk, node: ir.Node) -> ir.Value:
    return next(value for value in node.inputs if value is not None and not walk.learned(value))


def _float(node: ir.Node) -> bool:
    return any(output.dtype in FLOATS for output in node.outputs) and node.op_type != "Shape"


def _same_tokens(values: list[ir.Value]) -> bool:
    left, right = (dims(value) for value in values)
    return left is not None and left == right and len(left) in (2, 3) and values[0].dtype in FLOATS


def is_sum(chain: Chain, value: ir.Value) -> bool:
    """Whether a value of the chain is a residual sum, and not one after a norm or a cast."""
    length, before = chain[value]
    return before is None or chain[before][0] < length


def _stretched(walk: Walk, node: ir.Node, chain: Chain) -> ir.Value | None:
    """The value of the chain that a step of a norm's arithmetic scales or shifts: by a weight, or a number a token."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    value, other = node.inputs if node.inputs[0] in chain else reversed(node.inputs)
    if value not in chain or value is None or other is None or other in chain:
        return None
    return value if walk.learned(other) or (dims(other) or (None,))[-1] == 1 else None


def _sum_output(node: ir.Node) -> ir.Value:
    if node.op_type in _SKIP_NORMS and len(node.outputs) > 3 and node.outputs[3].uses():
        return node.outputs[3]
    return node.outputs[0]


def _computed_from(walk: Walk, value: ir.Value, source: ir.Value) -> bool:
    producer = source.producer()
    while producer is not None and producer.op_type in QUANTISERS and producer.inputs[0] is not None:
        # Each reader may have a dequantised copy of its own.
        source = producer.inputs[0]
        producer = source.producer()
    if producer is None:
        return any(source in node.inputs for node in walk.ancestors(value))
    return producer in walk.ancestors(value)


def _label(node: ir.Node) -> str:
    return repr(node.name or node.outputs[0].name)
