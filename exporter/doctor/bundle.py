"""Checks a bundle against this machine: is it complete, can the installed runtimes read it, and does it fit?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import TokexportError
from . import nvidia, runtimes
from .engines import engines
from .findings import OK, PROBLEM, WARNING, Finding
from .machine import Machine

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Variant
    from ...runtimes.bundle.reader import Bundle

# Hashing more than this takes longer than a doctor should; `tokexport verify` does it.
_HASHED = 2**30


def probes(path: Path) -> Iterator[Callable[[Machine], Iterator[Finding]]]:
    """The probes of one bundle, which is opened only once.

    Raises:
        BundleError: the path is no bundle.
    """
    checks = _BundleProbes(path)
    checks.require_bundle()
    yield from (checks.complete, checks.readable, checks.precision, checks.runs_here, checks.memory, checks.device)
    yield checks.engines


class _BundleProbes:
    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def opened(self) -> Bundle | TokexportError:
        """The bundle, or why it cannot be opened."""
        from ...runtimes.bundle.reader import open_bundle

        try:
            return open_bundle(self.path)
        except TokexportError as error:
            return error

    @property
    def variant(self) -> Variant | None:
        return None if isinstance(self.opened, TokexportError) else self.opened.variant()

    def require_bundle(self) -> None:
        """Refuse a path that is no bundle; what is wrong with a bundle is for the probes to find."""
        try:
            opened = self.opened
        except Exception:
            return  # Something that reads bundles cannot be imported, and each probe says so.
        if isinstance(opened, TokexportError) and not (self.path / "manifest.json").is_file():
            raise opened

    def complete(self, machine: Machine) -> Iterator[Finding]:
        """Every file is there and has its size; where the bundle is not too large, its hash too."""
        from ...runtimes.bundle.reader import verify_hashes

        if isinstance(self.opened, TokexportError):
            yield Finding("files", PROBLEM, self.opened.what, self.opened.fix or f"tokexport verify {self.path}")
            return
        records = self.opened.manifest.files.values()
        size = sum(record.size for record in records)
        text = f"{len(records)} files, {size / 2**20:.1f} MiB"
        if size > _HASHED:
            yield Finding("files", OK, f"{text}, sizes as recorded; tokexport verify checks their hashes too")
            return
        try:
            verify_hashes(self.opened)
        except TokexportError as error:
            yield Finding("files", PROBLEM, error.what, error.fix)
        else:
            yield Finding("files", OK, f"{text}, unchanged")

    def readable(self, machine: Machine) -> Iterator[Finding]:
        """IR version and opset of its graphs, tried with the installed ONNX Runtime."""
        if self.variant is None or not _has_onnxruntime(machine):
            return
        import onnx

        newest = (0, 0)
        for record in self.variant.graphs.values():
            if "portable" in record.forms:
                model = onnx.load(self.path / record.forms["portable"], load_external_data=False)
                opsets = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
                newest = (max(newest[0], *opsets), max(newest[1], model.ir_version))
        if newest == (0, 0):
            return
        ran = runtimes.load_graph(machine, opset=newest[0], ir=newest[1])
        text = f"opset {newest[0]}, IR version {newest[1]}"
        if ran.code == 0:
            yield Finding("graphs", OK, f"{text}: the installed onnxruntime reads them")
        else:
            yield Finding("graphs", PROBLEM, f"{text}: {ran.last_line}", "pip install -U onnxruntime")

    def precision(self, machine: Machine) -> Iterator[Finding]:
        """Whether the installed runtimes compute in its types."""
        if self.variant is None:
            return
        kinds = sorted({record.precision for record in self.variant.graphs.values()})
        if "bf16" in kinds:
            what = "bf16, and ONNX Runtime's CPU has no bfloat16 kernels: it can be checked here, but not run"
            yield Finding("precision", WARNING, what, "Export it with --precision fp16 to run it on a CPU.")
        else:
            yield Finding("precision", OK, ", ".join(kinds))

    def runs_here(self, machine: Machine) -> Iterator[Finding]:
        """Whether an installed runtime runs one of its forms."""
        if self.variant is None:
            return
        forms = sorted({form for record in self.variant.graphs.values() for form in record.forms})
        if _has_onnxruntime(machine) and {"portable", "inlined"} & set(forms):
            yield Finding("forms", OK, f"{', '.join(forms)}; ONNX Runtime runs the portable form")
        else:
            fix = 'pip install "tokexport[ort]"'
            yield Finding("forms", PROBLEM, f"{', '.join(forms)}, and no installed runtime runs them", fix)

    def memory(self, machine: Machine) -> Iterator[Finding]:
        """The memory that its graphs need, and how much is free."""
        if self.variant is None or not machine.memory[0]:
            return
        from ...devices.memory import needs
        from ...graph_passes.ir_tools.model_io import load_model

        forms = [record.forms.get("portable") for record in self.variant.graphs.values()]
        total = sum(needs(load_model(self.path / form)).total for form in forms if form)
        text = f"its graphs need at least {total / 2**20:.1f} MiB, {machine.memory[1] / 2**20:.0f} MiB are free"
        if total > machine.memory[0]:
            yield Finding("memory", PROBLEM, text, "Export it with --precision fp16, or run it on a larger machine.")
        elif total > machine.memory[1]:
            yield Finding("memory", WARNING, text, "Close other programs.")
        else:
            yield Finding("memory", OK, text)

    def engines(self, machine: Machine) -> Iterator[Finding]:
        """Its engines, and whether they can run here."""
        if not isinstance(self.opened, TokexportError):
            yield from engines(machine, self.opened)

    def device(self, machine: Machine) -> Iterator[Finding]:
        """The device it was exported for, and the GPU of this machine."""
        if self.variant is None or self.variant.device is None:
            return
        from ...devices.profiles import profile

        record, here = self.variant.device, nvidia.seen(machine)
        wanted = str(profile(record.name).value("compute_capability"))
        what = f"made for {record.name} (compute capability {wanted}, TensorRT {record.version})"
        if here is None or not here.capability:
            yield Finding("device", OK, f"{what}; no GPU is found here, and ONNX Runtime runs it as well")
        elif here.capability != wanted:
            fix = f"Export it for this GPU, without --device {record.name}."
            yield Finding("device", WARNING, f"{what}, but this machine has {here.name} ({here.capability})", fix)
        else:
            yield Finding("device", OK, f"{what}, which this machine has: {here.name}")


def _has_onnxruntime(machine: Machine) -> bool:
    return any(name in machine.packages for name in ("onnxruntime", "onnxruntime-gpu"))
