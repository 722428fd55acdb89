"""Python, the packages that tokexport needs, and pairs of packages that conflict."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .findings import OK, PROBLEM, WARNING, Finding, version
from .machine import Machine

# Distribution -> module, where they differ.
_MODULES = {"pillow": "PIL", "onnx-ir": "onnx_ir"}
_WHAT_FOR = {
    "export": "to export models and prove them against PyTorch",
    "audio": "to read sound files",
    "text": "to read the tokenizer.json of a checkpoint's bundle",
    "junit": "for verify --junit",
}
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:>=([\w.]+))?[^;]*(?:;(.*))?")


def python(machine: Machine) -> Iterator[Finding]:
    """The interpreter."""
    text = ".".join(map(str, machine.python))
    if machine.python < (3, 10):
        fix = "Install Python 3.10 or later; JetPack 5 has 3.8: flash JetPack 6."
        yield Finding("Python", PROBLEM, f"{text}, and tokexport needs 3.10 or later", fix)
    else:
        yield Finding("Python", OK, f"{text} on {machine.system} {machine.arch}, {len(machine.packages)} packages")


def base(machine: Machine) -> Iterator[Finding]:
    """The base install: every package there, new enough, and importable in a process of its own."""
    needed = requirements(machine)[""]
    if not needed:
        yield Finding("tokexport", WARNING, "its own metadata is missing, so versions are not checked", _reinstall())
    broken = _import_errors(machine, [_MODULES.get(name, name) for name in needed if name in machine.packages])
    for name, least in needed.items():
        found = machine.packages.get(name)
        error = broken.get(_MODULES.get(name, name), "")
        if found is None:
            yield Finding(name, PROBLEM, f"not installed; {least or 'any version'} or later is needed", _reinstall())
        elif least and version(found) < version(least):
            yield Finding(name, PROBLEM, f"{found} is older than {least}", f'pip install -U "{name}>={least}"')
        elif error:
            fix = f"pip install --force-reinstall --no-deps {name}=={found}"
            yield Finding(name, PROBLEM, f"{found} cannot be imported: {error}", fix)
    if needed and not broken and all(name in machine.packages for name in needed):
        versions = ", ".join(f"{name} {machine.packages[name]}" for name in needed)
        yield Finding("base packages", OK, versions)


def extras(machine: Machine) -> Iterator[Finding]:
    """Extras that commands need; the probes of the runtimes check the runtimes' own."""
    by_extra = requirements(machine)
    for extra, purpose in _WHAT_FOR.items():
        needed = by_extra.get(extra, {})
        if not needed:
            continue
        missing = [name for name in needed if name not in machine.packages]
        old = [
            f"{name} {machine.packages[name]} (needs {least})"
            for name, least in needed.items()
            if name in machine.packages and least and version(machine.packages[name]) < version(least)
        ]
        fix = f'pip install -U "tokexport[{extra}]"'
        if missing:
            yield Finding(f"[{extra}]", WARNING, f"not installed: {', '.join(missing)}; needed {purpose}", fix)
        if old:
            yield Finding(f"[{extra}]", WARNING, f"older than tried with: {', '.join(old)}", fix)
        if not missing and not old:
            versions = ", ".join(f"{name} {machine.packages[name]}" for name in needed)
            yield Finding(f"[{extra}]", OK, versions)


def deep(machine: Machine) -> Iterator[Finding]:
    """Import every package of the export extra: that takes seconds, and finds what metadata does not show."""
    installed = [name for name in requirements(machine).get("export", {}) if name in machine.packages]
    modules = {name: _MODULES.get(name, name.replace("-", "_")) for name in installed}
    broken = _import_errors(machine, list(modules.values()))
    for name, module in modules.items():
        if module in broken:
            fix = f"pip install --force-reinstall {name}=={machine.packages[name]}"
            yield Finding(name, PROBLEM, f"{machine.packages[name]} cannot be imported: {broken[module]}", fix)
    if modules and not broken:
        yield Finding("imports", OK, ", ".join(modules))


