"""Several compressors in sequence, at one seam or at several: each compresses the tokens that the one before kept.

A step says how many of its input tokens it keeps, as a share or as a count, and at which seam. Seams are named as in
`seams.find`; in addition, ``encoder_layer:1/4`` is the layer that completes the first quarter of all layers, so that
one recipe fits encoders of any depth; ``encoder_attention:1/4`` likewise. Seams are resolved in the graph without
compressors, and the steps are in the order in which tokens pass them.

Outputs and size bias are about the tokens of the first step (see `compose`). Inside the encoder, attention after a
step, up to the next one, gets the logarithm of how many of these tokens were merged into each slot.

Where a step says so, the tokens are rebuilt behind the encoder's last layer (see `rebuild`). The steps after it begin
anew: outputs and sizes are about the tokens that the first of them reads, or where there is none about all that leave
the encoder.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import onnx_ir as ir

from ...errors import GraphError, RequestError, TokexportError
from ..budget import ratio_text, tokens_kept
from ..compressors.base import Compressor, Widens
from ..compressors.blocks.texts import TEXT
from ..ir_tools.model_io import ensure_opset
from ..ir_tools.transaction import all_or_nothing
from ..ir_tools.walk import Walk, dims
from ..resize.batch_axis import refuse_joined_rows
from ..resize.outputs import refuse_outputs_beside
from ..seams.find import find_seams, resolve
from ..seams.padding import refuse_padding
from ..seams.seam import Seam
from .insert import carry_out
from .inserted import Inserted
from .plan import EXTRA_OUTPUTS, output_names, plan_insertion
from .rebuild import Inside, close, open_behind

_LAYER = re.compile(r"(encoder|decoder)_(?:layer|(?<=encoder_)attention):(\d{1,9})(?:/(\d{1,9}))?")


@dataclass(frozen=True)
class Step:
    """One compressor of a sequence.

    Attributes:
        compressor: with its parameters.
        ratio: share of its input tokens that it removes, exact; None with `keep`.
        keep: tokens that it keeps; None with `ratio`.
        seam: ``auto`` (that of the method's paper), a seam's name, or ``encoder_layer:<share>``.
        shares: parameters that count tokens -> their share of K; the product is rounded.
        rebuild: whether its tokens, and those of the steps before it, are put back at their places behind the encoder's
            last layer.
    """

    compressor: Compressor
    ratio: str | float | Fraction | None
    keep: int | None
    seam: str = "auto"
    shares: Mapping[str, Fraction] = field(default_factory=dict)
    rebuild: bool = False

    @property
    def budget(self) -> str:
        """The ratio as `budget.ratio_text` writes it, or ``keep<K>``."""
        return f"keep{self.keep}" if self.ratio is None else ratio_text(self.ratio)

    def kept(self, tokens: int) -> int:
        """K for `tokens` input tokens.

        Raises:
            RequestError: more than there are, or none.
        """
        return tokens_kept(tokens, ratio=self.ratio, keep=self.keep, least=least_at(self.seam))

    def made(self, keep: int) -> Compressor:
        """The compressor with its `shares` as counts for K = `keep`."""
        counts = {name: math.floor(share * keep + Fraction(1, 2)) for name, share in self.shares.items()}
        return dataclasses.replace(self.compressor, **counts) if counts else self.compressor  # type: ignore[type-var]


def places(
    model: ir.Model,
    steps: Sequence[Step],
    seam_for: Callable[[Compressor], str] = lambda compressor: compressor.method.seam,
) -> list[Seam]:
    """The seam of each step, in a graph without compressors.

    Args:
        model: the graph.
        steps: in the order in which tokens pass them.
        seam_for: the seam that ``auto`` takes for a compressor.

    Raises:
        RequestError, GraphError: as `seams.resolve`; and a share of layers in a graph whose layers were not found.
    """
    found, within = [], Inside(model)
    for group in _groups(steps):
        for step in group:
            named = _named(model, step.seam)
            explicit = group[-1].rebuild and named != "auto"
            found.append(within.seam(named) if explicit else resolve(model, named, seam_for(step.compressor)))
    return found


def _groups(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps, parted behind each whose tokens are rebuilt."""
    groups: list[list[Step]] = [[]]
    for step in steps:
        groups[-1].append(step)
        if step.rebuild:
            groups.append([])
    return groups if groups[-1] else groups[:-1]


def insert_steps(
    model: ir.Model,
    steps: Sequence[Step],
    seams: Sequence[Seam],
    *,
    outputs: Sequence[str] | Mapping[str, str] = EXTRA_OUTPUTS,
    size_bias: bool = True,
    assume_no_padding: bool = False,
) -> Inserted:
    """Edit `model` in place; if this raises, nothing was edited.

    Args:
        model: opset 18 or more.
        steps: in the order in which tokens pass them.
        seams: their `places`.
        outputs: as `insert`, about the tokens of the first step.
        size_bias: likewise.
        assume_no_padding: take a mask that depends on an input for one that never masks a token.

    Returns:
        The last step; `Inserted.steps` gives all.

    Raises:
        RequestError, GraphError: as `insert`, with the number of the step. Also steps in another order than tokens
            pass them, and methods that only work alone: that widen tokens, or whose slots have no positions.
    """
    with all_or_nothing(model) as clone:
        ensure_opset(clone)
        for number, step in enumerate(steps if len(steps) > 1 else ()):
            _refuse_alone(number, step)
        done, first = None, 0
        for group in _groups(steps):
            places, last = seams[first : first + len(group)], first + len(group) == len(steps)
            wanted = outputs if last else ()
            if done is not None:
                places = [_behind(clone, places[0], done), *places[1:]]
            opening = open_behind(clone) if group[-1].rebuild else None
            if opening is not None:
                _check_inside(clone, places[-1], opening.end)
            _check_graph(clone, places[0], assume_no_padding)
            made = _inserted(clone, group, places, () if opening else wanted, size_bias, done, len(steps) > 1)
            if opening is not None:
                made = close(clone, opening, made, output_names(clone, wanted))
            done, first = made, first + len(group)
        assert done is not None, "a sequence has steps"
        return done


def _check_graph(model: ir.Model, seam: Seam, assume_no_padding: bool) -> None:
    """What a graph must not have around the first seam of a group of steps."""
    walk = Walk(model)
    if not assume_no_padding:
        refuse_padding(walk, seam.tensor)
    refuse_joined_rows(walk, seam.tensor)
    refuse_outputs_beside(walk, seam.tensor, seam.tokens, seam.prefix)


def _check_inside(model: ir.Model, seam: Seam, end: ir.Value) -> None:
    """Refuse to rebuild the tokens of a seam that is not between the layers of the encoder."""
    walk = Walk(model)
    value = walk.value(seam.tensor)
    if value is None or value is end or value.producer() not in walk.ancestors(end):
        raise RequestError(
            f"seam {seam.name} has no layer of the encoder behind it, so nothing was computed for fewer tokens",
            where=f"tensor {seam.tensor}",
            fix="Tokens are rebuilt of a step inside: --seam encoder_layer:1/4, or leave rebuild out.",
        )


def _behind(model: ir.Model, seam: Seam, done: Inserted) -> Seam:
    """A seam of the graph without compressors, where the tokens of the steps up to `done` were rebuilt in front of it.

    Raises:
        RequestError: it is not downstream of that.
    """
    walk, last = Walk(model), done.rebuilt[-1]
    if seam.tensor == last.slots:
        return replace(seam, tensor=last.tokens)
    value, start = walk.value(seam.tensor), walk.value(last.tokens)
    if value is None or start is None or value.producer() not in walk.descendants(start):
        raise RequestError(
            f"seam {seam.name} is not behind the encoder's last layer, where the tokens of {done.method} are rebuilt",
            where=f"tensor {seam.tensor}",
            fix="Write rebuild into the last step inside the encoder, and the steps from front to back.",
        )
    return seam


def follow(model: ir.Model, seam: Seam, before: Seam, after: Inserted) -> Seam:
    """A seam of the graph without compressors, as it is after the step `after`, which was inserted at `before`.

    Its tokens are the slots of that step, which have no grid.

    Raises:
        RequestError: it is not downstream of that step.
        GraphError: its tokens are not the slots of that step.
    """
    walk = Walk(model)
    tensor = after.tokens_out if seam.tensor == before.tensor else seam.tensor
    value = walk.value(tensor)
    node = next(node for node in walk.nodes if node.name == after.node_name)
    if value is None or node not in walk.ancestors(value):
        raise RequestError(
            f"seam {seam.name} is not downstream of {before.name}, where {after.method} is",
            where=f"tensor {seam.tensor}",
            fix="Write the steps from front to back, as tokens pass them.",
        )
    shape = dims(value)
    slots = tensor == after.tokens_out or after.token_axes == (seam.axis,)
    sizes = None if shape is None or len(shape) != seam.rank else shape[-2:]
    if not slots or sizes is None or sizes[0] != seam.prefix + after.keep or sizes[1] is None:
        raise GraphError(
            f"the tokens at seam {seam.name} are not the {after.keep} slots of {after.method}, but {list(shape or ())}",
            where=f"tensor {tensor}",
            fix="Take seams with the same tokens for all steps; `tokexport inspect SOURCE` lists them.",
        )
    return replace(seam, tensor=tensor, tokens=after.keep, dim=sizes[1], grid=None)


def _inserted(
    model: ir.Model,
    steps: Sequence[Step],
    seams: Sequence[Seam],
    outputs: Sequence[str] | Mapping[str, str],
    size_bias: bool,
    before: Inserted | None,
    several: bool,
) -> Inserted:
    """Insert steps between which nothing is rebuilt, after those up to `before`."""
    done: Inserted | None = None
    offset = len(before.steps) if before is not None else 0
    for number, (step, seam) in enumerate(zip(steps, seams)):
        last = number == len(steps) - 1
        try:
            if before is not None and done is None:
                _refuse_signals(step)
            place = seam if done is None else follow(model, seam, seams[number - 1], done)
            keep = step.kept(place.tokens)
            if several and keep == place.tokens:
                raise RequestError(f"it keeps all {keep} tokens, so it does nothing", fix="Leave the step out.")
            plan = plan_insertion(
                model,
                place,
                step.made(keep),
                keep,
                outputs=outputs if last else (),
                size_bias=size_bias,
                after=done,
                until="" if last else seams[number + 1].tensor,
            )
            done = carry_out(model, plan)
        except TokexportError as error:
            raise (_of_step(offset + number, step, error) if several else error) from None
        if number == 0 and before is not None:
            done = replace(done, before=before)
    assert done is not None, "a group has steps"
    return done


def _refuse_signals(step: Step) -> None:
    """Attention and keys are over the slots inside the encoder, and not over the tokens that were rebuilt of them."""
    read = [name for name in step.compressor.signals() if name != TEXT]
    if read:
        raise RequestError(
            f"{step.compressor.method.name} reads {read[0]}, which upstream of the rebuilt tokens is of fewer slots",
            fix="Take a method that reads the tokens alone behind a step with rebuild.",
        )


def least_at(seam: str) -> int:
    """The least K at a seam: words go on without tokens between the layers of a language model, and nowhere else."""
    return 0 if seam.startswith("decoder_layer:") else 1


def layers_up_to(seam: str, layers: int, side: str = "encoder") -> int:
    """Number of layers up to a seam, of `layers`: all, unless the seam names a layer or a share of the layers.

    Args:
        seam: its name.
        layers: of the encoder, or of the language model.
        side: ``encoder``, or ``decoder`` for the language model; seams of the other one name none of these layers.

    Raises:
        RequestError: a share outside (0, 1].
    """
    hit = _LAYER.fullmatch(seam)
    if hit is None or hit[1] != side:
        return layers
    if hit[3] is None:
        return int(hit[2]) + 1
    above, below = int(hit[2]), int(hit[3])
    if not 0 < above <= below:
        raise RequestError(
            f"seam {seam!r} is no share of the {side}'s layers", fix=f"Write for example {side}_layer:1/4."
        )
    return math.ceil(Fraction(above, below) * layers)


def _named(model: ir.Model, seam: str) -> str:
    """The name of a seam in this graph: a share of the layers becomes the layer."""
    if not isinstance(seam, str) or "/" not in seam or not (hit := _LAYER.fullmatch(seam)) or hit[1] != "encoder":
        return seam
    layers = [layers_up_to(one.name, 0) for one in find_seams(model)]
    if not any(layers):
        raise RequestError(
            f"seam {seam!r} is a share of the encoder's layers, and none were found in this graph",
            where=f"graph {model.graph.name or 'main'}",
            fix='Layers are known in graphs that tokexport exports. Name a tensor there: seam = "tensor:NAME".',
        )
    return f"{seam.partition(':')[0]}:{layers_up_to(seam, max(layers)) - 1}"


def _refuse_alone(number: int, step: Step) -> None:
    method = step.compressor.method
    why = "its slots can have more channels than tokens" if isinstance(step.compressor, Widens) else ""
    why = why or ("" if method.positions else "its slots have no positions")
    if why:
        error = RequestError(
            f"{method.name} cannot be one of several steps: {why}", fix=f"Use it alone: --method {method.name}."
        )
        raise _of_step(number, step, error)


def _of_step(number: int, step: Step, error: TokexportError) -> TokexportError:
    """The same error, with the number of the step; the cure for a count is one for recipes."""
    where = f"step {number + 1}, {step.compressor.method.name}" + (f", {error.where}" if error.where else "")
    fix = error.fix
    if step.keep is not None and "--keep" in fix:
        fix = f'A count in a recipe fits one size of model: write ratio = "REMOVED/ALL" there. {fix}'
    return type(error)(error.what, where=where, fix=fix)
