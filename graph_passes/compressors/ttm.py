"""TTM: a token Turing machine reads a video frame by frame, with a memory of tokens.

Source: Token Turing Machines (Ryoo et al. 2023, arXiv 2211.09119), and the released code; BLIP-3-Video (arXiv
2410.16267) puts one before a language model. For frames X_t [P, D], a memory M_0 = 0 [m, D], [;] the
concatenation of two sets, and L_n n learned means of a set (see learned_means.py):

    R_t = L_r([M_{t-1}; X_t])                                         read
    O_t = norm of `layers` layers of R_t + p                          process, p [r, D] learned
          y = y + attention(norm(y));  y = y + W2 gelu(W1 norm(y) + b1) + b2, GELU by its tanh form
    M_t = L_m([M_{t-1}; X_t; O_t])                                    write
    slots = O_1, ..., O_T, or O_T alone with ``output`` "last"        K = r T, or r

With ``embed`` read and write add learned positions to their sets first, as in the paper; in the
released code that is an option, off by default. Frames are unrolled, because each reads the memory written by the
previous one: about 50 nodes per frame and 40 per layer of it, 1,738 for 8 frames and 4 layers.

Weights from a file: read.norm, read.up [H, D], read.down [r, H] and write.norm, .up, .down [m, H] with their biases;
with ``embed`` read.positions [m + P, D] and write.positions [m + P + r, D]; process.positions [r, D],
process.norm, and for layer i process.i.norm1, .attention.q, .k, .v, .out, .norm2, .up [U, D], .down [D, U]. The
authors released code but no weights; there they are TokenLearnerModuleV11_0 and _1 (LayerNorm_0, token_masking Dense_0
and _1), Encoder_0 (posembed_input, encoderblock_i with LayerNorm_0, MultiHeadDotProductAttention_0, LayerNorm_1,
MlpBlock_0, then encoder_norm), read_pos_embed and write_pos_embed, with kernels transposed.

Slots have no positions: kept_indices are equal steps, assignment is -1, and sizes are 1, because the downstream model
was trained with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_resampled, resampled
from .blocks.grids import video_grid_of
from .blocks.layers import attention, layer_norm, linear
from .blocks.learned_means import EPSILON, emit_learned_means, learned_means, means_shapes
from .blocks.neural import (
    attention_shapes,
    emit_attention,
    emit_floats,
    emit_gelu_tanh,
    emit_layer_norm,
    emit_linear,
    linear_shapes,
    norm_shapes,
)
from .blocks.weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "ttm",
    family="transformation",
    modalities=("video",),
    merges=False,
    source="Token Turing Machines, arXiv 2211.09119",
    summary="a memory of tokens that is read, processed and written frame by frame; weights from a file",
    positions=False,
    heavy="a network of four layers per frame, unrolled",
)
@dataclass(frozen=True)
class Ttm(ReadsWeights):
    """Parameters of the token Turing machine.

    Attributes:
        memory: m, slots of the memory.
        output: whether the slots are the outputs of every frame, or of the last.
        layers: of the processing step.
        heads: of each attention.
        hidden: H of the networks that read and write.
        mlp: U, hidden channels of the MLPs of the layers.
        embed: whether read and write add learned positions.
        grid: FRAMESxHEIGHTxWIDTH of the tokens, if the model does not define it.
    """

    memory: int = 64
    output: Literal["every", "last"] = "every"
    layers: int = 4
    heads: int = 12
    hidden: int = 64
    mlp: int = 512
    embed: bool = False
    grid: str | None = None

    examples = (
        Example(Case(12, 6, 6, grid=(2, 2, 3)), memory=5, heads=2, hidden=4, mlp=7, layers=1),
        Example(
            Case(12, 6, 5, grid=(2, 2, 3)), memory=5, heads=2, hidden=4, mlp=7, layers=1, output="last", embed=True
        ),
    )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def read(self, case: Case) -> int:
        """r."""
        frames, *_ = video_grid_of(case, self.grid)
        return case.keep // frames if self.output == "every" else case.keep

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """As above."""
        frames, *_ = video_grid_of(case, self.grid)
        dim, r, seen = case.dim, self.read(case), self.memory + case.tokens // frames
        shapes = means_shapes("read.", dim, self.hidden, r) | means_shapes("write.", dim, self.hidden, self.memory)
        if self.embed:
            shapes |= {"read.positions": (seen, dim), "write.positions": (seen + r, dim)}
        shapes |= {"process.positions": (r, dim), **norm_shapes("process.norm", dim)}
        for i in range(self.layers):
            name = f"process.{i}"
            shapes |= norm_shapes(f"{name}.norm1", dim) | attention_shapes(f"{name}.attention", dim, dim, dim)
            shapes |= norm_shapes(f"{name}.norm2", dim) | linear_shapes(f"{name}.up", dim, self.mlp)
            shapes |= linear_shapes(f"{name}.down", self.mlp, dim)
        return shapes

    def check(self, case: Case) -> None:
        """A video, K a multiple of T if every frame has slots, and valid layer sizes."""
        frames, *_ = video_grid_of(case, self.grid)
        if min(self.memory, self.heads, self.hidden, self.mlp) < 1 or self.layers < 0 or case.dim % self.heads:
            raise RequestError(
                f"memory={self.memory}, layers={self.layers}, heads={self.heads}, hidden={self.hidden} and "
                f"mlp={self.mlp} do not form a token Turing machine for tokens of {case.dim} channels",
                fix="All except layers must be 1 or more, and heads must divide the channels, as --set heads=8.",
            )
        if self.output == "every":
            counts = {frames * r: f"{r} for each of {frames} frames" for r in range(1, case.tokens // frames + 1)}
            select.check_counts(case, counts, "ttm")
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """The formula above; the last memory written is never read."""
        import torch

        frames, *_ = video_grid_of(case, self.grid)
        w = {name: value.float() for name, value in w.items()}
        memory = tokens.new_zeros(len(tokens), self.memory, case.dim).float()
        given = []
        for frame in tokens.float().unflatten(1, (frames, -1)).unbind(1):
            seen = torch.cat([memory, frame], 1)
            given.append(self._processed(learned_means(self._embedded(seen, w, "read"), w, "read."), w))
            written = torch.cat([seen, given[-1]], 1)
            memory = learned_means(self._embedded(written, w, "write"), w, "write.")
        return resampled(case, tokens, torch.cat(given, 1) if self.output == "every" else given[-1])

    def _embedded(self, x: torch.Tensor, w: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        return x + w[f"{name}.positions"] if self.embed else x

    def _processed(self, y: torch.Tensor, w: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[B, r, D] -> [B, r, D]."""
        from torch.nn import functional as F

        y = y + w["process.positions"]
        for i in range(self.layers):
            name = f"process.{i}"
            z = layer_norm(y, w, f"{name}.norm1", EPSILON)
            y = y + attention(z, z, z, w, f"{name}.attention", self.heads)
            z = linear(layer_norm(y, w, f"{name}.norm2", EPSILON), w, f"{name}.up")
            y = y + linear(F.gelu(z, approximate="tanh"), w, f"{name}.down")
        return layer_norm(y, w, "process.norm", EPSILON)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """One frame after another."""
        frames, *_ = video_grid_of(case, self.grid)
        places = case.tokens // frames
        x, w = select.emit_float(b, tokens, case), emit_floats(b, w, case)
        memory = select.emit_rows(b, tokens, np.zeros((self.memory, case.dim), np.float32))
        given: list[ir.Value] = []
        for t in range(frames):
            frame = b.op("Slice", x, [t * places], [(t + 1) * places], [1])
            seen = b.op("Concat", memory, frame, axis=1)
            read = emit_learned_means(b, self._emit_embedded(b, seen, w, "read"), w, "read.")
            given.append(self._emit_processed(b, read, w, case.dim))
            if t + 1 < frames:
                written = b.op("Concat", seen, given[-1], axis=1)
                memory = emit_learned_means(b, self._emit_embedded(b, written, w, "write"), w, "write.")
        content = b.op("Concat", *given, axis=1) if self.output == "every" else given[-1]
        return emit_resampled(b, case, tokens, content)

    def _emit_embedded(self, b: Builder, x: ir.Value, w: Mapping[str, ir.Value], name: str) -> ir.Value:
        return b.op("Add", x, w[f"{name}.positions"]) if self.embed else x

    def _emit_processed(self, b: Builder, y: ir.Value, w: Mapping[str, ir.Value], dim: int) -> ir.Value:
        """As `_processed`."""
        y = b.op("Add", y, w["process.positions"])
        for i in range(self.layers):
            name = f"process.{i}"
            z = emit_layer_norm(b, y, w, f"{name}.norm1", EPSILON)
            y = b.op("Add", y, emit_attention(b, z, z, z, w, f"{name}.attention", self.heads, dim))
            z = emit_linear(b, emit_layer_norm(b, y, w, f"{name}.norm2", EPSILON), w, f"{name}.up")
            y = b.op("Add", y, emit_linear(b, emit_gelu_tanh(b, z), w, f"{name}.down"))
        return emit_layer_norm(b, y, w, "process.norm", EPSILON)
