"""qformer: learned queries read the tokens by cross-attention.

Source: BLIP-2 (Li et al. 2023, arXiv 2301.12597): 32 queries of 768 channels through BERT-base's 12 layers,
cross-attention in every second; a linear layer to the language model follows and is the model's. K slots are K
queries (see qformer_layers.py for the layers and the names of their weights).

Slots have no positions: kept_indices are equal steps, assignment is -1, and sizes are 1, because what reads them
was trained with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import select
from .base import Case, Compressed, compressor
from .fixed import emit_fixed_map, fixed, require_weights, without_positions
from .neural import emit_floats
from .qformer_layers import QueryLayers
from .weights import load_weights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..builder import Builder


@compressor(
    "qformer",
    family="query",
    modalities=("image", "video", "audio"),
    merges=False,
    source="BLIP-2, arXiv 2301.12597",
    summary="learned queries read the tokens by cross-attention; weights from a file",
    positions=False,
)
@dataclass(frozen=True)
class Qformer:
    """Parameters of the Q-Former.

    Attributes:
        layers: L.
        heads: of each attention.
        channels: d, which is D' too.
        cross: every how many layers there is cross-attention.
        weights: a .safetensors or .npz file.
    """

    layers: int = 12
    heads: int = 12
    channels: int = 768
    cross: int = 2
    weights: str = ""

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """D'."""
        return self.channels

    def arrays(self, case: Case) -> dict[str, np.ndarray]:
        """From the file; there are no others."""
        require_weights("qformer", self.weights)
        return load_weights("qformer", self.weights, self._layers(case).shapes(case.dim))

    def check(self, case: Case) -> None:
        """1 <= K <= N, and sizes that are a network."""
        select.check_keep(case)
        self._layers(case).check()

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """The layers."""
        import torch

        read = self._layers(case).run(tokens.float(), {name: value.float() for name, value in w.items()})
        kept, slots = (torch.from_numpy(each).to(tokens.device) for each in without_positions(case))
        return fixed(tokens, read, kept, slots, merges=False)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """The layers."""
        read = self._layers(case).emit(b, select.emit_float(b, tokens, case), emit_floats(b, w, case))
        return emit_fixed_map(b, case, tokens, read, *without_positions(case), merges=False)

    def _layers(self, case: Case) -> QueryLayers:
        return QueryLayers(case.keep, self.layers, self.heads, self.channels, self.cross)
