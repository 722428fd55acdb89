"""The encoder of a bundle, beside a language model that somebody else exported for the runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...errors import GraphError, RequestError, first_line
from ...files import parse_json, read_bounded
from ...graph_passes.attach.attach import BIAS
from ...graph_passes.compressors import compressor_class
from ...graph_passes.forms import to_inlined
from ...graph_passes.ir_tools.input_shapes import given_inputs, raise_opset
from ...graph_passes.ir_tools.model_io import load_model
from ...graph_passes.ir_tools.walk import dims
from ...runtimes.bundle.manifest import PreprocessRecord, Variant
from ..progress import Progress
from . import beside, packed
from .words_apart import words_apart

# The oldest opset that has the operators around a decoder.
_OPSET = 13


@dataclass(frozen=True)
class Tower:
    """The encoder of a bundle.

    Attributes:
        model: its graph, in portable form.
        variant: of the manifest.
        picture: how its pictures are read; None where the bundle does not say it.
        sizes: whether log(size) is told to the language model.
    """

    model: ir.Model
    variant: Variant
    picture: PreprocessRecord | None
    sizes: bool

    @property
    def kept(self) -> int:
        """K."""
        return self.variant.graphs["encoder"].outputs["tokens"].shape[1]

    @property
    def width(self) -> int:
        """D."""
        return self.variant.graphs["encoder"].outputs["tokens"].shape[2]

    @property
    def tokens(self) -> int:
        """N."""
        found = self.variant.graphs["encoder"].outputs.get("assignment")
        return self.kept if found is None else found.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        (given,) = self.variant.graphs["encoder"].inputs.values()
        return given.shape[-2], given.shape[-1]

    def rows(self, *, several: bool = False) -> ir.Model:
        """pixel_values [1, 3, H, W], or with `several` [1, 1, 3, H, W], -> image_features [K, D + 2]."""
        outputs = {name: one.name for name, one in self.variant.graphs["encoder"].outputs.items()}
        names = ("pixel_values", "image_features")
        made = packed.encoder(self.model, outputs, names, self.width, size_bias=self.sizes, batch=False)
        if several:
            made = packed.with_axis(made)
        return made


def merges(variant: Variant) -> bool:
    """Whether tokens that leave the encoder can stand for several; an encoder alone has no language model to tell."""
    last: list[str] = []
    for record in variant.compression:
        if record.seam.graph == "encoder":
            last = [] if record.rebuilt else [*last, record.method]
    sized = "sizes" in variant.graphs["encoder"].outputs
    return sized and any(compressor_class(method).method.merges for method in last)


@dataclass(frozen=True)
class Names:
    """What a runtime calls the inputs and outputs of a decoder; ``%d`` stands for a layer."""

    embeds: str = beside.EMBEDS
    past: tuple[str, str] = ("past_key_values.%d.key", "past_key_values.%d.value")
    present: tuple[str, str] = ("present.%d.key", "present.%d.value")


@dataclass(frozen=True)
class Decoder:
    """A decoder of rows.

    Attributes:
        model: it.
        words: its table of words, where that was inside.
        layers: how many layers it has to the runtime.
        notes: what a user should know.
    """

    model: ir.Model
    words: ir.Model | None
    layers: int
    notes: list[str]


def decoder_of(file: Path, tower: Tower, names: Names, step: Progress) -> Decoder:
    """A decoder that somebody else exported, as one of rows.

    log(size) and positions that the graph counts itself reach it by what `attach` does, and its proof.

    Raises:
        GraphError: it is not a decoder that takes them, see `tokexport attach`; or its tokens have another width.
        GateError: the proof of `attach` failed.
    """
    model, bias, positions, notes = _told(file, tower, step)
    try:
        words = None
        if all(value.name != names.embeds for value in model.graph.inputs):
            words = words_apart(model, tower.width)
            names = Names(beside.EMBEDS, names.past, names.present)
        layers = _layers(model, names)
        _refuse_others(model, tower, names, layers, positions)
    except GraphError as error:
        raise GraphError(error.what, where=f"{file}, {error.where}", fix=error.fix) from error
    first, last = (tuple(name % 0 for name in pair) for pair in (names.past, names.present))
    carried = [name % layers for name in (*names.past, *names.present)]
    reads = beside.Reads(names.embeds, positions, bias, first, last, tuple(carried))  # type: ignore[arg-type]
    return Decoder(beside.decoder(model, reads, tower.width, tower.kept, tower.tokens), words, layers + 1, notes)


def opened(file: Path) -> ir.Model:
    """A graph without local functions, in an opset that has what is put around it."""
    model = load_model(file)
    model = to_inlined(model) if model.functions else model
    return raise_opset(model)[0] if (model.graph.opset_imports.get("") or _OPSET) < _OPSET else model


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A file of a folder.

    Raises:
        RequestError: it is not there, or is no table in JSON.
    """
    file = folder / name
    if not file.is_file():
        raise RequestError(
            f"{folder} has no {name}",
            fix="Name the folder of a language model in the layout of this runtime; docs/other-runtimes.md says it.",
        )
    try:
        found = parse_json(read_bounded(file))
    except ValueError as error:
        raise RequestError(f"{file} cannot be read: {first_line(error)}", fix="Copy the folder again.") from error
    if not isinstance(found, dict):
        raise RequestError(f"{file} holds no table", fix="Copy the folder again.")
    return found


