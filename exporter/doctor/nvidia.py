"""The GPU, its driver, Jetson Linux, and the CUDA versions that must fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .findings import OK, PROBLEM, WARNING, Finding, version
from .machine import Machine

# Jetson Linux release -> JetPack: NVIDIA's JetPack download pages.
_JETPACKS = {
    (35,): "5",
    (36, 2): "6.0",
    (36, 3): "6.0",
    (36, 4): "6.1 or 6.2",
    (36, 5): "6.2",
    (38, 2): "7.0",
    (38, 4): "7.1",
    (39,): "7.2",
}
# CUDA major -> least Linux driver: CUDA release notes, minor version compatibility.
_DRIVERS = {11: "450", 12: "525", 13: "580"}
_UPDATE = "sudo ubuntu-drivers install, or NVIDIA's installer for your system; then reboot"


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi reports.

    Attributes:
        name: of the first GPU.
        capability: compute capability, empty where nvidia-smi does not report it.
        driver: version.
        cuda: the newest CUDA that the driver supports.
    """

    name: str
    capability: str
    driver: str
    cuda: str


def seen(machine: Machine) -> Gpu | None:
    """The first GPU, None where nvidia-smi is not installed or finds none."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    if machine.which("nvidia-smi") is None:
        return None
    listed, head = machine.run(asked), machine.run(["nvidia-smi"])
    fields = [part.strip() for part in (listed.out.splitlines() or [""])[0].split(",")]
    if listed.code != 0 or len(fields) < 3:
        return None
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", head.out)
    capability = fields[2] if re.fullmatch(r"\d+\.\d+", fields[2]) else ""
    return Gpu(fields[0], capability, fields[1], cuda.group(1) if cuda else "")


def gpu(machine: Machine) -> Iterator[Finding]:
    """GPU and driver."""
    found = seen(machine)
    if found:
        what = f"{found.name}, compute capability {found.capability or 'unknown'}, driver {found.driver}"
        yield Finding("GPU", OK, f"{what}, supports CUDA {found.cuda or 'unknown'}")
    elif machine.is_jetson:
        return
    elif machine.which("nvidia-smi"):
        ran = machine.run(["nvidia-smi"])
        why = next((line for line in ran.out.splitlines() + ran.err.splitlines() if "ailed" in line), ran.last_line)
        # Typically the driver was updated and its old kernel module is still loaded.
        yield Finding("GPU", PROBLEM, f"nvidia-smi fails: {why.strip()}", "Reboot; if it stays: " + _UPDATE)
    elif loaded := machine.read("/proc/driver/nvidia/version"):
        driver = re.search(r"(\d+)\.\d+", loaded)
        fix = f"sudo apt-get install nvidia-utils-{driver.group(1)}" if driver else _UPDATE
        yield Finding("GPU", WARNING, "a driver is loaded, but nvidia-smi, which names the GPU, is not installed", fix)
    else:
        yield Finding("GPU", OK, "none: ONNX Runtime uses the CPU; engines for a GPU are built where that GPU is")


def jetson(machine: Machine) -> Iterator[Finding]:
    """Jetson Linux and the JetPack it belongs to."""
    text = machine.read("/etc/nv_tegra_release")
    if text is None:
        return
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)(?:\.(\d+))?", text)
    if not found:
        yield Finding("Jetson Linux", WARNING, f"unknown release: {text.strip()[:80]}", "cat /etc/nv_tegra_release")
        return
    release = (int(found.group(1)), int(found.group(2)))
    jetpack = _JETPACKS.get(release) or _JETPACKS.get(release[:1], "")
    named = f"Jetson Linux {'.'.join(part for part in found.groups() if part)}, JetPack {jetpack or 'unknown'}"
    if release[0] < 36:
        fix = "Flash JetPack 6.1 or later with NVIDIA SDK Manager."
        yield Finding("JetPack", WARNING, f"{named}: its TensorRT 8 takes none of our graphs", fix)
    elif release in ((36, 2), (36, 3)):
        fix = "Flash JetPack 6.2 or later with NVIDIA SDK Manager."
        yield Finding("JetPack", WARNING, f"{named}: its TensorRT 8.6 takes none of our graphs", fix)
    else:
        yield Finding("JetPack", OK, named)
    if machine.which("tegrastats") is None:
        fix = "Start the container with --runtime nvidia, or: sudo apt-get install nvidia-l4t-tools"
        yield Finding("tegrastats", WARNING, "not found: a container without the NVIDIA runtime?", fix)


def toolkit(machine: Machine) -> Iterator[Finding]:
    """Nvcc, which only the plugin library needs."""
    path = machine.which("nvcc") or machine.which("/usr/local/cuda/bin/nvcc")
    if path is None:
        if machine.is_jetson or seen(machine):
            fix = "sudo apt-get install nvidia-jetpack" if machine.is_jetson else "Install NVIDIA's CUDA toolkit."
            yield Finding("nvcc", WARNING, "not found; only building the plugin library needs it", fix)
        return
    found = re.search(r"release ([\d.]+)", machine.run([path, "--version"]).out)
    if not found:
        yield Finding("nvcc", WARNING, f"{path} does not print its version", f"{path} --version")
        return
    served = seen(machine)
    if served and served.cuda and version(found.group(1))[0] > version(served.cuda)[0]:
        what = f"CUDA {found.group(1)}, but the driver supports {served.cuda}: its code cannot be loaded here"
        newer = _DRIVERS.get(version(found.group(1))[0], "newer")
        fix = f"Install the CUDA {served.cuda} toolkit, or a driver {newer} or later."
        yield Finding("nvcc", WARNING, what, fix)
    else:
        yield Finding("nvcc", OK, f"CUDA {found.group(1)}, {path}")


def cuda_versions(machine: Machine) -> Iterator[Finding]:
    """Packages built for a CUDA that the driver does not support."""
    found = seen(machine)
    torch = machine.packages.get("torch", "")
    if found and "+cpu" in torch:
        what = f"torch {torch} is the build without CUDA; exports are proved on the CPU anyway"
        yield Finding("torch", OK, what)
    if not found or not found.cuda:
        return
    for name, major in _built_for(machine):
        if major > version(found.cuda)[0]:
            what = f"built for CUDA {major}, but driver {found.driver} supports CUDA {found.cuda}"
            newer, here = _DRIVERS.get(major, "newer"), version(found.cuda)[0]
            fix = f"Update the driver to {newer} or later ({_UPDATE}), or install the build for CUDA {here}."
            yield Finding(name, PROBLEM, what, fix)


def _built_for(machine: Machine) -> Iterator[tuple[str, int]]:
    """(distribution, CUDA major) of the installed packages that record it."""
    local = re.search(r"\+cu(\d\d)", machine.packages.get("torch", ""))
    if local:
        yield "torch", int(local.group(1))
    elif "torch" in machine.packages:
        runtime = [name for name in machine.packages if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", name)]
        if runtime:
            yield "torch", version(machine.packages[runtime[0]])[0]
    for name in machine.packages:
        wheel = re.fullmatch(r"tensorrt(?:-rtx)?-cu(\d+)", name)
        if wheel:
            yield name, int(wheel.group(1))
