"""Removes traces of the exporting machine from a model: stack traces and local paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# Values under these keys are module scopes and names of tensors, which may look like paths ("/vision/layers.0/Add").
_KEPT = ("tokexport.", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")

# A URL is no local path: its slashes follow a colon or another slash.
_PATH = re.compile(
    r"""(?:^|[\s"'(\[{=:,;])(?:/[^/\s"',:;]+){2,}"""
    r"""|(?:^|[^A-Za-z0-9])[A-Za-z]:[\\/]"""
    r"""|\\\\[^\\\s]+\\"""
    r"""|(?:^|[\s"'(\[{=:,;])~[\w.-]*/"""
    r"""|file:/"""
    r"""|File\s+["']"""
)


def names_a_path(text: str) -> bool:
    """Whether a text holds an absolute path of some machine, or a line of a traceback."""
    return _PATH.search(text) is not None


def strip_local_info(model: onnx.ModelProto) -> None:
    """Remove, in place, stack traces and every doc string or metadata value that names a local path.

    Module scopes (`pkg.torch.onnx.name_scopes`, `class_hierarchy`) and everything under `tokexport.` stay.

    Args:
        model: every message is visited: graphs, subgraphs, functions, nodes, values, attributes, tensors.
    """
    _clean(model)


def _clean(message: Any) -> None:
    for field, value in message.ListFields():
        if field.name == "doc_string":
            if names_a_path(value):
                message.ClearField("doc_string")
        elif field.name == "metadata_props":
            for i in reversed(range(len(value))):
                if _is_local(value[i].key, value[i].value):
                    del value[i]
        elif field.type == field.TYPE_MESSAGE:
            for item in [value] if hasattr(value, "ListFields") else value:
                _clean(item)


def _is_local(key: str, value: str) -> bool:
    return "stack_trace" in key or (not key.startswith(_KEPT) and names_a_path(value))
