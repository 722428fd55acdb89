"""What no other runtime carries, said before anything is written."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...errors import RequestError
from ...runtimes.bundle.decode_contract import STATE
from ...runtimes.bundle.manifest import LogMelRecord, Variant
from ...runtimes.bundle.reader import Bundle
from . import crossing_apart


def check(bundle: Bundle, variant: Variant, target: str) -> None:
    """Refuse a variant that the runtime `target` cannot run as the bundle means it.

    Raises:
        RequestError: names what it does not carry.
    """
    found = _refusal(bundle, variant, target)
    if found:
        what, fix = found
        raise RequestError(what, where=f"{bundle.path}, variant {variant.name}", fix=fix)


def check_encoder(bundle: Bundle, variant: Variant, target: str, llm: Path) -> None:
    """Refuse a variant whose encoder cannot stand beside a language model of the runtime `target`.

    Raises:
        RequestError: names what it does not carry.
    """
    where, what, fix = f"{bundle.path}, variant {variant.name}", "", ""
    encoder = variant.graphs.get("encoder")
    if not llm.is_dir():
        where, what, fix = "--llm", f"{llm} is no folder", f"Name a language model in the layout of {target}."
    elif encoder is None or "tokens" not in encoder.outputs:
        what, fix = "its encoder has no tokens", "Export the tower of a vision-language model, with its projector."
    elif "text" in variant.graphs or len(encoder.inputs) > 1:
        what = f"its encoder keeps tokens by the question, and {target} gives an encoder no text"
        fix = "Export it with a method that does not read the question."
    elif len(next(iter(encoder.inputs.values())).shape) != 4:
        what = "its encoder reads no single picture [1, 3, H, W]"
        fix = "Beside a language model of yours goes an encoder of pictures."
    elif any(record.seam.graph == "prefill" for record in variant.compression):
        what = "it compresses between the layers of its own language model, which would be left out"
        fix = "Export it with a seam of the encoder: --seam projector_output."
    if what:
        raise RequestError(what, where=where, fix=fix)


def _refusal(bundle: Bundle, variant: Variant, target: str) -> tuple[str, str] | None:
    record, decode = variant.generation, variant.graphs.get("decode")
    if record is None or decode is None:
        return "the bundle has no language graphs, and other runtimes take whole models", bundle.without_language
    run = f"Run it with `tokexport run {shlex.quote(str(bundle.path))}`, or from C++."
    if not any(name.startswith("new_key_") for name in decode.outputs):
        return "the bundle is of schema 1, whose decode returns whole caches", "Export it again."
    if any(name.startswith(STATE) for name in decode.inputs):
        return f"its language model carries states beside caches, which {target} names by each model on its own", run
    if record.images:
        return (
            f"its graphs have places for {record.images} images, and {target} hands over the tokens of one",
            "Export it again without --images.",
        )
    if record.by_position:
        return (
            f"its prefill reads merged tokens by position, and {target} does not hand it which token went where",
            f"Export it again without --size-bias positions. {run}",
        )
    if "text" in variant.graphs or len(variant.graphs["encoder"].inputs) > 1:
        return f"its encoder keeps tokens by the question, and {target} gives an encoder no text", (
            f"Export it with a method that does not read the question. {run}"
        )
    return _unheard(bundle, variant, target, run) if record.attention == "cross" else None


def _unheard(bundle: Bundle, variant: Variant, target: str, run: str) -> tuple[str, str] | None:
    """What a recogniser has that Whisper's place in the runtime has not."""
    record, heard = variant.generation, bundle.manifest.preprocess_of(variant)
    assert record is not None
    whisper = isinstance(heard, LogMelRecord) and heard.scale is None and heard.window is None
    if not whisper or record.speech is None:
        return f"of models that hear by cross-attention, what is written for {target} is Whisper", run
    assert isinstance(heard, LogMelRecord)
    if target != "ort-genai":
        return None
    if heard.frames != crossing_apart.FRAMES:
        seconds = heard.samples / heard.sample_rate
        return f"ort-genai reads 30 s at a time, and this encoder {seconds:g} s", "Export it again without --window."
    places, room = crossing_apart.Places.of(variant), crossing_apart.FRAMES // 2
    if places.end > room:
        return (
            f"ort-genai has room for {room} tokens, and {places.keep} with their sizes need {places.end}",
            "Export it again with a ratio of at least 0.1.",
        )
    return None
