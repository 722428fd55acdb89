"""Reads an .npz that somebody else made: every size is known to be small before memory for it is needed."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...errors import reason
from ...files import open_regular

# An archive of numbers is at most some ten times smaller than they are; one that inflates to more is no proof.
_INFLATES = 64
_ALWAYS = 64 << 20


class DamagedError(ValueError):
    """The archive is damaged, or larger inside than it may be."""


class Archive:
    """The arrays of an .npz by name."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def names(self) -> list[str]:
        """Of all arrays."""
        return [info.filename.removesuffix(".npy") for info in self._file.infolist()]

    def __getitem__(self, name: str) -> np.ndarray:
        """One array.

        Raises:
            DamagedError: there is none of that name, or its header does not agree with its content.
        """
        try:
            info = self._file.getinfo(f"{name}.npy")
        except KeyError:
            raise DamagedError(f"it has no array {name[:80]!r}") from None
        with self._file.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise DamagedError(f"{name} has the format {version}")
            shape, _, dtype = read[version](stream)
            size = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or min(shape, default=0) < 0 or stream.tell() + size != info.file_size:
                raise DamagedError(f"{name} is not the {dtype} {list(shape)} that its header says")
        with self._file.open(info) as stream:
            array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
            return array


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an .npz; whatever is wrong with it is raised as `DamagedError`, also in the block.

    Raises:
        DamagedError: it is no archive, or inflates to more than `_INFLATES` times its size.
    """
    try:
        with open_regular(path, follow=False) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            inflated = sum(info.file_size for info in archive.infolist())
            if inflated > max(_ALWAYS, _INFLATES * size):
                raise DamagedError(f"{size} bytes would inflate to {inflated}")
            yield Archive(archive)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, SyntaxError) as error:
        raise DamagedError(reason(error, 200)) from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(reason(error, 200)) from None
