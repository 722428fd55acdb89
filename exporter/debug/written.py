"""Writes the smallest failing graph, what it is given and what it should give, and the command that runs them again."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...errors import RequestError, reason
from ...graph_passes.ir_tools.model_io import save_model
from .pieces import Piece
from .recorded_side import record

# Weights up to here go into the .onnx itself.
_ONE_FILE = 512 << 20


def write(piece: Piece, folder: Path, name: str = "", options: str = "", built: str = "") -> tuple[list[str], str]:
    """Write a piece into a folder.

    Args:
        piece: what to write.
        folder: it is made; files of the same names in it are replaced.
        name: of a role, which the names of the files begin with.
        options: of the command besides.
        built: where the piece fails as an engine that is built of it, the word for that; then it stands on both sides.

    Returns:
        (the files, the graph that fails first; the command).

    Raises:
        RequestError: the folder cannot be written.
    """
    begin = f"{name}." if name else ""
    failing, twin = folder / f"{begin}{piece.of}.onnx", folder / f"{begin}{'a' if piece.of == 'b' else 'b'}.onnx"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(piece.model, failing)
        if built:
            inputs = folder / f"{begin}inputs.npz"
            np.savez(inputs, **piece.inputs)  # type: ignore[arg-type]
            options += f" --inputs {shlex.quote(str(inputs))}"
            files, ends = [failing, inputs], (failing, Path(built))
        elif piece.twin is None:
            expected = folder / f"{begin}expected.npz"
            record(expected, piece.inputs, piece.expected, {})
            files, ends = [failing, expected], (expected, failing)
        else:
            _save(piece.twin, twin)
            inputs = folder / f"{begin}inputs.npz"
            np.savez(inputs, **piece.inputs)  # type: ignore[arg-type]
            files, ends = [failing, twin, inputs], (twin, failing)
            options += f" --inputs {shlex.quote(str(inputs))}"
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {reason(error)}", fix="Name another folder with -o.") from None
    words = ["tokexport", "debug", str(ends[0]), "--against", str(ends[1])]
    return [str(file) for file in files], f"{shlex.join(words)}{options}"


def _save(model: ir.Model, path: Path) -> None:
    tensors = [value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(value.const_value.nbytes for value in tensors if value.const_value is not None) > _ONE_FILE:
        save_model(model, path, f"{path.name}.data")
        return
    for value in tensors:
        if isinstance(value.const_value, ir.ExternalTensor):
            tensor = value.const_value
            value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    save_model(model, path)
