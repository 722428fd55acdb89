"""Shared by connectors that may include the model's projector: its two layers, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....errors import RequestError
from ..base import Case
from .layers import mlp
from .neural import emit_mlp, mlp_shapes
from .weights import ReadsWeights

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


@dataclass(frozen=True)
class Projects(ReadsWeights):
    """The parameters of such a connector.

    Attributes:
        mlp: whether the two linear layers with GELU between them are part of it, or of the model's own projector.
        channels: D'; 0: those of the tokens. Any other value needs ``mlp``.
        grid: HEIGHTxWIDTH of the tokens, if the model does not define it; FRAMESxHEIGHTxWIDTH of a video.
    """

    mlp: bool = False
    channels: int = 0
    grid: str | None = None

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def width(self, case: Case) -> int:
        """D'."""
        return self.channels or case.dim

    def check_projector(self, case: Case) -> None:
        """D' is D without an MLP, and an MLP comes from a file."""
        if (self.mlp and not self.weights) or self.channels < 0 or (not self.mlp and self.width(case) != case.dim):
            raise RequestError(
                f"{self.method.name} with mlp={self.mlp} and channels={self.channels} for tokens of {case.dim} channels"
                + ("" if self.weights else ", and no weights"),
                fix="Other channels need --set mlp=true, and an MLP needs --set weights=FILE.safetensors.",
            )

    def mlp_shapes(self, case: Case, names: tuple[str, str]) -> dict[str, tuple[int, ...]]:
        """The arrays of the two layers of these names; none if they are the model's."""
        return mlp_shapes(names, case.dim, self.width(case)) if self.mlp else {}

    def projected(self, x: torch.Tensor, w: Mapping[str, torch.Tensor], names: tuple[str, str]) -> torch.Tensor:
        """x [..., D] -> [..., D']: x itself if the layers are the model's."""
        return mlp(x, w, names) if self.mlp else x

    def emit_projected(self, b: Builder, x: ir.Value, w: Mapping[str, ir.Value], names: tuple[str, str]) -> ir.Value:
        """As `projected`."""
        return emit_mlp(b, x, w, names) if self.mlp else x
