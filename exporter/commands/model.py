"""`tokexport model`."""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any

import click

from ...errors import RequestError
from ...files import size
from .. import completion, render, tables
from ..evaluate.usefulness import judge
from ..progress import progress, verbose
from .shared import (
    NUMBER,
    OUT,
    WHOLE,
    clip_options,
    common,
    frames_again,
    input_shape,
    rebuild_option,
    settings,
    size_bias_option,
    sizes,
)

# Status of the second verdict -> its heading.
_USE = {"useful": "useful", "unclear": "NO CLEAR GAIN", "worse": "WORSE THAN CHANCE", "unknown": "usefulness"}


@click.command(short_help="Compress a model, prove the result, and write a bundle.")
@click.argument("source", required=False, shell_complete=completion.sources)
@click.option("--method", shell_complete=completion.methods, help="Compressor; `tokexport methods` lists them.")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    shell_complete=completion.recipes,
    help="Several compressors in sequence; `tokexport methods --recipes` lists them.",
)
@click.option(
    "--ratio",
    multiple=True,
    help="Share of tokens removed, read exactly: 0.85 or 8/9; repeatable: one variant each, over the same weights.",
)
@click.option("--keep", type=WHOLE, multiple=True, help="Tokens kept, instead of --ratio; repeatable.")
@click.option(
    "--seam",
    shell_complete=completion.seams,
    help="Where the compressor goes; `tokexport inspect` lists the seams of a file. encoder_attention:I: in layer I, "
    "from 0, between attention and feed-forward; decoder_layer:I: behind layer I of a folder's language model.  "
    "[default: auto]",
)
@rebuild_option
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=completion.settings,
    help="A parameter of the method; with a recipe, N.KEY sets it for step N alone; repeatable.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Types in the graph.  [default: fp32; with --device, the precision recommended for it]",
)
@click.option(
    "--device",
    metavar="NAME[@TENSORRT]|FILE.toml|sm_NN",
    shell_complete=completion.devices,
    help="Fit the graphs to this device, or refuse; `tokexport devices` lists them. FILE.toml is one of your own.",
)
@click.option("--parts", type=click.Choice(["encoder", "all"]), default="all", show_default=True)
@size_bias_option("auto", "positions", "off")
@click.option(
    "--assume-no-padding", is_flag=True, help="Masks that depend on an input mask nothing; the manifest says so."
)
@input_shape
@click.option(
    "--drop-output", "drop_outputs", multiple=True, metavar="NAME", help="Leave an output of an ONNX file out."
)
@click.option(
    "--window",
    type=NUMBER,
    multiple=True,
    metavar="SECONDS",
    help="Sound that the encoder takes: of a recogniser, shorter than its own window; of Qwen3-ASR and "
    "Granite-Speech, up to 300, by default 30; repeatable: one variant each.",
)
@click.option(
    "--images",
    type=WHOLE,
    metavar="N",
    help="Images that a prompt of a vision-language checkpoint may have; fewer may be given.  [default: 1]",
)
@click.option(
    "--prompt-length",
    type=WHOLE,
    metavar="IDS",
    help="Longest prompt that the language graphs of a vision-language checkpoint take.  [default: 128]",
)
@click.option(
    "--answer-length", type=WHOLE, metavar="TOKENS", help="Longest answer, which the KV caches hold.  [default: 128]"
)
@click.option("--min-accuracy", type=NUMBER, help="Fail (exit 1) below this share of right answers; built-in models.")
@click.option(
    "--llm-weights",
    type=click.Choice(["int8", "int4"]),
    help="Quantise the weights of the language graphs: for ONNX Runtime, or with --device for TensorRT.",
)
@click.option(
    "--min-agreement",
    type=NUMBER,
    help="Fail (exit 1) where with --llm-weights fewer words are those of the float graphs, as a share.  "
    "[default: 0.95 for int8, 0.8 for int4]",
)
@click.option(
    "--image-size",
    metavar="HEIGHTxWIDTH",
    help="Of the pictures of a checkpoint that takes several sizes, in pixels; its graphs take one.",
)
@click.option(
    "--inputs", type=OUT, metavar="FOLDER", help="Your own images, videos or sounds: the report shows the first three."
)
@clip_options
@click.option("--no-verify", is_flag=True, help="Skip the proof; the bundle records that.")
@click.option(
    "--force", is_flag=True, help="Also write to a folder that holds other files: ALL it holds is deleted; -v lists it."
)
@click.option(
    "-o", "--out", type=OUT, help="Bundle folder.  [default: ./<source>-<method>-<ratio>, ./<source>-<recipe>]"
)
@common
@tables.wide_option
def model(as_json: bool, pairs: tuple[str, ...], no_verify: bool, shapes: tuple[str, ...], **request: Any) -> None:
    """Compress SOURCE, prove the result, and write a bundle.

    SOURCE is a built-in model (tiny-vlm, the default, tiny-ocr, tiny-asr or tiny-video), a checkpoint folder, an ONNX
    file, or package.module:callable that returns an nn.Module and example inputs.
    """
    from ...runtimes.bundle.losses import name_deleted
    from ..pipeline import export

    if request["method"] is None and request["recipe"] is None:
        raise RequestError(
            "neither --method nor --recipe was given", fix="Write for example --method kcenter_merge --ratio 0.85."
        )
    with progress() as step:
        named = partial(name_deleted, most=None) if verbose() else name_deleted
        result = export(
            params=settings(pairs),
            input_shapes=sizes(shapes),
            verify=not no_verify,
            step=step,
            deleting=named,
            **request,
        )
    typed = shlex.quote(request["source"] or "tiny-vlm") + frames_again(request["frames"], request["fps"])
    render.result(result.to_json(), as_json, partial(exported, source=typed))


