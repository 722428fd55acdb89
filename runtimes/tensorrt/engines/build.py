"""Builds the engines of a bundle: choose target and form, build each graph in a child process, replace the old ones.

All engines of a variant are built before any is replaced: a build that fails leaves the earlier engines as they are.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import BundleError, MissingError, RequestError
from ....graph_passes.ir_tools.model_io import external_tensors
from ....plugins.library import require_code
from ....version import __version__
from ...bundle.manifest import OURS, FileRecord, Form, Variant
from ...bundle.reader import Bundle
from .. import plugins as engine_plugins
from ..api import KINDS, Kind, install, require, version_of
from . import file as engine_file
from . import form as engine_form
from . import target as engine_target
from .builder import Builder, plugin_nodes
from .file import EngineRecord, LayerRecord, PluginRecord
from .target import EngineTarget

if TYPE_CHECKING:
    import onnx_ir as ir

# (done, of, what), as a progress bar takes it.
Advance = Callable[[int, int, str], None]


def choose_runtime(asked: str | None) -> Kind:
    """Which TensorRT: ``tensorrt`` or ``rtx`` as asked, else the one that is installed, TensorRT before TensorRT-RTX.

    Raises:
        RequestError: no such runtime.
        MissingError: it is not installed, or none is.
    """
    if asked not in (None, "tensorrt", "rtx"):
        raise RequestError(f"unknown runtime {asked!r}", fix="Known runtimes: tensorrt, rtx.")
    kind: Kind = "tensorrt-rtx" if asked == "rtx" else "tensorrt"
    if asked is None:
        found = [one for one in KINDS if version_of(one)]
        if not found:
            raise MissingError(
                "neither TensorRT nor TensorRT-RTX is installed",
                fix=f"{install('tensorrt')}. For a desktop GPU, which need not be here: {install('tensorrt-rtx')}",
            )
        kind = found[0]
    require(kind)
    return kind


def build_engines(
    bundle: Bundle,
    *,
    device: str | None = None,
    form: Form | None = None,
    runtime: str | None = None,
    variant: str | None = None,
    advance: Advance = lambda *_: None,
) -> dict[str, Any]:
    """Build an engine for every graph of a bundle, and put them into it.

    Args:
        bundle: opened.
        device: see `target.choose`; None: the one it was exported for, or the GPU of this machine.
        form: see `form.choose`.
        runtime: see `choose_runtime`.
        variant: the one to build; None: all of them.
        advance: called with (done, of, what), as a progress bar takes it.

    Returns:
        ``{"bundle", "variant", "device", "compute_capability", "why", "runtime", "version", "workspace", "engines",
        "further"}``; each engine ``{"role", "form", "why", "plan", "bytes", "seconds", "plugins", "layers"}``;
        ``further`` holds the same, but for ``bundle`` and itself, of every further variant.

    Raises:
        RequestError: an unknown device, runtime or variant, or a device that this cannot build for; quantised weights
            in a form that TensorRT does not read.
        MissingError: no TensorRT, GPU, memory or plugin.
        GraphError: a node is refused, with the form to use instead where there is one.
        GateError: an engine does not compute in the types of its graph.
        BundleError: a file of the bundle has changed, or the engines cannot be written.
    """
    kind = choose_runtime(runtime)
    version = require(kind)
    variants = bundle.manifest.variants if variant is None else [bundle.variant(variant)]
    for one in variants:
        _refuse_weights(one)
    targets = [engine_target.choose(device, chosen.device, kind, version) for chosen in variants]
    total, done = sum(len(chosen.graphs) for chosen in variants), 0
    results: list[dict[str, Any]] = []
    for chosen, target in zip(variants, targets):

        def tell(share: float, text: str, name: str = chosen.name, done: int = done) -> None:
            advance(int(100 * (done + share)), 100 * total, f"{name} {text}" if len(variants) > 1 else text)

        results.append(_build(bundle, chosen, target, form, kind, version, tell))
        done += len(chosen.graphs)
    return {"bundle": str(bundle.path), **results[0], "further": results[1:]}


def _refuse_weights(variant: Variant) -> None:
    weights = variant.llm_weights
    if weights and weights.form == "MatMulNBits":
        raise RequestError(
            f"the {weights.weights} weights of {variant.name} are for ONNX Runtime ({weights.form}), and TensorRT has "
            "no such operator",
            fix="Export it again with --device NAME: its weights are then in standard operators.",
        )


def _build(
    bundle: Bundle,
    chosen: Variant,
    target: EngineTarget,
    form: Form | None,
    kind: Kind,
    version: str,
    advance: Callable[[float, str], None],
) -> dict[str, Any]:
    """One variant; `advance` is called with (graphs done, current step)."""
    library, roles = engine_plugins.found(), list(chosen.graphs)
    made: list[tuple[Path, EngineRecord]] = []
    rows = []
    folder = engine_file.writable_folder(bundle, target.name)
    with engine_file.replacing(folder):
        timing = engine_file.pinned_timing_cache(bundle, target.name, chosen.name, roles)
    with _scratch(folder) as scratch:
        builder = Builder(kind, version, target, library, scratch)
        builder.timing.write_bytes(timing)
        for done, role in enumerate(roles):
            start = time.perf_counter()
            choice = engine_form.choose(bundle, role, chosen.name, form, kind, version, library)
            sources = _unchanged(bundle, bundle.model_path(role, _file_form(choice.form), chosen.name), choice.model)

            def tell(share: float, text: str, role: str = role, done: int = done) -> None:
                advance(done + share, f"{role}: {text}")

            plugins = plugin_nodes(choice.model)
            if library and plugins and kind == "tensorrt":
                # TensorRT runs plugins while it builds, to time them.
                require_code(library, target.compute_capability)
            plan, checks = builder.build(choice.model, role, choice.form, choice.others, tell)
            record = EngineRecord(
                tokexport=__version__,
                role=role,
                variant=chosen.name,
                device=target.name,
                form=choice.form,
                precision=chosen.graphs[role].precision,
                graph=sources,
                runtime=kind,
                version=version,
                compute_capability=target.compute_capability,
                plan=FileRecord(size=plan.stat().st_size, sha256=engine_file.sha256(plan)),
                plugins=PluginRecord(
                    names=plugins, library=engine_file.sha256(library) if library and plugins else None
                ),
                workspace=target.settings.workspace,
                layers=[LayerRecord.model_validate(check.to_json()) for check in checks],
            )
            made.append((plan, record))
            rows.append(_row(bundle, record, choice.why, time.perf_counter() - start))
        timing_made = builder.timing.read_bytes() if kind == "tensorrt" else None
        with engine_file.replacing(folder):
            _place(bundle, made, timing_made)
    return {
        "variant": chosen.name,
        "device": target.name,
        "compute_capability": target.compute_capability,
        "why": target.why,
        "runtime": kind,
        "version": version,
        "workspace": target.settings.workspace,
        "engines": rows,
    }


def _file_form(form: Form) -> Form:
    """The form whose file is read; the inlined form is made from the portable one."""
    return "portable" if form == "inlined" else form


def _unchanged(bundle: Bundle, graph: Path, model: ir.Model) -> dict[str, str]:
    """SHA-256 of each file that an engine is built from, compared with the manifest."""
    data = {graph.parent / str(tensor.location) for tensor in external_tensors(model)}
    names = sorted(path.relative_to(bundle.path).as_posix() for path in {graph, *data})
    changed = [name for name in names if engine_file.sha256(bundle.path / name) != _recorded(bundle, name)]
    if changed:
        raise BundleError(
            f"the content of {', '.join(changed)} has changed",
            where=str(bundle.path),
            fix="Export it again, or copy it again in full.",
        )
    return {name: _recorded(bundle, name) for name in names}


def _recorded(bundle: Bundle, name: str) -> str:
    bundle.file(name)
    return bundle.manifest.files[name].sha256


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder on the file system of the bundle, so that plans are moved into place atomically."""
    try:
        scratch = tempfile.TemporaryDirectory(dir=folder, prefix=OURS)
    except OSError as error:
        raise engine_file.unwritable(folder, error) from error
    with scratch as path:
        yield Path(path)


def _place(bundle: Bundle, made: list[tuple[Path, EngineRecord]], timing: bytes | None) -> None:
    """Move plans into the bundle; each sidecar last, because a plan without one is not read."""
    digest = None
    if timing is not None:
        first = made[0][1]
        path = engine_file.timing_path(bundle, first.device, first.variant)
        engine_file.put(path, timing)
        digest = engine_file.sha256(path)
    for plan, record in made:
        path = engine_file.plan_path(bundle, record.device, record.variant, record.role)
        for old in (path.with_suffix(".json"), engine_file.runtime_cache_path(path)):
            old.unlink(missing_ok=True)
        plan.replace(path)
        engine_file.write(bundle, record.model_copy(update={"timing_cache": digest}))


def _row(bundle: Bundle, record: EngineRecord, why: str, seconds: float) -> dict[str, Any]:
    path = engine_file.plan_path(bundle, record.device, record.variant, record.role)
    return {
        "role": record.role,
        "form": record.form,
        "why": why,
        "plan": path.relative_to(bundle.path).as_posix(),
        "bytes": record.plan.size,
        "seconds": round(seconds, 2),
        "plugins": record.plugins.names,
        "layers": [layer.model_dump() for layer in record.layers],
    }
