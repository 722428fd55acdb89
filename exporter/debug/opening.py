"""Opens what the user names: an ONNX file, an engine, recorded values, a bundle, or a model with a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError, nearest
from ...runtimes.bundle.reader import Bundle, open_bundle
from .engine_side import WORDS, open_engine
from .onnx_side import open_onnx
from .recorded_side import open_recorded
from .sides import Feeds, Side

if TYPE_CHECKING:
    from ...graph_passes.ir_tools.ort_session import Level

ENGINES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class How:
    """How a side is opened and run.

    Attributes:
        shapes: input name -> sizes.
        given: arrays by the names of inputs.
        level: ONNX Runtime's optimisations.
        provider: its execution provider.
    """

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    given: Feeds = field(default_factory=dict)
    level: Level = "none"
    provider: str = "cpu"


def is_bundle(text: str) -> bool:
    """Whether a text names the folder of a bundle."""
    return (Path(text).expanduser() / "manifest.json").is_file()


def roles(a: str, b: str, asked: str | None) -> list[str]:
    """The graphs that are compared one by one; one without a name where neither side is a bundle.

    Raises:
        RequestError: there is no such graph, or no graph that both bundles have.
    """
    bundles = [open_bundle(Path(text).expanduser()) for text in (a, b) if is_bundle(text)]
    if not bundles:
        if asked:
            raise RequestError(
                f"--role {asked} names a graph of a bundle, and neither {a} nor {b} is one", fix="Leave it out."
            )
        return [""]
    have: list[str] = [
        role for role in bundles[0].variant().graphs if all(role in other.variant().graphs for other in bundles)
    ]
    if asked and asked not in have:
        raise RequestError(f"there is no graph {asked!r} to compare", fix=nearest(asked, have, kind="graphs"))
    if not have:
        raise RequestError(
            f"{a} and {b} have no graph of the same role",
            fix="Export both with the same --parts.",
        )
    if asked:
        return [asked]
    return have if len(bundles) == 2 else have[:1]


def open_side(text: str, role: str, how: How, other: Side | None = None) -> Side:
    """Open one side.

    Args:
        text: as typed: a bundle, an .onnx file, an engine, an .npz of recorded values, or what `tokexport model` takes.
        role: the graph of a bundle.
        how: how it is run.
        other: A, where this is B; an engine may be built of it.

    Raises:
        TokexportError: as the openers of its kind.
    """
    path = Path(text).expanduser()
    if is_bundle(text):
        return _of_bundle(open_bundle(path), role, how)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return open_onnx(path, how.shapes, how.given, text=text, level=how.level, provider=how.provider)
    if suffix == ".npz":
        return open_recorded(path)
    if suffix in ENGINES or text in WORDS:
        return open_engine(text, other)
    from .module_side import open_module_side

    return open_module_side(text)


def _of_bundle(bundle: Bundle, role: str, how: How) -> Side:
    with bundle.reading(role) as path:
        text = f"{bundle.path} {role}"
        side = open_onnx(path, {}, how.given, text=text, level=how.level, provider=how.provider)
    if len(bundle.manifest.variants) > 1:
        side.notes.append(f"{bundle.path}: variant {bundle.variant().name}, its default")
    return side
