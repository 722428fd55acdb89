"""The base of all records: unknown keys are refused by name, and paths stay inside the bundle."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

# Validation context of a manifest of a newer minor version, which may have keys that this version does not know.
LENIENT = {"lenient": True}

# Larger sizes and counts are of no graph.
LARGEST = 2**31 - 1


def inside(path: str) -> str:
    """Return `path` if it is a relative path in normal form, with forward slashes, that stays in its folder.

    Raises:
        ValueError: it is absolute, has a ``..``, or is not in its normal form.
    """
    if re.search(r"[\\:\x00-\x1f]", path) or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path {path!r} leaves the bundle, or has characters that are not allowed there")
    if path != str(PurePosixPath(path)) or path == ".":
        raise ValueError(f"path {path!r} is not in its plain form")
    return path


def one_part(name: str) -> str:
    """Return `name` if it is a path of one part, so that it can be a part of file names.

    Raises:
        ValueError: it is none.
    """
    if "/" in inside(name):
        raise ValueError(f"name {name!r} has a slash, and files are named by it")
    return name


Role = Literal["encoder", "embed", "prefill", "decode", "text"]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
BundlePath = Annotated[str, AfterValidator(inside)]
FileName = Annotated[str, AfterValidator(one_part)]


def _close_schema(schema: dict[str, Any]) -> None:
    """Express in the JSON schema what `Strict` checks in Python."""
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
