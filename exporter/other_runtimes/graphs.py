"""The language graphs of a bundle as parts of a graph under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph_passes.ir_tools.builder import Builder
from ...runtimes.bundle.manifest import GenerationRecord, GraphRecord, Variant
from .branches import Merged, require


@dataclass(frozen=True)
class Cache:
    """A cache [1, G, capacity, d] of one layer.

    Attributes:
        name: ``key_<i>`` or ``value_<i>``, its role without what stands before.
        heads: G.
        slots: its capacity.
        dim: d.
        removed: by how many tokens its sequence is shorter than the first layer's.
    """

    name: str
    heads: int
    slots: int
    dim: int
    removed: int

    @property
    def layer(self) -> int:
        """Its number."""
        return int(self.name.rpartition("_")[2])

    @property
    def kind(self) -> str:
        """``key`` or ``value``."""
        return self.name.rpartition("_")[0]


def caches_of(decode: GraphRecord, what: str = "past") -> list[Cache]:
    """The caches that decode takes, key and value of the first layer, of the second, ..., ``past`` or ``cross``."""
    start = f"{what}_"
    found = {name.removeprefix(start): one.shape for name, one in decode.inputs.items() if name.startswith(start)}
    longest = max((shape[2] for shape in found.values()), default=0)
    return [Cache(name, heads, slots, dim, longest - slots) for name, (_, heads, slots, dim) in found.items()]


@dataclass(frozen=True)
class Graphs:
    """What the branches of a decoder are made of.

    Attributes:
        merged: the model under construction.
        models: of the bundle, by role, in portable form; none is changed.
        variant: of the manifest, with its generation record.
    """

    merged: Merged
    models: Mapping[str, ir.Model]
    variant: Variant

    @property
    def generation(self) -> GenerationRecord:
        """Its record."""
        assert self.variant.generation is not None
        return self.variant.generation

    def input_type(self, role: str, name: str) -> ir.DataType:
        """Of an input of a graph, by role names."""
        own = self.variant.graphs[role].inputs[name].name  # type: ignore[index]
        found = next(value.dtype for value in self.models[role].graph.inputs if value.name == own)
        assert found is not None
        return found

    def call(self, b: Builder, role: str, given: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """The graph of a role, inputs and outputs by role name; what it is given becomes of the type that it reads."""
        record = self.variant.graphs[role]  # type: ignore[index]
        fed = {
            record.inputs[name].name: b.op("Cast", value, to=int(self.input_type(role, name)))
            for name, value in given.items()
        }
        made = self.merged.call(b, role, self.models[role], fed)
        return {name: made[one.name] for name, one in record.outputs.items()}

    def logits(self, b: Builder, logits: ir.Value, never: Sequence[int]) -> ir.Value:
        """[1, 1, V] float32; ids of `never` are infinitely unlikely, because other runtimes have no such list."""
        shape = [1, 1, self.generation.vocabulary]
        scores = b.op("Reshape", float32(b, logits), shape)
        if not never:
            return scores
        ids = sorted(set(never))
        return b.op(
            "ScatterElements", scores, np.array([[ids]]), np.full((1, 1, len(ids)), -np.inf, np.float32), axis=2
        )

    def choose(
        self, past: Mapping[str, ir.Value], then: tuple[Builder, list[ir.Value]], other: tuple[Builder, list[ir.Value]]
    ) -> ir.Model:
        """The finished model.

        Args:
            past: by the names of its presents, inputs of the model; the first one is empty before the prompt.
            then: what runs where it is empty, and logits and presents that it gives, in order.
            other: what else runs, likewise.
        """
        b = self.merged.body
        length = b.op("Shape", next(iter(past.values())), start=2, end=3)
        logits, *presents = self.merged.choose(b.op("Squeeze", b.op("Equal", length, [0]), [0]), then, other)
        logits.type, logits.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 1, self.generation.vocabulary])
        for value, given in zip(presents, past.values(), strict=True):
            assert given.shape is not None
            value.type, value.shape = (
                given.type,
                ir.Shape([*given.shape[:2], f"{given.shape[2]}_after", given.shape[3]]),
            )
        return self.merged.model({"logits": logits, **dict(zip(past, presents, strict=True))})


def float32(b: Builder, value: ir.Value) -> ir.Value:
    """The value in float32."""
    return b.op("Cast", value, to=int(ir.DataType.FLOAT))


def parts(b: Builder, value: ir.Value, dtype: ir.DataType) -> list[ir.Value]:
    """A float32 value as one in `dtype`, or two that add up to it where that has fewer digits."""
    found = [b.op("Cast", value, to=int(dtype))]
    if dtype != ir.DataType.FLOAT:
        found.append(b.op("Cast", b.op("Sub", value, float32(b, found[0])), to=int(dtype)))
    return found


def parts_of(dtype: ir.DataType) -> int:
    """How many `parts` there are."""
    return 1 if dtype == ir.DataType.FLOAT else 2


def padded(b: Builder, value: ir.Value, cache: Cache, length: ir.Value) -> ir.Value:
    """A cache [1, G, length, d] of another runtime as the bundle's graphs take it; `length` int64 [1]."""
    if cache.removed:
        value = b.op("Slice", value, [cache.removed], [2**31], [2])
    spare = b.op("Sub", [cache.slots + cache.removed], length)
    return b.op("Pad", value, b.op("Concat", [0, 0, 0, 0, 0, 0], spare, [0], axis=0))


