"""What a proof compares in a compressed encoder: the compressors, and the layers before, between and after them.

With several compressors in sequence the parts are named head, compressor, between, compressor, tail. Each part is fed
what the graph itself computes upstream of it; a `between` without nodes is left out. What one compressor passes to the
next is part ``sequence``: the composed positions, sizes and assignment, and the gathered signals. These are integers,
counts and copies, compared bit for bit. Tokens that are put back at their places behind the last layer are part
``rebuild``, from what the graph computes in front of each compressor and behind it; the layers in between are a
`between` too, and what follows begins with the rebuilt tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import GraphError
from ...graph_passes.compressors import Case, Compressed, Compressor, parameters
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.insertion.compose import COMPOSED, compose, gathered
from ..sources.arrays import to_tensor, to_tensors
from . import torch_parts
from .parity import Runner, between, run_reference, value_names
from .probes import Probe
from .rebuilt_parts import again, rebuilt_probes
from .torch_parts import Injected

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.inserted import Inserted
    from ..sources.source import GraphSource

# Every value of one run of the graph that a probe may need, by name.
Values = Mapping[str, np.ndarray]


def encoder_probes(
    graph: GraphSource, model: ir.Model, inserted: Inserted, samples: list[dict[str, np.ndarray]], runner: Runner
) -> list[Probe]:
    """Probes of the compressed encoder `model`, for each sample.

    The inputs of each part come from running `model`, and what the part must compute from them comes from PyTorch.
    Without a module (a foreign ONNX file), or where a seam is no module boundary, the parts around that seam are left
    out.

    Raises:
        GraphError: NaN or inf in the activations at a seam.
    """
    steps = inserted.steps
    into = {step.node_name: _into(model, step) for step in steps}
    read = [name for step in steps for name in (step.tokens_in, *into[step.node_name], step.tokens_out)]
    read += [name for step in steps for name in (*step.node_outputs.values(), *step.composed_outputs.values())]
    read += [name for step in steps for how in step.reads.values() for name in (how.source, *how.through)]
    read += [name for step in steps for at in step.rebuilt for name in (at.slots, at.tokens)]
    inputs, results = value_names(model.graph.inputs), value_names(model.graph.outputs)
    run = runner(between(model, inputs, dict.fromkeys(name for name in read if name not in inputs)))
    judged = [name for name in results if name not in inserted.outputs.values()]
    probes: list[Probe] = []
    for sample in samples:
        own = {**sample, **run(sample)}
        inputs_of_module = {name: array for name, array in sample.items() if name != TEXT or name in graph.inputs}
        injected: Injected | None = None
        fed: dict[str, np.ndarray] = inputs_of_module
        behind: dict[str, tuple[dict[str, np.ndarray], Injected]] = {}
        for number, step in enumerate(steps):
            probes.append(_compressor(graph, step, into[step.node_name], own))
            if step.before is not None and step.follows:
                probes.append(_sequence(graph, step, step.before, own))
            if graph.module is not None and step.seam.module and (step.before is None or step.before.seam.module):
                expected = _expected_at(graph, steps, number, into[step.node_name], inputs_of_module, injected)
                if expected:
                    probes.append(Probe("between" if number else "head", graph.role, fed, expected))
            fed, injected = _inject(step, own)
            behind[step.node_name] = fed, injected
            if step.rebuilt:
                probes += rebuilt_probes(graph, step, behind, own, inputs_of_module)
                fed, injected = again(step, own)
        # Without a prefix the compressor's tokens may themselves be the graph's output, and are proved already.
        wrapped = inserted.seam.prefix or inserted.seam.rank == 2
        ends = [name for name in judged if wrapped or name != inserted.tokens_out]
        if ends and graph.module is not None and inserted.seam.module:
            assert injected is not None, "a sequence has steps"
            made = torch_parts.tail(graph.module, to_tensors(inputs_of_module), injected)
            expected = {name: value.numpy() for name, value in zip(judged, made, strict=True) if name in ends}
            probes.append(Probe("tail", graph.role, fed, expected))
    return probes


def direct(steps: list[Inserted], number: int) -> dict[str, str]:
    """Signals that are read at a step's seam, for that step or for a later one: name -> value."""
    return {
        name: how.source
        for later, step in enumerate(steps[number:])
        for name, how in step.reads.items()
        if len(how.through) == later
    }


def _into(model: ir.Model, step: Inserted) -> list[str]:
    """The values that a compressor reads: tokens, then signals. Its further inputs are weights, constants."""
    node = next(node for node in model.graph if node.name == step.node_name)
    return value_names(value for value in node.inputs if value is not None)[: 1 + len(step.compressor.signals())]


