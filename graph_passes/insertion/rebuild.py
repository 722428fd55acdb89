"""Tokens that were compressed inside an encoder, back at their places behind its last layer.

What follows may join tokens by their places: a pixel shuffle, an average pool, a merger of neighbours. It then gets all
of them again. Layers add to the tokens that they read, so each token gets what they added to its slot:

    rebuilt[n] = tokens[n] + after[slot of n] - slots[slot of n]        tokens[n] where the token was dropped

with `tokens` in front of the compressor, its `slots`, and what the last layer makes of them, `after`. Tokens merged
into one slot stay different, and a dropped one goes past the layers. ToMe for Stable Diffusion (Bolya and Hoffman 2023,
2303.17604, section 3) does this around each attention; IPCV (2512.18747) between shallow layers and the projector.

Features of earlier layers that go on beside the others (DeepStack) are rebuilt likewise, where they leave the layers.

While compressors are inserted the graph is open there: it ends at those layers' outputs, and what follows reads inputs
of its own. So every check downstream of a seam ends there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError
from ..compressors.blocks import select
from ..ir_tools.builder import Builder
from ..ir_tools.extract import values_by_name
from ..ir_tools.walk import Walk, dims, unique_name
from ..seams.behind_attention import behind_attention
from ..seams.find import find_seams, resolve
from ..seams.seam import Seam
from ..seams.structure import moved_downstream
from .inserted import Inserted, Rebuilt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Exit:
    """Where tokens leave the layers of an open graph.

    Attributes:
        seam: behind the layer, as it was without compressors.
        end: the layer's output.
        further: the input that what follows it reads meanwhile.
    """

    seam: Seam
    end: ir.Value
    further: ir.Value


@dataclass(frozen=True)
class Opening:
    """An open graph.

    Attributes:
        exits: in the order of the layers; the last one is behind the last layer.
        outputs: of the whole graph.
    """

    exits: tuple[Exit, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def end(self) -> ir.Value:
        """The last layer's output."""
        return self.exits[-1].end


def open_behind(model: ir.Model) -> Opening:
    """Let the graph end where tokens leave the encoder's layers, in place; `close` undoes that.

    Raises:
        RequestError: no layers were found in this graph.
        GraphError: it ends there anyway.
    """
    graph = model.graph
    values = values_by_name(graph)
    layers = [seam for seam in find_seams(model) if seam.name.startswith("encoder_layer:")]
    if not layers:
        raise RequestError(
            "tokens can only be rebuilt behind the last layer of an encoder, and none were found in this graph",
            where=f"graph {graph.name or 'main'}",
            fix="Layers are known in graphs that tokexport exports. Leave rebuild out.",
        )
    layers.sort(key=lambda seam: int(seam.name.partition(":")[2]))
    last = values[layers[-1].tensor]
    if last.is_graph_output():
        raise GraphError(
            "the graph ends at the encoder's last layer: nothing follows that would need every token at its place",
            where=f"graph {graph.name or 'main'}, tensor {last.name}",
            fix="Leave rebuild out.",
        )
    within = Walk(model).ancestors(last)
    exits = []
    for seam in layers:
        end = values[seam.tensor]
        leaving = [(node, index) for node, index in end.uses() if node not in within]
        if leaving:
            further = ir.Value(name=unique_name(f"{seam.tensor}.rebuilt", {*values}), type=end.type, shape=end.shape)
            for node, index in leaving:
                node.replace_input_with(index, further)
            exits.append(Exit(seam, end, further))
    opening = Opening(tuple(exits), tuple(graph.outputs))
    behind = _downstream(exit.further for exit in exits)
    graph.inputs.extend(exit.further for exit in exits)
    graph.outputs.clear()
    graph.outputs.extend([opening.end, *(x for x in opening.outputs if x not in behind)])
    return opening


