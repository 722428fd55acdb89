"""The proof: every part of every graph against PyTorch, each fed the values that really reach it.

A comparison of the whole graph cannot judge a selection: rounding in the tokens legitimately flips a pick, and then
everything downstream differs. So the encoder is split at its compressor and proved in parts. The head is compared with
the module; the compressor with its reference, fed the head's own tokens; the tail with the module, fed the compressor's
own output. The language graphs are compared with their modules, fed the encoder's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ...errors import GraphError, MissingError, first_line
from ...graph_passes.compressors import OUTPUTS, Case, Compressed, Compressor, make
from ...graph_passes.compressors.base import Learned, weights
from ..bundling.language import language_runs
from ..freed import give_back
from ..progress import Progress
from ..sources.arrays import to_array, to_tensor
from .metrics import LARGEST, Check, compare
from .probes import WHOLE, Probe

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...runtimes.bundle.manifest import Role
    from ..sources.source import GraphSource

Feeds = Mapping[str, np.ndarray]
# Turns a graph into a callable that runs it: one for ONNX Runtime, others for other runtimes.
Runner = Callable[["ir.Model"], Callable[[Feeds], dict[str, np.ndarray]]]


def between(model: ir.Model, inputs: Iterable[str], outputs: Iterable[str]) -> ir.Model:
    """The subgraph of `model` that computes `outputs` from `inputs`, extracted as a model of its own."""
    from ...graph_passes.ir_tools.extract import extract

    inputs, outputs = list(inputs), list(outputs)
    part = model
    if outputs != value_names(model.graph.outputs):
        part = extract(part, outputs)[0]
    if set(inputs) != set(value_names(part.graph.inputs)):
        part = extract(part, inputs)[1]
    return part


def language_probes(graphs: list[GraphSource], values: Feeds) -> list[Probe]:
    """One probe for each language graph, fed along the chain embed -> prefill -> decode; or for the graph text alone.

    Args:
        graphs: in that order.
        values: see `language_runs`.
    """
    return [Probe(graph.role, graph.role, fed, made) for graph, fed, made in language_runs(graphs, values)]


def check(
    probes: list[Probe],
    models: Mapping[Role, ir.Model],
    runner: Runner,
    precision: str,
    step: Progress = lambda text: None,
) -> list[Check]:
    """Run every probe and judge it; the result for a tensor is that of its worst sample.

    Args:
        probes: inputs and expected outputs; those of whole answers are left to `generation` and `agreement`.
        models: graph by role.
        runner: the runtime.
        precision: of the graphs: fp32, fp16 or bf16; it sets the gates.
        step: called with "part: ..." as each probe begins.

    Raises:
        GraphError: there is no probe of a compressor, so nothing would be proved.
    """
    if not any(probe.part == "compressor" for probe in probes):
        raise GraphError("there is nothing to prove a compressor with", fix="Export again, with inputs for the proof.")
    checks: dict[tuple[str, str], Check] = {}
    # One runner at a time: each holds the weights of its part.
    for same in _by_graph(probes):
        first = same[0]
        run = runner(between(models[first.role], first.inputs, first.expected))
        for probe in same:
            step(f"{probe.part}: against PyTorch's values")
            got = run(probe.inputs)
            _check_kinds(probe, got)
            for found in _judge(probe, got, precision):
                worst = checks.get((found.part, found.tensor))
                checks[found.part, found.tensor] = found if worst is None else _worse(worst, found)
        del run
        give_back()
    return list(checks.values())


def _by_graph(probes: Iterable[Probe]) -> list[list[Probe]]:
    """Those of the same part of the same graph together, in the order of the first ones; whole answers are of none."""
    groups: dict[tuple[str, ...], list[Probe]] = {}
    for probe in (one for one in probes if one.part not in WHOLE):
        groups.setdefault((probe.role, probe.part, *probe.inputs, "->", *probe.expected), []).append(probe)
    return list(groups.values())


def run_reference(
    compressor: Compressor, case: Case, tokens: np.ndarray, signals: Mapping[str, np.ndarray]
) -> Compressed[np.ndarray]:
    """The compressor's PyTorch reference on arrays."""
    import torch

    x = to_tensor(tokens)
    learned = {name: torch.from_numpy(array).to(x.dtype).float() for name, array in weights(compressor, case).items()}
    result = compressor.reference(case, x, **{name: to_tensor(value) for name, value in signals.items()}, **learned)
    return Compressed(*(to_array(getattr(result, field)) for field in OUTPUTS))


