"""Find the places in a graph where a compressor can go.

Four ways are tried in this order. The first that finds an encoder is used, and every seam records which one it was:

1. metadata that `write_seams` left in a model we exported, checked against the graph again;
2. module paths that torch.onnx writes into the metadata of nodes;
3. module paths in the node names of a TorchScript export;
4. structure: the longest chain of residual sums is the encoder, the first weights after it are the projector's.

`encoder_output` is the last layer's output, after the encoder's final norm if it has one. `projector_input` is
the value after the last operation that moves tokens (slice, pixel shuffle, pooling), before the first weights.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import replace

import onnx_ir as ir

from ...errors import GraphError, RequestError, nearest
from ..ir_tools.input_shapes import fix_of
from ..ir_tools.walk import Walk
from .behind_attention import behind_attention
from .facts import Facts
from .report import describe
from .scopes import Scopes
from .seam import INSIDE, METADATA_KEY, Seam
from .search import checked, search, stored_seams
from .structure import moved_downstream

__all__ = ["describe", "find_seams", "refresh_seams", "resolve", "write_seams"]

_REBUILD = (
    " Or put the tokens back at their places behind the encoder's last layer: --rebuild (rebuild=True), in a recipe "
    "rebuild = true."
)
# Where `auto` goes when the paper's seam is absent or not valid: first downstream of it, then upstream.
FALLBACK = ("encoder_output", "projector_input", "projector_output")


def find_seams(model: ir.Model) -> list[Seam]:
    """All seams of a graph, in graph order; empty if none can be proved.

    Seams where tokens cannot be selected are listed too, with `valid` false and the reason in `why`.

    Raises:
        GraphError: the model's own seam metadata does not agree with its graph.
    """
    return search(model).seams


def write_seams(
    model: ir.Model,
    *,
    grid: tuple[int, ...] | None = None,
    placeholder: str = "",
    merged_rows: bool = False,
    known: int = 0,
) -> list[Seam]:
    """Find the seams of a model we exported and keep them in its metadata.

    Each carries `module` and `side`: the torch module, by its path in the exported one, whose output or input it is.
    Nothing is written where nothing was found.

    Args:
        model: with the module scopes of its nodes.
        grid: layout of the tokens. Their number alone does not determine it: 100 may be 10 x 10.
        placeholder: path of the module to be replaced by a compressor that widens tokens.
        merged_rows: see `Seam`.
        known: a number of tokens of which the caller knows what each stands for, so that the graph need not show it.

    Raises:
        GraphError: `placeholder` does not directly follow a seam.
    """
    seams = search(model, metadata=False, known=known).seams
    if grid:
        seams = [replace(seam, grid=grid) if seam.tokens == math.prod(grid) else seam for seam in seams]
    if merged_rows:
        seams = [replace(seam, merged_rows=True) for seam in seams]
    if placeholder:
        seams = _with_placeholder(model, seams, placeholder)
    if seams:
        model.metadata_props[METADATA_KEY] = json.dumps([seam.to_json() for seam in seams])
    return seams


def _with_placeholder(model: ir.Model, seams: list[Seam], module: str) -> list[Seam]:
    scopes = Scopes(Walk(model))
    before, after, inside = scopes.entering(module), scopes.leaving(module), scopes.inside(module)
    alone = len(before) == len(after) == 1 and set(before[0].consumers()) <= set(inside)
    if not alone or before[0].is_graph_output() or before[0].name not in [seam.tensor for seam in seams]:
        raise GraphError(
            f"the placeholder {module!r} must be the only reader of a seam's tensor, and return one tensor",
            where=f"graph {model.graph.name or 'main'}",
            fix="Put it between the place where tokens are selected and the weights that read the widened tokens.",
        )
    marked = {"placeholder": after[0].name or "", "module": module, "side": "input"}
    return [replace(seam, **marked) if seam.tensor == before[0].name else seam for seam in seams]  # type: ignore[arg-type]


def refresh_seams(model: ir.Model) -> None:
    """After an edit of the graph: drop stored seams that no longer hold, as downstream of a new compressor."""
    if METADATA_KEY not in model.metadata_props:
        return
    walk = Walk(model)
    kept = []
    for seam in stored_seams(model):
        try:
            kept.append(checked(walk, seam))
        except GraphError:
            continue
    model.metadata_props[METADATA_KEY] = json.dumps([seam.to_json() for seam in kept])


def resolve(model: ir.Model, name: str = "auto", method_seam: str = "encoder_output") -> Seam:
    """The seam of a name.

    Args:
        model: the graph; values without shapes are annotated, nothing else changes.
        name: a seam's name, ``encoder_attention:<i>``, ``tensor:<value name>`` for any value, or ``auto``: the seam of
            the method's paper. Where the graph lacks it or selecting there is not valid, the next of `FALLBACK`
            downstream of it, then upstream.
        method_seam: the seam of the paper.

    Raises:
        RequestError: no such seam; those that exist are listed. Or selecting there is not valid; it says why.
        GraphError: the token axis is dynamic, or the value is not [B, N, D] in a float type.
    """
    if not isinstance(name, str):
        raise RequestError(f"seam {name!r} is not a name", fix='Write "auto", a seam\'s name or "tensor:NAME".')
    if name.startswith("tensor:"):
        return _usable(model, _user_seam(model, name.removeprefix("tensor:")), [])
    result = search(model)
    by_name = {seam.name: seam for seam in result.seams}
    if name == "auto":
        for candidate in _auto_order(method_seam):
            if candidate in by_name and by_name[candidate].valid:
                return by_name[candidate]
        found = next((candidate for candidate in _auto_order(method_seam) if candidate in by_name), None)
        if found is not None:
            return _usable(model, by_name[found], result.seams)
    elif name in by_name:
        return _usable(model, by_name[name], result.seams)
    elif (inner := behind_attention(model, name, result.seams)) is not None:
        return _usable(model, inner, result.seams)
    wanted = f"the method's own seam, {method_seam!r}," if name == "auto" else f"seam {name!r}"
    seen = f" {' '.join(result.notes)}" if result.notes else ""
    listed = nearest(name if name != "auto" else method_seam, by_name, kind="seams")
    raise RequestError(
        f"{wanted} was not found in this graph",
        where=f"graph {model.graph.name or 'main'}",
        fix=f"{listed}{seen} `tokexport inspect SOURCE` lists them; --seam tensor:NAME reads any value [B, N, D].",
    )


def _user_seam(model: ir.Model, tensor: str) -> Seam:
    walk = Walk(model)
    value = walk.value(tensor)
    if value is None:
        raise RequestError(
            f"tensor {tensor!r} is not in the graph",
            where=f"graph {model.graph.name or 'main'}, {len(walk.names())} values",
            fix=nearest(tensor, _similar(tensor, walk.names()), kind="names like it"),
        )
    return Facts(walk).seam(f"tensor:{tensor}", value, "user", why=moved_downstream(walk, value))


def _similar(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=5, cutoff=0.3)


def _auto_order(method_seam: str) -> list[str]:
    if method_seam not in FALLBACK:
        return [method_seam]
    i = FALLBACK.index(method_seam)
    return [*FALLBACK[i:], *reversed(FALLBACK[:i])]


def _usable(model: ir.Model, seam: Seam, others: list[Seam]) -> Seam:
    if seam.valid:
        return seam
    where = f"tensor {seam.tensor}"
    if "dynamic" in seam.why:
        raise GraphError(f"seam {seam.name!r} cannot be used: {seam.why}", where=where, fix=fix_of(model))
    if not seam.why.startswith("its "):
        usable = [other.name for other in others if other.valid] or ["none"]
        raise RequestError(
            f"selecting at seam {seam.name!r} is not valid: {seam.why}",
            where=where,
            fix=f"Seams where it is: {', '.join(usable)}.{_REBUILD if seam.name.startswith(INSIDE) else ''}",
        )
    raise GraphError(
        f"seam {seam.name!r} cannot be used: {seam.why}",
        where=where,
        fix="Export the model with a batch axis before the token axis, or name another value: --seam tensor:NAME.",
    )
