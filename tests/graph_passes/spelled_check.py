"""Whether `compress` was right on a spelling, or refused it and said where and what to do."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import torch
from spelled_encoder import Written, written
from spelled_forward import Arrays, Forward
from spelled_tools import worked_on
from spellings import METHODS, Spelling
from tokexport.errors import TokexportError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import Case, Compressed, make

KEEP = 4
# Largest error of the tokens, as a share of their norm.
GATES = {"no": 1e-4, "all": 2e-2, "inside": 2e-2, "quantised": 0.35}
# After these a graph has the operators that it had.
PLAIN_TOOLS = ("",)


def outcome(spelling: Spelling) -> str:
    """``equal`` where the compressed graph computes what it should, or the first words of a good refusal.

    Raises:
        AssertionError: it computes something else, or a refusal names nothing of the graph or no cure.
    """
    graph = written(spelling)
    model = worked_on(graph.model, spelling, graph.feeds)
    name = spelling.method.split("-")[0]
    try:
        result = compress(
            model,
            name,
            keep=KEEP,
            seam=spelling.seam,
            params=METHODS[spelling.method],
            assume_no_padding=spelling.assume_no_padding,
        )
    except TokexportError as error:
        _check_refusal(error, model, spelling.seam)
        assert not (spelling.plain and spelling.tool in PLAIN_TOOLS), f"there is no reason to refuse it: {error}"
        return f"refused: {error.what[:40]}"
    assert spelling.mask == "none" or spelling.assume_no_padding, "padding may be kept and merged"
    _check_result(spelling, graph, result)
    return "equal"


def _check_refusal(error: TokexportError, model: onnx.ModelProto, seam: str) -> None:
    assert error.fix, f"no cure: {error}"
    graph = model.graph
    names = {value.name for value in (*graph.input, *graph.output)}
    names |= {name for node in graph.node for name in (node.name, *node.input, *node.output) if name}
    said = set(re.findall(r"[\w./:-]+", str(error)))
    # A seam that was asked for by its name and does not exist is named itself.
    names.add(seam)
    assert said & (names | {f"tensor:{name}" for name in names}), f"it names nothing of the graph: {error}"


def _check_result(spelling: Spelling, graph: Written, result: onnx.ModelProto) -> None:
    node = next(node for node in result.graph.node if node.domain == "tokexport")
    got, read = _run(result, [*node.input, *node.output], graph.feeds)
    forward = Forward(spelling, graph.weights, graph.feeds)
    before = forward.run()
    gate = GATES[{"dynamic": "quantised", "qdq": "quantised", "half": "all"}.get(spelling.tool, spelling.half)]
    content = read[node.input[0]]
    stages = _stages(forward, content, gate)

    compressor = make(spelling.method.split("-")[0], METHODS[spelling.method])
    signals = dict(zip(compressor.signals(), (read[name] for name in node.input[1:])))
    for name, array in signals.items():
        expected = _signal(forward, name, stages[0])
        assert _error(array, expected) <= gate, f"{name} is not that of these tokens"
    grid = (4, 4) if spelling.stem == "image" else (12,)
    case = Case(content.shape[1], content.shape[2], KEEP, str(content.dtype), grid)
    extra = {name: torch.from_numpy(array) for name, array in signals.items()}
    wanted = compressor.reference(case, torch.from_numpy(content), **extra)
    if any((got[field] != getattr(wanted, field).numpy()).any() for field in ("kept_indices", "sizes", "assignment")):
        # Choices between tokens that are as good to the last roundings are no error. Between two operators in half
        # precision ONNX Runtime may keep float32: the compressor reads more than the value that is seen here.
        own = Compressed(*(read[name] for name in node.output))
        agreement = compare(
            compressor, case, content, own, signals, tolerance=2e-3 if case.dtype != "float32" else 1e-5
        )
        assert agreement.ok, agreement.worst
        wanted = Compressed(*(torch.from_numpy(read[name]) for name in node.output))

    def change(x: np.ndarray, front: int, back: int) -> tuple[np.ndarray, np.ndarray]:
        rows, n = x.shape[:2]
        tokens = np.concatenate([x[:, :front], wanted.tokens.double().numpy(), x[:, n - back :]], 1)
        own = np.ones((rows, front)), np.ones((rows, back))
        return tokens, np.concatenate([own[0], wanted.sizes.double().numpy(), own[1]], 1)

    before_rows_meet = spelling.mixed and "projected" not in stages
    assert not before_rows_meet or _same_rows(got["assignment"]), "places are mixed that are not the same"
    problems = [_wrong(spelling, got, before, forward.run(stage, change), gate) for stage in stages]
    assert "" in problems, f"after {stages}: {problems}"


def _stages(forward: Forward, content: np.ndarray, gate: float) -> list[str]:
    """The places in the encoder where the compressor may read: it must be given all tokens there, and nothing else."""
    last = forward.spelling.layers - 1
    if forward.spelling.seam.startswith("encoder_layer:"):
        places = [f"layer{forward.spelling.seam[-1]}"]
    else:
        places = [f"sum{last}", f"layer{last}", "normed", "dropped", "projected"]
    found = []
    for place in places:
        if place in forward.stages:
            x, (front, back) = forward.stages[place], forward.own[place]
            x = x[:, front : x.shape[1] - back]
            if x.shape == content.shape and _error(content, x) <= gate:
                found.append(place)
    assert found, f"the compressor reads {content.shape}, which are not the encoder's tokens at any of {places}"
    return found


def _same_rows(array: np.ndarray) -> bool:
    return bool((array == array[:1]).all())


def _signal(forward: Forward, name: str, stage: str) -> np.ndarray:
    front, back = forward.own["embedded"]
    layer = int(stage[-1]) if stage[:-1] in ("layer", "sum") else forward.spelling.layers - 1
    n = forward.stages["embedded"].shape[1]
    if name == "keys":
        return forward.keys[layer][:, front : n - back]
    return forward.attention[layer].mean(1)[:, 0, front : n - back]


def _wrong(spelling: Spelling, got: Arrays, before: Arrays, expected: Arrays, gate: float) -> str:
    """What is wrong with the outputs; empty if nothing is."""
    removed = before["tokens"].shape[1] - expected["tokens"].shape[1]
    for name, array in expected.items():
        if got[name].shape != array.shape:
            return f"{name} is {got[name].shape}, not {array.shape}"
        if name == "features" and array.shape[1] != before[name].shape[1] - removed:
            return f"{name} keeps the old count"
        if name == "pooled" and spelling.tool and _error(got[name], before[name]) <= 3 * gate:
            continue  # A tool may give it a way of its own from the layers, which the compressor does not touch.
        # What follows the tokens is a bit further from them than they are.
        if _error(got[name], array) > 3 * gate:
            return f"{name} is wrong by {_error(got[name], array):.1e} of its norm"
    whole = before["tokens"].shape[1] + (spelling.learned if spelling.drop != "none" else 0)
    counts = {name: got[name].shape[1] for name in ("token_mask", "positions") if name in got}
    if "encoded_lengths" in got:
        counts["encoded_lengths"] = int(got["encoded_lengths"].max())
    return next((f"{name} keeps the old count" for name, n in counts.items() if n != whole - removed), "")


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    if got.shape != expected.shape:
        return float("inf")
    return float(np.linalg.norm(got.astype(np.float64) - expected) / (np.linalg.norm(expected) + 1e-9))


def _run(model: onnx.ModelProto, names: list[str], feeds: Arrays) -> tuple[Arrays, Arrays]:
    """The outputs of the graph by name, and these values of it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = {output.name for output in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options)
    wanted = [output.name for output in session.get_outputs()]
    present = {value.name for value in session.get_inputs()}
    ran = dict(zip(wanted, session.run(wanted, {name: x for name, x in feeds.items() if name in present})))
    return {name: ran[name] for name in given}, {name: ran[name] for name in names}
