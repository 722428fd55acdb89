"""Opens what the user names: a built-in model, a checkpoint, a module, an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError, alike, nearest
from .families import VIDEOS, added, family_of, known_architectures, refused
from .sources.checkpoint import Checkpoint, Lengths
from .sources.clip import Clip
from .sources.configuration import Named, typed
from .sources.own_module import example, onnx_instead
from .sources.torch_export import need

if TYPE_CHECKING:
    from .sources.source import Parts, Source

DEFAULT = "tiny-vlm"
NAMES = ("tiny-vlm", "tiny-ocr", "tiny-asr", "tiny-video")


def open_source(
    text: str | None = None,
    *,
    parts: Parts = "encoder",
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    drop_outputs: Sequence[str] = (),
    lengths: Lengths | None = None,
    image_size: tuple[int, int] | None = None,
    clip: Clip | None = None,
) -> Source:
    """Open a model.

    What `text` may be, tried in this order: None for the built-in tiny-vlm; a built-in name; a folder, which is a
    checkpoint; an ONNX file; ``package.module:callable``, which returns a module and an example of its inputs; the id
    of a checkpoint on the hub.

    Args:
        text: SOURCE as typed after ``tokexport model``.
        parts: ``all`` also gives the language graphs and the graph text, where the source has them.
        input_shapes: of an ONNX file, input name -> sizes, for inputs with dynamic axes.
        drop_outputs: of an ONNX file, outputs that are left out.
        lengths: of the language graphs of a vision-language checkpoint; None: the defaults.
        image_size: height and width of the pictures of one that takes several; None: its family's.
        clip: the videos of one that takes some; None: images.

    Raises:
        RequestError: nothing of that name; the message lists what was tried. Also those of `open_checkpoint` and
            `open_module`.
        GraphError: an ONNX file that cannot be read.
        MissingError: torch, transformers or the hub is needed and not there.
    """
    of_file = bool(input_shapes or drop_outputs)
    asked = parts, lengths, image_size, clip
    source = _open_file(text, input_shapes, drop_outputs) if of_file else _open(text, *asked)
    if lengths is not None and not source.takes_lengths:
        why = ": its questions are about one picture" if source.kind == "builtin" and lengths.images > 1 else ""
        raise RequestError(
            "--prompt-length, --answer-length and --images are about the language graphs of vision-language "
            f"checkpoints, and {source.name} gives none of them{why}",
            fix="Leave them out.",
        )
    if image_size is not None and source.image_size is None:
        raise RequestError(
            f"--image-size is about checkpoints whose pictures may have several sizes, and {source.name} takes one",
            fix="Leave it out.",
        )
    if clip is not None and source.clip is None:
        raise RequestError(
            f"--frames is about checkpoints that are read here with videos, and {source.name} is none",
            fix=f"Leave it out. Architectures that are: {', '.join(VIDEOS)}.",
        )
    if parts == "encoder":
        source.text_seam = ""
    return source


def _open_file(text: str | None, shapes: Mapping[str, Sequence[int]] | None, dropped: Sequence[str]) -> Source:
    path = Path(text or "").expanduser()
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise RequestError(
            f"--input-shape and --drop-output are about ONNX files, and {text or DEFAULT} is none",
            fix="Leave them out, or give the .onnx file.",
        )
    from .sources.onnx_file import open_onnx

    return open_onnx(path, shapes, dropped)


def _open(
    text: str | None, parts: Parts, lengths: Lengths | None, size: tuple[int, int] | None, clip: Clip | None
) -> Source:
    if text is None or text in NAMES:
        return open_builtin(text or DEFAULT, parts)
    path = Path(text).expanduser()
    if path.is_dir():
        return open_checkpoint(path, None, parts, lengths, size, clip)
    if path.suffix.lower() == ".onnx":
        from .sources.onnx_file import open_onnx

        return open_onnx(path)
    module, colon, name = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        from .sources.module import open_module

        return open_module(text)
    if path.is_file():
        raise RequestError(
            f"{text} is a file, but not an ONNX file",
            fix="Give an .onnx file, or the checkpoint folder that this file lies in.",
        )
    from .sources.hub import fetch, is_hub_id

    if is_hub_id(text):
        return open_checkpoint(fetch(text), text.partition("/")[2], parts, lengths, size, clip)
    raise RequestError(
        f"no model {text!r}: it is no built-in name, no folder, no .onnx file and no package.module:callable",
        where=str(Path.cwd()),
        fix=nearest(text, NAMES, kind="built-in models"),
    )


def open_builtin(name: str, parts: Parts) -> Source:
    """Open one of `NAMES`.

    Raises:
        MissingError: torch is not installed.
    """
    need("torch", "safetensors", to=f"open {name}")
    family = import_module(f".families.{name.replace('-', '_')}", __package__)
    source: Source = family.open_family(parts)
    return source


def open_checkpoint(
    folder: Path,
    name: str | None = None,
    parts: Parts = "encoder",
    lengths: Lengths | None = None,
    image_size: tuple[int, int] | None = None,
    clip: Clip | None = None,
) -> Source:
    """Open a checkpoint folder; the source is called `name`, by default like the folder.

    With ``all`` for `parts` it has the language graphs too, where its family knows them, for prompts and answers of
    these `lengths`, and pictures of this `image_size`, where the family leaves a choice,
    or videos of this `clip`, where it reads some.

    Raises:
        RequestError: no config.json, no or damaged weights, or an architecture that has no family here; where it is
            known not to fit, with the reason.
        MissingError: torch or transformers is not installed.
    """
    whole = folder.resolve()
    checkpoint = Checkpoint(whole, name or whole.name, parts, lengths or Lengths(), image_size, clip)
    files = onnx_instead(folder)
    if files and not (folder / "config.json").is_file():
        raise RequestError("no config.json in this folder, so it is no checkpoint", where=str(folder), fix=files)
    config = typed(Named, checkpoint.config, checkpoint.folder / "config.json")
    found = family_of(config.model_type, config.architectures or [])
    unfit = refused(config.architectures or [])
    if found is None and unfit:
        raise RequestError(f"{unfit[0]} {unfit[1]}", where=str(folder / "config.json"), fix=unfit[2])
    if found is None:
        named = " ".join(config.architectures or []) or config.model_type or "nothing"
        known = nearest(named, known_architectures(), kind="architectures")
        raise RequestError(
            f"no family for the architecture {named}",
            where=str(folder / "config.json"),
            fix="".join(f"{one}. " for one in added().skipped)
            + f"{known} {files}For another model export its vision encoder to ONNX and give that file, or give "
            "package.module:callable: the lines on stdout are one for this folder; save them as mine.py and run "
            "tokexport model mine:tower ... .",
            example=example(checkpoint.folder, checkpoint.config),
        )
    need("torch", "transformers", "safetensors", to="open a checkpoint")
    _check_model_type(config.model_type, folder / "config.json")
    source = found(checkpoint)
    source.origin = (folder,)
    return source


def _check_model_type(name: str, path: Path) -> None:
    """Refuse a config.json of a kind that the installed transformers does not know; one that says none is guessed."""
    import transformers

    if name and name not in transformers.CONFIG_MAPPING:
        near = alike(name, transformers.CONFIG_MAPPING.keys())
        raise RequestError(
            f"transformers {transformers.__version__} knows no model_type {name!r}",
            where=str(path),
            fix=f"{near}If it is right, a newer one may know it: pip install -U transformers.",
        )
