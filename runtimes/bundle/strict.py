"""What every record of a file of ours shares: unknown keys are refused by name, and paths stay in the bundle."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, model_validator

# Validation context of a manifest of a newer minor version, which may hold keys that this version does not know.
LENIENT = {"lenient": True}


def inside(path: str) -> str:
    """Return `path` if it is a plain relative path with forward slashes that stays in its folder.

    Raises:
        ValueError: it is absolute, climbs with ``..``, or is written in another way than the one way it can be.
    """
    if re.search(r"[\\:\x00-\x1f]", path) or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path {path!r} leaves the bundle or has characters that paths in a bundle cannot have")
    if path != str(PurePosixPath(path)) or path == ".":
        raise ValueError(f"path {path!r} is not in its plain form")
    return path


def one_part(name: str) -> str:
    """Return `name` if it is a plain path of one part, which names of files and folders can be made of.

    Raises:
        ValueError: it is not.
    """
    if "/" in inside(name):
        raise ValueError(f"name {name!r} has a slash, and files are named by it")
    return name


BundlePath = Annotated[str, AfterValidator(inside)]
FileName = Annotated[str, AfterValidator(one_part)]


def _close_schema(schema: dict[str, Any]) -> None:
    """Say in the JSON schema what `Strict` does in Python."""
    schema["additionalProperties"] = False
    schema["patternProperties"] = {"^x-": {}}


class Strict(BaseModel):
    """Unknown keys are refused by name, except those under ``x-``, which are kept as they are."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_close_schema, populate_by_name=True)

    @model_validator(mode="after")
    def _only_private_extras(self, info: ValidationInfo) -> Strict:
        unknown = sorted(key for key in (self.model_extra or {}) if not key.startswith("x-"))
        if unknown and not (info.context or {}).get("lenient"):
            raise ValueError(f"unknown key {unknown[0]!r}")
        return self
