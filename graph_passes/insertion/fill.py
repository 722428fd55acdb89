"""Give opaque nodes their compressors: where a graph was exported with places for them, such as a language model.

An exporter that knows where a compressor goes writes one node `OPAQUE` there, with the compressor's inputs and its
outputs tokens, kept_indices, sizes and assignment, and which one it is in the attribute ``number``. Everything behind
it was exported for K tokens already, so nothing downstream has to be rewritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..compressors.base import OUTPUTS, Case, Compressor
from ..forms import DOMAIN
from ..ir_tools.builder import DTYPE_NAMES
from .emit import body, describe

OPAQUE = f"{DOMAIN}::compress"
_NUMBER = "number"


@dataclass(frozen=True)
class Filled:
    """A compressor in the place of an opaque node.

    Attributes:
        compressor: with its parameters.
        case: the shapes and the dtype that its body has.
        inputs: names of the values that it reads: tokens, then its signals.
        outputs: tokens, kept_indices, sizes, assignment -> name of the node's output.
    """

    compressor: Compressor
    case: Case
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]


def fill(model: ir.Model, compressors: Sequence[tuple[Compressor, Case]]) -> list[Filled]:
    """Edit `model` in place: its opaque node of number n, from 1, becomes the n-th of `compressors`.

    Args:
        model: at the opset and the precision that it will have.
        compressors: with the case of each; the dtype is that of the node's tokens.
    """
    found: dict[int, Filled] = {}
    for node in [one for one in model.graph if (one.domain, f"{one.domain}::{one.op_type}") == (DOMAIN, OPAQUE)]:
        number = node.attributes[_NUMBER].as_int()
        compressor, case = compressors[number - 1]
        tokens = node.inputs[0]
        assert tokens is not None and tokens.dtype is not None, "an exported value has a type"
        case = replace(case, dtype=DTYPE_NAMES[tokens.dtype])
        node.op_type = body(model, compressor, case).name
        node.name = f"compressor_{number}.{compressor.method.name}"
        node.attributes.clear()
        describe(node, compressor, case)
        for name, output in zip(OUTPUTS, node.outputs, strict=True):
            output.name = f"{node.name}.{name}"
        inputs = tuple(value.name or "" for value in node.inputs if value is not None)
        outputs = {name: value.name or "" for name, value in zip(OUTPUTS, node.outputs)}
        found[number] = Filled(compressor, case, inputs, outputs)
    assert sorted(found) == list(range(1, 1 + len(compressors))), "the graph has a place for each"
    model.graph.opset_imports.setdefault(DOMAIN, 1)
    return [found[number] for number in sorted(found)]