def _judge(probe: Probe, got: dict[str, np.ndarray], precision: str) -> list[Check]:
    if probe.part == "sequence":
        return [
            compare(probe.part, name, _bits(array), _bits(got[name]), precision)
            for name, array in probe.expected.items()
        ]
    if probe.part != "compressor":
        return [compare(probe.part, name, array, got[name], precision) for name, array in probe.expected.items()]
    from ...graph_passes.agreement import compare as agree

    method = probe.method
    grid = tuple(method["grid"]) if method["grid"] else None
    case = Case(method["tokens"], method["dim"], method["keep"], method["dtype"], grid)
    compressor = make(method["name"], method["params"])
    learned = isinstance(compressor, Learned)
    tokens, *signals = probe.inputs.values()
    name = next(iter(probe.expected))
    result = Compressed(*(got[output] for output in probe.expected))
    # A learned compressor makes no selection that rounding could flip, and its weights are only in the graph.
    if learned or not _has_torch():
        return _equal(probe, name, got, precision)
    if np.ptp(tokens.astype(np.float32)) == 0:
        # Any pick among equal tokens is right, so agreement of picks would prove nothing.
        return [compare("compressor", name, probe.expected[name], got[name], precision)]
    try:
        found = agree(compressor, case, tokens, result, dict(zip(compressor.signals(), signals)))
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        raise GraphError(
            f"the proof's compressor does not fit its inputs: {first_line(error)}",
            where=f"tensor {name}",
            fix="Export again: this proof is damaged.",
        ) from error
    far = np.abs(probe.expected[name].astype(np.float64) - got[name].astype(np.float64)).max()
    off = min(found.norm_ratio, LARGEST)
    detail = "" if found.ok else found.worst
    return [Check("compressor", name, found.ok, found.cosine, 1 + off, float(min(far, LARGEST)), found.flipped, detail)]


def _check_kinds(probe: Probe, got: dict[str, np.ndarray]) -> None:
    """Refuse a probe whose expected arrays are of another kind than the graph's: nothing can be compared with them."""
    for name, array in probe.expected.items():
        if (array.dtype.kind in "iub") != (got[name].dtype.kind in "iub") or array.size == 0:
            raise GraphError(
                f"the proof says {array.dtype.name} {list(array.shape)}, the graph {got[name].dtype.name} "
                f"{list(got[name].shape)}",
                where=f"{probe.part}, tensor {name}",
                fix="Export again: this proof is that of other graphs.",
            )


def _bits(array: np.ndarray) -> np.ndarray:
    """Floats as integers of the same bits: values that are copied or counted must be equal bit for bit."""
    return array if array.dtype.kind in "iu" else array.view(f"i{array.dtype.itemsize}")


def _has_torch() -> bool:
    """Whether PyTorch is installed, to judge picks that differ.

    Raises:
        MissingError: it is installed, but cannot be imported.
    """
    if find_spec("torch") is None:
        return False
    try:
        import torch  # noqa: F401
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise MissingError(
            f"torch is installed and cannot be imported: {type(error).__name__}: {first}",
            fix="Run: pip install --force-reinstall torch. Or remove it: without it picks are compared one by one.",
        ) from error
    return True


def _equal(probe: Probe, tokens: str, got: dict[str, np.ndarray], precision: str) -> list[Check]:
    """Compare with the stored reference: without PyTorch a pick that differs cannot be judged, so all must be equal."""
    for output, array in probe.expected.items():
        if array.dtype.kind in "iu" and not np.array_equal(array, got[output]):
            raise MissingError(
                "other tokens were picked than in the stored reference; PyTorch is needed to tell whether by rounding",
                where=f"tensor {output}",
                fix='Install with: pip install "tokexport[export]"',
            )
    sizes = list(probe.expected)[OUTPUTS.index("sizes")]
    # Exact counts, all 1 where nothing was merged: judged bit for bit, because a constant has no direction.
    counts = (_bits(probe.expected[sizes]), _bits(got[sizes]))
    return [
        compare("compressor", tokens, probe.expected[tokens], got[tokens], precision),
        compare("compressor", sizes, *counts, precision),
    ]


def _worse(a: Check, b: Check) -> Check:
    if a.ok != b.ok:
        return b if a.ok else a
    return b if (b.cosine, -abs(b.norm_ratio - 1)) < (a.cosine, -abs(a.norm_ratio - 1)) else a


def value_names(values: Iterable[ir.Value]) -> list[str]:
    """Names of values, in their order; an unnamed one is empty."""
    return [value.name or "" for value in values]
