"""Tokens that are put back at their places behind an encoder's layers, in the graph's proof and in PyTorch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...graph_passes.insertion.rebuild import rebuilt
from ..sources.arrays import to_array, to_tensor, to_tensors
from . import torch_parts
from .probes import Probe
from .torch_parts import Injected

if TYPE_CHECKING:
    import torch

    from ...graph_passes.compressors import Compressed
    from ...graph_passes.insertion.inserted import Inserted, Rebuilt
    from ..sources.source import GraphSource

Values = Mapping[str, np.ndarray]
# Node of a compressor -> what the graph is fed downstream of it, and the same for the module.
Behind = Mapping[str, tuple[dict[str, np.ndarray], Injected]]


def rebuilt_probes(graph: GraphSource, done: Inserted, behind: Behind, own: Values, inputs: Values) -> list[Probe]:
    """The layers between the last compressor and each place where tokens leave them, and what is rebuilt there.

    Args:
        graph: the encoder.
        done: the step whose tokens are rebuilt.
        behind: of the steps up to it.
        own: every value of one run of the graph.
        inputs: of the module.
    """
    probes = []
    for at in (at for at in done.rebuilt if at.steps):
        if graph.module is not None and done.seam.module:
            fed, injected = behind[at.steps[-1]]
            head = torch_parts.head(graph.module, to_tensors(inputs), at.seam, (), injected)
            probes.append(Probe("between", graph.role, fed, {at.slots: _own_rank(head.tokens, at)}))
        probes.append(_rebuild(graph, done, at, own))
    return probes


def _rebuild(graph: GraphSource, done: Inserted, at: Rebuilt, own: Values) -> Probe:
    """What the tokens in front of each compressor become where they leave the layers."""
    fed, whole = {at.slots: own[at.slots]}, _batched(own[at.slots], at)
    for step in reversed(upstream(done, at)):
        tokens, slots, assignment = (
            step.tokens_in,
            step.node_outputs["tokens"],
            step.node_outputs["assignment"],
        )
        fed |= {name: own[name] for name in (tokens, slots, assignment)}
        before = _batched(own[tokens], at)
        whole = rebuilt(before, to_tensor(own[slots]), whole, to_tensor(own[assignment]), at.seam.prefix)
    return Probe("rebuild", graph.role, fed, {at.tokens: _own_rank(whole, at)})


def again(done: Inserted, own: Values) -> tuple[dict[str, np.ndarray], Injected]:
    """What the graph is fed behind the rebuilt tokens, and the same for the module."""
    fed = {at.tokens: own[at.tokens] for at in done.rebuilt}
    return fed, injected_at(done, [_batched(own[at.tokens], at).float() for at in done.rebuilt if at.steps])


def injected_at(done: Inserted, tokens: Sequence[torch.Tensor]) -> Injected:
    """All tokens in place of the module's own at each place where they were rebuilt, in the order of the layers."""
    places = [Injected(at.seam, one) for at, one in zip((at for at in done.rebuilt if at.steps), tokens)]
    return Injected(places[-1].seam, places[-1].tokens, further=tuple(places[:-1]))


def in_pytorch(
    module: torch.nn.Module,
    feeds: Mapping[str, torch.Tensor],
    done: Inserted,
    made: Mapping[str, tuple[torch.Tensor, Compressed[torch.Tensor], Injected]],
) -> Injected:
    """The same without the graph.

    Args:
        module: the encoder.
        feeds: its inputs.
        done: the step whose tokens are rebuilt.
        made: node of each step up to it -> its tokens [B, prefix + N, D], what its reference makes of them, and how
            that is injected.
    """
    found = []
    for at in (at for at in done.rebuilt if at.steps):
        after = torch_parts.head(module, feeds, at.seam, (), made[at.steps[-1]][2]).tokens
        for name in reversed(at.steps):
            tokens, slots, _ = made[name]
            after = rebuilt(tokens, slots.tokens, after, slots.assignment, at.seam.prefix)
        found.append(after)
    return injected_at(done, found)


def upstream(done: Inserted, at: Rebuilt) -> list[Inserted]:
    """The steps whose tokens are rebuilt at a place."""
    return [step for step in done.group if step.node_name in at.steps]


def _batched(array: np.ndarray, at: Rebuilt) -> torch.Tensor:
    return to_tensor(array) if at.seam.rank == 3 else to_tensor(array)[None]


def _own_rank(tokens: torch.Tensor, at: Rebuilt) -> np.ndarray:
    return to_array(tokens if at.seam.rank == 3 else tokens[0])
