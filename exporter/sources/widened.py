"""Half-precision weights as float32 that the system may take out of memory again: pages of a scratch file."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import IO, TYPE_CHECKING

from ...errors import RequestError, reason
from ..freed import give_back

if TYPE_CHECKING:
    import torch

# Bytes of a weight in float32 from which it goes to the file.
LARGE = 1 << 20
# Of the beginning of a weight in the file.
_ALIGNED = 64
# Kept through a reboot, so never in memory, as the folder of temporary files may be.
_LASTING = "/var/tmp"


class Widened:
    """Takes weights one after the other, each in memory only while it is written, and gives them back mapped.

    The file has no name, and goes with the last of the weights.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}

    def takes(self, weight: torch.Tensor) -> bool:
        """Whether a weight, as it is stored, would be made anew as float32, and is large."""
        return weight.element_size() == 2 and weight.is_floating_point() and 4 * weight.numel() >= LARGE

    def add(self, name: str, weight: torch.Tensor) -> None:
        """Write a weight as float32.

        Raises:
            RequestError: the disk is full, or cannot be written.
        """
        folder = scratch_folder()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=folder, prefix="tokexport-")  # noqa: SIM115
            self._file.seek(-self._file.tell() % _ALIGNED, os.SEEK_CUR)
            self._places[name] = self._file.tell(), tuple(weight.shape)
            self._file.write(weight.float().contiguous().numpy().data)
            # What is freed of one weight is too small for the next, which begins at a multiple of many bytes.
            give_back()
        except OSError as error:
            raise RequestError(
                f"weights in half precision are written to a scratch file as float32, and cannot be: {reason(error)}",
                where=folder,
                fix="Free twice the size of the checkpoint there, or name another folder: export TMPDIR=FOLDER",
            ) from error

    def mapped(self) -> dict[str, torch.Tensor]:
        """All of them by name, float32."""
        import torch

        if self._file is None:
            return {}
        with self._file as file:
            file.flush()
            # Private: what is changed of a weight later stays in memory.
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return {
            name: torch.frombuffer(pages, dtype=torch.float32, count=math.prod(shape), offset=offset).reshape(shape)
            for name, (offset, shape) in self._places.items()
        }


def scratch_folder() -> str:
    """Where the file lies: in $TMPDIR where that is set, else on a disk where the system says which folder is."""
    if not os.environ.get("TMPDIR") and os.access(_LASTING, os.W_OK | os.X_OK):
        return _LASTING
    return tempfile.gettempdir()
