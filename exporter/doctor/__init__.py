"""`tokexport doctor`: what is installed on this machine, what cannot work, and the command that fixes it.

A probe is a function of a `Machine` that yields findings. It never stops the other probes: an exception becomes a
finding of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import bundle as bundles
from . import nvidia, packages, runtimes, tools
from .findings import PROBLEM, Finding
from .machine import Machine

Probe = Callable[[Machine], Iterable[Finding]]

# In the order of the report. Probes run in parallel, because the slow ones start child processes.
PROBES: dict[str, tuple[Probe, ...]] = {
    "Python": (packages.python, packages.base, packages.extras, packages.pairs),
    "runtimes": (runtimes.onnxruntime, runtimes.tensorrt, runtimes.tensorrt_rtx, runtimes.headers, runtimes.plugins),
    "GPU": (nvidia.gpu, nvidia.jetson, nvidia.toolkit, nvidia.cuda_versions),
    "machine": (tools.disk, tools.memory, tools.speech),
}


def diagnose(machine: Machine, bundle: Path | None = None, *, deep: bool = False) -> list[tuple[str, list[Finding]]]:
    """Every probe's findings, by family.

    Args:
        machine: this one (`machine.this_machine`), or a simulated one.
        bundle: also checked against the machine.
        deep: also import torch and the other packages that exporting needs, which takes seconds.

    Raises:
        BundleError: `bundle` is no bundle.
    """
    families = {family: list(probes) for family, probes in PROBES.items()}
    if deep:
        families["Python"].append(packages.deep)
    if bundle is not None:
        families[f"bundle {bundle}"] = list(bundles.probes(bundle))
    with ThreadPoolExecutor(max_workers=4) as pool:
        running = {
            family: [pool.submit(_run, probe, machine) for probe in probes] for family, probes in families.items()
        }
        return [
            (family, [finding for future in futures for finding in future.result()])
            for family, futures in running.items()
        ]


def sound(report: list[tuple[str, list[Finding]]]) -> bool:
    """Whether nothing that is installed here fails to work."""
    return not any(finding.status == PROBLEM for _, findings in report for finding in findings)


def _run(probe: Probe, machine: Machine) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(probe(machine))
    except Exception as error:
        name = getattr(probe, "__name__", "probe")
        what = f"this could not be checked: {type(error).__name__}: {str(error).strip()[:200]}"
        found.append(Finding(name, PROBLEM, what, "Report this with the output of tokexport doctor --json."))
    return found
