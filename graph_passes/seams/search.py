"""Search a graph for seams: stored metadata, module paths, node names, structure; see `seams`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import onnx_ir as ir
from pydantic import TypeAdapter, ValidationError

from ...errors import GraphError
from ...files import parse_json
from ..ir_tools.walk import FLOATS, Walk, dims
from .facts import Facts
from .scopes import Layer, Scopes, is_decoder, is_projector
from .seam import METADATA_KEY, Seam
from .structure import (
    Downstream,
    downstream,
    goes_on,
    inside_norm,
    moved_downstream,
    output_downstream,
    residual_chain,
    residual_sums,
    unrounded,
    with_batch_first,
    with_final_norm,
)


@dataclass
class Search:
    """The seams that were found, and notes on what was seen but could not be proved."""

    seams: list[Seam] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def search(model: ir.Model, *, metadata: bool = True, known: int = 0) -> Search:
    """As `find_seams`, with notes on what was seen; with `metadata` false only the graph is searched.

    Of `known` tokens it need not show what each stands for.
    """
    walk = Walk(model)
    if metadata and METADATA_KEY in model.metadata_props:
        return Search([checked(walk, seam) for seam in stored_seams(model)])
    facts = Facts(walk, known)
    result = Search()
    scopes = Scopes(walk)
    if not _by_scopes(facts, scopes, result):
        _by_structure(facts, result)
    position = {seam.tensor: i for i, seam in enumerate(result.seams)}
    for i, name in enumerate(walk.names()):
        if name in position:
            position[name] = i
    result.seams.sort(key=lambda seam: position[seam.tensor])
    return result


def stored_seams(model: ir.Model) -> list[Seam]:
    """The seams in a model's metadata, not checked against its graph.

    Raises:
        GraphError: they cannot be read.
    """
    try:
        read = [Seam.from_json(entry) for entry in parse_json(model.metadata_props[METADATA_KEY])]
        # From the fields as plain values: what is a dataclass already is not looked at again.
        return TypeAdapter(list[Seam]).validate_python([asdict(seam) for seam in read])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # pydantic lists everything that it finds wrong.
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)[:200]
        raise GraphError(
            f"the metadata {METADATA_KEY!r} cannot be read: {why}",
            where="metadata of the model",
            fix="Export the model again, or remove that entry: the graph is then searched.",
        ) from None


def checked(walk: Walk, seam: Seam) -> Seam:
    """A stored seam, after its tensors were found in the graph with the stored shape.

    Raises:
        GraphError: a tensor is missing or has another shape.
    """
    fix = "The graph was edited after its seams were stored: export it again, or remove the entry to search the graph."
    read = [name for signal in seam.signals.values() for name in signal.tensors]
    tensors = [seam.tensor, *([seam.placeholder] if seam.placeholder else []), *read]
    missing = [name for name in tensors if walk.value(name) is None]
    if missing:
        raise GraphError(f"seam {seam.name!r} names the tensor {missing[0]!r}, which is not in the graph", fix=fix)
    value = walk.value(seam.tensor)
    shape = dims(value)
    expected = [seam.batch, seam.prefix + seam.tokens, seam.dim][3 - seam.rank :]
    if shape is None or (seam.tokens and seam.dim and list(shape[-2:]) != expected[-2:]):
        raise GraphError(
            f"seam {seam.name!r} is stored with the shape {expected}, but the tensor has {list(shape or ())}",
            where=f"tensor {seam.tensor}",
            fix=fix,
        )
    assert value is not None
    batch = shape[0] if len(shape) == 3 else seam.batch
    seam = replace(seam, found_by="metadata", dtype=Facts.dtype(value), batch=batch)
    consumer = next((node for node in walk.sorted(walk.descendants(value)) if node.domain == "tokexport"), None)
    if consumer is None:
        return seam
    return replace(seam, valid=False, why=f"the compressor {consumer.name!r} downstream was built for these tokens")


def _by_scopes(facts: Facts, scopes: Scopes, result: Search) -> bool:
    stacks = scopes.layers(facts.attentions) if scopes.found_by else {}
    for stack, layers in stacks.items():
        if is_decoder(stack):
            _add_layers(facts, scopes, "decoder_layer", layers, result)
    encoders = {stack: layers for stack, layers in stacks.items() if not is_decoder(stack) and not is_projector(stack)}
    if not encoders:
        return bool(stacks)
    (stack, layers), *others = encoders.items()
    last = layers[-1].output
    if last is None:
        result.notes.append(
            f"The last layer {layers[-1].path} has several outputs, so the encoder's output cannot be proved."
        )
        return False
    if scopes.partial and not _proved(facts, scopes, last, None):
        result.notes.append("Some nodes carry names of modules and some do not, and the names miss the encoder.")
        return False
    after = facts.walk.descendants(last)
    parallel = [name for name, other in others if not after & set(scopes.inside(other[0].path))]
    if parallel:
        result.notes.append(f"There are parallel encoders: {', '.join([stack, *parallel])}.")
        return True
    output = with_batch_first(_final_norm(facts, scopes, with_batch_first(last, facts.heads)), facts.heads)
    to_weights = downstream(facts.walk, output, facts.prefix(output), facts.heads)
    _add_layers(facts, scopes, "encoder_layer", layers, result, why=to_weights.why)
    module, side = scopes.boundary(output)
    result.seams.append(
        facts.seam("encoder_output", output, scopes.found_by, module=module, side=side, why=to_weights.why)
    )
    _add_projector(facts, scopes, output, to_weights, result)
    return True


def _proved(facts: Facts, scopes: Scopes, output: ir.Value, following: Layer | None) -> bool:
    """Whether a layer ends at `output` where some nodes have no path: the next layer reads it, or no sum adds to it.

    A tool that adds or replaces nodes leaves them outside their layer, so its boundary alone is no proof.
    """
    if following is not None:
        return output in [unrounded(value) for value in scopes.entering(following.path)]
    chain = residual_sums(facts.walk)
    return output in chain and not goes_on(chain, output) and not inside_norm(chain, output, scopes.paths)


def _final_norm(facts: Facts, scopes: Scopes, value: ir.Value) -> ir.Value:
    """The encoder's output, given that of its last layer: after its final norm, which may have lost paths."""
    if not scopes.partial:
        return scopes.final_norm(value)
    normed = with_final_norm(facts.walk, value)
    path = scopes.paths.get(normed.producer(), "")  # type: ignore[arg-type]
    return value if is_projector(path) else normed


