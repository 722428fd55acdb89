"""What an export records: the files it wrote, the model they are of, and its proof, in the manifest's `parity`: read by
`verify` and by reports.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .strict import Strict


class FileRecord(Strict):
    """Size in bytes and SHA-256 of one file, keyed by its path inside the bundle (forward slashes)."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class SourceRecord(Strict):
    """The model that was exported; never with a path of the exporting machine."""

    kind: Literal["builtin", "checkpoint", "module", "onnx"]
    name: str
    sha256: str | None = None


class CheckRecord(BaseModel):
    """One tensor that was compared, as the proof has it."""

    model_config = ConfigDict(strict=True)

    part: str
    tensor: str
    ok: bool
    cosine: float
    norm_ratio: float
    max_abs: float
    flipped: int = 0
    detail: str = ""


class ExportRecord(BaseModel):
    """What was recorded of one variant.

    Attributes:
        accuracy: of a built-in model: how many questions, and shares of right answers.
    """

    model_config = ConfigDict(strict=True)

    checks: list[CheckRecord] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    accuracy: Any = None


class Parity(ExportRecord):
    """Of the first variant; and of all.

    Attributes:
        variants: the others, by name.
        failed: the gate that the export failed.
        sealed: SHA-256 of what the rest of the manifest says.
    """

    variants: dict[str, ExportRecord] = Field(default_factory=dict)
    failed: str = ""
    sealed: str | None = None
