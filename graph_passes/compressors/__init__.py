"""The compressors: one file a method, found by the name of its file, and those that other packages add.

Every file of this folder but ``base.py`` is a method. None imports torch or onnx tools at its top, so that
`tokexport methods` reads all of them in milliseconds. Another package adds a method by an entry point in the group
``tokexport.compressors``: its name, and the class with the decorator `compressor`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any

from ... import entry_points
from ...errors import RequestError, nearest
from . import base
from .base import OUTPUTS, Case, Compressed, Compressor, Example, Method, changed, compressor, parameters

__all__ = [
    "OUTPUTS",
    "Case",
    "Compressed",
    "Compressor",
    "Example",
    "Method",
    "changed",
    "compressor",
    "compressor_class",
    "make",
    "methods",
    "names",
    "parameters",
    "skipped",
    "table",
    "table_row",
]


def names() -> list[str]:
    """Every known method: those of this folder, those that this process defined, and those of other packages."""
    return sorted({*base.built_in(), *base.DEFINED, *_added().found})


def skipped() -> tuple[entry_points.Skipped, ...]:
    """The methods of other packages that cannot be used."""
    return _added().skipped


def compressor_class(name: str) -> type[Compressor]:
    """The class of a method.

    Raises:
        RequestError: unknown name; the nearest names are listed. Or that of a package whose entry cannot be used.
    """
    if name not in base.DEFINED and name in base.built_in():
        importlib.import_module(f".{name}", __name__)
        if name not in base.DEFINED:
            raise ImportError(f"{__name__}.{name} defines no class with @compressor({name!r}, ...)")
    if name in base.DEFINED:
        return base.DEFINED[name]
    added = _added()
    if name in added.found:
        return added.found[name]
    raise RequestError(
        f"unknown method {name!r}", fix=entry_points.because(added, name) + nearest(name, names(), kind="methods")
    )


def make(name: str, params: Mapping[str, Any] | None = None) -> Compressor:
    """A compressor with validated parameters; strings (from ``--set key=value``) are converted.

    Raises:
        RequestError: unknown method, unknown parameter, or a value out of range.
    """
    cls = compressor_class(name)
    if not params:
        return cls()
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(params, Mapping):
        raise RequestError(f"params {params!r} is not a mapping", fix="Write for example params={'basis': 16}.")
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = [key for key in params if key not in fields]
    if unknown:
        raise RequestError(
            f"method {name!r} has no parameter {unknown[0]!r}", fix=nearest(unknown[0], fields, kind="parameters")
        )
    try:
        return TypeAdapter(cls).validate_python(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"parameter {where} of method {name!r} is {first['input']!r}: {first['msg']}",
            fix=f"Change --set {where}=VALUE; `tokexport methods {name}` lists its values.",
        ) from None


def table() -> list[dict[str, Any]]:
    """What `tokexport methods` prints: the card of each method, its signals, and its parameters with their defaults.

    ``cacheable``: what it keeps follows from the input alone, so it holds for every turn of a dialogue.
    ``lacks``: target -> what the method needs there and does not have; ONNX Runtime runs every method.
    """
    return [table_row(make(name)) for name in names()]


def methods() -> list[Method]:
    """The cards of all methods, by name."""
    return [compressor_class(name).method for name in names()]


def table_row(default: Compressor) -> dict[str, Any]:
    """The row of one method in `table`."""
    card, signals = dataclasses.asdict(default.method), list(default.signals())
    lacks = {} if default.method.plugin_form else {"tensorrt": "a plugin: use the portable or the inlined form"}
    facts = {"signals": signals, "cacheable": "text" not in signals, "lacks": lacks}
    return {**card, **facts, "params": parameters(default)}


@functools.cache
def _added() -> entry_points.Added[type[Compressor]]:
    defined = dict(base.DEFINED)
    try:
        return entry_points.read("tokexport.compressors", built_in=base.built_in(), accept=_accept)
    finally:
        # The decorators in those packages have added their classes here, those of entries that are left out as well.
        base.DEFINED.clear()
        base.DEFINED.update(defined)


def _accept(name: str, entry: Any) -> type[Compressor]:
    """The class that an entry names; raises `TypeError` where it could not even be listed."""
    if not isinstance(entry, type) or not isinstance(getattr(entry, "method", None), Method):
        raise TypeError(f"{entry!r} is no class with the decorator @compressor")
    cls: type[Compressor] = entry
    if cls.method.name != name:
        raise TypeError(f"the entry is called {name!r}, and the method {cls.method.name!r}")
    default = cls()
    if not isinstance(default, Compressor):
        raise TypeError(f"{cls.__name__} lacks one of the methods signals, check, reference and onnx")
    json.dumps(table_row(default))
    return cls
