"""`compress()`: put a token compressor into a model of any supported kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from ..errors import RequestError
from ..keywords import answered
from .compressors import make
from .compressors.base import OUTPUTS

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    import onnx_ir as ir
    from typing_extensions import Unpack

    from .insertion.sequence import Step

NO_METHOD = ("neither a method nor a recipe was given", 'Write for example method="kcenter_merge", ratio=0.85.')
Form = Literal["portable", "plugin", "inlined"]


class Options(TypedDict, total=False):
    """The keywords of `compress`, for its types."""

    keep: int | None
    seam: str | None
    rebuild: bool
    recipe: str | Path | None
    params: Mapping[str, Any] | None
    form: Form
    outputs: Sequence[str] | Mapping[str, str]
    size_bias: Literal["auto", "off"]
    assume_no_padding: bool
    input_shapes: Mapping[str, Sequence[int]] | None
    drop_outputs: Sequence[str]


# ModelProto comes first: without types of protobuf it has a base that would pass for a path too.
@overload
def compress(
    model: onnx.ModelProto, method: str | None = ..., ratio: float | str | None = ..., **options: Unpack[Options]
) -> onnx.ModelProto: ...


@overload
def compress(
    model: ir.Model, method: str | None = ..., ratio: float | str | None = ..., **options: Unpack[Options]
) -> ir.Model: ...


@overload
def compress(
    model: str | Path, method: str | None = ..., ratio: float | str | None = ..., **options: Unpack[Options]
) -> ir.Model: ...


@overload
def compress(
    model: gs.Graph, method: str | None = ..., ratio: float | str | None = ..., **options: Unpack[Options]
) -> gs.Graph: ...


@answered
def compress(
    model: Any,
    method: str | None = None,
    ratio: float | str | None = None,
    *,
    keep: int | None = None,
    seam: str | None = None,
    rebuild: bool = False,
    recipe: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    form: Form = "portable",
    outputs: Sequence[str] | Mapping[str, str] = OUTPUTS[1:],
    size_bias: Literal["auto", "off"] = "auto",
    assume_no_padding: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    drop_outputs: Sequence[str] = (),
) -> Any:
    """Put a compressor into a model and prove that the downstream graph works with fewer tokens.

    The model given is never changed. Weights are neither read nor copied: the result shares them, and an
    `onnx_ir.Model` from a path refers to the same external data file.

    Args:
        model: path of an ONNX file (returns an `onnx_ir.Model`), or an `onnx.ModelProto`, an `onnx_ir.Model` or an
            `onnx_graphsurgeon.Graph` (returns the same kind).
        method: `tokexport.methods()` lists them; kcenter_merge loses least where the built-in models are measured.
        ratio: share of tokens removed; ``"8/9"`` is read exactly.
        keep: tokens kept instead.
        seam: ``auto`` (the paper's; the default), a seam that `tokexport inspect` lists, ``tensor:<value name>``, or
            ``encoder_layer:*`` for an equal part behind every layer but the last.
        rebuild: put tokens that were compressed inside an encoder back at their places behind its last layer.
        recipe: several compressors in sequence, instead of all arguments above: a name or a TOML file (see `recipes`).
        params: parameters of the method; defaults are the paper's. Of a recipe's steps: ``KEY`` for all that have it,
            ``N.KEY`` for step N.
        form: ``portable`` (a node with its function), ``plugin`` (for TensorRT) or ``inlined`` (standard operators).
        outputs: which of kept_indices [B, K] int64, sizes [B, K] float32, assignment [B, N] int64 the graph outputs; a
            mapping gives them other names.
        size_bias: ``auto`` adds log(sizes) to the attention downstream of a seam inside the encoder, and weights means
            over merged tokens by their sizes; ``off`` does neither.
        assume_no_padding: a mask in the graph that depends on an input never masks a token; without it such a graph is
            refused, because padding would be kept and merged.
        input_shapes: input name -> sizes, for inputs with dynamic axes: the result takes these only.
        drop_outputs: graph outputs that are left out, such as lengths that would keep the old count.

    Returns:
        A new model.

    Raises:
        RequestError: neither a method nor a recipe, neither a ratio nor a count; an unknown method, seam, parameter or
            keyword; a count outside the method's domain, or the plugin form of a method without one.
        GraphError: the model cannot be read, or does not work with fewer tokens.
    """
    if form not in ("portable", "plugin", "inlined"):
        raise RequestError(f"form {form!r} is unknown", fix="Use portable, plugin or inlined.")
    if size_bias not in ("auto", "off"):
        raise RequestError(f"size_bias {size_bias!r} is unknown", fix="Use auto or off.")
    from .forms import no_plugin, to_inlined, to_plugin
    from .insertion.schedule import spread
    from .insertion.sequence import insert_steps, places

    steps = _steps(method, ratio, keep, seam, recipe, params, rebuild)
    without_plugin = [step.compressor.method for step in steps if not step.compressor.method.plugin_form]
    if form == "plugin" and without_plugin:
        raise no_plugin(without_plugin[0].name)
    graph, convert_back = _open(model)
    graph = _prepared(graph, input_shapes or {}, drop_outputs)
    steps = spread(graph, steps)
    insert_steps(
        graph,
        steps,
        places(graph, steps),
        outputs=outputs,
        size_bias=size_bias == "auto",
        assume_no_padding=assume_no_padding,
    )
    if form == "plugin":
        graph = to_plugin(graph)
    elif form == "inlined":
        graph = to_inlined(graph)
    return convert_back(graph)


def _steps(
    method: str | None,
    ratio: float | str | None,
    keep: int | None,
    seam: str | None,
    recipe: str | Path | None,
    params: Mapping[str, Any] | None,
    rebuild: bool,
) -> Sequence[Step]:
    """The steps of the recipe, or the one step that the other arguments ask for."""
    if recipe is not None:
        from .recipes import load, refuse_with_recipe

        refuse_with_recipe(method=method, ratio=ratio, keep=keep, seam=seam, rebuild=rebuild or None)
        return load(recipe).made(params)
    from .insertion.sequence import Step

    if method is None:
        raise RequestError(NO_METHOD[0], fix=NO_METHOD[1])
    return (Step(make(method, params), ratio, keep, "auto" if seam is None else seam, rebuild=rebuild),)


def _prepared(graph: ir.Model, input_shapes: Mapping[str, Sequence[int]], drop_outputs: Sequence[str]) -> ir.Model:
    """The graph with its nodes in order, in an opset that bodies are written for, and with the inputs asked for."""
    from .ir_tools.input_shapes import drop_outputs as drop
    from .ir_tools.input_shapes import fix_inputs, raise_opset
    from .ir_tools.model_io import ensure_opset, put_in_order

    put_in_order(graph)
    graph, _ = raise_opset(graph)
    drop(graph, drop_outputs)
    fix_inputs(graph, input_shapes)
    ensure_opset(graph)
    return graph


def _open(model: Any) -> tuple[ir.Model, Any]:
    """A copy of the model to edit, and the function that converts it back to its kind."""
    import onnx_ir as ir

    from .ir_tools.from_proto import from_proto
    from .ir_tools.walk import refuse_unsorted

    if isinstance(model, (str, Path)):
        from .ir_tools.model_io import load_model

        return load_model(model), lambda graph: graph
    if isinstance(model, ir.Model):
        # An unsorted graph cannot be cloned, and the one that was given is not ours to sort.
        refuse_unsorted(model.graph)
        return model.clone(), lambda graph: graph
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if kind.endswith(".ModelProto"):
        return from_proto(model), ir.to_proto
    if kind.startswith("onnx_graphsurgeon.") and kind.endswith(".Graph"):
        import onnx_graphsurgeon as gs

        return from_proto(gs.export_onnx(model)), lambda graph: gs.import_onnx(ir.to_proto(graph))
    raise RequestError(
        f"a {kind} is not a model",
        fix="Give a path, an onnx.ModelProto, an onnx_ir.Model or an onnx_graphsurgeon.Graph.",
    )
