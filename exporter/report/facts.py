"""What was done, in words, and the commands that prove, run and repeat it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from ...graph_passes.compressors import parameters
from ..render import flat

if TYPE_CHECKING:
    from ...runtimes.bundle import Manifest
    from ..graphs import Plan

_KINDS = {
    "builtin": "built-in model",
    "checkpoint": "checkpoint",
    "module": "PyTorch module",
    "onnx": "ONNX file of somebody else",
}


def facts(plan: Plan, manifest: Manifest, precision: str) -> list[tuple[str, str]]:
    """(name, value) of everything that was chosen."""
    record = manifest.variants[0].compression[0]
    seam, method = record.seam, plan.compressor.method
    where = f"{seam.kind}, tensor {seam.tensor}"
    if plan.seam == "auto":
        where += " (chosen: auto)"
    device = manifest.variants[0].device
    found = [
        ("Model", f"{manifest.source.name}, {_KINDS[manifest.source.kind]}"),
        ("SHA-256 of its weights", manifest.source.sha256 or "none: it has no file"),
        ("Method", f"{record.method}: {method.summary}"),
        ("Source of the method", method.source + (", not followed exactly" if method.approximate else "")),
        ("Parameters", flat(record.params) or "none"),
        ("Seam", where),
        ("Grid of the tokens", "x".join(map(str, seam.grid)) if seam.grid else "unknown"),
        ("Prefix tokens", f"{seam.prefix}, not counted and not touched" if seam.prefix else "none"),
        ("Tokens", f"{record.tokens_in} → {record.tokens_out} (ratio {record.ratio})"),
        ("Size bias", _size_bias(record.size_bias, plan)),
        ("Precision", precision),
        ("Device", f"{device.name}, checked against the rules of {device.runtime} {device.version}" if device else ""),
    ]
    return [(name, value) for name, value in found if value]


def _size_bias(on: bool, plan: Plan) -> str:
    if on:
        return "on: log(size) is added to the attention logits of merged tokens"
    if not plan.compressor.method.merges:
        return "not needed: nothing is merged"
    if plan.size_bias == "off":
        return "off, as asked: merged tokens lose weight in attention"
    return "off: this bundle has no attention behind the compressor; add log(sizes) in your language model"


def commands(plan: Plan, manifest: Manifest, folder: str) -> list[tuple[str, str]]:
    """(what for, command) for a bundle in `folder`."""
    variant, name = manifest.variants[0], shlex.quote(folder)
    found = [("prove it again, here or on another machine, without PyTorch", f"tokexport verify {name}")]
    sound = manifest.preprocess is not None and manifest.preprocess.kind == "log_mel"
    if variant.generation is not None:
        what = "--audio sound.wav" if sound else "--image picture.png --prompt 'your question'"
        found.append(("run it", f"tokexport run {name} {what}"))
        if len(manifest.variants) > 1:
            other = shlex.quote(manifest.variants[1].name)
            found.append(("run another variant", f"tokexport run {name} --variant {other} {what}"))
    else:
        media = '"sound.wav"' if sound else '"picture.png"' if manifest.preprocess else "array"
        code = f'import tokexport; tokens = tokexport.load({json.dumps(folder)}).encode({media})["tokens"]'
        found.append(("run its encoder", f"python -c {shlex.quote(code)}"))
    return [
        *found,
        ("see its graph and seams", f"tokexport inspect {name}/encoder.onnx"),
        ("make it", _made(plan, manifest)),
    ]


def _made(plan: Plan, manifest: Manifest) -> str:
    """The command that makes this bundle again, in the folder where the model lies."""
    record, source, compressor = manifest.variants[0].compression[0], plan.source, plan.compressor
    name = source.model_path.name if source.model_path is not None else source.name
    words = ["tokexport", "model", f"package.module:{name}" if source.kind == "module" else name]
    words += ["--method", record.method]
    for one in (variant.compression[0] for variant in manifest.variants):
        words += ["--ratio", one.ratio] if plan.keep is None else ["--keep", str(one.tokens_out)]
    words += ["--seam", plan.seam] if plan.seam != "auto" else []
    default = parameters(type(compressor)())
    for key, value in parameters(compressor).items():
        if value != default[key]:
            words += ["--set", f"{key}={value}"]
    words += ["--precision", manifest.variants[0].graphs["encoder"].precision]
    words += ["--parts", plan.parts] if plan.parts != "all" else []
    words += ["--size-bias", plan.size_bias] if plan.size_bias != "auto" else []
    device = manifest.variants[0].device
    words += ["--device", f"{device.name}@{device.version}"] if device else []
    return shlex.join(words)
