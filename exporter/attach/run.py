"""Attaches, proves, writes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from ...errors import GateError, GraphError, RequestError, reason
from ...graph_passes.attach.attach import BIAS, Attached, attach
from ...graph_passes.forms import to_inlined
from ...graph_passes.ir_tools.input_shapes import given_inputs
from ...graph_passes.ir_tools.model_io import data_files, load_model, save_model
from ...runtimes.bundle.losses import refuse_loss
from ..debug.onnx_side import of_model
from ..progress import Progress, log
from ..proof.metrics import Check
from .feeds import arrays, head_sizes, lengths, shapes
from .proof import Pair, as_mask, hidden, offset, without_bias


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        source: an ONNX file.
        bias: name of the new input.
        positions: whether positions that the graph counts become an input, or are kept.
        against: a checkpoint of transformers.
        shapes: sizes of inputs in the proof.
        seed: of what the proof is given.
    """

    source: Path
    bias: str = BIAS
    positions: Literal["input", "keep"] = "input"
    against: Path | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Proved:
    """A language model with the inputs for merged tokens.

    Attributes:
        model: not written yet.
        attached: what was done.
        checks: of the proof, all of them passed.
        notes: what a user should know.
    """

    model: ir.Model
    attached: Attached
    checks: list[Check]
    notes: list[str]


def proved(request: Request, step: Progress = log) -> Proved:
    """Put the inputs for merged tokens into a language model's graph, and prove it.

    Raises:
        GraphError: see `graph_passes.attach.attach`; or the graph does not run.
        RequestError: the checkpoint is another model's.
        GateError: the proof failed.
    """
    step(f"opening {request.source}")
    model, pair = _attached(request, step)
    attached = pair.attached
    step("proving it")
    checks = without_bias(pair)
    masked, note = as_mask(pair) if attached.masked else hidden(pair)
    checks += masked
    if request.against is not None:
        from .torch_side import against

        step(f"running {request.against}")
        checks += against(pair, request.against, request.seed)
    _gate(checks)
    return Proved(model, attached, checks, [*pair.before.notes, *([note] if note and not request.against else [])])


def attach_file(request: Request, out: Path, *, force: bool = False, step: Progress = log) -> dict[str, Any]:
    """Put the inputs for merged tokens into a language model's file, prove it, and write it.

    Args:
        request: what is asked for.
        out: the file that is written.
        force: whether it may be replaced.
        step: called with the name of each stage.

    Returns:
        out, bias and positions (name, shape), counted, attentions, rotated, checks (rows), notes.

    Raises:
        GraphError, RequestError, GateError: see `proved`; nothing is written.
        RequestError: `out` is there or cannot be written.
        BundleError: `out`, or the weights beside it, are a part of what it is made of.
    """
    _refuse_out(request, out, force=force)
    done = proved(request, step)
    attached = done.attached
    step(f"writing {out}")
    _write(done.model, request.source, out)
    inputs = {value.name: value for value in done.model.graph.inputs}
    return {
        "source": str(request.source),
        "out": str(out),
        **{
            key: {"name": name, "shape": [str(size) for size in inputs[name].shape or ()]} if name in inputs else None
            for key, name in (("bias", attached.bias), ("positions", attached.positions))
        },
        "counted": attached.counted,
        "attentions": list(attached.attentions),
        "rotated": attached.rotated,
        "checks": [check.to_json() for check in done.checks],
        "notes": done.notes,
    }


def _opened(path: Path) -> ir.Model:
    model = load_model(path)
    return to_inlined(model) if model.functions else model


def _attached(request: Request, step: Progress, start: int = 0) -> tuple[ir.Model, Pair]:
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
    given = {**head_sizes(original, attached.tokens, length), **request.shapes}
    all_shapes = shapes(changed, attached.tokens, attached.bias, given, length)
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
        "hidden": "a token counts whose bias is so low that it has no weight: the bias does not reach every layer",
        "PyTorch": "with sizes it does not give what the checkpoint gives in PyTorch",
    }[wrong.part]
    raise GateError(
        f"{why}: cosine {wrong.cosine:.6f}, norm ratio {wrong.norm_ratio:.5f} {wrong.detail}".rstrip(),
        where=f"output {wrong.tensor}",
        fix="Nothing was written. Please report it with the file, or how it was exported.",
    )


def _refuse_out(request: Request, out: Path, *, force: bool) -> None:
    source = request.source
    if out.suffix != ".onnx":
        raise RequestError(f"{out} is no name of an ONNX file", fix=f"Write -o {out}.onnx.")
    held = [source, *data_files(load_model(source), source), *([request.against] if request.against else [])]
    for file in (out,) if _beside(source, out) else (out, _data(out)):
        refuse_loss(file, held)
    if not force:
        there = next((file for file in (out, _data(out)) if file.exists()), None)
        if there is not None:
            raise RequestError(
                f"{there} is there already", fix="Give another name with -o, or replace it with --force."
            )


def _beside(source: Path, out: Path) -> bool:
    return out.parent.resolve() == source.parent.resolve()


def _data(out: Path) -> Path:
    return out.with_name(f"{out.name}.data")


def _write(model: ir.Model, source: Path, out: Path) -> None:
    """Write the file whole or not at all; beside its source it refers to the same weights."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".attach-") as folder:
            made = Path(folder, out.name)
            if _beside(source, out):
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