def _add_layers(facts: Facts, scopes: Scopes, kind: str, layers: list[Layer], result: Search, *, why: str = "") -> None:
    for layer, following in zip(layers, [*layers[1:], None]):
        if layer.output is not None and (not scopes.partial or _proved(facts, scopes, layer.output, following)):
            name = f"{kind}:{layer.index}"
            seam = facts.seam(name, layer.output, scopes.found_by, module=layer.path, why=why)
            result.seams.append(seam)


def _add_projector(facts: Facts, scopes: Scopes, output: ir.Value, to_weights: Downstream, result: Search) -> None:
    walk, path = facts.walk, scopes.projector()
    start = to_weights.projector_input
    if start is not None and path and not is_projector(scopes.paths.get(to_weights.weight, "")):  # type: ignore[arg-type]
        start = None
    if start is not None:
        module, side = scopes.boundary(start, below=path)
        why = moved_downstream(walk, start)
        result.seams.append(facts.seam("projector_input", start, scopes.found_by, module=module, side=side, why=why))
    elif path:
        result.notes.append(f"The input of the projector {path} cannot be proved.")
    if scopes.partial:
        end = None if start is None else output_downstream(walk, start)
    else:
        leaving = scopes.leaving(path) if path else []
        end = leaving[0] if len(leaving) == 1 else None if start is None or path else output_downstream(walk, start)
    if end is not None:
        module, side = scopes.boundary(end, below=path)
        why = moved_downstream(walk, end)
        result.seams.append(facts.seam("projector_output", end, scopes.found_by, module=module, side=side, why=why))


def _last_tokens(walk: Walk) -> str:
    """The values nearest to the outputs that could be tokens, for who has to name one."""
    outputs = [output for node in reversed(walk.nodes) for output in node.outputs if output.dtype in FLOATS]
    tokens = [x.name for x in outputs if len(dims(x) or ()) == 3 and not walk.learned(x)][:3]
    return f"; the last values of three axes are {', '.join(map(repr, tokens))}" if tokens else ""


def _by_structure(facts: Facts, result: Search) -> None:
    walk = facts.walk
    chain = residual_chain(walk)
    if not chain:
        result.notes.append(
            f"There is no single longest chain of residual sums, so no encoder can be proved{_last_tokens(walk)}."
        )
        return
    output = with_batch_first(with_final_norm(walk, with_batch_first(chain[-1], facts.heads)), facts.heads)
    to_weights = downstream(walk, output, facts.prefix(output), facts.heads)
    result.seams.append(facts.seam("encoder_output", output, "structure", why=to_weights.why))
    start = to_weights.projector_input
    if start is None:
        if to_weights.weight is not None:
            result.notes.append(f"The path from {output.name} to the first weights after it branches.")
        return
    result.seams.append(facts.seam("projector_input", start, "structure", why=moved_downstream(walk, start)))
    end = output_downstream(walk, start)
    if end is not None:
        result.seams.append(facts.seam("projector_output", end, "structure"))
