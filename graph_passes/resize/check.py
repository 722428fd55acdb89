"""The second half of the proof: strict shape inference over the planned downstream graph must agree with the rules.

The nodes downstream of the seam are copied into a model of their own, with the planned constants and without weights: a
large constant becomes an input of its type. The model itself is not changed, and no weight is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from ...errors import GraphError
from .state import Downstream, Edit

_INLINE_BYTES = 1024  # Constants up to this size are kept, because inference reads shapes from them.


def check(
    downstream: Downstream,
    cone: Sequence[ir.Node],
    edits: Sequence[Edit],
    shapes: dict[ir.Value, ir.Shape],
    value: ir.Value,
) -> None:
    """Compare with strict inference.

    Args:
        downstream: the finished walk.
        cone: nodes that read tokens or their count, in order.
        edits: constants that will change.
        shapes: those that the rules derived.
        value: the tokens that enter the downstream graph.

    Raises:
        GraphError: inference fails, or derives another size for some axis.
    """
    if not cone:
        return
    axes = downstream.axes[value]
    first = ir.Shape([axes[i].kept if i in axes else dim for i, dim in enumerate(value.shape or ())])
    proto = _proto(downstream, cone, {(e.node, e.index): e for e in edits}, value, first)
    # Propagating the content of shapes takes memory (100 MB for 3,000 nodes) and matters only where they are computed.
    computed = any(node.op_type in ("Shape", "Size") for node in cone)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=True, data_prop=computed)
    except Exception as error:
        # Its errors have no public base class.
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise GraphError(
            f"shape inference refuses the graph with fewer tokens: {said[-1]}",
            where=f"graph {downstream.model.graph.name}",
            fix="Choose a seam further downstream (`tokexport inspect SOURCE` lists them).",
        ) from error
    infos = (*inferred.graph.value_info, *inferred.graph.output)
    found = {info.name: info.type.tensor_type.shape for info in infos}
    known = {info.name: info.type.tensor_type.HasField("shape") for info in infos}
    for node in cone:
        for output in node.outputs:
            # The result of an operator that inference does not know has no shape there.
            if output not in shapes or output.name not in found or not known[output.name]:
                continue
            wanted, got = list(shapes[output]), [d.dim_value for d in found[output.name].dim]
            if len(wanted) != len(got) or any(isinstance(w, int) and g and w != g for w, g in zip(wanted, got)):
                downstream.refuse(node, f"shape inference gives {output.name} {got}, but the rules derive {wanted}")


def _proto(
    downstream: Downstream,
    cone: Sequence[ir.Node],
    edits: dict[tuple[ir.Node, int], Edit],
    value: ir.Value,
    first: ir.Shape,
) -> onnx.ModelProto:
    graph = onnx.GraphProto(name="downstream")
    model = downstream.model
    inside = {output for node in cone for output in node.outputs}
    outside: dict[ir.Value, None] = {}
    graph.input.append(_info(value.name or "", value.dtype, first))
    for node in cone:
        proto = graph.node.add()
        proto.op_type, proto.domain, proto.name = node.op_type, node.domain, node.name or ""
        for attribute in node.attributes.values():
            ir.serde.serialize_attribute_into(proto.attribute.add(), attribute)
        proto.output.extend(output.name or "" for output in node.outputs)
        for i, x in enumerate(node.inputs):
            edit = edits.get((node, i))
            if edit is not None:
                name = f"{node.outputs[0].name}//{i}"
                if edit.constant:
                    graph.initializer.append(onnx.numpy_helper.from_array(edit.array, name))
                else:
                    graph.input.append(_info(name, x.dtype if x is not None else None, ir.Shape(edit.array.tolist())))
                proto.input.append(name)
                continue
            proto.input.append("" if x is None else x.name or "")
            if x is not None and x not in inside and x is not value:
                outside[x] = None
    for x in outside:
        tensor = ir.convenience.get_const_tensor(x)
        if tensor is not None and tensor.nbytes <= _INLINE_BYTES and not isinstance(tensor, ir.ExternalTensor):
            initializer = graph.initializer.add()
            initializer.CopyFrom(ir.to_proto(tensor))
            initializer.name = x.name or ""
        elif tensor is not None:
            graph.input.append(_info(x.name or "", tensor.dtype, ir.Shape(tensor.shape.numpy())))
        elif (known := downstream.sizes.data(x)) is not None and _settled(known) and x.dtype == ir.DataType.INT64:
            # A shape computed upstream of the seam has a known value.
            dims = [] if x.shape is not None and x.shape.rank() == 0 else [len(known)]
            graph.initializer.append(
                onnx.helper.make_tensor(x.name or "", onnx.TensorProto.INT64, dims, [old or 0 for old, _ in known])
            )
        else:
            graph.input.append(_info(x.name or "", x.dtype, x.shape))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def _settled(pairs: list[tuple[int | None, int | None]]) -> bool:
    return all(old is not None and old == new and old < 10**9 for old, new in pairs)


def _info(name: str, dtype: ir.DataType | None, shape: ir.Shape | None) -> onnx.ValueInfoProto:
    dims = None if shape is None else [d if isinstance(d, int) else getattr(d, "value", None) for d in shape]
    return onnx.helper.make_tensor_value_info(name, int(dtype or ir.DataType.UNDEFINED), dims)
