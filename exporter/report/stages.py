"""What several compressors leave of an input, one after the other: a token is followed through all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...graph_passes.forms import compressor_nodes
from ...graph_passes.ir_tools.model_io import load_model
from ...runtimes.generate import begin
from ...runtimes.images import in_one, joined
from ..proof.parity import between
from .picks import Picks

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.inserted import Inserted
    from ...runtimes.bundle.compression_records import CompressionRecord
    from ...runtimes.bundle.manifest import Variant
    from ...runtimes.session import Session
    from ..proof.probes import Probe
    from .look import Look

Arrays = Mapping[str, np.ndarray]
# Of a compressor's node, in its order.
_OUTPUTS = ("tokens", "kept_indices", "sizes", "assignment")


@dataclass(frozen=True)
class Stage:
    """What is left behind one compressor.

    Attributes:
        title: of the compressor, and its place.
        picks: of the tokens that the first compressor since the last rebuilt ones reads.
        grid: of these.
    """

    title: str
    picks: Picks
    grid: tuple[int, ...] | None


def stages(encoder: ir.Model, inserted: Inserted, looks: Sequence[Look]) -> list[list[Stage]]:
    """The stages of each look; none where there is one compressor, whose picks are those of the look.

    Args:
        encoder: with its compressors, as it can be run here.
        inserted: the last of these.
        looks: their inputs are run through it.
    """
    from ...runtimes.ort.graph import ort_runner

    steps = inserted.steps
    if not looks or (len(steps) == 1 and not inserted.rebuilt):
        return [[] for _ in looks]
    main = encoder.graph.inputs[0].name or ""
    names = dict.fromkeys(name for step in steps for name in step.composed_outputs.values())
    run = ort_runner(between(encoder, [main], names))
    found = []
    for look in looks:
        values = run({main: look.input})
        picks = [Picks.of({part: values[name] for part, name in step.composed_outputs.items()}) for step in steps]
        found.append([_stage(number, step, one) for number, (step, one) in enumerate(zip(steps, picks), 1)])
    return found


def _stage(number: int, step: Inserted, picks: Picks) -> Stage:
    first = step.group[0]
    title = f"{number}. {step.method} at {step.seam.name}: {step.seam.tokens} → {step.keep}"
    return Stage(title, picks, first.seam.grid)


def followed(session: Session, array: np.ndarray, picks: Picks, prompt: str | Sequence[int]) -> list[Stage]:
    """The stages of one input of a bundle, in the encoder and, where `prompt` asks something, in its language model.

    Args:
        session: of the bundle.
        array: the encoder's own input.
        picks: of the tokens that leave the encoder.
        prompt: text or ids.
    """
    records = session.variant.compression
    if len(records) == 1 and not records[0].rebuilt:
        return []
    outer = [record for record in records if record.seam.graph == "encoder"]
    found: list[Stage] = []
    last: Picks | None = None
    first = outer[0]
    fed = _fed(session, "encoder", array, prompt)
    for record, chosen in zip(outer, _chosen(session, "encoder", fed), strict=True):
        last = last.then(chosen) if last else chosen
        found += _stages_of(record, last, first.seam.grid, len(found))
        if record.rebuilt and record is not outer[-1]:
            # All tokens are there again.
            last, first = None, outer[outer.index(record) + 1]
    if prompt and len(outer) < len(records):
        inner = _chosen(session, "prefill", _fed(session, "prefill", array, prompt))
        found += inside(session.variant, inner, picks, len(found))
    # Of a video that is read frame by frame the records say the grid of a frame.
    return [replace(one, grid=(len(fed), *one.grid)) if len(fed) > 1 and one.grid else one for one in found]


def inside(variant: Variant, chosen: Sequence[Picks], picks: Picks, before: int) -> list[Stage]:
    """The stages between the layers of a language model.

    Args:
        variant: of the manifest.
        chosen: by each compressor there that keeps any, of the tokens that reach it.
        picks: of the tokens that enter the language model.
        before: how many stages are in front of them.
    """
    found: list[Stage] = []
    left, last = iter(chosen), picks
    for record in variant.compression:
        if record.seam.graph == "prefill":
            last = last.then(next(left) if record.tokens_out else Picks.none(len(last.kept)))
            found += _stages_of(record, last, variant.grid, before + len(found))
    return found


def in_proof(probes: Sequence[Probe], samples: int) -> list[list[Picks]]:
    """Of each sample of a proof, what the compressors in its language model chose."""
    fields = ("kept_indices", "sizes", "assignment")
    each = [
        Picks.of(dict(zip(fields, [*probe.expected.values()][1:], strict=True)))
        for probe in probes
        if (probe.part, probe.role) == ("compressor", "prefill")
    ]
    count = len(each) // max(samples, 1)
    return [each[number * count : (number + 1) * count] for number in range(samples)]


def _stages_of(record: CompressionRecord, picks: Picks, grid: Sequence[int] | None, before: int) -> list[Stage]:
    """One, or none where a compressor keeps all."""
    if record.tokens_out == record.tokens_in:
        return []
    counts = f"{record.tokens_in} → {record.tokens_out}"
    title = f"{before + 1}. {record.method} at {record.seam.kind}: {counts}"
    return [Stage(title, picks, tuple(grid) if grid else None)]


def _fed(session: Session, role: str, array: np.ndarray, prompt: str | Sequence[int]) -> list[dict[str, np.ndarray]]:
    """The inputs of the encoder, once or for each frame; or those of prefill."""
    asked = prompt if session.reads_text else None
    if role == "encoder":
        return session.encoder_inputs(array, asked)
    caught: list[dict[str, np.ndarray]] = []

    def run(role: str, /, **inputs: np.ndarray) -> Arrays:
        if role == "prefill":
            caught.append(inputs)
        return session.run(role, **inputs)

    read = [session.run("encoder", **inputs) for inputs in session.encoder_inputs(array, asked)]
    several = session.variant.generation is not None and session.variant.generation.images
    begin(run, session.variant, joined(read) if several else read[0], [session.ids(prompt, len(read))])
    return caught


def _chosen(session: Session, role: str, fed: Sequence[Arrays]) -> list[Picks]:
    """What each compressor of a graph chooses of the tokens that reach it."""
    from ...runtimes.ort.graph import ort_runner

    record = session.bundle.graph(role, session.variant.name)
    with session.bundle.reading(role, "portable", session.variant.name) as path:
        model = load_model(path)
        nodes = [[value.name or "" for value in node.outputs] for node in compressor_nodes(model)]
        inputs = [tensor.name for tensor in record.inputs.values()]
        run = ort_runner(between(model, inputs, [name for node in nodes for name in node]))
    values = [run({record.inputs[name].name: array for name, array in one.items()}) for one in fed]
    found, images = [], _there(fed[0])
    for node in nodes:
        parts = [
            dict(zip(_OUTPUTS, (one[name][number : number + 1] for name in node), strict=True))
            for one in values
            for number in range(images)
        ]
        whole = parts[0] if len(parts) == 1 else in_one(parts, parts[0]["assignment"].shape[1])
        found.append(Picks.of(whole))
    return found


def _there(fed: Arrays) -> int:
    """How many images or frames a graph was given, each of which its compressors take by itself."""
    starts = fed.get("image_starts")
    return 1 if starts is None else int((starts < fed["inputs_embeds"].shape[1]).sum())
