"""Compressors between the layers of a language model: where they may be, and how many tokens each layer sees.

``decoder_layer:<i>`` is behind layer i, counted from 0, as ``encoder_layer:<i>`` is; ``decoder_layer:1/2`` is behind
the layer that completes the first half.

Layers with a sliding window are as any other: no sequence is longer than the window, see `limits.check_lengths`, and
what is left behind a compressor lies no further apart than before. Tokens of an image that see each other do so behind
a compressor too, those that are left, and where words are seen from the image they still are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...graph_passes.compressors import Case
from ...graph_passes.compressors.base import Learned, Widens
from ...graph_passes.compressors.sparsevlm import Sparsevlm
from ...graph_passes.insertion.sequence import layers_up_to
from ..decoders.stages import SIGNALS, Cut
from ..decoders.states import CARRYING, attends

if TYPE_CHECKING:
    from ...graph_passes.insertion.sequence import Step
    from .limits import Model

# Kinds of layers, as configurations call them, that a mask of the whole sequence describes.
_KINDS = {"full_attention", "sliding_attention", *CARRYING}
_BEFORE = "Compress before the language model instead: --seam projector_output."


def check_inner(model: Model, steps: Sequence[Step]) -> None:
    """Raise `RequestError` where compressors cannot be between the layers of a model, or these not where they are."""
    why = _unable(model)
    if why:
        raise RequestError(
            f"seam {steps[0].seam} of {model.name} is not supported: {why[0]}",
            where=str(model.checkpoint.folder / "config.json"),
            fix=why[1],
        )
    layers, before = model.language_config.num_hidden_layers, 0
    for number, step in enumerate(steps):
        layer = layers_up_to(step.seam, layers, "decoder")
        if not layer < layers:
            raise RequestError(
                f"seam {step.seam} of {model.name} has no layer behind it: its language model has {layers}",
                fix=_instead(model),
            )
        if layer < _first(model):
            raise RequestError(
                f"seam {step.seam} of {model.name} is in front of its first layer that attends, from whose KV cache "
                "the slots of all are counted",
                fix=_instead(model),
            )
        if step.keep != 0:
            _check_method(step)
            _check_features(step, layer, model.further)
            _check_attention(step, layer, attends(model.language_config))
        elif number + 1 < len(steps):
            raise RequestError(
                f"nothing is left behind seam {step.seam}, and a further step is at {steps[number + 1].seam}",
                fix="Leave the further steps out: keep = 0 removes all tokens.",
            )
        if not before < layer:
            raise RequestError(
                f"seam {step.seam} of {model.name} is not behind the one before it",
                fix="Write the steps from front to back, as tokens pass them, and one at a layer.",
            )
        before = layer


def seams_in(model: Model) -> str:
    """Where compressors can be in the language model of `model`, or why nowhere."""
    why = _unable(model)
    return f"none: {why[0]}" if why else _seams(model) or "none: it has one layer alone"


def _seams(model: Model) -> str:
    """The first and the last; empty where there is none."""
    first, last = _first(model) - 1, model.language_config.num_hidden_layers - 2
    return " to ".join(dict.fromkeys(f"decoder_layer:{layer}" for layer in (first, last))) if first <= last else ""


def _first(model: Model) -> int:
    """At least so many layers are in front of a compressor."""
    return 1 + [*attends(model.language_config), True].index(True)


def _instead(model: Model) -> str:
    """What to type where a seam is none."""
    found = _seams(model)
    return f"Take {found}." if found else f"It has none. {_BEFORE}"


def cuts_of(model: Model, keep: int) -> tuple[Cut, ...]:
    """The compressors between the layers of a model, where K = `keep` tokens enter it.

    Raises:
        RequestError: a method is not defined for a count that it would have.
    """
    text, tokens, cuts = model.language_config, keep, []
    for number, step in enumerate(model.inner, 1):
        left = step.kept(tokens)
        compressor = step.made(left)
        case = Case(tokens, text.hidden_size, left)
        if left == tokens:
            raise RequestError(
                f"step {number} in the language model keeps all {left} tokens, so it does nothing",
                where=f"{compressor.method.name} at {step.seam}",
                fix="Remove more there, or leave the step out.",
            )
        if left:
            compressor.check(case)
        layer = layers_up_to(step.seam, text.num_hidden_layers, "decoder")
        cuts.append(Cut(layer, compressor, case, model.inner_bias))
        tokens = left
    return tuple(cuts)


def tokens_by_layer(cuts: Sequence[Cut], keep: int, layers: int) -> list[int]:
    """How many tokens each layer sees, where K = `keep` enter the language model."""
    return [next((cut.case.keep for cut in reversed(cuts) if cut.layer <= layer), keep) for layer in range(layers)]


def _unable(model: Model) -> tuple[str, str] | None:
    """Why the language model of `model` cannot be parted, and what to do; None where it can."""
    text = model.language_config
    if others := {*(getattr(text, "layer_types", None) or ())} - _KINDS:
        return f"layers of its language model are {', '.join(sorted(others))}", _BEFORE
    return None


def _check_method(step: Step) -> None:
    """Refuse a method that cannot work on hidden states between layers."""
    compressor, method = step.compressor, step.compressor.method
    unread = [name for name in compressor.signals() if name not in SIGNALS]
    why = ""
    if unread:
        why = f"reads {unread[0]}, and between the layers of a language model there is only {', '.join(SIGNALS)}"
    elif isinstance(compressor, (Learned, Widens)) or not method.positions:
        why = "gives tokens that a language model was not trained on between its layers"
    if why:
        rated = "Rate by attention there: --set scores=attention. " if isinstance(compressor, Sparsevlm) else ""
        raise RequestError(
            f"{method.name} cannot be at {step.seam}: it {why}",
            fix=f"{rated}Take a method that selects tokens or means them, such as cls_topk, divprune or apet; or "
            "--seam projector_output.",
        )


def _check_features(step: Step, layer: int, further: int) -> None:
    """Refuse to merge tokens that features of their own will be added to."""
    if step.compressor.method.merges and layer < further:
        raise RequestError(
            f"{step.compressor.method.name} cannot be at {step.seam}: it merges tokens, and behind each of the first "
            f"{further} layers features are added to every token",
            fix=f"Take decoder_layer:{further - 1} or one behind it, or a method that selects tokens, such as cls_topk "
            "or divprune.",
        )


def _check_attention(step: Step, layer: int, attending: Sequence[bool]) -> None:
    """Refuse a method that reads attention behind a layer that carries a state instead."""
    read = [name for name in step.compressor.signals() if name in SIGNALS]
    if not read or attending[layer - 1]:
        return
    others = ", ".join(f"decoder_layer:{at}" for at, attends_there in enumerate(attending[:-1]) if attends_there)
    raise RequestError(
        f"{step.compressor.method.name} cannot be at {step.seam}: it reads {read[0]}, and layer {layer - 1} of this "
        "hybrid does not attend",
        fix=(f"Take {others}, behind layers that do, or" if others else "Take")
        + " a method that reads the tokens alone, such as divprune, apet or kcenter_merge.",
    )
