"""What is done to a foreign graph before it is looked at: input sizes fixed, outputs dropped, an old opset raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ...errors import GraphError, RequestError, first_line, nearest
from .builder import DTYPE_NAMES, OPSET
from .fold_shapes import fold_shapes
from .infer_shapes import infer_missing_shapes
from .model_io import standard_opset
from .walk import FLOATS

_INLINE_BYTES = 4096  # Constants up to here may be axes or sizes, which a conversion of the opset looks at.


def given_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that a caller gives: older files list their weights among the inputs too."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def fix_inputs(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Give inputs fixed sizes, in place, and infer every shape anew; returns a line on each that changed.

    Raises:
        RequestError: no such input, or sizes that are not those of its fixed axes.
    """
    inputs = {value.name or "": value for value in given_inputs(model.graph)}
    for name, wanted in shapes.items():
        if name not in inputs:
            raise RequestError(f"the model has no input {name!r}", fix=nearest(name, inputs, kind="inputs"))
        held = None if inputs[name].shape is None else list(inputs[name].shape)  # type: ignore[arg-type]
        fits = held is None or (
            len(held) == len(wanted) and all(not isinstance(dim, int) or dim == size for dim, size in zip(held, wanted))
        )
        if not fits or not all(isinstance(size, int) and size > 0 for size in wanted):
            raise RequestError(
                f"input {name!r} is {_listed(held)}, which {_listed(wanted)} does not fit",
                fix=f"Keep the sizes that are fixed: {option(inputs[name])}.",
            )
    lines = []
    for name, wanted in shapes.items():
        value = inputs[name]
        if value.shape is None or not value.shape.is_static():
            lines.append(f"input {name} was {_listed(value.shape)} and is {_listed(wanted)} now")
            value.shape = ir.Shape(wanted)
    if lines:
        for node in model.graph:
            for output in node.outputs:
                output.shape = None
        infer_missing_shapes(model)
        fold_shapes(model)
    return lines


def option(value: ir.Value) -> str:
    """The option that fixes an input, with its fixed sizes kept and a usual size for the others."""
    shape = [] if value.shape is None else list(value.shape)
    usual = _usual(value, len(shape))
    sizes = [dim if isinstance(dim, int) else 1 if i == 0 else usual for i, dim in enumerate(shape)]
    return f"--input-shape {value.name}={','.join(map(str, sizes))}"


def fix_of(model: ir.Model) -> str:
    """What to type for a model with dynamic inputs, in the sizes that such inputs usually have."""
    loose = [v for v in given_inputs(model.graph) if v.shape is not None and not v.shape.is_static()]
    if not loose:
        return (
            "Its inputs are fixed, but what the graph computes from them is not: export it again without dynamic axes."
        )
    options = " ".join(option(value) for value in loose)
    keywords = ", ".join(f"{value.name!r}: [{option(value).partition('=')[2].replace(',', ', ')}]" for value in loose)
    return f"Fix the sizes you will run: {options} (input_shapes={{{keywords}}})."


def _usual(value: ir.Value, rank: int) -> int:
    if rank == 4 or rank == 5:
        return 336  # Pixels.
    if rank == 3:
        return 3000  # Frames of a spectrogram.
    floating = value.dtype is not None and value.dtype.is_floating_point()
    return 480000 if floating else 64  # Samples of 30 s at 16 kHz; ids.


def _listed(shape: object) -> str:
    return "of unknown rank" if shape is None else "[" + ", ".join(str(dim) for dim in shape) + "]"  # type: ignore[attr-defined]


def drop_outputs(model: ir.Model, names: Sequence[str]) -> None:
    """Remove graph outputs, in place, and what only they needed.

    Raises:
        RequestError: no such output, or none would be left.
    """
    outputs = {value.name or "": value for value in model.graph.outputs}
    for name in names:
        if name not in outputs:
            raise RequestError(f"the model has no output {name!r}", fix=nearest(name, outputs, kind="outputs"))
    if names and set(names) >= set(outputs):
        raise RequestError("every output would be dropped", fix="Leave the one that gives the tokens.")
    if not names:
        return
    kept = [value for value in model.graph.outputs if value.name not in names]
    model.graph.outputs[:] = kept
    for node in reversed(list(model.graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            model.graph.remove(node, safe=True)


def half_type(model: ir.Model) -> str:
    """``float16`` or ``bfloat16`` where most products with weights are computed in it; else empty."""
    infer_missing_shapes(model)
    products = [node for node in model.graph if node.op_type in ("MatMul", "Gemm", "Conv", "FusedMatMul")]
    types = Counter(
        output.dtype for node in products or model.graph for output in node.outputs if output.dtype in FLOATS
    )
    ((most, _),) = types.most_common(1) or [(ir.DataType.FLOAT, 0)]
    return DTYPE_NAMES[most] if most in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else ""


def raise_opset(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """The model in an opset that bodies of compressors are written for, its shapes inferred anew; and a note.

    Weights are not read: they are carried over by name.

    Raises:
        GraphError: the standard converter refuses it.
    """
    opset = standard_opset(model)
    if opset >= OPSET or not opset:
        return model, []
    import onnx

    proto = ir.to_proto(model)
    weights = {}
    for tensor in list(proto.graph.initializer):
        value = model.graph.initializers[tensor.name]
        if value.const_value is not None and value.const_value.nbytes > _INLINE_BYTES:
            weights[tensor.name] = value
            proto.graph.initializer.remove(tensor)
            if all(given.name != tensor.name for given in proto.graph.input):
                given = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                proto.graph.input.append(given)
    del proto.graph.value_info[:]
    try:
        raised = ir.from_proto(onnx.version_converter.convert_version(proto, OPSET))
    except Exception as error:
        # The converter raises RuntimeError and its own errors, which have no public base class.
        raise GraphError(
            f"the model is of opset {opset}, and cannot be raised to {OPSET}: {first_line(error)}",
            where=f"graph {model.graph.name}",
            fix=f"Export it again with opset_version={OPSET}.",
        ) from error
    for value in list(raised.graph.inputs):
        if value.name in weights:
            value.const_value = weights[value.name].const_value
            if not weights[value.name].is_graph_input():
                raised.graph.inputs.remove(value)
            raised.graph.register_initializer(value)
    raised.metadata_props.update(model.metadata_props)
    infer_missing_shapes(raised)
    fold_shapes(raised)
    return raised, [f"the file was of opset {opset} and is of {OPSET} now"]
