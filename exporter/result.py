"""The result of an export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Exported:
    """What `export` returns.

    Attributes:
        bundle: the folder.
        compression: one record for each compressor, as in the manifest.
        proof: the checks of every part, as in parity.json; None with ``verify=False``.
        drift: end-to-end error of the compressed encoder against PyTorch; None where there is no module.
        device: the device that it was fitted to; None where none was named.
        cost: times and caches on this machine, see `evaluate.cost.Cost`; None with ``verify=False``.
        accuracy: on a built-in model's task; None where it was not measured.
        notes: what a user must know: fp32 islands, what could not be run here.
        llm_weights: of the language graphs, as in the manifest; None where none were quantised.
        omitted: which side of the model is left out; see `Source`.
        variant: its name in the bundle.
        further: the results of the other variants, where several budgets were asked for.
    """

    bundle: Path
    source: str
    precision: str
    compression: list[dict[str, Any]]
    proof: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
    device: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    llm_weights: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    omitted: str = ""
    variant: str = ""
    further: list[Exported] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**vars(self), "bundle": str(self.bundle), "further": [one.to_json() for one in self.further]}