def _compressor(graph: GraphSource, step: Inserted, into: list[str], own: Values) -> Probe:
    tokens = own[into[0]]
    check_finite(tokens, into[0], step.seam.name)
    case = Case(tokens.shape[1], tokens.shape[2], step.keep, tokens.dtype.name, step.seam.grid)
    signals = {name: own[value] for name, value in zip(step.compressor.signals(), into[1:])}
    reference = run_reference(step.compressor, case, tokens, signals)
    expected = {name: getattr(reference, field) for field, name in step.node_outputs.items()}
    return Probe("compressor", graph.role, {name: own[name] for name in into}, expected, card(step.compressor, case))


def _sequence(graph: GraphSource, step: Inserted, before: Inserted, own: Values) -> Probe:
    """What is composed after a step, and the signals gathered before it, from the outputs of the steps."""
    # The step's own sizes follow from its assignment and are not read.
    fed = {
        name: own[name]
        for name in (
            *before.composed_outputs.values(),
            step.node_outputs["kept_indices"],
            step.node_outputs["assignment"],
        )
    }
    first, second = (
        Compressed(to_tensor(own[step.node_outputs["tokens"]]), *(to_tensor(own[names[name]]) for name in COMPOSED))
        for names in (before.composed_outputs, step.node_outputs)
    )
    composed_outputs = compose(first, second, merges=step.compressor.method.merges)
    expected = {value: getattr(composed_outputs, name).numpy() for name, value in step.composed_outputs.items()}
    for how in step.reads.values():
        if not how.through:
            continue
        signal = to_tensor(own[how.source])
        for kept in how.through:
            signal = gathered(signal, to_tensor(own[kept]))
        fed |= {name: own[name] for name in (how.source, *how.through)}
        expected[how.value] = signal.numpy().astype(own[how.source].dtype)
    return Probe("sequence", graph.role, fed, expected)


def _expected_at(
    graph: GraphSource,
    steps: list[Inserted],
    number: int,
    into: list[str],
    inputs: Values,
    injected: Injected | None,
) -> dict[str, np.ndarray]:
    """The module's tokens and signals at a step's seam; empty where the step directly follows the one before."""
    step = steps[number]
    if step.adjoins:
        return {}
    assert graph.module is not None
    signals = direct(steps, number)
    head = torch_parts.head(graph.module, to_tensors(inputs), step.seam, tuple(signals), injected)
    own = head.tokens if step.seam.rank == 3 else head.tokens[0]
    expected = {step.tokens_in: own, into[0]: head.tokens[:, step.seam.prefix :]}
    expected |= {value: head.signals[name] for name, value in signals.items()}
    return {name: value.numpy() for name, value in expected.items()}


def _inject(step: Inserted, own: Values) -> tuple[dict[str, np.ndarray], Injected]:
    """What the graph is fed downstream of a step, and the tokens injected into the module at its seam."""
    import torch

    tokens = step.node_outputs["tokens"]
    fed = {tokens: own[tokens]}
    shorter = to_tensor(own[tokens]).float()
    if step.seam.prefix:
        # The part begins before the prefix is concatenated again, so that this Concat is proved too.
        fed[step.tokens_in] = own[step.tokens_in]
        whole = to_tensor(own[step.tokens_in]).float()
        whole = whole if step.seam.rank == 3 else whole[None]
        shorter = torch.cat([whole[:, : step.seam.prefix], shorter], 1)
    sizes = own[step.composed_outputs["sizes"]] if step.sized else None
    fed |= {step.composed_outputs["sizes"]: sizes} if sizes is not None else {}
    kept, among = None, step.group[0].seam.tokens
    if step.placed:
        # Each step takes rows of those that the one before took.
        fed |= {name: own[name] for name in (one.node_outputs["kept_indices"] for one in step.group if one.placed)}
        kept = to_tensor(own[step.composed_outputs["kept_indices"]])
    return fed, Injected(step.seam, shorter, None if sizes is None else to_tensor(sizes), kept, among)


def card(compressor: Compressor, case: Case) -> dict[str, Any]:
    """How a probe says that a compressor is rebuilt."""
    return {
        "name": compressor.method.name,
        "params": parameters(compressor),
        "tokens": case.tokens,
        "dim": case.dim,
        "keep": case.keep,
        "dtype": case.dtype,
        "grid": list(case.grid) if case.grid else None,
    }


def check_finite(tokens: np.ndarray, tensor: str, seam: str) -> None:
    """Raise `GraphError` where tokens at a seam are NaN or inf."""
    bad = int((~np.isfinite(tokens.astype(np.float32))).sum())
    if bad:
        raise GraphError(
            f"{bad} of {tokens.size} activations are NaN or inf",
            where=f"tensor {tensor}, shape {list(tokens.shape)}, seam {seam}",
            fix="Check the weights and the input range; in fp16 try --precision fp32 first.",
        )
