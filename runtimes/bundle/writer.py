"""Writes a bundle: every weight once, every file hashed while it is written, and the folder replaced atomically."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...errors import BundleError
from ...files import size
from .atomic_replace import replace, staging
from .folders import sync
from .graph_file import serialize, tensor_record, weights
from .losses import Announce, name_deleted, refuse_loss
from .manifest import MANIFEST, OURS, FileRecord, Form, GraphRecord, Manifest, Precision, Role
from .strict import inside
from .strip import strip_local_info
from .target import check_replaceable, check_target, failed_path
from .weights import DataFile, HashedFile

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BundleWriter", "check_target", "strip_local_info"]


class BundleWriter:
    """Builds a bundle in a hidden folder beside `out` and moves it to `out` with `commit`.

    Without a commit, after an error or Ctrl-C, the hidden folder is removed and `out` is unchanged.

        with BundleWriter(out) as writer:
            writer.add_model("encoder.onnx", model)
            writer.commit(manifest)

    Args:
        out: see `check_target`, which is called first.
        force: likewise.
        sources: what the bundle is made of. Neither `out` nor its failed result may replace a part of that; see
            `losses.refuse_loss`.
        deleting: called with a folder and its foreign files before they are deleted: for `out` at once, for the failed
            result when it is written. The default names them on stderr.

    Raises:
        BundleError: `out` cannot be written or replaced, or the disk is full.
    """

    def __init__(
        self,
        out: Path | str,
        force: bool = False,
        *,
        sources: Sequence[Path] = (),
        deleting: Announce = name_deleted,
    ) -> None:
        # With force at first: --force must not be suggested where it would not help.
        self.out = check_target(out, force=True)
        for target in (self.out, failed_path(self.out)):
            refuse_loss(target, sources)
            check_replaceable(target, force)
        self._force, self._deleting = force, deleting
        self._named: set[str] = set()
        self._name_foreign(self.out)
        self._stack = contextlib.ExitStack()
        self._open: dict[str, DataFile] = {}
        self._files: dict[str, FileRecord] = {}

    def __enter__(self) -> BundleWriter:
        self._folder = self._stack.enter_context(staging(self.out))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for file in self._open.values():
            file.abandon()
        self._stack.close()

    @property
    def folder(self) -> Path:
        """The hidden folder, where added files can be read before the commit."""
        return self._folder

    def add_model(self, name: str, model: ir.Model, *, data: str | None = None) -> None:
        """Write a graph to `name` and its weights to a data file beside it.

        Args:
            name: ``<role>.onnx``, or ``<role>[.<variant>][.<form>].onnx``.
            model: is not changed; the file has no stack traces and local paths.
            data: name of the data file; default ``<role>.onnx.data``. Graphs with one data file share equal weights.

        Raises:
            GraphError: its weights cannot be read, or the graph without weights is larger than 2 GB.
            BundleError: the name is taken or not a plain relative path; the disk is full.
        """
        path = self._path(name)
        data_path = path.with_name(data or f"{path.name.split('.')[0]}.onnx.data")
        tensors = weights(model)
        place = self._add_weights(data_path, tensors).add if tensors else _no_place
        self._write(name, serialize(model, data_path.name, place))

    def add_graph(
        self,
        role: Role,
        model: ir.Model,
        roles: tuple[Mapping[str, str], Mapping[str, str]],
        precision: Precision,
        *,
        variant: str = "",
        data: str | None = None,
    ) -> GraphRecord:
        """Write a role's portable graph and, where there is one, its plugin form; returns its record.

        Without a compressor both forms are the same file.

        Args:
            role: the files are named by it.
            model: in portable form.
            roles: (inputs, outputs), each role name -> the graph's own tensor name.
            precision: to record.
            variant: its name, which becomes a part of the file names; empty for the first variant of a bundle.
            data: see `add_model`: prefill and decode, which have the same weights, can share one. The variants of a
                role share its data file.

        Raises:
            GraphError: a named input or output does not exist, or has no known shape or dtype.
        """
        stem = f"{role}.{variant}" if variant else role
        inputs, outputs = (
            {key: tensor_record(name, values) for key, name in named.items()}
            for named, values in zip(roles, (model.graph.inputs, model.graph.outputs))
        )
        forms: dict[Form, str] = {"portable": f"{stem}.onnx", "plugin": f"{stem}.onnx"}
        self.add_model(forms["portable"], model, data=data)
        if any(node.domain == "tokexport" for node in model.graph):
            from ...graph_passes.forms import to_plugin, without_plugin

            if without_plugin(model):
                del forms["plugin"]
            else:
                forms["plugin"] = f"{stem}.plugin.onnx"
                self.add_model(forms["plugin"], to_plugin(model), data=data)
        return GraphRecord(forms=forms, precision=precision, inputs=inputs, outputs=outputs)

    def add_file(self, name: str, content: bytes | Path) -> None:
        """Write bytes, or copy a file (by reflink where the file system can, never as a link).

        Raises:
            BundleError: the name is taken or not a plain relative path; the file is missing; the disk is full.
        """
        if isinstance(content, bytes):
            self._write(name, content)
            return
        if not content.is_file():
            raise BundleError("a file for the bundle is missing", where=str(content), fix="Check its path.")
        path = self._path(name)
        with self._disk_errors(name, content.stat().st_size), HashedFile(path) as file:
            file.copy(content)
        self._files[name] = FileRecord(size=file.size, sha256=file.sha256)

    def add_json(self, name: str, value: Any) -> None:
        """Write a JSON file; NaN and infinity raise ValueError, because JSON has neither."""
        self._write(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    @contextlib.contextmanager
    def aside(self, models: Mapping[Role, ir.Model]) -> Iterator[dict[Role, Path]]:
        """Write graphs that are no part of the bundle, over one data file, for as long as the block lasts.

        Yields:
            role -> file.

        Raises:
            GraphError, BundleError: as `add_model`.
        """
        folder = self.folder / f"{OURS}aside"
        folder.mkdir()
        data = folder / "language.onnx.data"
        found: dict[Role, Path] = {role: folder / f"{role}.onnx" for role in models}
        try:
            for role, model in models.items():
                tensors = weights(model)
                place = self._add_weights(data, tensors).add if tensors else _no_place
                content = serialize(model, data.name, place)
                with self._disk_errors(found[role].name, len(content)):
                    found[role].write_bytes(content)
            yield found
        finally:
            if file := self._open.pop(str(data), None):
                file.abandon()
            shutil.rmtree(folder)

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, with size and hash of every file, into `folder`, which is then a complete bundle.

        Raises:
            BundleError: the manifest names a file that was not added.
        """
        self._record_data()
        missing = sorted(set(manifest.named_files()) - self._files.keys())
        if missing:
            raise BundleError(f"the manifest names {missing[0]}, which was not added", fix="Add it first.")
        manifest = manifest.model_copy(update={"files": dict(sorted(self._files.items()))})
        path = self.folder / MANIFEST
        path.unlink(missing_ok=True)
        with self._disk_errors(MANIFEST, 0), HashedFile(path) as written:
            written.write(manifest.to_json().encode())
        return manifest

    def commit(self, manifest: Manifest) -> Path:
        """Finish, and move the bundle to `out` atomically; returns `out`.

        Raises:
            BundleError: without `force`, `out` got foreign files since the writer was made; see also `finish`.
        """
        return self._commit(manifest, self.out)

    def commit_failed(self, manifest: Manifest) -> Path:
        """Finish, and move the bundle to ``<out>.failed``, after a failed proof or gate; returns that path."""
        return self._commit(manifest, failed_path(self.out))

    def commit_files(self) -> dict[str, FileRecord]:
        """Move what was added to `out`, as a folder without a manifest; returns its files. Errors as `commit`."""
        self._record_data()
        self._move(self.out)
        return dict(sorted(self._files.items()))

    def _record_data(self) -> None:
        """Write the data files to the disk, and note their sizes and hashes."""
        for opened, file in self._open.items():
            with self._disk_errors(opened, 0):
                file.sync()
            name = Path(opened).relative_to(self.folder).as_posix()
            self._files[name] = FileRecord(size=file.size, sha256=file.sha256)

    def _commit(self, manifest: Manifest, target: Path) -> Path:
        self.finish(manifest)
        return self._move(target)

    def _move(self, target: Path) -> Path:
        for file in self._open.values():
            file.close()
        for folder in {path.parent for path in self.folder.rglob("*")}:
            sync(folder)
        self._name_foreign(target)
        with self._disk_errors(str(target), 0):
            replace(self.folder, target)
        return target

    def _name_foreign(self, target: Path) -> None:
        """Announce the foreign files in the target, each only once; refuse them without `force`."""
        found = {str(target / name): name for name in check_replaceable(target, self._force)}
        new = [name for path, name in found.items() if path not in self._named]
        self._named |= found.keys()
        if new:
            self._deleting(target, new)

    def _path(self, name: str) -> Path:
        try:
            inside(name)
        except ValueError as error:
            raise BundleError(str(error), fix="Name a relative path such as processor/words.json.") from None
        path = self.folder / name
        if path.exists() or name == MANIFEST:
            raise BundleError(f"the bundle already has a file {name}", fix="Every file has a name of its own.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with self._disk_errors(name, len(content)), HashedFile(path) as file:
            file.write(content)
        self._files[name] = FileRecord(size=file.size, sha256=file.sha256)

    def _add_weights(self, path: Path, tensors: list[ir.TensorProtocol]) -> DataFile:
        file = self._open.get(str(path))
        if file is None:
            file = self._open[str(path)] = DataFile(path)
        with self._disk_errors(path.name, needed := file.missing(tensors)):
            file.adopt(tensors)
            free = shutil.disk_usage(self.folder).free
            # Variants have equal weights in tensors of their own: only reading them shows which are there already.
            if file.missing(tensors) > free and file.missing(tensors, read=True) > free:
                raise OSError(errno.ENOSPC, f"{needed} bytes needed")
            for tensor in tensors:
                file.add(tensor)
            file.flush()
        return file

    @contextlib.contextmanager
    def _disk_errors(self, name: str, needed: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what, fix = _unwritten(error.errno, name, needed, self.folder.parent)
            what = what or f"{name} cannot be written: {error.strerror or error}"
            raise BundleError(what, where=str(self.out), fix=fix) from error


def _unwritten(code: int | None, name: str, needed: int, folder: Path) -> tuple[str, str]:
    """Why a file could not be written, empty where the system says it best, and what to do."""
    need = f" needs {size(needed)} and" if needed else ""
    if code == errno.ENOSPC:
        free = size(shutil.disk_usage(folder).free)
        what = f"the disk is full: {name}{need} finds {free} free"
        return what, "Free some space, or name a folder on another disk with -o."
    if code == errno.EDQUOT:
        return (
            f"your quota on this disk is used up by {name}",
            "Free some space, or name a folder on another disk with -o.",
        )
    if code == errno.EFBIG:
        limit = _file_limit()
        if limit is None:
            return f"{name} is larger than a file can be on this file system", "Name a folder on another disk with -o."
        what = f"this process may write no file larger than {size(limit)}, and {name} is"
        return what, "The disk is not full: raise the limit with `ulimit -f unlimited`, and export again."
    return "", "Name another folder with -o."


def _file_limit() -> int | None:
    """The largest file, in bytes, that this process may write (RLIMIT_FSIZE); None where there is no such limit."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _no_place(tensor: ir.TensorProtocol) -> tuple[int, int]:
    raise AssertionError(f"{tensor.name} is no weight")
