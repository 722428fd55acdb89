"""One compressor in every layer of an encoder, each removing as many tokens: ToMe's schedule.

It is asked for as one step at a seam of `EVERY`: behind every layer but the last, or in every layer between its
attention and its feed-forward, as ToMe does. Its ratio or count is that of all layers together (ToMe, section 3,
removes r tokens in each layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...errors import RequestError
from ..seams.find import find_seams

if TYPE_CHECKING:
    from .sequence import Step

# Name of the seam -> how many of the layers, counted from the end, have no place.
EVERY = {"encoder_layer:*": 1, "encoder_attention:*": 0}


def spread(model: ir.Model, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, with a step of its own for each layer in the place of one at a seam of `EVERY`.

    Args:
        model: the graph, without compressors.
        steps: in the order in which tokens pass them.

    Raises:
        RequestError: fewer than two layers were found, or a step inside the encoder stands beside one there.
    """
    wanted = next((step.seam for step in steps if step.seam in EVERY), "")
    if not wanted:
        return tuple(steps)
    layers = [seam for seam in find_seams(model) if seam.name.startswith("encoder_layer:")]
    layers.sort(key=lambda seam: int(seam.name.partition(":")[2]))
    if len(layers) < 2:
        raise RequestError(
            f"seam {wanted!r} is in every layer of an encoder, and {len(layers) or 'none'} were found in this graph",
            where=f"graph {model.graph.name or 'main'}",
            fix='Layers are known in graphs that tokexport exports. Name a tensor there: seam = "tensor:NAME".',
        )
    made: list[Step] = []
    for number, step in enumerate(steps):
        if step.seam not in EVERY:
            made.append(step)
            continue
        if number:
            raise RequestError(
                f"step {number + 1} is at {step.seam}, and step {number} has removed tokens before it",
                fix="Write the step at every layer first.",
            )
        tokens = layers[0].tokens
        counts = kept_at(tokens, step.kept(tokens), len(layers) - EVERY[step.seam])
        kind = step.seam.partition(":")[0]
        each = [
            replace(step, ratio=None, keep=keep, seam=f"{kind}:{seam.name.partition(':')[2]}", rebuild=False)
            for seam, keep in zip(layers, counts)
        ]
        # A layer at which none is due has no compressor.
        each = [one for one, before in zip(each, (tokens, *counts)) if one.keep != before]
        made += [*each[:-1], replace(each[-1], rebuild=step.rebuild)] if each else [replace(step, seam=layers[0].name)]
    return tuple(made)


def kept_at(tokens: int, keep: int, places: int) -> list[int]:
    """How many of `tokens` are left behind each of as many places, where `keep` are left in the end."""
    return [tokens - (tokens - keep) * done // places for done in range(1, places + 1)]
