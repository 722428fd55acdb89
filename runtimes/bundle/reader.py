"""Opens a bundle: checks that every file of the manifest exists, has its size, and is inside the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from ...errors import BundleError, RequestError, invalid, nearest
from ...files import LARGEST_TEXT, open_regular, parse_json
from . import journal
from .external_data import external_data
from .held import AGAIN, Identity, check_file, identity_of, is_held, open_file, sha256
from .manifest import MANIFEST, PENDING, READ, SCHEMA, FileRecord, GraphRecord, Manifest, Role, Variant
from .strict import LENIENT


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: the folder.
        manifest: its manifest.json.
        held: which file each name of the manifest meant on opening.
    """

    path: Path
    manifest: Manifest
    held: Mapping[str, Identity] = field(default_factory=dict, repr=False, compare=False)

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name, or of that ratio where one alone has it; without a name the first, the default.

        Raises:
            RequestError: there is none of that name, or several of that ratio.
        """
        variants = {variant.name: variant for variant in self.manifest.variants}
        if name is None:
            return self.manifest.variants[0]
        if name in variants:
            return variants[name]
        alike = [one for one in self.manifest.variants if [done.ratio for done in one.compression] == [name.strip()]]
        if len(alike) == 1:
            return alike[0]
        raise RequestError(
            f"the bundle has {f'{len(alike)} variants of ratio' if alike else 'no variant'} {name!r}",
            where=str(self.path),
            fix=nearest(name, [one.name for one in alike] or variants, kind="variants"),
        )

    def graph(self, role: str, variant: str | None = None) -> GraphRecord:
        """The record of a role's graph.

        Raises:
            RequestError: the bundle has no such graph.
        """
        graphs = self.variant(variant).graphs
        if role not in graphs:
            fix = nearest(role, graphs, kind="graphs")
            if role in get_args(Role):
                fix += f" {self.without_language}"
            raise RequestError(f"the bundle has no graph {role!r}", where=str(self.path), fix=fix)
        return graphs[role]

    @property
    def without_language(self) -> str:
        """What can be done where the bundle has no language graphs."""
        if self.manifest.source.kind == "builtin":
            return "Export it with --parts all to get the language graphs."
        if any(
            {"embedding", "logits"} & variant.graphs["encoder"].outputs.keys() for variant in self.manifest.variants
        ):
            return "It is an image tower, whose answer is an output of its encoder: `session.encode`."
        return (
            "Without them there are no answers: of this one run the encoder, `session.encode`, and give its tokens to "
            "your own language model."
        )

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

    @contextlib.contextmanager
    def reading(self, role: str, form: str = "portable", variant: str | None = None) -> Iterator[Path]:
        """The ONNX file of a role: what is read of it and of its data inside the block is what was there on opening.

        Raises:
            RequestError: the bundle has no such graph, or not in this form.
            BundleError: the graph reads a file that the manifest does not list; or as `unchanged`.
        """
        path = self.model_path(role, form, variant)
        name = path.relative_to(self.path).as_posix()
        with self.unchanged([name]):
            names = self.graph_files(name)
        with self.unchanged(names):
            yield path

    @contextlib.contextmanager
    def unchanged(self, names: Sequence[str]) -> Iterator[None]:
        """What is read of these files inside the block is what was there on opening.

        Raises:
            BundleError: on entry or at the end, one is missing, a link, or has other content than the manifest says.
        """
        self.check_held(names)
        try:
            yield
        finally:
            self.check_held(names)

    def check_held(self, names: Sequence[str]) -> None:
        """Check that files are those found on opening, see `unchanged`."""
        for name in names:
            if not is_held(self.path, name, self.held.get(name), self._record(name).sha256):
                raise BundleError(
                    f"{name} has changed since the bundle was opened",
                    where=str(self.path),
                    fix="Open the bundle again. If it still fails, check it with `tokexport verify`.",
                )

    def graph_files(self, name: str) -> list[str]:
        """A graph's file and the data files it reads, each of them listed in the manifest.

        Raises:
            GraphError: it is no graph.
            BundleError: it reads a file that the manifest does not list.
        """
        self._record(name)
        with open_file(self.path, name) as file:
            found = external_data(self.path, name, file.read())
        for other in found:
            if other not in self.manifest.files:
                raise BundleError(
                    f"{name} reads {other!r}, which {MANIFEST} does not list, so nobody checks it",
                    where=str(self.path),
                    fix=AGAIN,
                )
        return [name, *found]

    def _record(self, name: str) -> FileRecord:
        self.file(name)
        return self.manifest.files[name]


def open_bundle(path: Path | str) -> Bundle:
    """Read a bundle's manifest and check that every file is there and has its size; nothing is written.

    A newer minor version is read and its unknown keys are ignored; an unknown major version is refused.

    Raises:
        BundleError: no bundle, damaged, incomplete, too new, being replaced, or with paths that leave its folder.
    """
    folder = Path(path)
    if os.path.lexists(folder / PENDING):
        raise journal.refusal(folder)
    text, before = _read_manifest(folder)
    manifest = parse_manifest(text, folder / MANIFEST)
    held = {name: check_file(folder, name, record.size) for name, record in manifest.files.items()}
    # A replacement moves the manifest last, and removes the old one first: files of another bundle had another one.
    if os.path.lexists(folder / PENDING) or check_file(folder, MANIFEST) != before:
        raise BundleError("the bundle was replaced while it was opened", where=str(folder), fix="Open it again.")
    return Bundle(folder, manifest, held)


def _read_manifest(folder: Path) -> tuple[bytes, Identity]:
    try:
        with open_regular(folder / MANIFEST, follow=False) as file:
            status = os.fstat(file.fileno())
            if status.st_size > LARGEST_TEXT:
                raise OSError(errno.EFBIG, f"has more than {LARGEST_TEXT} bytes")
            return file.read(LARGEST_TEXT), identity_of(status)
    except OSError as error:
        if error.errno == errno.ELOOP:
            check_file(folder, MANIFEST)
        if not folder.is_dir():
            what = "is a file, and a bundle is a folder" if folder.exists() else "does not exist"
            raise BundleError(f"the bundle {what}", where=str(folder), fix="Name the folder given by -o.") from None
        fix = "Name the folder given by -o."
        if (folder / "config.json").is_file():
            made = f"tokexport model {shlex.quote(str(folder))} --method kcenter_merge --ratio 0.85"
            fix = f"It is a checkpoint, of which this makes a bundle: {made}"
        raise BundleError(
            f"this folder is no bundle: {MANIFEST}: {error.strerror}", where=str(folder), fix=fix
        ) from None


def verify_hashes(bundle: Bundle, step: Callable[[str], None] = lambda text: None) -> int:
    """Read every file and compare its SHA-256, and check that every graph reads listed files alone.

    Args:
        bundle: an opened bundle.
        step: called with the name of each file.

    Returns:
        How many files there are.

    Raises:
        BundleError: names each file whose content changed; or a graph reads a file that is not listed.
    """
    changed = []
    for name, record in bundle.manifest.files.items():
        step(name)
        if sha256(bundle.path, name) != record.sha256:
            changed.append(name)
    if changed:
        raise BundleError(f"the content of {', '.join(changed)} has changed", where=str(bundle.path), fix=AGAIN)
    for name in sorted(bundle.manifest.graph_files()):
        bundle.graph_files(name)
    return len(bundle.manifest.files)


def parse_manifest(text: bytes, file: Path) -> Manifest:
    """Parse the content of `file`, which errors name.

    Raises:
        BundleError: damaged, too new, or with paths that leave its folder.
    """
    try:
        data = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is damaged or cut short: {error}", where=str(file), fix=AGAIN) from None
    lenient = _is_newer_minor(data, file)
    try:
        manifest = Manifest.model_validate(data, context=LENIENT if lenient else None)
    except ValidationError as error:
        raise BundleError(
            f"{MANIFEST} is {invalid(error)}",
            where=str(file),
            fix="Keys of your own begin with `x-`. Everything else is written by tokexport: export it again.",
        ) from None
    missing = sorted(set(manifest.named_files()) - manifest.files.keys())
    if missing:
        raise BundleError(f"{MANIFEST} uses {missing[0]} but does not list it", where=str(file), fix=AGAIN)
    return manifest


def _is_newer_minor(data: Any, file: Path) -> bool:
    version = data.get("schema") if isinstance(data, dict) else None
    # Python makes no number of thousands of digits.
    parts = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", version) if isinstance(version, str) else None
    if parts is None:
        raise BundleError(
            f"{MANIFEST} has schema {version!r}, and a bundle has a version such as {SCHEMA!r}",
            where=str(file),
            fix=AGAIN,
        )
    major, minor = map(int, parts.groups())
    if major not in READ:
        raise BundleError(
            f"the bundle has schema {version}, this tokexport reads {' and '.join(f'{known}.x' for known in READ)}",
            where=str(file),
            fix="pip install -U tokexport" if major > max(READ) else "Export it again.",
        )
    return minor > READ[major]
