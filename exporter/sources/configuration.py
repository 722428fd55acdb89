"""The configuration files of a checkpoint, read into typed records: a wrong value is refused by file and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ...errors import RequestError, TokexportError, invalid
from ...files import parse_json, read_bounded

# Beyond every model of today by a factor of ten at least; refused before anything of that size is made.
Layers = Annotated[int, Field(ge=1, le=1024)]
Width = Annotated[int, Field(ge=1, le=1 << 18)]
Pixels = Annotated[int, Field(ge=1, le=1 << 12)]
Positions = Annotated[int, Field(ge=1, le=1 << 20)]
Vocabulary = Annotated[int, Field(ge=1, le=1 << 24)]

_T = TypeVar("_T")
_AGAIN = "Copy or download this file again."


class Named(BaseModel):
    """What every config.json says."""

    model_type: str = ""
    architectures: list[str] | None = None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RequestError: it cannot be read, or is no object.
    """
    try:
        content = parse_json(read_bounded(path))
    except OSError as error:
        raise RequestError(f"{path.name} cannot be read: {error.strerror}", where=str(path), fix=_AGAIN) from None
    except ValueError as error:
        raise RequestError(f"{path.name} is not JSON: {error}", where=str(path), fix=_AGAIN) from None
    if not isinstance(content, dict):
        raise RequestError(f"{path.name} holds a {type(content).__name__}, not an object", where=str(path), fix=_AGAIN)
    return content


def typed(kind: Any, data: Any, path: Path) -> Any:
    """`data` as a record of this kind; keys that it does not know are ignored.

    Raises:
        RequestError: a value has another type, or is outside of its range; names the key.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        given = "" if first["type"] == "missing" else f", and it is {_short(first['input'])}"
        raise RequestError(f"{path.name} is {invalid(error)}{given}", where=str(path), fix=_AGAIN) from None


def built(make: Callable[[], _T], path: Path) -> _T:
    """What transformers makes of a configuration; it checks more than we read, and raises errors of many kinds.

    Raises:
        RequestError: it refuses the configuration.
    """
    try:
        return make()
    except TokexportError:
        raise
    except (Exception, MemoryError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise RequestError(
            f"transformers cannot build the model that {path.name} describes: {type(error).__name__}: {first[:300]}",
            where=str(path),
            fix="Copy or download this file again. If it is right, try a newer one: pip install -U transformers.",
        ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
