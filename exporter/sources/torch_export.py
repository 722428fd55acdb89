"""A PyTorch module becomes an ONNX graph: static shapes, tensors named by role, module scopes kept, paths stripped."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO, cast

from ...errors import GraphError, MissingError
from .calling import arguments
from .exported import exported
from .torch_shortcuts import shortcuts

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from .source import GraphSource

# All other metadata that torch writes per node is either a path of this machine or repeats these two.
_KEPT_METADATA = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")
_NO_OPERATOR = "Write that step of the module with operators that ONNX has."
_NO_TRACE = (
    "Control flow that depends on the values of tensors has to move out of forward; "
    "torch.export.export(module, inputs) shows the line."
)


def need(*modules: str, to: str) -> None:
    """Raise `MissingError` where a module of the extra `export` is not installed; `to` completes "needed to"."""
    absent = [name for name in modules if find_spec(name) is None]
    if absent:
        raise MissingError(
            f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} needed to {to}, and not installed",
            fix='Install with: pip install "tokexport[export]"',
        )


def export_graph(graph: GraphSource, opset: int = 18) -> ir.Model:
    """Export one graph with `torch.onnx`.

    Weights are not copied: initializers read the module's own storage when the model is saved, so the module must
    not change before that. The same module gives the same bytes each time. A built-in model is exported once, and known
    from then on (see `exported`).

    Args:
        graph: module, example inputs and output names; shapes and dtypes of the graph are those of the example.
        opset: of the standard domain.

    Returns:
        The model, at IR version 10. An encoder carries its seams in `metadata_props`.

    Raises:
        MissingError: torch or onnxscript is not installed.
        GraphError: torch cannot export the module, or the module returns another number of tensors than `outputs`.
    """
    need("torch", "onnxscript", to="export a PyTorch module")
    return exported(graph, opset, _export)


def _export(graph: GraphSource, opset: int) -> ir.Model:
    import torch

    assert graph.module is not None, "a foreign ONNX file is not exported"
    module = graph.module.eval()
    positional, keywords = arguments(module, graph.inputs)
    try:
        with _quiet(), shortcuts(), torch.no_grad():
            program = torch.onnx.export(
                module,
                positional,
                kwargs=keywords,
                dynamo=True,
                opset_version=opset,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                report=False,
                verify=False,
                verbose=False,
                optimize=False,
            )
            assert program is not None
            _optimized(program)
    except Exception as error:
        cause = _cause(error)
        raise GraphError(
            f"torch.onnx cannot export the {graph.role} graph of {type(module).__name__}: {cause}",
            fix=_NO_OPERATOR if "No ONNX function" in cause else _NO_TRACE,
        ) from error
    model = program.model
    _check_signature(model, graph)
    _free_names(model)
    _strip(model)
    model.ir_version = 10
    model.graph.name = graph.role
    if graph.role == "encoder":
        from ...graph_passes.seams.find import write_seams

        merged_rows, known = graph.merged_rows, graph.known
        write_seams(model, grid=graph.grid, placeholder=graph.placeholder, merged_rows=merged_rows, known=known)
    return model


def _optimized(program: torch.onnx.ONNXProgram) -> None:
    """Fold constants; weights that something else took the place of leave memory.

    Patterns of onnxscript hold the last graph that they were tried on for good, and with it all it ever read.
    """
    read = list(program.model.graph.initializers.values())
    program.optimize()
    left = {id(value) for value in program.model.graph.initializers.values()}
    for value in read:
        if id(value) not in left:
            value.const_value = None


def _check_signature(model: ir.Model, graph: GraphSource) -> None:
    """Check that the graph has the announced inputs and outputs, with static shapes."""
    where = f"{graph.role} graph of {type(graph.module).__name__}"
    for kind, values, wanted in (
        ("input", model.graph.inputs, list(graph.inputs)),
        ("output", model.graph.outputs, list(graph.outputs)),
    ):
        names = [value.name for value in values]
        if names != wanted:
            raise GraphError(
                f"the exported graph has the {kind}s {names}, but {wanted} were announced",
                where=where,
                fix="forward must take and return single tensors, as many as there are names.",
            )
    for value in model.graph.outputs:
        if value.shape is None or not value.shape.is_static():
            raise GraphError(
                f"output {value.name} has the shape {value.shape}, which depends on the values of the input",
                where=where,
                fix="Boolean masks, nonzero and unique in forward give such shapes: select by top-k or argsort.",
            )


def _free_names(model: ir.Model) -> None:
    """Rename inner values that torch called like an output, as it does with what an nn.Embedding gives."""
    ends = {value.name: value for value in model.graph.outputs}
    made = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (*made, *model.graph.initializers.values()):
        if value.name in ends and ends[value.name] is not value:
            value.name = f"{value.name}_inside"


def _strip(model: ir.Model) -> None:
    """Drop metadata that names files of this machine, and counters that differ from one export to the next."""
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        kept = {key: node.metadata_props[key] for key in _KEPT_METADATA if key in node.metadata_props}
        node.metadata_props.clear()
        node.metadata_props.update(kept)
        for output in node.outputs:
            output.metadata_props.clear()


def _cause(error: BaseException) -> str:
    """The innermost exception, without the pages of advice and source code that torch adds."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first}"


class _OtherThreads:
    """A stream that is muted for the thread that created it; a progress bar in another thread stays visible."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._muted = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """As a text stream."""
        return len(text) if threading.get_ident() == self._muted else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings, logs and dumps off the terminal; a failure's cause is in its exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(cast("TextIO", _OtherThreads(sys.stderr))):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
