"""Compressors whose kept tokens, sizes and assignment are known by looking at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from tokexport.graph_passes.compressors.base import Case, Compressed, compressor
from tokexport.graph_passes.compressors.blocks import select
from tokexport.graph_passes.ir_tools.builder import Builder

_CARD = {"family": "baseline", "modalities": ("image",), "source": "test"}


@compressor("toy_pairs", merges=True, summary="the mean of each two neighbours", **_CARD)
@dataclass(frozen=True)
class Pairs:
    """2k and 2k + 1 become slot k, at the position of the first."""

    def signals(self) -> tuple[str, ...]:
        return ()

    def check(self, case: Case) -> None:
        assert case.tokens == 2 * case.keep

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        kept = torch.arange(0, case.tokens, 2)[None].repeat(len(tokens), 1)
        slots = torch.arange(case.tokens)[None].repeat(len(tokens), 1) // 2
        mean = tokens.float().unflatten(1, (case.keep, 2)).mean(2).to(tokens.dtype)
        return Compressed(mean, kept, torch.full(kept.shape, 2.0), slots)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        pairs = b.op("Reshape", tokens, [0, case.keep, 2, case.dim])
        kept, slots = np.arange(0, case.tokens, 2), np.arange(case.tokens) // 2
        rows = [select.emit_rows(b, tokens, row) for row in (kept, np.full(case.keep, 2, np.float32), slots)]
        return Compressed(b.op("ReduceMean", pairs, [2], keepdims=0), *rows)


@compressor("toy_first", merges=False, summary="the first K", **_CARD)
@dataclass(frozen=True)
class First:
    """The first K tokens; all others are lost."""

    def signals(self) -> tuple[str, ...]:
        return ()

    def check(self, case: Case) -> None:
        pass

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        return select.selection(tokens, torch.arange(case.keep)[None].repeat(len(tokens), 1))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        return select.emit_fixed(b, case, tokens, np.arange(case.keep))


@compressor("toy_last_by_keys", merges=False, summary="the last K, replaced by the sum of their keys", **_CARD)
@dataclass(frozen=True)
class LastByKeys:
    """The last K tokens, with the sum of their keys in every channel: what is read can be seen."""

    def signals(self) -> tuple[str, ...]:
        return ("keys",)

    def check(self, case: Case) -> None:
        pass

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, keys: ir.Value) -> Compressed[ir.Value]:
        kept = select.emit_fixed(b, case, tokens, np.arange(case.tokens - case.keep, case.tokens))
        seen = b.op("ReduceSum", b.op("Slice", keys, [case.tokens - case.keep], [case.tokens], [1]), [2], keepdims=1)
        shown = b.op("Add", b.op("Mul", kept.tokens, 0.0), seen)
        return Compressed(shown, kept.kept_indices, kept.sizes, kept.assignment)