class Inside:
    """Finds seams where what follows the last layer may need every token at its place.

    Args:
        model: the graph, which nothing else changes meanwhile.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def seam(self, name: str) -> Seam:
        """The seam of a name.

        Raises:
            RequestError, GraphError: as `seams.resolve`, for another reason than that.
        """
        model, seams = self._model, self._seams
        seam = next((one for one in seams if one.name == name), None) or behind_attention(model, name, seams)
        if seam is None or seam.valid or "downstream" not in seam.why:
            return resolve(model, name)
        value = self._opened.value(seam.tensor)
        why = moved_downstream(self._opened, value) if value is not None else seam.why
        return replace(seam, valid=True, why="") if not why else resolve(model, name)

    @cached_property
    def _seams(self) -> list[Seam]:
        return find_seams(self._model)

    @cached_property
    def _opened(self) -> Walk:
        copy = self._model.clone()
        open_behind(copy)
        return Walk(copy)


def close(model: ir.Model, opening: Opening, done: Inserted, outputs: Mapping[str, str] | None = None) -> Inserted:
    """Rebuild the tokens behind the steps up to `done`, in place: each undoes what its compressor did, last first.

    Args:
        model: open.
        opening: of it.
        done: the last step inside.
        outputs: kept_indices, sizes, assignment -> name of a graph output that is added for it, where no step follows:
            it says that each token that leaves the encoder stands for itself.

    Returns:
        `done`, with what was rebuilt.
    """
    graph = model.graph
    walk = Walk(model)
    steps = [_upstream(walk, exit, done) for exit in opening.exits]
    upstream = list(zip(opening.exits, steps))
    names = [_close(graph, exit, steps) for exit, steps in upstream]
    graph.outputs.clear()
    graph.outputs.extend(opening.outputs)
    leaving = _itself(graph, outputs or {}, opening.exits[-1].seam)
    made = [
        Rebuilt(
            seam=replace(exit.seam, tokens=steps[-1].keep, valid=True, why="", grid=None) if steps else exit.seam,
            slots=exit.end.name or "",
            tokens=name,
            steps=tuple(step.node_name for step in steps),
            leaving=leaving,
        )
        for (exit, steps), name in zip(upstream, names)
    ]
    return replace(done, rebuilt=tuple(made), outputs=dict(outputs or {}))


def _upstream(walk: Walk, exit: Exit, done: Inserted) -> list[Inserted]:
    """The steps whose slots leave the layers there."""
    ancestors = {node.name for node in walk.ancestors(exit.end)}
    return [step for step in done.group if step.node_name in ancestors]


def _close(graph: ir.Graph, exit: Exit, steps: Sequence[Inserted]) -> str:
    """Let what follows read the tokens, rebuilt where there are steps; returns the name of their value."""
    end, further, seam = exit.end, exit.further, exit.seam
    values = values_by_name(graph)
    b = Builder(f"{further.name}.")
    whole = end
    if steps:
        whole = _batched(b, end, seam)
        for step in reversed(steps):
            tokens, slots, assignment = (
                values[name] for name in (step.tokens_in, step.node_outputs["tokens"], step.node_outputs["assignment"])
            )
            whole = _undone(b, _batched(b, tokens, seam), slots, whole, assignment, seam.prefix)
        if seam.rank == 2:
            whole = b.op("Squeeze", whole, [0])
        producer = end.producer()
        assert producer is not None, "a layer is computed"
        graph.insert_after(producer, b.nodes)
    for node, index in tuple(further.uses()):
        node.replace_input_with(index, whole)
    graph.inputs.remove(further)
    if steps:
        whole.name, whole.type, whole.shape = further.name, further.type, further.shape
    return whole.name or ""


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
    producer = given.producer() if given is not None else None
    if given is None or producer is None:
        raise GraphError(
            "no output of this graph has tokens, so nothing behind the encoder's layers needs them at their places",
            where=f"graph {graph.name or 'main'}",
            fix="Leave rebuild out.",
        )
    b = Builder(f"{given.name}.itself.")
    place = np.arange(count)
    rows = {"kept_indices": place, "sizes": np.ones(count, np.float32), "assignment": place}
    for name, wanted in outputs.items():
        value = select.emit_rows(b, given, rows[name])
        value.name, value.dtype = wanted, ir.DataType.FLOAT if name == "sizes" else ir.DataType.INT64
        value.shape = ir.Shape([dims(given)[0], count])  # type: ignore[index]
        graph.outputs.append(value)
    graph.insert_after(producer, b.nodes)
    return count


def _downstream(values: Iterable[ir.Value]) -> set[ir.Value]:
    """All that is computed from any of these values."""
    found: set[ir.Value] = set()
    todo = list(values)
    while todo:
        for node in todo.pop().consumers():
            new = [output for output in node.outputs if output not in found]
            found.update(new)
            todo.extend(new)
    return found
