"""Tokens that were compressed inside an encoder, back at their places behind its last layer.

What follows may join tokens by their places: a pixel shuffle, an average pool, a merger of neighbours. It then gets all
of them again. Layers add to the tokens that they read, so each token gets what they added to its slot:

    rebuilt[n] = tokens[n] + after[slot of n] - slots[slot of n]        tokens[n] where the token was dropped

with `tokens` in front of the compressor, its `slots`, and what the last layer makes of them, `after`. Tokens merged
into one slot stay different, and a dropped one goes past the layers. ToMe for Stable Diffusion (Bolya and Hoffman 2023,
2303.17604, section 3) does this around each attention; IPCV (2512.18747) between shallow layers and the projector.

While compressors are inserted the graph is open there: it ends at the last layer's output, and what follows reads an
input of its own. So every check downstream of a seam ends there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError
from ..compressors.blocks import select
from ..ir_tools.builder import Builder
from ..ir_tools.extract import values_by_name
from ..ir_tools.walk import Walk, dims, unique_name
from ..seams.find import find_seams, resolve
from ..seams.seam import Seam
from ..seams.structure import moved_downstream
from .inserted import Inserted, Rebuilt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Opening:
    """An open graph.

    Attributes:
        end: the last layer's output.
        further: the input that what follows it reads meanwhile.
        outputs: of the whole graph.
    """

    end: ir.Value
    further: ir.Value
    outputs: tuple[ir.Value, ...]


def last_layer(model: ir.Model) -> Seam:
    """The seam behind the encoder's last layer, whether tokens may be selected there or not.

    Raises:
        RequestError: no layers were found in this graph.
    """
    layers = [seam for seam in find_seams(model) if seam.name.startswith("encoder_layer:")]
    if not layers:
        raise RequestError(
            "tokens can only be rebuilt behind the last layer of an encoder, and none were found in this graph",
            where=f"graph {model.graph.name or 'main'}",
            fix="Layers are known in graphs that tokexport exports. Leave --rebuild out.",
        )
    return max(layers, key=lambda seam: int(seam.name.partition(":")[2]))


def open_behind(model: ir.Model, last: Seam) -> Opening:
    """Let the graph end at the output of its `last_layer`, in place; `rebuild` closes it.

    Raises:
        GraphError: it ends there anyway.
    """
    graph = model.graph
    end = values_by_name(graph)[last.tensor]
    if end.is_graph_output():
        raise GraphError(
            "the graph ends at the encoder's last layer: nothing follows that would need every token at its place",
            where=f"graph {graph.name or 'main'}, tensor {last.tensor}",
            fix="Leave --rebuild out.",
        )
    further = ir.Value(name=unique_name(f"{last.tensor}.rebuilt", {*values_by_name(graph)}), type=end.type)
    further.shape = end.shape
    for node, index in tuple(end.uses()):
        node.replace_input_with(index, further)
    opening = Opening(end, further, tuple(graph.outputs))
    behind = _downstream(further)
    graph.inputs.append(further)
    graph.outputs[:] = [end, *(output for output in opening.outputs if output not in behind)]
    return opening


def inside(model: ir.Model, name: str) -> Seam:
    """The seam of a name, where what follows the last layer may need every token at its place.

    Raises:
        RequestError, GraphError: as `seams.resolve`, for another reason than that.
    """
    seam = next((one for one in find_seams(model) if one.name == name), None)
    if seam is None or seam.valid or "downstream" not in seam.why:
        return resolve(model, name)
    copy = model.clone()
    open_behind(copy, last_layer(copy))
    walk = Walk(copy)
    value = walk.value(seam.tensor)
    why = moved_downstream(walk, value) if value is not None else seam.why
    return replace(seam, valid=True, why="") if not why else resolve(model, name)


def close(
    model: ir.Model, opening: Opening, last: Seam, done: Inserted, outputs: Mapping[str, str] | None = None
) -> Inserted:
    """Rebuild the tokens behind the steps up to `done`, in place: each undoes what its compressor did, last first.

    Args:
        model: open.
        opening: of it.
        last: the seam behind the last layer, as it was without compressors.
        done: the last step inside.
        outputs: kept_indices, sizes, assignment -> name of a graph output that is added for it, where no step follows:
            it says that each token that leaves the encoder stands for itself.

    Returns:
        `done`, with what was rebuilt.
    """
    graph, end, further = model.graph, opening.end, opening.further
    values = values_by_name(graph)
    b = Builder(f"{further.name}.")
    whole = _batched(b, end, last)
    for step in reversed(done.group):
        tokens, slots, assignment = (
            values[name] for name in (step.tokens_in, step.node_outputs["tokens"], step.node_outputs["assignment"])
        )
        whole = _undone(b, _batched(b, tokens, last), slots, whole, assignment, last.prefix)
    if last.rank == 2:
        whole = b.op("Squeeze", whole, [0])
    producer = end.producer()
    assert producer is not None, "a layer is computed"
    graph.insert_after(producer, b.nodes)
    for node, index in tuple(further.uses()):
        node.replace_input_with(index, whole)
    graph.inputs.remove(further)
    whole.name, whole.type, whole.shape = further.name, further.type, further.shape
    graph.outputs.clear()
    graph.outputs.extend(opening.outputs)
    leaving = _itself(graph, outputs or {}, last)
    seam = replace(last, tokens=done.keep, valid=True, why="", grid=None)
    made = Rebuilt(seam, end.name or "", whole.name or "", leaving)
    return replace(done, rebuilt=made, outputs=dict(outputs or {}))


def rebuilt(
    tokens: torch.Tensor, slots: torch.Tensor, after: torch.Tensor, assignment: torch.Tensor, prefix: int
) -> torch.Tensor:
    """The formula above in plain PyTorch.

    Args:
        tokens: [B, prefix + N, D], in front of the compressor.
        slots: [B, K, D], its output.
        after: [B, prefix + K, D], what the layers made of them.
        assignment: [B, N] int64.

    Returns:
        [B, prefix + N, D].
    """
    import torch

    index = assignment.clamp(min=0)[..., None].expand(-1, -1, slots.shape[2])
    added = (after[:, prefix:] - slots).gather(1, index) * (assignment >= 0)[..., None]
    return torch.cat([after[:, :prefix], tokens[:, prefix:] + added], 1)


def _undone(
    b: Builder, tokens: ir.Value, slots: ir.Value, after: ir.Value, assignment: ir.Value, prefix: int
) -> ir.Value:
    """The formula above as nodes."""
    first, rest = None, after
    if prefix:
        first, rest = b.op("Slice", after, [0], [prefix], [1]), _behind(b, after, prefix)
        tokens = _behind(b, tokens, prefix)
    added = b.op("Sub", rest, slots)
    index = b.cast(b.op("Max", b.cast(assignment, "float32"), 0.0), "int64")
    rows = b.op("Add", tokens, select.emit_gather(b, added, index))
    lost = b.op("Unsqueeze", b.op("Less", assignment, 0), [2])
    rows = b.op("Where", lost, tokens, rows)
    return rows if first is None else b.op("Concat", first, rows, axis=1)


def _behind(b: Builder, value: ir.Value, prefix: int) -> ir.Value:
    return b.op("Slice", value, [prefix], [np.iinfo(np.int64).max], [1])


def _batched(b: Builder, value: ir.Value, seam: Seam) -> ir.Value:
    """[B, n, D] of a value in the rank of the seam."""
    return value if seam.rank == 3 else b.op("Unsqueeze", value, [0])


def _itself(graph: ir.Graph, outputs: Mapping[str, str], last: Seam) -> int:
    """Add graph outputs that say that each token stands for itself; returns how many tokens leave the encoder."""
    given = next((value for value in graph.outputs if len(dims(value) or ()) == 3), None)
    count = dims(given)[1] if given is not None else last.tokens  # type: ignore[index]
    assert count is not None, "a closed graph is static"
    if not outputs:
        return count
    if given is None or given.producer() is None:
        raise GraphError(
            "no output of this graph has tokens, so nothing behind the encoder's layers needs them at their places",
            where=f"graph {graph.name or 'main'}",
            fix="Leave --rebuild out.",
        )
    b = Builder(f"{given.name}.itself.")
    place = np.arange(count)
    rows = {"kept_indices": place, "sizes": np.ones(count, np.float32), "assignment": place}
    for name, wanted in outputs.items():
        value = select.emit_rows(b, given, rows[name])
        value.name, value.dtype = wanted, ir.DataType.FLOAT if name == "sizes" else ir.DataType.INT64
        value.shape = ir.Shape([dims(given)[0], count])  # type: ignore[index]
        graph.outputs.append(value)
    graph.insert_after(given.producer(), b.nodes)
    return count


def _downstream(value: ir.Value) -> set[ir.Value]:
    """All that is computed from a value."""
    found: set[ir.Value] = set()
    todo = [value]
    while todo:
        for node in todo.pop().consumers():
            new = [output for output in node.outputs if output not in found]
            found.update(new)
            todo.extend(new)
    return found
