"""Load and save ONNX models without touching their weights, and check what every pass relies on.

External weights stay on disk: `load_model` reads the graph and looks at the size of the data files, never at their
content. `save_model` copies them once, streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...errors import GraphError, first_line, reason
from .builder import OPSET
from .call_order import in_call_order
from .from_proto import from_proto, not_a_model
from .walk import out_of_order, read_in_subgraphs
from .well_formed import refuse_malformed

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10  # The version written: local functions need 8, and the targeted runtimes read 10.

# Larger initializers go to the external data file; smaller ones stay where parsers and shape inference see them.
EXTERNAL_FROM_BYTES = 1024


def load_model(path: str | Path) -> ir.Model:
    """Read the graph of an ONNX file; external weights are referred to, not read.

    Args:
        path: the ``.onnx`` file. Its external data lies in the same folder or below it.

    Raises:
        GraphError: no such file, not an ONNX model or truncated, an external data file that is missing, too short, a
            link, or outside the folder.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise GraphError(f"{path} {kind}", fix="Give the path of an .onnx file.")
    model = from_proto(_message(path), str(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    if not len(model.graph) and not model.graph.outputs:
        raise GraphError(
            f"{path} holds no graph ({path.stat().st_size} bytes)", fix="Copy or export the ONNX file again."
        )
    put_in_order(model)
    _check_external_data(model, path)
    return model


def _message(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise not_a_model(str(path), path.stat().st_size, error) from error


def put_in_order(model: ir.Model) -> None:
    """Sort the nodes of all graphs, in place, where one precedes what it reads: converters append Casts at the end.

    Raises:
        GraphError: it is damaged (`refuse_malformed`); a graph has a cycle, of nodes or of functions; or its functions
            expand without measure.
    """
    refuse_malformed(model)
    in_call_order(model)
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        for part in [graph, *graph.subgraphs()]:
            if out_of_order(part) is None:
                continue
            try:
                graph.sort()
            except ValueError:
                raise _cyclic(part) from None
            if out_of_order(part) is not None:
                raise _cyclic(part)


def _cyclic(graph: ir.Graph) -> GraphError:
    """The error for a graph whose nodes cannot be sorted, with the nodes of one cycle."""
    left = set(graph)
    todo = list(graph)
    while todo:
        node = todo.pop()
        if node in left and not any(value.producer() in left for value in _read(node)):
            left.discard(node)
            todo += [reader for output in node.outputs for reader in output.consumers()]
    path: dict[ir.Node, None] = {}
    at = next((node for node in graph if node in left), None)
    while at is not None and at not in path:
        path[at] = None
        at = next((producer for value in _read(at) if (producer := value.producer()) in left), None)
    passed = list(path)
    cycle = passed[passed.index(at) :] if at is not None else passed
    names = [repr(each.name or each.op_type) for each in cycle]
    shown = names if len(names) < 6 else [*names[:2], f"{len(names) - 4} more", *names[-2:]]
    return GraphError(
        f"the graph has a cycle: nodes read what is computed from them: {' reads '.join([*shown, *names[:1]])}",
        where=f"graph {graph.name}",
        fix="Export the ONNX file again.",
    )


def _read(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *read_in_subgraphs(node)) if value is not None]


def save_model(model: ir.Model, path: str | Path, data_name: str | None = None) -> None:
    """Write a model; weights are streamed and `model` itself is not changed.

    Args:
        model: the model.
        path: the ``.onnx`` file to write. The file and its data are not written atomically (a bundle is).
        data_name: name of the one external data file next to it, for all tensors above `EXTERNAL_FROM_BYTES`. None
            writes tensors where they are: in the file if in memory, as a reference to the same relative path if
            external.

    Raises:
        GraphError: `data_name` names another folder, an external data file is gone, or the graph is above 2 GiB
            without `data_name`.
    """
    path = Path(path)
    if data_name is not None and (Path(data_name).name != data_name or data_name in {".", ".."}):
        raise GraphError(
            f"external data name {data_name!r} is not a plain file name", fix=f"Use {path.name + '.data'!r}."
        )
    try:
        if data_name is None:
            ir.save(model, path)
        else:
            ir.save(model, path, external_data=data_name, size_threshold_bytes=EXTERNAL_FROM_BYTES)
    except FileNotFoundError as error:
        raise GraphError(
            f"file {error.filename} cannot be opened while {path.name} is written",
            fix="Weights are read when a model is saved: keep the files it was loaded from, and the folder, in place.",
        ) from error
    except ValueError as error:
        raise GraphError(
            f"{path.name} cannot be written: {first_line(error, 200)}",
            fix="A graph above 2 GiB needs an external data file: pass data_name.",
        ) from error


def ensure_opset(model: ir.Model) -> None:
    """Make sure that compressor bodies are valid in `model`; raise its IR version to `IR_VERSION` if lower.

    Raises:
        GraphError: the standard opset is below 18, or the model imports none.
    """
    opset = standard_opset(model)
    if opset < OPSET:
        raise GraphError(
            f"the model has opset {opset}; compressors need at least {OPSET}",
            where=f"graph {model.graph.name}",
            fix="Convert it first: " + convert_command("MODEL.onnx", f"MODEL.opset{OPSET}.onnx"),
        )
    model.ir_version = max(model.ir_version, IR_VERSION)


def standard_opset(model: ir.Model) -> int:
    """The opset of the standard domain, which has two names; 0 if the model imports none."""
    imports = model.graph.opset_imports
    return imports.get("", imports.get("ai.onnx", 0))


def convert_command(source: str, target: str) -> str:
    """The shell command that raises a file to the opset of the compressor bodies."""
    return (
        'python -c "import onnx; from onnx import version_converter as v; '
        f"onnx.save(v.convert_version(onnx.load('{source}'), {OPSET}), '{target}')\""
    )


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Every tensor of the model that lies in an external data file."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if not attribute.is_ref() and isinstance(attribute.value, ir.ExternalTensor):
                yield attribute.value


def data_files(model: ir.Model, path: Path) -> list[Path]:
    """The files that hold the weights of a model that was read from `path`, beside it."""
    return sorted({path.parent / str(tensor.location) for tensor in external_tensors(model)})


def _check_external_data(model: ir.Model, path: Path) -> None:
    """Refuse data files that are missing or outside the folder, before an edit instead of when they are read."""
    folder = path.resolve().parent
    needed: dict[str, tuple[int, str]] = {}
    for tensor in external_tensors(model):
        location = str(tensor.location)
        end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
        if end > needed.get(location, (-1, ""))[0]:
            needed[location] = (end, tensor.name)
    for location, (size, name) in needed.items():
        where = f"{path.name}, tensor {name}"
        file = path.parent / location
        try:
            inside, there = file.resolve().is_relative_to(folder), file.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            # Too long, a circle of links, or with a character that no system takes.
            raise GraphError(
                f"external data {location!r} cannot be opened: {reason(error)}",
                where=where,
                fix="Save the model again, its data next to it under a plain file name.",
            ) from None
        if Path(location).is_absolute() or not inside:
            raise GraphError(
                f"external data {location!r} lies outside the model's folder",
                where=where,
                fix="Copy the data file next to the model and save the model again with that location.",
            )
        if not there:
            raise GraphError(
                f"external data file {location!r} is missing",
                where=where,
                fix=f"Put it into {path.parent}: an ONNX model above 2 GB is two files.",
            )
        if file.is_symlink() or file.stat().st_nlink > 1:
            raise GraphError(
                f"external data file {location!r} is a link, which runtimes refuse",
                where=where,
                fix="Replace the link by a copy of the file (cp --dereference).",
            )
        if file.stat().st_size < size:
            raise GraphError(
                f"external data file {location!r} has {file.stat().st_size} bytes, the model needs {size}",
                where=where,
                fix="It was truncated: copy it again.",
            )
