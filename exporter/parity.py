"""The proof: every part of every graph against PyTorch, each fed what really reaches it.

One comparison of the whole graph cannot judge a selection: rounding in the tokens legitimately flips a pick, and then
everything behind it differs. So the encoder is cut at its compressor and proved in parts: the head against the module,
the compressor against its reference fed the head's own tokens, the tail against the module fed the compressor's own
output; the language graphs against their modules fed what the encoder gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError, MissingError
from ..graph_passes.compressors import OUTPUTS, Case, Compressed, Compressor, make, parameters
from ..graph_passes.compressors.base import Learned, weights
from ..graph_passes.compressors.texts import TEXT
from . import torch_parts
from .arrays import to_array, to_tensor, to_tensors
from .measures import LARGEST, Check, compare
from .probes import Probe
from .render import Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph_passes.insert import Inserted
    from ..runtimes.bundle import Role
    from .source import GraphSource

Feeds = Mapping[str, np.ndarray]
# Turns a graph into a callable that runs it: one for ONNX Runtime, others for other runtimes.
Runner = Callable[["ir.Model"], Callable[[Feeds], dict[str, np.ndarray]]]


def between(model: ir.Model, inputs: Iterable[str], outputs: Iterable[str]) -> ir.Model:
    """The part of `model` that computes `outputs` from `inputs`, cut free as a model of its own."""
    from ..graph_passes.cut import cut

    inputs, outputs = list(inputs), list(outputs)
    part = model
    if outputs != _names(model.graph.outputs):
        part = cut(part, outputs)[0]
    if set(inputs) != set(_names(part.graph.inputs)):
        part = cut(part, inputs)[1]
    return part


def encoder_probes(
    graph: GraphSource,
    model: ir.Model,
    inserted: Inserted,
    compressor: Compressor,
    samples: list[dict[str, np.ndarray]],
    runner: Runner,
) -> list[Probe]:
    """Probes of the compressed encoder `model`: head, compressor and tail for each sample.

    The head's own tokens and the compressor's own output come from running `model`; what must follow from them comes
    from PyTorch. Without a module (a foreign ONNX file) or a module boundary at the seam only the compressor is proved.

    Raises:
        GraphError: NaN or inf in the activations at the seam.
    """
    import torch

    seam, behind = inserted.seam, inserted.tokens_out
    node = next(node for node in model.graph if node.name == inserted.node_name)
    # Behind the signals lie weights, which are constants of the graph.
    into = [value.name or "" for value in node.inputs if value is not None][: 1 + len(compressor.signals())]
    out = dict(zip(OUTPUTS, (value.name or "" for value in node.outputs)))
    results = [value.name or "" for value in model.graph.outputs]
    own_results = [name for name in results if name not in inserted.outputs.values()]
    signals = dict(zip(compressor.signals(), into[1:]))
    # A text is an input of the graph, and the module knows nothing of it.
    seen_by_module = {name: value for name, value in signals.items() if name != TEXT}
    read = dict.fromkeys([inserted.tokens_in, into[0], *seen_by_module.values(), *out.values(), behind])
    run = runner(between(model, _names(model.graph.inputs), read))
    probes: list[Probe] = []
    for sample in samples:
        own = {**sample, **run(sample)}
        tokens = own[into[0]]
        _finite(tokens, into[0], seam.name)
        case = Case(tokens.shape[1], tokens.shape[2], inserted.keep, tokens.dtype.name, seam.grid)
        reference = run_reference(compressor, case, tokens, {name: own[value] for name, value in signals.items()})
        fed = {name: own[name] for name in into}
        expected = {name: getattr(reference, field) for field, name in out.items()}
        probes.append(Probe("compressor", graph.role, fed, expected, _card(compressor, case)))
        if graph.module is None or not seam.module:
            continue
        given = {name: array for name, array in sample.items() if name != TEXT or name in graph.inputs}
        feeds = to_tensors(given)
        head = torch_parts.head(graph.module, feeds, seam, tuple(seen_by_module))
        seen = {inserted.tokens_in: head.tokens, into[0]: head.tokens[:, seam.prefix :]}
        seen |= {value: head.signals[name] for name, value in seen_by_module.items()}
        probes.append(Probe("head", graph.role, given, {name: value.numpy() for name, value in seen.items()}))
        # Without a prefix the compressor's tokens may be the result itself, and are proved already.
        judged = [name for name in own_results if seam.prefix or name != behind]
        if not judged:
            continue
        fed = {out["tokens"]: own[out["tokens"]]}
        shorter = to_tensor(own[out["tokens"]]).float()
        if seam.prefix:
            # Cut before the prefix is put back, so that the graph's way of doing it is part of what is proved.
            fed[inserted.tokens_in] = own[inserted.tokens_in]
            shorter = torch.cat([to_tensor(own[inserted.tokens_in]).float()[:, : seam.prefix], shorter], 1)
        if inserted.biased:
            fed[out["sizes"]] = own[out["sizes"]]
        bias = to_tensor(own[out["sizes"]]) if inserted.biased else None
        result = torch_parts.tail(graph.module, feeds, seam, shorter, bias)
        expected = {name: value.numpy() for name, value in zip(own_results, result, strict=True) if name in judged}
        probes.append(Probe("tail", graph.role, fed, expected))
    return probes


def language_values(encoded: Feeds) -> dict[str, np.ndarray]:
    """What the language graphs read of an encoder's outputs, by role, in float32: tokens, kept_indices, token_bias."""
    values = {name: encoded[name] for name in ("tokens", "kept_indices")} | {"token_bias": np.log(encoded["sizes"])}
    return {name: x if x.dtype.kind in "iu" else x.astype(np.float32) for name, x in values.items()}


