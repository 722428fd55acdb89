"""What an export gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Exported:
    """What `export` hands back.

    Attributes:
        bundle: the folder.
        compression: one record for each compressor, as in the manifest.
        proof: the checks by part, or None with ``verify=False``.
        drift: end to end against PyTorch, where there is a module.
        device: what it was fitted to, where one was named.
        accuracy: on a built-in model's task.
        notes: what a reader must know: fp32 islands, what could not be run here.
        variant: its name in the bundle.
        further: the same of each variant behind the first, where several budgets were asked for.
    """

    bundle: Path
    source: str
    precision: str
    compression: list[dict[str, Any]]
    proof: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
    device: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    variant: str = ""
    further: list[Exported] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**vars(self), "bundle": str(self.bundle), "further": [one.to_json() for one in self.further]}
