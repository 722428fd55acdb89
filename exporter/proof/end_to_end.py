"""The end-to-end error: the whole encoder against PyTorch on the same input, flipped picks included; not judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...graph_passes.compressors import OUTPUTS, Case, Compressed
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.insertion.compose import compose, gathered
from ..sources.arrays import to_tensor, to_tensors
from . import torch_parts
from .encoder_probes import direct
from .metrics import compare
from .parity import run_reference
from .rebuilt_parts import in_pytorch
from .torch_parts import Injected

if TYPE_CHECKING:
    import torch

    from ...graph_passes.insertion.inserted import Inserted
    from ..sources.source import GraphSource

Sample = dict[str, np.ndarray]


@dataclass(frozen=True)
class EndToEnd:
    """The whole encoder with its compressors, in PyTorch.

    Attributes:
        error: ``kept_overlap``, the mean share of kept positions that are the same, and ``cosine``, the worst of the
            outputs.
        wholes: of each sample tokens, as they leave the encoder, kept_indices, sizes and assignment.
    """

    error: dict[str, float]
    wholes: list[Sample]


def end_to_end(graph: GraphSource, inserted: Inserted, encoded: Sequence[tuple[Sample, Sample]]) -> EndToEnd:
    """Compare the compressed encoder's outputs with PyTorch: the module, and the compressors' references at the seams.

    Args:
        graph: the encoder, with its module.
        inserted: its compressors.
        encoded: (input by role, outputs by the graph's names) of each sample.
    """
    overlaps, cosines, wholes = [], [], []
    assert graph.module is not None
    for sample, got in encoded:
        feeds = to_tensors({name: sample[name] for name in graph.inputs})
        whole, injected = _in_pytorch(graph, inserted, sample, feeds)
        kept = [set(map(int, row)) for row in whole.kept_indices]
        own = [set(map(int, row)) for row in got[inserted.outputs["kept_indices"]]]
        overlaps += [len(a & b) / inserted.leaving for a, b in zip(kept, own)]
        outputs = torch_parts.tail(graph.module, feeds, injected)
        names = [name for name in got if name not in inserted.outputs.values()]
        found = [compare("end to end", name, value.numpy(), got[name], "bf16") for name, value in zip(names, outputs)]
        cosines += [one.cosine for one in found]
        composed = {"kept_indices": whole.kept_indices, "sizes": whole.sizes, "assignment": whole.assignment}
        wholes.append({"tokens": outputs[0].numpy()} | {name: value.numpy() for name, value in composed.items()})
    error = {"kept_overlap": float(np.mean(overlaps)), "cosine": float(min(cosines))}
    return EndToEnd(error, wholes)


def _in_pytorch(
    graph: GraphSource, inserted: Inserted, sample: Sample, feeds: dict[str, torch.Tensor]
) -> tuple[Compressed[torch.Tensor], Injected]:
    """All steps in PyTorch: their composed outputs, and the tokens that the last one injects into the module."""
    import torch

    steps, injected = inserted.steps, None
    signals: list[dict[str, torch.Tensor]] = []
    results: list[Compressed[torch.Tensor]] = []
    whole: Compressed[torch.Tensor] | None = None
    made: dict[str, tuple[torch.Tensor, Compressed[torch.Tensor], Injected]] = {}
    for number, step in enumerate(steps):
        if injected is not None and step.adjoins:
            tokens = injected.tokens
            signals.append({})
        else:
            assert graph.module is not None
            head = torch_parts.head(graph.module, feeds, step.seam, tuple(direct(steps, number)), injected)
            tokens = head.tokens
            signals.append(head.signals)
        read = {TEXT: sample[TEXT]} if TEXT in step.compressor.signals() else {}
        for name, how in step.reads.items():
            back = len(how.through)
            value = signals[number - back][name]
            for earlier in results[number - back :]:
                value = gathered(value, earlier.kept_indices)
            read[name] = value.numpy()
        prefix = step.seam.prefix
        case = Case(step.seam.tokens, step.seam.dim, step.keep, "float32", step.seam.grid)
        reference = run_reference(step.compressor, case, tokens[:, prefix:].numpy(), read)
        own = Compressed(*(to_tensor(getattr(reference, name)) for name in OUTPUTS))
        results.append(own)
        alone = whole is None or not step.follows
        whole = own if alone else compose(whole, own, merges=step.compressor.method.merges)  # type: ignore[arg-type]
        # Slots may be wider than tokens, where there is no prefix.
        fewer = torch.cat([tokens[:, :prefix], own.tokens], 1) if prefix else own.tokens
        kept = whole.kept_indices if step.placed else None
        among = step.group[0].seam.tokens
        injected = Injected(step.seam, fewer, whole.sizes if step.sized else None, kept, among)
        made[step.node_name] = tokens, own, injected
        if step.rebuilt:
            assert graph.module is not None
            injected, whole = in_pytorch(graph.module, feeds, step, made), _itself(step.leaving)
    assert whole is not None and injected is not None, "a sequence has steps"
    return whole, injected


def _itself(count: int) -> Compressed[torch.Tensor]:
    """Tokens that each stand for themselves."""
    import torch

    place = torch.arange(count)[None]
    return Compressed(place, place, torch.ones(1, count), place)