def pairs(machine: Machine) -> Iterator[Finding]:
    """Packages that overwrite or contradict each other."""
    packages = machine.packages
    builds = sorted(name for name in packages if re.fullmatch(r"onnxruntime(-(gpu|directml|openvino|qnn|rocm))?", name))
    if len(builds) > 1:
        keep = "onnxruntime-gpu" if "onnxruntime-gpu" in builds else builds[0]
        # microsoft/onnxruntime#26996: the one installed last wins, and removing one leaves the other without files.
        what = (
            f"{' and '.join(builds)} are both installed and overwrite each other's files: the GPU may silently be lost"
        )
        yield Finding("onnxruntime", PROBLEM, what, f"pip uninstall -y {' '.join(builds)} && pip install {keep}")
    trt = next((packages[name] for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12") if name in packages), "")
    if "onnxruntime-gpu" in packages and version(trt) >= (11,):
        what = f"the TensorRT provider of onnxruntime-gpu links libnvinfer.so.10 and cannot use TensorRT {trt}"
        fix = 'Use its CUDA provider, or: pip install "tensorrt<11"'
        yield Finding("onnxruntime-gpu", WARNING, what, fix)
    doubled = sorted(name for name in packages if re.fullmatch(r"tensorrt-cu\d+", name))
    if len(doubled) > 1:
        what = f"{' and '.join(doubled)} are both installed and share the module tensorrt"
        yield Finding("tensorrt", PROBLEM, what, f"pip uninstall -y {' '.join(doubled[:-1])}")
    if machine.is_jetson and "onnxruntime-gpu" not in packages and "onnxruntime" in packages:
        # microsoft/onnxruntime#20503: PyPI has no wheels of onnxruntime-gpu for aarch64.
        what = "onnxruntime from PyPI runs on the CPU of a Jetson; PyPI has no onnxruntime-gpu for it"
        yield Finding("onnxruntime", WARNING, what, "Install NVIDIA's wheel for your JetPack, or use TensorRT.")
    checked = machine.python_runs(
        "import runpy, sys; sys.argv = ['pip', 'check']; runpy.run_module('pip', run_name='__main__')"
    )
    ours = {*requirements(machine)[""], "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "onnxscript"}
    for line in checked.out.splitlines():
        if line.split(" ", 1)[0].lower().replace("_", "-") in ours:
            wanted = re.search(r"requirement (.+?), but|requires ([\w.-]+), which", line)
            name = next((group for group in wanted.groups() if group), "tokexport") if wanted else "tokexport"
            yield Finding("pip check", WARNING, line.strip(), f'pip install -U "{name}"')


def requirements(machine: Machine) -> dict[str, dict[str, str]]:
    """What tokexport's metadata requires, by extra ("" is the base): distribution -> least version, "" for any."""
    found: dict[str, dict[str, str]] = {"": {}}
    for line in machine.requires:
        name, least, marker = _REQUIREMENT.fullmatch(line.strip()).groups()  # type: ignore[union-attr]
        marker = marker or ""
        before = re.search(r"python_version\s*<\s*['\"]([\d.]+)['\"]", marker)
        if before and tuple(machine.python[:2]) >= version(before.group(1)):
            continue
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        found.setdefault(extra.group(1) if extra else "", {})[re.sub(r"[-_.]+", "-", name).lower()] = least or ""
    return found


def _import_errors(machine: Machine, modules: list[str]) -> dict[str, str]:
    """Module -> why it cannot be imported. One process tries them in turn; if it dies, the last one killed it."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    print('try', name, flush=True)\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except BaseException as error:\n"
        "        lines = str(error).strip().splitlines() or ['']\n"
        "        print('bad', name, type(error).__name__ + ': ' + lines[0][:160], flush=True)\n"
        "print('done', flush=True)\n"
    )
    ran = machine.python_runs(code)
    if ran.code is None:
        return {}
    lines = ran.out.splitlines()
    found = {}
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "bad":
            name, _, why = rest.partition(" ")
            found[name] = why
    if "done" not in lines:
        tried = [line.split()[1] for line in lines if line.startswith("try ")]
        if tried:
            found[tried[-1]] = f"it ended the process with {ran.code}: {ran.last_line}"
    return found


def _reinstall() -> str:
    return 'pip install -U "tokexport"'
