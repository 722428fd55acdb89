"""The choices of an export as pairs of name and value, and the commands that prove, run and repeat it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from ...graph_passes.compressors import changed
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.recipes import names
from ..render import flat

if TYPE_CHECKING:
    from ...graph_passes.insertion.sequence import Step
    from ...runtimes.bundle.manifest import CompressionRecord, Manifest, Variant
    from ..bundling.graphs import Plan

_KINDS = {
    "builtin": "built-in model",
    "checkpoint": "checkpoint",
    "module": "PyTorch module",
    "onnx": "ONNX file that tokexport did not export",
}

# Kind of preprocessing -> the options of `tokexport run`.
_GIVEN = {
    "image": "--image picture.png --prompt 'your question'",
    "video": "--video clip.gif --prompt 'your question'",
    "log_mel": "--audio sound.wav",
    "waveform": "--audio sound.wav",
}


def facts(plan: Plan, manifest: Manifest, precision: str) -> list[tuple[str, str]]:
    """(name, value) of everything that was chosen."""
    records, device = manifest.variants[0].compression, manifest.variants[0].device
    asked = (*plan.steps, *plan.source.inner)
    if len(records) > len(asked):
        # A schedule: one step as it was asked for, with what all of its layers leave.
        spread = len(records) - len(asked) + 1
        records = [records[0].model_copy(update={"tokens_out": records[spread - 1].tokens_out}), *records[spread:]]
    steps = [_step(step, record, plan) for step, record in zip(asked, records)]
    if len(steps) > 1:
        steps = [[(f"{number}. {name}", value) for name, value in step] for number, step in enumerate(steps, 1)]
    found = [
        ("Model", f"{manifest.source.name}, {_KINDS[manifest.source.kind]}"),
        ("SHA-256 of its weights", manifest.source.sha256 or "none: it has no file"),
        ("Recipe", plan.recipe),
        *(fact for step in steps for fact in step if fact[1]),
        ("Precision", precision),
        ("Weights of the language graphs", _weights(manifest.variants[0])),
        ("Device", f"{device.name}, checked against the rules of {device.runtime} {device.version}" if device else ""),
    ]
    return [(name, value) for name, value in found if value]


def _step(step: Step, record: CompressionRecord, plan: Plan) -> list[tuple[str, str]]:
    """(name, value) of the choices for one compressor."""
    seam, method = record.seam, step.compressor.method
    where = f"{seam.kind}, tensor {seam.tensor}" + (" (chosen: auto)" if step.seam == "auto" else "")
    return [
        ("Method", f"{record.method}: {method.summary}"),
        ("Source of the method", method.source + (", not followed exactly" if method.approximate else "")),
        ("Parameters", flat(record.params) or "none"),
        ("Seam", where),
        ("Grid of the tokens", "x".join(map(str, seam.grid)) if seam.grid else "unknown"),
        ("Prefix tokens", f"{seam.prefix}, not counted and not touched" if seam.prefix else "none"),
        ("Tokens", f"{record.tokens_in} → {record.tokens_out} (ratio {record.ratio})"),
        ("Text", _text(plan) if TEXT in step.compressor.signals() else ""),
        ("Size bias", _size_bias(record.size_bias, plan, method.merges) + _by_position(step, record, plan)),
    ]


def _weights(variant: Variant) -> str:
    record = variant.llm_weights
    if record is None:
        return ""
    blocks = f"blocks of {record.block_size}" if record.block_size else "one scale a column"
    told = f"{record.weights} ({record.form}, {blocks})"
    if record.agreement is None:
        return f"{told}, not compared with the float ones"
    return (
        f"{told}: {record.agreement:.1%} of {record.words} words are those of the float graphs, perplexity "
        f"{record.perplexity:.4g} (float {record.float_perplexity:.4g})"
    )


def _text(plan: Plan) -> str:
    if plan.source.text_seam:
        return "of the question, by the graph text: the kept tokens depend on the question"
    return "an input of the encoder, which the caller fills; it was proved with random rows"


def _by_position(step: Step, record: CompressionRecord, plan: Plan) -> str:
    """How prefill reads what a compressor of the encoder merged, where it reads it."""
    behind = plan.steps[plan.steps.index(step) :] if step in plan.steps else ()
    if not (plan.source.by_position and record.size_bias and behind) or any(one.rebuild for one in behind):
        return ""
    return "; prefill reads a merged token at the positions of all that is in it"


def _size_bias(on: bool, plan: Plan, merges: bool) -> str:
    if on:
        return "on: log(size) is added to the attention logits of merged tokens"
    if not merges:
        return "not needed: nothing is merged"
    if plan.size_bias == "off":
        return "off, as asked: merged tokens lose weight in attention"
    return "off: this bundle has no attention after the compressor; add log(sizes) in your language model"


def commands(plan: Plan, manifest: Manifest, folder: str) -> list[tuple[str, str]]:
    """(what for, command) for a bundle in `folder`."""
    variant, name = manifest.variants[0], shlex.quote(folder)
    found = [("prove it again, here or on another machine, without PyTorch", f"tokexport verify {name}")]
    kind = manifest.preprocess.kind if manifest.preprocess is not None else ""
    if variant.generation is not None:
        what = _GIVEN[kind or "image"]
        found.append(("run it", f"tokexport run {name} {what}"))
        if len(manifest.variants) > 1:
            other = shlex.quote(manifest.variants[1].name)
            found.append(("run another variant", f"tokexport run {name} --variant {other} {what}"))
    else:
        media = json.dumps(_GIVEN[kind].split()[1]) if kind else "array"
        extra = ", text=rows" if TEXT in variant.graphs["encoder"].inputs else ""
        code = f'import tokexport; tokens = tokexport.load({json.dumps(folder)}).encode({media}{extra})["tokens"]'
        found.append(("run its encoder", f"python -c {shlex.quote(code)}"))
    return [
        *found,
        ("see its graph and seams", f"tokexport inspect {name}/encoder.onnx"),
        ("make it", _made(plan, manifest)),
    ]


def _made(plan: Plan, manifest: Manifest) -> str:
    """The command that makes this bundle again, to be run in the folder of the model."""
    source = plan.source
    name = source.model_path.name if source.model_path is not None else source.name
    words = ["tokexport", "model", f"package.module:{name}" if source.kind == "module" else name]
    words += _recipe(plan) if plan.recipe else _method(plan, manifest)
    words += ["--precision", manifest.variants[0].graphs["encoder"].precision]
    words += ["--parts", plan.parts] if plan.parts != "all" else []
    words += ["--size-bias", plan.size_bias] if plan.size_bias != "auto" else []
    weights = manifest.variants[0].llm_weights
    words += ["--llm-weights", weights.weights] if weights else []
    said = manifest.variants[0].generation
    if said is not None and source.takes_lengths:
        words += ["--prompt-length", str(said.prompt_length), "--answer-length", str(said.max_new_tokens)]
    words += ["--image-size", "x".join(map(str, source.image_size))] if source.image_size else []
    words += ["--frames", str(source.clip.frames)] if source.clip else []
    words += ["--fps", f"{source.clip.fps:g}"] if source.clip and source.clip.fps else []
    device = manifest.variants[0].device
    words += ["--device", f"{device.name}@{device.version}"] if device else []
    return shlex.join(words)


def _method(plan: Plan, manifest: Manifest) -> list[str]:
    (step,) = plan.asked
    words = ["--method", step.compressor.method.name]
    for one in (variant.compression[-1] for variant in manifest.variants):
        words += ["--ratio", one.ratio] if step.keep is None else ["--keep", str(one.tokens_out)]
    words += ["--seam", step.seam] if step.seam != "auto" else []
    words += ["--rebuild"] if step.rebuild else []
    return words + [word for key, value in changed(step.compressor).items() for word in ("--set", f"{key}={value}")]


def _recipe(plan: Plan) -> list[str]:
    words = ["--recipe", plan.recipe if plan.recipe in names() else f"{plan.recipe}.toml"]
    return words + [word for key, value in plan.settings.items() for word in ("--set", f"{key}={value}")]
