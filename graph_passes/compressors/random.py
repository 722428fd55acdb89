"""random: keep K tokens drawn once, when the graph is built.

The baseline every method has to beat. Nothing is random in the graph: the positions are constants, the same for every
image and for the reference. They are the first K of a permutation that depends on the seed and N alone, so a smaller
K keeps a subset. A single seed can be lucky: report the mean over several. Domain: any K from 1 to N; K = N is the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...lazy import np
from .base import Case, Compressed, Example, compressor
from .blocks import select

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "random",
    family="baseline",
    modalities=("image", "video", "audio"),
    merges=False,
    source="tokexport",
    summary="keeps tokens drawn once by a seed",
    fixed=True,
)
@dataclass(frozen=True)
class Random:
    """Parameters of random.

    Attributes:
        seed: of the permutation, 0 or more.
    """

    seed: int = 0

    examples = (Example(Case(13, 5, 4), seed=1),)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise RequestError(f"seed {self.seed} is negative", where="method 'random'", fix="Use seed=0 or more.")

    def signals(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def kept(self, case: Case) -> np.ndarray:
        """Ascending positions [K] int64."""
        # NumPy guarantees a bit generator's raw stream across versions, but not what a Generator draws from it.
        raw = np.random.PCG64(self.seed).random_raw(case.tokens)
        return np.sort(np.argsort(raw, kind="stable")[: case.keep])

    def reference(self, case: Case, tokens: torch.Tensor) -> Compressed[torch.Tensor]:
        """Index."""
        import torch

        kept = torch.from_numpy(self.kept(case)).to(tokens.device)
        return select.selection(tokens, kept.repeat(tokens.shape[0], 1))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
        """One Gather; everything else is constant."""
        return select.emit_fixed(b, case, tokens, self.kept(case))
