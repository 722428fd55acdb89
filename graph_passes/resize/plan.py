"""Prove that the graph downstream of a seam works with fewer tokens, and rewrite the counts baked into it.

The token axes are followed forward through every consumer by one rule per operator family (`rules`). A value has a set
of them (an attention matrix has two), and an axis that has the old count by coincidence is not one. What the rules
cannot prove is refused with node and constant. The plan is made first and checked by strict shape inference on a copy
without weights (`check`). Only then is the graph edited.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.fold_shapes import forget
from ..ir_tools.walk import Walk, read_in_subgraphs, unique_name
from .axis import Axis
from .check import check
from .rows import Rows
from .rules import CONTRIB, RULES, SHAPED, Rule
from .state import Downstream, Edit, Pool


@dataclass
class Plan:
    """What must change downstream of the seam.

    Attributes:
        edits: constants to rewrite.
        shapes: value -> its shape after compression, for every value with a token axis, except the first.
        attending: downstream nodes in which tokens attend to each other.
        axes: value -> its token axes, for every downstream value.
        pools: means over the tokens.
    """

    edits: list[Edit]
    shapes: dict[ir.Value, ir.Shape]
    attending: list[ir.Node] = field(default_factory=list)
    axes: dict[ir.Value, list[int]] = field(default_factory=dict)
    pools: list[Pool] = field(default_factory=list)

    def attends(self, model: ir.Model, until: ir.Value | None = None) -> bool:
        """Whether tokens attend to each other downstream; with `until` only nodes that it is computed from count."""
        if until is None or not self.attending:
            return bool(self.attending)
        return not Walk(model).ancestors(until).isdisjoint(self.attending)

    def apply(self, model: ir.Model, kept: ir.Value | None = None) -> list[str]:
        """Edit the graph; returns one line for each constant that changed.

        Args:
            model: that the plan was made for.
            kept: positions of the kept tokens [1, K] int64, where the plan takes rows of tables.
        """
        taken = {*model.graph.initializers, *(v.name or "" for node in model.graph for v in node.outputs)}
        rows = Rows(model.graph, kept)
        for edit in self.edits:
            if edit.rows is not None:
                rows.read(edit)
                continue
            base = f"{edit.node.name or edit.node.outputs[0].name}_shorter_{edit.index}"
            name = unique_name(base, taken)
            constant = ir.Value(name=name, const_value=ir.tensor(edit.array, name=name))
            constant.shape, constant.dtype = ir.Shape(edit.array.shape), constant.const_value.dtype  # type: ignore[union-attr]
            model.graph.register_initializer(constant)
            if edit.source is None:
                edit.node.replace_input_with(edit.index, constant)
                continue
            inputs = [constant] if edit.source.op_type == "ConstantOfShape" else [edit.source.inputs[0], constant]
            copy = ir.Node("", edit.source.op_type, inputs, list(edit.source.attributes.values()))
            copy.outputs[0].name = unique_name(f"{base}_value", taken)
            copy.outputs[0].type = edit.source.outputs[0].type
            copy.outputs[0].shape = ir.Shape([int(x) for x in edit.array])
            model.graph.insert_before(edit.node, copy)
            edit.node.replace_input_with(edit.index, copy.outputs[0])
        for value, shape in self.shapes.items():
            value.shape = shape
        return [edit.text for edit in self.edits]


def prove_downstream(model: ir.Model, value: ir.Value, axis: int, old: int, new: int, *, prefix: int = 0) -> list[str]:
    """Prove and rewrite in place, for a `value` that was just shortened.

    Args:
        model: the model; nothing in it has changed if this raises.
        value: carries tokens on `axis`; its own shape may have the old or the new count.
        axis: of `value`.
        old: entries on it before, prefix counted.
        new: entries on it now, prefix counted.
        prefix: leading entries that are not tokens.

    Returns:
        One line for each constant that was rewritten.

    Raises:
        GraphError: it cannot be proved; node, operator and constant are named.
    """
    plan = plan_downstream(model, value, axis, old, new, prefix=prefix)
    if value.shape is not None:
        plan.shapes[value] = _with(value.shape, {axis: new})
    return plan.apply(model)


def plan_downstream(
    model: ir.Model,
    value: ir.Value,
    axis: int,
    old: int,
    new: int,
    *,
    prefix: int = 0,
    no_rows: str = "the kept tokens are not known",
) -> Plan:
    """The read-only half of `prove_downstream`: `value` may still have its old count.

    `no_rows` says why rows of position tables cannot be taken at the kept tokens; empty where they can.
    """
    if new == old:
        return Plan([], {})
    walk = Walk(model)
    # What follows from the count of the tokens is about to change: the rules ask for it, before and after.
    forget(walk.descendants(value))
    try:
        return _plan(model, value, axis, Axis(old, new, prefix), no_rows)
    except GraphError:
        for found, shape in walk.shapes_before.items():
            found.shape = shape
        raise


def _plan(model: ir.Model, value: ir.Value, axis: int, tokens: Axis, no_rows: str) -> Plan:
    downstream = Downstream(model, no_rows=no_rows)
    downstream.axes[value] = {axis: tokens}
    if value.shape is not None:
        known = list(downstream.sizes.dims(value) or ())
        known[axis] = tokens.old
        downstream.sizes.known[value] = tuple(known)
    sized: set[ir.Value] = set()
    cone = [node for node in model.graph if _visit(downstream, node, sized)]
    shapes = {
        v: _with(v.shape, {i: a.kept for i, a in axes.items()})
        for v, axes in downstream.axes.items()
        if axes and v is not value and v.shape is not None
    }
    plan = Plan(list(downstream.edits.values()), shapes, [node for node in cone if _attends(downstream, node)])
    plan.axes = {value: list(axes) for value, axes in downstream.axes.items()}
    plan.pools = downstream.pools
    check(downstream, cone, plan.edits, plan.shapes, value)
    return plan


def _attends(downstream: Downstream, node: ir.Node) -> bool:
    if node.op_type == "Softmax":
        return len(downstream.axes.get(node.inputs[0], {})) > 1  # type: ignore[arg-type]
    if node.op_type not in ("Attention", "MultiHeadAttention"):
        return False
    # ONNX Runtime's own Attention has queries and keys of one input, and weights after it.
    operands = 1 if node.op_type == "Attention" and node.domain == "com.microsoft" else 2
    return all(downstream.axes.get(x) for x in node.inputs[:operands] if x is not None)


def _visit(downstream: Downstream, node: ir.Node, sized: set[ir.Value]) -> bool:
    """Follow the tokens through one node; returns whether they or their count reach it."""
    _refuse_captured(downstream, node, sized)
    tracked = any(downstream.axes.get(value) for value in node.inputs if value is not None)
    counted = any(value in sized for value in node.inputs if value is not None)
    if not tracked and not counted:
        return False
    standard = node.domain in ("", "ai.onnx")
    if not tracked and (
        not standard or node.op_type not in SHAPED or downstream.sizes.data(node.outputs[0]) is not None
    ):
        # A number computed from the token count: where it is used as a shape, `Sizes` knows its value.
        sized.update(node.outputs)
        return True
    rule = _rule(downstream, node)
    axes_out = rule(downstream, node)
    for i, output in enumerate(node.outputs):
        axes = axes_out[i] if len(axes_out) > 1 else axes_out[0]
        _agree(downstream, node, output, axes)
        downstream.axes[output] = axes
        if counted or node.op_type in ("Shape", "Size"):
            sized.add(output)
    return True


def _rule(downstream: Downstream, node: ir.Node) -> Rule:
    rule = {"": RULES, "ai.onnx": RULES, "com.microsoft": CONTRIB}.get(node.domain, {}).get(node.op_type)
    if node.op_identifier() in downstream.model.functions:
        fix = "Inline the model's functions first: onnx.inliner.inline_local_functions."
        if node.domain == "tokexport":
            fix = "Insert compressors in graph order, upstream first; a recipe does (--recipe)."
        downstream.refuse(node, f"local function {node.domain}::{node.op_type} cannot be analysed", fix=fix)
    if rule is None:
        domain = f"{node.domain}::" if node.domain else ""
        downstream.refuse(node, f"what {domain}{node.op_type} does with the token axis is not known")
    return rule


def _agree(downstream: Downstream, node: ir.Node, output: ir.Value, axes: dict[int, Axis]) -> None:
    """The shape declared in the file must agree with the rule."""
    dims = downstream.sizes.dims(output)
    if dims is None and axes and output.name:
        downstream.refuse(node, f"the shape of {output.name} is not known", fix="Add value_info to the model.")
    for i, axis in axes.items():
        if dims is not None and (i >= len(dims) or (dims[i] != axis.size and not downstream.sizes.symbolic(dims[i]))):
            downstream.refuse(node, f"{output.name} is declared as {list(dims)}, but axis {i} has {axis.size} entries")


def _refuse_captured(downstream: Downstream, node: ir.Node, sized: set[ir.Value]) -> None:
    for value in read_in_subgraphs(node):
        if downstream.axes.get(value) or value in sized:
            downstream.refuse(node, f"its subgraph reads {value.name}, which carries tokens")


def _with(shape: ir.Shape, sizes: dict[int, int]) -> ir.Shape:
    return ir.Shape([sizes.get(i, dim) for i, dim in enumerate(shape)])