def exported(data: dict[str, Any], source: str = "SOURCE") -> None:
    """Print the result of `tokexport model` on `source`: what was done, the proof, and where the bundle is."""
    if data["omitted"]:
        tables.wrapped(f"{data['source']}: ", data["omitted"])
    for done in [done for one in (data, *data["further"]) for done in one["compression"]]:
        seam = done["seam"]
        tensor = f" ({seam['tensor']})" if seam["tensor"] else ""
        click.echo(
            f"{data['source']}: {done['method']} at {seam['kind']}{tensor}, "
            f"{done['tokens_in']} -> {done['tokens_out']} tokens, "
            f"size bias {'on' if done['size_bias'] else 'off'}, {data['precision']}"
        )
    for one in (data, *data["further"]):
        for note in one["notes"]:
            name = f"{one['variant']}: " if one is not data else ""
            if not note.startswith("usefulness: ") and (one is data or note not in data["notes"]):
                tables.wrapped("note: ", name + note)
    if data["proof"]:
        tables.proof_table(data["proof"]["checks"])
    else:
        click.echo("NOT VERIFIED (--no-verify)")
    if data.get("drift"):
        drift = data["drift"]
        tables.wrapped(
            "end to end against PyTorch: ",
            f"{drift['kept_overlap']:.1%} of the kept tokens are the same, "
            f"worst cosine of the outputs {drift['cosine']:.5f}",
        )
    for one in (data, *data["further"]):
        weights_told(one, f"{one['variant']}: " if data["further"] else "")
    if data["accuracy"]:
        accuracy = data["accuracy"]
        chance, smaller = (accuracy["baselines"].get(name) for name in ("random", "resolution"))
        picture = f"; {smaller['keep']} tokens of a smaller picture {smaller['accuracy']:.1%}" if smaller else ""
        tables.wrapped(
            f"accuracy on {accuracy['questions']} questions: ",
            f"{accuracy['compressed']:.1%} (uncompressed {accuracy['uncompressed']:.1%}; as many random tokens "
            f"{chance['mean']:.1%} ± {chance['deviation']:.1%}{picture})",
        )
    cost_told(data)
    verdicts(data, source)
    if data["further"]:
        variant_table([data, *data["further"]])
    click.echo(f"bundle: {data['bundle']}")


def cost_told(data: dict[str, Any]) -> None:
    """Print what the first variant costs; nothing where it was not measured."""
    cost = data["cost"]
    if not cost:
        return
    own, plain = (render.milliseconds(cost[name]) for name in ("encoder_ms", "uncompressed_ms"))
    told = [f"encoder {own} (uncompressed {plain})"]
    if cost["prefill_ms"] is not None:
        told.append(
            f"prefill {render.milliseconds(cost['prefill_ms'])}, a token {render.milliseconds(cost['token_ms'])}"
        )
        told.append(f"first token after {render.milliseconds(cost['first_token_ms'])}")
    if cost["cache_bytes"]:
        now, whole = (size(cost[name]) for name in ("cache_bytes", "uncompressed_cache_bytes"))
        told.append(f"KV cache {now} (uncompressed {whole})")
    tables.wrapped("cost on one thread here: ", "; ".join(told))


def weights_told(data: dict[str, Any], name: str) -> None:
    """Print how far quantised weights of a variant agree with float ones; nothing where that was not measured."""
    weights = data["llm_weights"]
    if weights and weights["words"]:
        tables.wrapped(
            f"{weights['weights']} weights against float ones: ",
            f"{name}{weights['agreement']:.1%} of {weights['words']} words are the same, perplexity "
            f"{weights['perplexity']:.4g} (float {weights['float_perplexity']:.4g})",
        )


def verdicts(data: dict[str, Any], source: str) -> None:
    """Print both verdicts on each variant: what was proved, and whether the tokens kept are better than chance."""
    for one in (data, *data["further"]):
        name = f"{one['variant']}: " if data["further"] else ""
        useful = judge(one["accuracy"], source)
        proof = "proved" if one["proof"] else "not proved"
        colour = None if useful.status == "useful" else "yellow"
        tables.wrapped("verdict: ", f"{name}{proof}; {_USE[useful.status]}: {useful.text}", colour)


def variant_table(results: list[dict[str, Any]]) -> None:
    """Print one row for each variant of a bundle."""
    columns = ("variant", "tokens", "checks passed", "same picks", "worst cosine", "accuracy", "at random")
    rows = tables.Table(*columns, more={"same picks", "worst cosine"})
    for one in results:
        checks = one["proof"]["checks"] if one["proof"] else []
        drift, accuracy, done = one["drift"], one["accuracy"], one["compression"]
        rows.add_row(
            one["variant"],
            f"{done[0]['tokens_in']} -> {done[-1]['tokens_out']}",
            f"{sum(check['ok'] for check in checks)} of {len(checks)}" if checks else "not verified",
            f"{drift['kept_overlap']:.1%}" if drift else "",
            f"{drift['cosine']:.5f}" if drift else "",
            f"{accuracy['compressed']:.1%}" if accuracy else "",
            f"{accuracy['baselines']['random']['mean']:.1%}" if accuracy else "",
        )
    tables.show(rows)