def filled(b: Builder, value: ir.Value, cache: Cache, length: ir.Value) -> ir.Value:
    """What prefill returned of a cache, as other runtimes keep it: [1, G, length, d]; `length` int64 [1]."""
    value = b.op("Slice", value, [0], b.op("Sub", length, [cache.removed]), [2])
    return b.op("Pad", value, [0, 0, cache.removed, 0, 0, 0, 0, 0]) if cache.removed else value


def prompt(b: Builder, ids: ir.Value, longest: int, pad: int) -> tuple[ir.Value, ir.Value]:
    """Ids [1, P] of a prompt, and how many are no padding, int64 [1]; the runtime stops where there are more than P."""
    count = b.op("Shape", ids, start=1, end=2)
    fits = b.op("LessOrEqual", count, [longest])
    count = b.op("Add", count, require(b, fits, f"the prompt has more than {longest} ids"))
    ends = b.op("Concat", [0, 0, 0], b.op("Sub", [longest], count), axis=0)
    return b.op("Reshape", b.op("Pad", ids, ends, pad), [1, longest]), count


def goes_on(
    b: Builder, graphs: Graphs, own: list[tuple[Cache, ir.Value]], words: ir.Value, given: Mapping[str, ir.Value]
) -> list[ir.Value]:
    """decode: logits, and the caches with the keys and values of one word more behind them.

    Args:
        b: of the branch.
        graphs: of the bundle.
        own: the caches of self-attention as the other runtime keeps them.
        words: what is new, [1, S, ...]; the runtime stops where S is not 1.
        given: the other inputs by role.
    """
    first, value = own[0]
    length, most = b.op("Shape", value, start=2, end=3), first.slots + first.removed
    one = b.op("Equal", b.op("Shape", words, start=1, end=2), [1])
    checked = b.op(
        "Add",
        require(b, one, "an answer goes on by one word at a time: begin a new one for further text"),
        require(b, b.op("Less", length, [most]), f"prompt and answer have more than {most} tokens"),
    )
    length = b.op("Add", length, checked)
    past = {f"past_{cache.name}": padded(b, value, cache, length) for cache, value in own}
    made = graphs.call(b, "decode", {**given, "write_index": length, **past})
    presents = [b.op("Concat", value, made[f"new_{cache.name}"], axis=2) for cache, value in own]
    return [graphs.logits(b, made["logits"], graphs.generation.suppress), *presents]