def language_probes(graphs: list[GraphSource], values: dict[str, np.ndarray]) -> list[Probe]:
    """One probe for each language graph, fed along the chain embed -> prefill -> decode.

    Args:
        graphs: in that order.
        values: what the encoder gave, by role: tokens, kept_indices, token_bias.
    """
    import torch

    known = to_tensors(values)
    probes = []
    for graph in graphs:
        assert graph.module is not None
        inputs = {name: known.get(name, torch.as_tensor(example)) for name, example in graph.inputs.items()}
        with torch.no_grad():
            result = graph.module(*inputs.values())
        outputs = dict(zip(graph.outputs, result if isinstance(result, (tuple, list)) else (result,)))
        probes.append(
            Probe(
                graph.role,
                graph.role,
                {name: value.numpy() for name, value in inputs.items()},
                {name: value.numpy() for name, value in outputs.items()},
            )
        )
        known |= outputs
        known |= {name.replace("present_", "past_"): value for name, value in outputs.items()}
    return probes


def check(
    probes: list[Probe],
    models: Mapping[Role, ir.Model],
    runner: Runner,
    precision: str,
    step: Step = lambda text: None,
) -> list[Check]:
    """Run every probe and judge it; the worst sample speaks for a tensor.

    Args:
        probes: what goes in and what must come out.
        models: graph by role.
        runner: the runtime.
        precision: of the graphs: fp32, fp16 or bf16; it sets the gates.
        step: called with "part: ..." as each probe begins.

    Raises:
        GraphError: no probe of a compressor: an empty proof is none.
    """
    if not any(probe.part == "compressor" for probe in probes):
        raise GraphError("there is nothing to prove a compressor with", fix="Export again, with inputs for the proof.")
    checks: dict[tuple[str, str], Check] = {}
    runs: dict[tuple[str, ...], Callable[[Feeds], dict[str, np.ndarray]]] = {}
    for probe in probes:
        step(f"{probe.part}: against PyTorch's values")
        key = (probe.role, probe.part, *probe.inputs)
        if key not in runs:
            runs[key] = runner(between(models[probe.role], probe.inputs, probe.expected))
        got = runs[key](probe.inputs)
        for found in _judge(probe, got, precision):
            worst = checks.get((found.part, found.tensor))
            checks[found.part, found.tensor] = found if worst is None else _worse(worst, found)
    return list(checks.values())


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
    if probe.part != "compressor":
        return [compare(probe.part, name, array, got[name], precision) for name, array in probe.expected.items()]
    from ..graph_passes.agreement import compare as agree

    method = probe.method
    grid = tuple(method["grid"]) if method["grid"] else None
    case = Case(method["tokens"], method["dim"], method["keep"], method["dtype"], grid)
    compressor = make(method["name"], method["params"])
    learned = isinstance(compressor, Learned)
    tokens, *signals = probe.inputs.values()
    name = next(iter(probe.expected))
    result = Compressed(*(got[output] for output in probe.expected))
    # A learned compressor makes no choice that rounding could turn, and its weights are in the graph, not here.
    if learned or not _has_torch():
        return _equal(probe, name, got, precision)
    if np.ptp(tokens.astype(np.float32)) == 0:
        # Whatever is picked of equal tokens is right, so agreement would prove nothing.
        return [compare("compressor", name, probe.expected[name], got[name], precision)]
    found = agree(compressor, case, tokens, result, dict(zip(compressor.signals(), signals)))
    far = np.abs(probe.expected[name].astype(np.float64) - got[name].astype(np.float64)).max()
    off = min(found.norm_ratio, LARGEST)
    detail = "" if found.ok else found.worst
    return [Check("compressor", name, found.ok, found.cosine, 1 + off, float(min(far, LARGEST)), found.flipped, detail)]


def _has_torch() -> bool:
    """Whether PyTorch is here to judge picks that differ; one that is installed and broken is no answer."""
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
    """Without PyTorch a pick that differs cannot be judged, so all must be those of the stored reference."""
    for output, array in probe.expected.items():
        if array.dtype.kind in "iu" and not np.array_equal(array, got[output]):
            raise MissingError(
                "other tokens were picked than in the stored reference, and judging whether by rounding needs PyTorch",
                where=f"tensor {output}",
                fix='Install with: pip install "tokexport[export]"',
            )
    sizes = list(probe.expected)[OUTPUTS.index("sizes")]
    # Exact counts, all 1 where nothing was merged: judged bit for bit, because a constant has no direction.
    counts = (probe.expected[sizes].view(np.int32), got[sizes].view(np.int32))
    return [
        compare("compressor", tokens, probe.expected[tokens], got[tokens], precision),
        compare("compressor", sizes, *counts, precision),
    ]


def _worse(a: Check, b: Check) -> Check:
    if a.ok != b.ok:
        return b if a.ok else a
    return b if (b.cosine, -abs(b.norm_ratio - 1)) < (a.cosine, -abs(a.norm_ratio - 1)) else a


def _card(compressor: Compressor, case: Case) -> dict[str, Any]:
    return {
        "name": compressor.method.name,
        "params": parameters(compressor),
        "tokens": case.tokens,
        "dim": case.dim,
        "keep": case.keep,
        "dtype": case.dtype,
        "grid": list(case.grid) if case.grid else None,
    }


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def _finite(tokens: np.ndarray, tensor: str, seam: str) -> None:
    bad = int((~np.isfinite(tokens.astype(np.float32))).sum())
    if bad:
        raise GraphError(
            f"{bad} of {tokens.size} activations are NaN or inf",
            where=f"tensor {tensor}, shape {list(tokens.shape)}, seam {seam}",
            fix="Check the weights and the input range; in fp16 try --precision fp32 first.",
        )
