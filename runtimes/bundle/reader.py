"""Opens a bundle: checks that every file of the manifest exists, has its size, and is inside the folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from ...errors import BundleError, RequestError, nearest
from . import journal
from .manifest import MANIFEST, PENDING, SCHEMA, GraphRecord, Manifest, Role, Variant
from .strict import LENIENT

_AGAIN = "Export it again, or copy it again in full."
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: the folder.
        manifest: its manifest.json.
    """

    path: Path
    manifest: Manifest

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name; without a name the first, which is the default one.

        Raises:
            RequestError: there is none of that name.
        """
        variants = {variant.name: variant for variant in self.manifest.variants}
        if name is None:
            return self.manifest.variants[0]
        if name not in variants:
            raise RequestError(
                f"the bundle has no variant {name!r}",
                where=str(self.path),
                fix=nearest(name, variants, kind="variants"),
            )
        return variants[name]

    def graph(self, role: str, variant: str | None = None) -> GraphRecord:
        """The record of a role's graph.

        Raises:
            RequestError: the bundle has no such graph.
        """
        graphs = self.variant(variant).graphs
        if role not in graphs:
            fix = nearest(role, graphs, kind="graphs")
            if role in get_args(Role):
                fix += " Export it with --parts all to get the language graphs."
            raise RequestError(f"the bundle has no graph {role!r}", where=str(self.path), fix=fix)
        return graphs[role]

    def model_path(self, role: str, form: str = "portable", variant: str | None = None) -> Path:
        """The ONNX file of a role in one of its forms; its data file is beside it.

        Raises:
            RequestError: the bundle has no such graph, or not in this form.
        """
        forms = self.graph(role, variant).forms
        if form not in forms:
            raise RequestError(
                f"the bundle has no {form} form of {role}", where=str(self.path), fix=nearest(form, forms, kind="forms")
            )
        return self.path / forms[form]

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists.

        Raises:
            BundleError: it lists no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"the bundle has no file {name!r}",
                where=str(self.path),
                fix=nearest(name, self.manifest.files, kind="files"),
            )
        return self.path / name


def open_bundle(path: Path | str) -> Bundle:
    """Read a bundle's manifest and check that every file exists and has its size; nothing is written.

    A newer minor version is read and its unknown keys are ignored; a newer major version is refused.

    Raises:
        BundleError: no bundle, damaged, incomplete, too new, being replaced, or with paths that leave its folder.
    """
    folder = Path(path)
    if os.path.lexists(folder / PENDING):
        raise journal.refusal(folder)
    file = folder / MANIFEST
    try:
        text = file.read_bytes()
    except OSError as error:
        if not folder.is_dir():
            what = "is a file, and a bundle is a folder" if folder.exists() else "does not exist"
            raise BundleError(f"the bundle {what}", where=str(folder), fix="Name the folder given by -o.") from None
        raise BundleError(
            f"this folder is no bundle: {MANIFEST}: {error.strerror}",
            where=str(folder),
            fix="Name the folder given by -o.",
        ) from None
    bundle = Bundle(folder, parse_manifest(text, file))
    for name, record in bundle.manifest.files.items():
        check_file(folder, name, record.size)
    return bundle


def verify_hashes(bundle: Bundle, step: Callable[[str], None] = lambda text: None) -> int:
    """Read every file and compare its SHA-256; returns how many there are.

    Args:
        bundle: an opened bundle.
        step: called with the name of each file.

    Raises:
        BundleError: names each file whose content changed.
    """
    changed = []
    for name, record in bundle.manifest.files.items():
        step(name)
        digest = hashlib.sha256()
        with (bundle.path / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != record.sha256:
            changed.append(name)
    if changed:
        raise BundleError(f"the content of {', '.join(changed)} has changed", where=str(bundle.path), fix=_AGAIN)
    return len(bundle.manifest.files)


def parse_manifest(text: bytes, file: Path) -> Manifest:
    """Parse the content of `file`, which errors name.

    Raises:
        BundleError: damaged, too new, or with paths that leave its folder.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is damaged or cut short: {error}", where=str(file), fix=_AGAIN) from None
    lenient = _is_newer_minor(data, file)
    try:
        manifest = Manifest.model_validate(data, context=LENIENT if lenient else None)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise BundleError(
            f"{MANIFEST} is wrong{f' at {place}' if place else ''}: {message}",
            where=str(file),
            fix="Keys of your own begin with `x-`. Everything else is written by tokexport: export it again.",
        ) from None
    missing = sorted(set(manifest.named_files()) - manifest.files.keys())
    if missing:
        raise BundleError(f"{MANIFEST} uses {missing[0]} but does not list it", where=str(file), fix=_AGAIN)
    return manifest


def _is_newer_minor(data: Any, file: Path) -> bool:
    version = data.get("schema") if isinstance(data, dict) else None
    parts = version.split(".") if isinstance(version, str) else []
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise BundleError(
            f"{MANIFEST} has schema {version!r}, and a bundle has a version such as {SCHEMA!r}",
            where=str(file),
            fix=_AGAIN,
        )
    major, minor = map(int, parts)
    known_major, known_minor = map(int, SCHEMA.split("."))
    if major != known_major:
        newer = major > known_major
        raise BundleError(
            f"the bundle has schema {version}, this tokexport reads {known_major}.x",
            where=str(file),
            fix="pip install -U tokexport" if newer else "Export it again.",
        )
    return minor > known_minor


def check_file(folder: Path, name: str, size: int | None = None) -> None:
    """Check that a file exists, is reached through no symbolic link, and has the given size, if any.

    Raises:
        BundleError: one of these does not hold.
    """
    path = folder / name
    # A link in any part of the path could lead out of the folder.
    for part in (path, *path.parents[: len(Path(name).parts) - 1]):
        if part.is_symlink():
            raise BundleError(
                f"{name} is a symbolic link, which ONNX Runtime refuses",
                where=str(folder),
                fix=f"Copy the bundle with its files: cp -rL {folder} NEW",
            )
    if not path.is_file():
        raise BundleError(f"{name} is missing", where=str(folder), fix=_AGAIN)
    found = path.stat().st_size
    if size is not None and found != size:
        raise BundleError(f"{name} has {found} bytes, not {size}", where=str(folder), fix=_AGAIN)
