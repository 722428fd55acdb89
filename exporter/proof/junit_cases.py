"""The cases of a JUnit report: one for each file, one for each tensor of each part, and one for the accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...errors import TokexportError, UnprovableError
from . import gate

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Manifest

# (suite, what was done in it) -> seconds.
Seconds = Mapping[tuple[str, str], float]

_ENCODER_PARTS = ("head", "compressor", "tail")
_PROVED_BEFORE = (
    "The export proved this tensor and this machine does not: compare the versions in the properties, then export "
    "again here and see whether that proof holds."
)
_NOT_PROVED_BEFORE = (
    "Do not ship it: the export did not prove this tensor either. A bundle in fp16 may hold with --precision "
    "fp32; one in fp32 is wrong: another --seam or another --method may be right."
)

_FAILED = "Do not ship it: the export ended with an error and kept this bundle for inspection alone: "


@dataclass(frozen=True)
class Case:
    """One line of the report.

    Attributes:
        suite: files, export, a part of the proof, or accuracy.
        name: the file or the tensor.
        seconds: how long it took.
        verdict: a failure is a check that did not pass; an error is what kept a check from running.
        message: one line, for a verdict other than passed.
        text: all details. GitLab shows only this.
    """

    suite: str
    name: str
    seconds: float = 0.0
    verdict: Literal["passed", "failure", "error", "skipped"] = "passed"
    message: str = ""
    text: str = ""


def of_result(result: Mapping[str, Any], seconds: Seconds, manifest: Manifest | None, bundle: Path) -> Iterator[Case]:
    """The cases of a verification that ran to its end.

    Args:
        result: of `verify`.
        seconds: time of each step.
        manifest: of the bundle, where it can still be read.
        bundle: its folder.
    """
    yield from _files(seconds)
    if result["failed"]:
        yield Case("export", "gates", verdict="failure", message=result["failed"], text=_FAILED + result["failed"])
    yield from _variant(result, "", seconds, manifest, bundle, result["min_accuracy"])
    for one in result["further"]:
        yield from _variant(one, f"{one['variant']} ", seconds, manifest, bundle, result["min_accuracy"])


def _variant(
    result: Mapping[str, Any],
    prefix: str,
    seconds: Seconds,
    manifest: Manifest | None,
    bundle: Path,
    least: float | None,
) -> Iterator[Case]:
    """The cases of one variant, in suites of its own that begin with `prefix`."""
    proved = gate.of_export(manifest, result["variant"]).get("checks", []) if manifest else []
    exported = {(check["part"], check["tensor"]): check for check in proved}
    checks = result["checks"]
    for part in dict.fromkeys([*_ENCODER_PARTS, *(check["part"] for check in checks)]):
        mine = [check for check in checks if check["part"] == part]
        if not mine:
            reason = "; ".join(["the bundle carries no proof of this part", *result["notes"]])
            yield Case(prefix + part, "all tensors", verdict="skipped", message=reason)
            continue
        # All tensors of a part come from the same runs, so each gets an equal share of their time.
        share = sum(time for (suite, _), time in seconds.items() if suite == prefix + part) / len(mine)
        for check in mine:
            yield _tensor(prefix, check, exported.get((part, check["tensor"])), share, bundle)
    if result["accuracy"] is not None:
        yield _accuracy(prefix, result["accuracy"], least, bundle)


def of_error(error: Exception, at: tuple[str, str], seconds: Seconds, manifest: Manifest | None) -> Iterator[Case]:
    """The cases of a verification that ended with an error.

    Args:
        error: the exception.
        at: the step that raised it: (suite, what was done in it).
        seconds: time of each step.
        manifest: of the bundle, where it can be read.
    """
    suite, done = at
    # Hashes are compared after all files were read: an error before that means that no file has passed.
    if suite != "files":
        yield from _files(seconds)
    if isinstance(error, UnprovableError):
        if manifest is None:
            return
        for i, variant in enumerate(manifest.variants):
            for check in gate.of_export(manifest, variant.name).get("checks", []):
                part = f"{variant.name} {check['part']}" if i else check["part"]
                yield Case(part, check["tensor"], verdict="skipped", message=str(error))
        return
    what = error.what if isinstance(error, TokexportError) else f"{type(error).__name__}: {error}"
    yield Case(suite, done if suite != "files" else "all files", verdict="error", message=what, text=str(error))


def _files(seconds: Seconds) -> Iterator[Case]:
    for (suite, name), time in seconds.items():
        if suite == "files":
            yield Case(suite, name, time)


def _tensor(
    prefix: str, check: Mapping[str, Any], exported: Mapping[str, Any] | None, seconds: float, bundle: Path
) -> Case:
    part, tensor = prefix + check["part"], check["tensor"]
    if check["ok"]:
        return Case(part, tensor, seconds)
    text = _text(
        what=check["detail"],
        where=f"{part}, tensor {tensor}, of {bundle}",
        how_far=_far(check),
        at_the_export=_far(exported) if exported else "not recorded",
        what_to_try=_PROVED_BEFORE if exported and exported["ok"] else _NOT_PROVED_BEFORE,
    )
    return Case(part, tensor, seconds, "failure", f"{tensor}: {check['detail']}", text)


def _accuracy(prefix: str, measured: Mapping[str, Any], least: float | None, bundle: Path) -> Case:
    suite, name = f"{prefix}accuracy", "right answers, as the export counted them"
    short = gate.shortfall(measured, least)
    if not short:
        return Case(suite, name)
    text = _text(
        what=short,
        where=f"{bundle}, {measured['questions']} questions",
        how_far=f"the uncompressed model has {measured['uncompressed']:.4f}",
        what_to_try=gate.cure(measured, least, "SOURCE") if least is not None else "",
    )
    return Case(suite, name, 0.0, "failure", short, text)


def _text(**lines: str) -> str:
    return "".join(f"{key.replace('_', ' ')}: {line}\n" for key, line in lines.items())


def _far(check: Mapping[str, Any]) -> str:
    far = f"cosine {check['cosine']:.6f}, norm ratio {check['norm_ratio']:.5f}, max |diff| {check['max_abs']:.2e}"
    return far + (f", {check['flipped']} picks flipped within tolerance" if check["part"] == "compressor" else "")
