"""Opens what the user names: a built-in model, a checkpoint, a module, an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError, nearest

if TYPE_CHECKING:
    from ..source import Parts, Source

DEFAULT = "tiny-vlm"


def open_source(text: str | None = None, *, parts: Parts = "encoder") -> Source:
    """Open a model.

    What `text` may be, tried in this order: None for the built-in tiny-vlm; a built-in name; a folder, which is a
    checkpoint; an ONNX file; ``package.module:callable``, which returns a module and an example of its inputs; the id
    of a checkpoint on the hub.

    Args:
        text: as typed behind ``tokexport model``.
        parts: ``all`` also gives the language graphs (built-in models) and the graph text, where the source has them.

    Raises:
        RequestError: nothing of that name; says what was tried. Also what `open_checkpoint`, `open_module` say.
        GraphError: an ONNX file that cannot be read.
        MissingError: torch, transformers or the hub is needed and not there.
    """
    source = _open(text, parts)
    if parts == "encoder":
        source.text_seam = ""
    return source


def _open(text: str | None, parts: Parts) -> Source:
    from .builtin import NAMES, open_builtin

    if text is None or text in NAMES:
        return open_builtin(text or DEFAULT, parts)
    path = Path(text).expanduser()
    if path.is_dir():
        from .checkpoint import open_checkpoint

        return open_checkpoint(path)
    if path.suffix.lower() == ".onnx":
        from .onnx_file import open_onnx

        return open_onnx(path)
    module, colon, name = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        from .module import open_module

        return open_module(text)
    if path.is_file():
        raise RequestError(
            f"{text} is a file, but not an ONNX file",
            fix="Give an .onnx file, or the checkpoint folder that this file lies in.",
        )
    from .hub import fetch, is_hub_id

    if is_hub_id(text):
        from .checkpoint import open_checkpoint

        return open_checkpoint(fetch(text), name=text.partition("/")[2])
    raise RequestError(
        f"no model {text!r}: it is no built-in name, no folder, no .onnx file and no package.module:callable",
        where=str(Path.cwd()),
        fix=nearest(text, NAMES, kind="built-in models"),
    )
