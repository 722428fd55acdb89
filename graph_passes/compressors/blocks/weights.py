"""The weights file of a learned compressor: arrays by name, as .safetensors or NumPy's .npz."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ....errors import MissingError, RequestError, nearest
from ....lazy import np
from ..base import Case, Method


@dataclass(frozen=True)
class ReadsWeights(ABC):
    """The parameter of every method that has `Learned`.

    Attributes:
        weights: a .safetensors or .npz file with the arrays that the method's docstring names.
    """

    method: ClassVar[Method]

    weights: str = ""

    @abstractmethod
    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every array in the file, in the order of the node's inputs."""

    def initial(self, case: Case) -> dict[str, np.ndarray]:
        """The default arrays without a file, float32. There are none, unless a method defines them."""
        raise RequestError(
            f"{self.method.name} needs trained weights",
            fix="Add --set weights=FILE.safetensors; the method's docstring names the arrays that it needs.",
        )

    def arrays(self, case: Case) -> dict[str, np.ndarray]:
        """From the file, or the method's own."""
        if self.weights:
            return load_weights(self.method.name, self.weights, self.shapes(case))
        return self.initial(case)


def load_weights(method: str, file: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of a weights file, as a method needs them.

    Args:
        method: its name, for errors.
        file: path of a .safetensors or .npz file.
        shapes: name -> shape of every required array, in output order; others in the file are ignored.

    Returns:
        name -> float32 array.

    Raises:
        RequestError: the file or an array is missing, cannot be read, has another shape, or is not finite.
        MissingError: safetensors is not installed.
    """
    where = f"method {method!r}, weights {file}"
    found = _read(Path(file), where)
    arrays = {}
    for name, shape in shapes.items():
        if name not in found:
            raise RequestError(f"there is no array {name!r}", where=where, fix=nearest(name, found, kind="arrays"))
        array = np.asarray(found[name], np.float32)
        if array.shape != tuple(shape):
            raise RequestError(
                f"array {name!r} is {list(array.shape)}, but these tokens need {list(shape)}",
                where=where,
                fix="Use weights that were trained for this model, or change the parameters they were trained with.",
            )
        if not np.isfinite(array).all():
            raise RequestError(f"array {name!r} has values that are NaN or inf", where=where)
        arrays[name] = array
    return arrays


def _read(path: Path, where: str) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise RequestError("there is no such file", where=where, fix="Give a path: --set weights=FILE.safetensors.")
    if path.suffix not in (".npz", ".safetensors"):
        raise RequestError("weights are read from .safetensors or .npz files", where=where)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        from safetensors.numpy import load_file

        return load_file(path)
    except ImportError:
        raise MissingError(
            "reading .safetensors needs the package safetensors", where=where, fix="Run: pip install safetensors"
        ) from None
    except Exception as error:
        raise RequestError(f"the file cannot be read: {error}", where=where) from None
