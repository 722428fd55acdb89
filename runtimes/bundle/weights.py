"""The data file of a role: every weight once, streamed and hashed while it is written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ...errors import GraphError

if TYPE_CHECKING:
    import onnx_ir as ir

# Page alignment, so that a weight can be memory-mapped; smaller tensors only need the alignment of vector loads.
PAGE, PAGE_FROM, ALIGNMENT = 4096, 1 << 20, 64
CHUNK = 1 << 20

_FICLONE = 0x40049409


def reflink(source: Path, target: IO[bytes]) -> bool:
    """Let `target`, an empty file, share the blocks of `source` (ioctl FICLONE: btrfs, xfs, bcachefs, ...).

    Returns:
        Whether the file system supports it; `target` is unchanged if not.
    """
    try:
        import fcntl

        with source.open("rb") as file:
            fcntl.ioctl(target.fileno(), _FICLONE, file.fileno())
    except (ImportError, OSError):
        return False
    target.seek(0, os.SEEK_END)
    return True


class HashedFile:
    """A file that is written once, front to back, and hashed while it is written.

    It has no ``fileno`` on purpose: onnx-ir would bypass `write`, and with it the hash.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        """Append bytes (anything with the buffer protocol)."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def copy(self, source: Path) -> None:
        """Append the content of a file; into an empty file by reflink, where the file system supports it."""
        if self.size == 0 and self.clone(source):
            return
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                self.write(chunk)

    def clone(self, source: Path) -> bool:
        """Share the blocks of `source` as the first content; false, and nothing done, where that is not supported."""
        if not reflink(source, self._file):
            return False
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                self._hash.update(chunk)
                self.size += len(chunk)
        return True

    def mark(self) -> tuple[int, Any]:
        """The current end, for `rewind`."""
        return self.size, self._hash.copy()

    def rewind(self, mark: tuple[int, Any]) -> None:
        """Truncate the file to `mark`."""
        self.size, self._hash = mark
        self._file.seek(self.size)
        self._file.truncate()

    @property
    def sha256(self) -> str:
        """Hash of the content so far, in hexadecimal."""
        return str(self._hash.hexdigest())

    def flush(self) -> None:
        """Make the content so far visible to readers of the file."""
        self._file.flush()

    def sync(self) -> None:
        """Write everything to the disk."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write everything to the disk and close."""
        self.sync()
        self._file.close()

    def abandon(self) -> None:
        """Close without flushing: on a full disk, a second failed flush would hide the first error."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.abandon() if kind else self.close()


class DataFile(HashedFile):
    """A `.onnx.data` file: tensors at aligned offsets, equal ones (tied weights, the other form's graph) only once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._place: dict[Any, tuple[int, int]] = {}

    def missing(self, tensors: list[ir.TensorProtocol], *, read: bool = False) -> int:
        """Bytes that adding these tensors writes: an upper bound, or with `read`, which reads all of them, exact."""
        unknown = {_key(tensor): tensor for tensor in tensors if _key(tensor) not in self._place}
        if read:
            by_content = {_content(tensor): tensor for tensor in unknown.values()}
            unknown = {key: tensor for key, tensor in by_content.items() if key not in self._place}
        return sum(int(tensor.nbytes) for tensor in unknown.values())

    def adopt(self, tensors: list[ir.TensorProtocol]) -> None:
        """Clone the source's data file as the first content, where it consists mostly of these tensors."""
        import onnx_ir as ir

        external = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
        sources = {(tensor.path, os.fspath(tensor.base_dir)) for tensor in external}
        if self.size or len(sources) != 1:
            return
        source, base = (Path(os.path.realpath(part)) for part in sources.pop())
        places = {_key(tensor): (tensor.offset or 0, int(tensor.nbytes)) for tensor in external}
        used, end = sum(n for _, n in places.values()), max(offset + n for offset, n in places.values())
        # `add` refuses files outside of the model's folder and truncated ones, with the reason.
        if not source.is_file() or source.parent != base or end > source.stat().st_size:
            return
        if used >= 0.9 * source.stat().st_size and self.clone(source):
            self._place.update(places)

    def add(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Append one tensor unless it is there already; returns its offset and length in bytes.

        Raises:
            GraphError: the tensor's own file is missing, short, or outside the model's folder.
        """
        key = _key(tensor)
        if key in self._place:
            return self._place[key]
        before = self.mark()
        alignment = PAGE if tensor.nbytes >= PAGE_FROM else ALIGNMENT
        self.write(bytes(-self.size % alignment))
        offset, content = self.size, hashlib.sha256()
        try:
            _stream(tensor, _Tee(self, content))
        except (ValueError, OSError) as error:
            # onnx-ir reports a short file as an OSError without a number; the writer explains a full disk.
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EACCES, errno.EISDIR):
                raise
            raise GraphError(
                f"the weights of {tensor.name!r} cannot be read: {error}",
                fix="The data file must be beside the model, as a plain file: copy links with `cp -rL`.",
            ) from error
        length = self.size - offset
        if length != tensor.nbytes:
            raise GraphError(
                f"the weights of {tensor.name!r} have {length} bytes where its shape needs {tensor.nbytes}",
                fix="The data file is truncated: copy or export the model again.",
            )
        equal = _equal(content, length)
        if equal in self._place:
            self.rewind(before)
        place = self._place.setdefault(equal, (offset, length))
        self._place[key] = place
        # The key of a tensor in memory is its id, which another tensor is given when this one is gone.
        if isinstance(key, int):
            weakref.finalize(tensor, self._place.pop, key, None).atexit = False
        return place


class _Tee:
    """Writes to the hash of one tensor, and to the data file where there is one."""

    def __init__(self, file: HashedFile | None, content: Any) -> None:
        self._file, self._content = file, content

    def write(self, data: Any) -> int:
        # torch hands over a two-dimensional buffer of bytes, which hashlib refuses.
        flat = memoryview(data).cast("B")
        self._content.update(flat)
        return len(flat) if self._file is None else self._file.write(flat)


def _stream(tensor: ir.TensorProtocol, file: _Tee) -> None:
    # Tensors of other libraries need not have `tofile`.
    write = getattr(tensor, "tofile", None)
    if write is None:
        file.write(tensor.tobytes())
    else:
        write(file)


def _content(tensor: ir.TensorProtocol) -> Any:
    """A key that is equal for tensors of the same bytes; reads the tensor."""
    content = hashlib.sha256()
    _stream(tensor, _Tee(None, content))
    return _equal(content, int(tensor.nbytes))


def _equal(content: Any, length: int) -> Any:
    return "content", content.digest(), length


def _key(tensor: ir.TensorProtocol) -> Any:
    """A key that is equal only for tensors of the same bytes, without reading them."""
    import onnx_ir as ir

    if isinstance(tensor, ir.ExternalTensor):
        return os.path.realpath(tensor.path), tensor.offset or 0, int(tensor.nbytes)
    return id(tensor)
