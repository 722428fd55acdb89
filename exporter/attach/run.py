"""Attaches, proves, writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from ...errors import GateError, GraphError, RequestError, reason
from ...graph_passes.attach.attach import BIAS, Attached, attach
from ...graph_passes.forms import to_inlined
from ...graph_passes.ir_tools.input_shapes import given_inputs
from ...graph_passes.ir_tools.model_io import load_model, save_model
from ..debug.onnx_side import of_model
from ..proof.metrics import Check
from .feeds import arrays, lengths, shapes
from .proof import Pair, as_mask, offset, without_bias


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        source: an ONNX file.
        out: the one that is written.
        bias: name of the new input.
        positions: whether positions that the graph counts become an input, or are kept.
        against: a checkpoint of transformers.
        shapes: sizes of inputs in the proof.
        seed: of what the proof is given.
        force: whether `out` may be replaced.
    """

    source: Path
    out: Path
    bias: str = BIAS
    positions: Literal["input", "keep"] = "input"
    against: Path | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: int = 0
    force: bool = False


def attach_file(request: Request, step: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Put the inputs for merged tokens into a language model's file, prove it, and write it.

    Returns:
        out, bias and positions (name, shape), counted, attentions, rotated, checks (rows), notes.

    Raises:
        GraphError: see `graph_passes.attach.attach`; or the graph does not run.
        RequestError: `out` is there or cannot be written, or the checkpoint is another model's.
        GateError: the proof failed; nothing is written.
    """
    _refuse_out(request)
    step(f"opening {request.source}")
    model, pair = _attached(request, step)
    attached = pair.attached
    step("proving it")
    checks = without_bias(pair)
    masked, note = as_mask(pair)
    checks += masked
    if request.against is not None:
        from .torch_side import against

        step(f"running {request.against}")
        checks += against(pair, request.against, request.seed)
    _gate(checks)
    step(f"writing {request.out}")
    _write(model, request)
    inputs = {value.name: value for value in model.graph.inputs}
    return {
        "source": str(request.source),
        "out": str(request.out),
        **{
            key: {"name": name, "shape": [str(size) for size in inputs[name].shape or ()]} if name in inputs else None
            for key, name in (("bias", attached.bias), ("positions", attached.positions))
        },
        "counted": attached.counted,
        "attentions": list(attached.attentions),
        "rotated": attached.rotated,
        "checks": [check.to_json() for check in checks],
        "notes": [*pair.before.notes, *([note] if note and request.against is None else [])],
    }


def _opened(path: Path) -> ir.Model:
    model = load_model(path)
    return to_inlined(model) if model.functions else model


def _attached(request: Request, step: Callable[[str], None], start: int = 0) -> tuple[ir.Model, Pair]:
    """The graph as it is written, and copies before and after, which the proof fixes the sizes of."""
    model = _opened(request.source)
    step("adding the inputs")
    attached = attach(model, request.bias, request.positions, start)
    pair = _pair(request, model.clone(), attached)
    if attached.counted and not start:
        start = offset(pair.before, pair.feeds, attached.counted, pair.length)
        if start:
            return _attached(request, step, start)
    return model, pair


def _pair(request: Request, changed: ir.Model, attached: Attached) -> Pair:
    original = _opened(request.source)
    known = {value.name for model in (original, changed) for value in given_inputs(model.graph)}
    unknown = sorted({*request.shapes} - known)
    if unknown:
        raise RequestError(
            f"--input-shape names {unknown[0]!r}, which the graph does not take",
            fix=f"It takes {', '.join(sorted(name or '' for name in known))}.",
        )
    length = lengths(original, attached.tokens, request.shapes)
    all_shapes = shapes(changed, attached.tokens, attached.bias, request.shapes, length)
    mine = {value.name or "" for value in given_inputs(original.graph)}
    before = of_model(original, {name: all_shapes[name] for name in mine}, {}, str(request.source))
    after = of_model(changed, all_shapes, {}, f"{request.source} with {attached.bias}")
    feeds = arrays(after.inputs | before.inputs, attached.tokens, attached.bias, length, request.seed)
    return Pair(before, after, attached, feeds, length)


def _gate(checks: list[Check]) -> None:
    wrong = next((check for check in checks if not check.ok), None)
    if wrong is None:
        return
    why = {
        "bias 0": "with a bias of 0 it no longer gives what the file gave",
        "as masked": "a bias does not hide a token as the attention mask does: it does not reach every layer alike",
        "PyTorch": "with sizes it does not give what the checkpoint gives in PyTorch",
    }[wrong.part]
    raise GateError(
        f"{why}: cosine {wrong.cosine:.6f}, norm ratio {wrong.norm_ratio:.5f} {wrong.detail}".rstrip(),
        where=f"output {wrong.tensor}",
        fix="Nothing was written. Please report it with the file, or how it was exported.",
    )


def _refuse_out(request: Request) -> None:
    source, out = request.source, request.out
    if out.suffix != ".onnx":
        raise RequestError(f"{out} is no name of an ONNX file", fix=f"Write -o {out}.onnx.")
    if out.resolve() == source.resolve():
        raise RequestError(f"{out} is the file that is read", fix="Give another name with -o.")
    if not request.force:
        there = next((file for file in (out, _data(out)) if file.exists()), None)
        if there is not None:
            raise RequestError(
                f"{there} is there already", fix="Give another name with -o, or replace it with --force."
            )


def _data(out: Path) -> Path:
    return out.with_name(f"{out.name}.data")


def _write(model: ir.Model, request: Request) -> None:
    """Write the file whole or not at all; beside its source it refers to the same weights."""
    out = request.out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.parent.resolve() == request.source.parent.resolve()
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".attach-") as folder:
            made = Path(folder, out.name)
            if beside:
                # External weights are named by their place beside the file.
                save_model(model, made)
            else:
                save_model(model, made, _data(out).name)
            for file in sorted(Path(folder).iterdir(), key=lambda one: one == made):
                file.replace(out.parent / file.name)
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {reason(error)}", fix="Name another file with -o.") from None
    except GraphError as error:
        raise GraphError(error.what, where=str(out), fix=error.fix) from error