def others(folder: Path, without: set[str]) -> Iterator[tuple[str, Path]]:
    """What is copied of a folder: all but its graphs, hidden files, and the paths `without`."""
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.is_file() and not hidden and ".onnx" not in file.name and name.as_posix() not in without:
            yield name.as_posix(), file


def _told(file: Path, tower: Tower, step: Progress) -> tuple[ir.Model, str, str, list[str]]:
    """The graph, its input for log(size) or nothing, that for positions, and notes."""
    model = opened(file)
    given = {value.name: value for value in given_inputs(model.graph)}
    positions = given.get(beside.POSITIONS)
    if not tower.sizes and positions is not None and positions.consumers():
        return model, "", beside.POSITIONS, []
    from ..attach.run import Request, proved

    done = proved(Request(file), step)
    found = done.attached.positions
    if "," in found:
        raise GraphError(f"positions are read from several inputs: {found}", where=str(file), fix="Export it with one.")
    return done.model, BIAS, found, done.notes


def _layers(model: ir.Model, names: Names) -> int:
    there, count = {value.name for value in given_inputs(model.graph)}, 0
    while names.past[0] % count in there:
        count += 1
    if not count:
        raise GraphError(
            f"it has no cache {names.past[0] % 0}",
            where=f"inputs {', '.join(sorted(name or '' for name in there))}",
            fix="Export the decoder with its caches as inputs and outputs.",
        )
    return count


def _refuse_others(model: ir.Model, tower: Tower, names: Names, layers: int, positions: str) -> None:
    """Refuse what is no decoder of words and caches alone, or of another width."""
    given = {value.name or "": value for value in given_inputs(model.graph)}
    caches = {name % i for name in names.past for i in range(layers)}
    for name, value in given.items():
        sizes = dims(value)
        if name not in caches and sizes is not None and len(sizes) > 2 and name not in (names.embeds, "attention_mask"):
            raise GraphError(
                f"its input {name} [{', '.join(map(str, value.shape or ()))}] is neither tokens nor a cache of a layer",
                where=f"graph {model.graph.name}",
                fix="Of models with states beside caches, or with positions of several axes, export the whole model: "
                "`tokexport model CHECKPOINT`, then export-to without --llm.",
            )
    width = (dims(given[names.embeds]) or (None,))[-1]
    if width is not None and width != tower.width:
        raise GraphError(
            f"the encoder's tokens have {tower.width} channels, and the decoder reads {width}",
            where=f"input {names.embeds}",
            fix="Name the language model that the encoder was trained with; an encoder without its projector needs it.",
        )
    if not positions:
        raise GraphError(
            "it reads no positions, so kept tokens cannot stay where they were",
            where=f"graph {model.graph.name}",
            fix="Export the decoder with an input position_ids.",
        )
