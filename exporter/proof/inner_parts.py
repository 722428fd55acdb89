"""The proof of prefill where compressors are between its layers.

Like an encoder it is parted at its compressors. Each is compared with its reference, fed what the graph itself computes
in front of it. The rest of prefill, `prefill`, is compared with its module as one part in which both are fed what the
graph's compressors gave: its outputs, and what it computes for the compressors to read. What is left behind each, as
places among all tokens, is copied, and compared bit for bit as part ``sequence``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graph_passes.compressors import OUTPUTS
from ...runtimes.images import narrowed
from ..sources.arrays import to_tensor
from .encoder_probes import card, check_finite
from .generation import all_begun, images_of
from .parity import Runner, between, run_reference, value_names
from .probes import Probe

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.fill import Filled
    from ...runtimes.bundle.manifest import GenerationRecord, Role, Variant
    from ..sources.source import GraphSource

Arrays = Mapping[str, np.ndarray]
# Begins the name of an output of prefill.
KEPT = "kept_indices_"


def prefill_values(
    variant: Variant,
    filled: Sequence[Filled],
    models: Mapping[Role, ir.Model],
    runner: Runner,
    asked: Sequence[tuple[Arrays, Sequence[int]]],
) -> list[dict[str, np.ndarray]]:
    """What prefill computes around its compressors and behind them, for each encoded input and its prompt."""
    prefill = models["prefill"]
    inputs, outputs = value_names(prefill.graph.inputs), value_names(prefill.graph.outputs)
    around = [name for one in filled for name in (*one.inputs, *one.outputs.values())]
    opened = {**models, "prefill": between(prefill, inputs, dict.fromkeys([*outputs, *around]))}
    begun, _ = all_begun(asked, variant, opened, runner)
    wanted = {*around, *(name for name in outputs if name.startswith(KEPT))}
    return [{name: np.array(value) for name, value in one.state.items() if name in wanted} for one in begun]


def picks(values: Arrays, record: GenerationRecord, encoded: Arrays) -> dict[str, np.ndarray]:
    """Of these values which tokens are left behind each compressor, of the images that were encoded."""
    count = sum(images_of(record, encoded))
    return {name: narrowed(value, record, count) for name, value in values.items() if name.startswith(KEPT)}


def compressor_probes(filled: Sequence[Filled], values: Sequence[Arrays]) -> list[Probe]:
    """Each compressor in prefill, on the tokens of each sample that reach it.

    Raises:
        GraphError: NaN or inf among them.
    """
    probes = []
    for own in values:
        for one in filled:
            tokens, *signals = (own[name] for name in one.inputs)
            check_finite(tokens, one.inputs[0], "decoder_layer")
            case = replace(one.case, dtype=tokens.dtype.name)
            named = dict(zip(one.compressor.signals(), signals, strict=True))
            reference = run_reference(one.compressor, case, tokens, named)
            expected = {name: getattr(reference, field) for field, name in one.outputs.items()}
            fed = {name: own[name] for name in one.inputs}
            probes.append(Probe("compressor", "prefill", fed, expected, card(one.compressor, case)))
    return probes


def given(graphs: Sequence[GraphSource], filled: Sequence[Filled], own: Arrays) -> Any:
    """The module of prefill, whose compressors from now on return what those of the graph gave."""
    module: Any = next(graph.module for graph in graphs if graph.role == "prefill")
    for compress, one in zip(module.compress, filled, strict=True):
        compress.given = tuple(_float(own[one.outputs[name]]) for name in OUTPUTS)
    return module


def around(probe: Probe, module: Any, filled: Sequence[Filled], own: Arrays) -> list[Probe]:
    """What is compared of prefill, of a `probe` of the whole that ran with the compressors that are `given`."""
    fed = {**probe.inputs, **{name: own[name] for one in filled for name in one.outputs.values()}}
    made = dict(probe.expected)
    copied = {name: made.pop(name) for name in probe.expected if name.startswith((KEPT, "token_bias_"))}
    # Without merged tokens all are 0, which has no direction to compare.
    made |= {name: copied.pop(name) for name in [*copied] if not name.startswith(KEPT) and np.ptp(copied[name])}
    for compress, one in zip(module.compress, filled, strict=True):
        made |= {name: tensor.numpy() for name, tensor in zip(one.inputs, compress.read, strict=True)}
    return [Probe("prefill", "prefill", fed, made), Probe("sequence", "prefill", fed, copied)]


def _float(array: np.ndarray) -> Any:
    tensor = to_tensor(array)
    return tensor.float() if tensor.is_floating_point() else tensor
