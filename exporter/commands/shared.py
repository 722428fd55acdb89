"""What several commands share: options, and KEY=VALUE settings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...entry_points import Skipped
from ...errors import RequestError
from .. import completion, progress

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Preprocess

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M")
OUT = click.Path(path_type=Path)


class _Plain(click.ParamType):
    """A number in the digits 0 to 9: Python also reads those of other scripts, and underscores between them."""

    def __init__(self, kind: click.ParamType) -> None:
        self._kind, self.name = kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if isinstance(value, str) and not re.fullmatch("[-+.0-9a-zA-Z]*", value.strip()):
            self.fail(f"{value!r} is not a number in the digits 0 to 9, such as 5 or 0.85.", param, ctx)
        return self._kind.convert(value, param, ctx)


WHOLE, NUMBER, POSITIVE = _Plain(click.INT), _Plain(click.FLOAT), _Plain(click.IntRange(1))


def common(command: F) -> F:
    """The options of every command with a result."""
    command = progress.options(command)
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


def settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """The values given with --set, by key."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"--set {pair!r} is not KEY=VALUE", fix="Write for example --set basis=16.")
        if key in found:
            raise RequestError(f"--set {key} was given twice", fix="Give each parameter once.")
        found[key] = value
    return found


def left_out(skipped: Iterable[Skipped | str]) -> None:
    """After a listing, on stderr: what other packages add that cannot be used, and why."""
    for one in skipped:
        click.echo(f"note: {one}", err=True)


def measuring(command: F) -> F:
    """The options of a command that runs a sweep; `sweeps.study.Request` and `sweeps.workers` say what they do."""
    for option in reversed(_MEASURING):
        command = option(command)
    return clip_options(command)


rebuild_option = click.option(
    "--rebuild",
    is_flag=True,
    help="With a --seam in the encoder, as encoder_layer:I: put all tokens back at their places behind its last layer.",
)


def size_bias_option(*ways: str) -> Callable[[F], F]:
    """How merged tokens count: those ways of `bundling.size_bias.SizeBias` that a command knows."""
    return click.option(
        "--size-bias",
        type=click.Choice(ways),
        default="auto",
        show_default=True,
        help="How merged tokens count. auto: log(size) is added in attention; positions: and prefill reads them at the "
        "positions of all that is in them, which videos gain by.",
    )


_MEASURING = (
    click.argument("source", required=False, shell_complete=completion.sources),
    click.option(
        "--method",
        "methods",
        multiple=True,
        metavar="NAME[:KEY=VALUE,...]",
        shell_complete=completion.methods,
        help="A compressor, with parameters: apet:basis_slots=none; repeatable.  [default: all that fit the model]",
    ),
    click.option(
        "--ratio",
        "ratios",
        multiple=True,
        help="Share of tokens removed; repeatable.  [default: 0.5, 0.75, 0.85, 0.9]",
    ),
    click.option(
        "--seam",
        default="auto",
        show_default=True,
        shell_complete=completion.seams,
        help="Where all methods go; `tokexport inspect` lists the seams of a file.",
    ),
    rebuild_option,
    size_bias_option("auto", "positions"),
    click.option("--seeds", type=WHOLE, default=3, show_default=True, help="How many sets of questions."),
    click.option("--questions", type=WHOLE, default=1024, show_default=True, help="Questions in a set."),
    click.option(
        "--inputs", type=OUT, help="A folder of images, videos or sounds: measures agreement instead of accuracy."
    ),
    click.option("--prompt", help="With --inputs: asked about each of them."),
    click.option(
        "--parts",
        type=click.Choice(["encoder", "all"]),
        default="all",
        show_default=True,
        help="With encoder no language model is read: tokens are judged, not answers.",
    ),
    click.option(
        "--workers",
        type=WHOLE,
        default=1,
        show_default=True,
        metavar="N",
        help=f"Processes that measure side by side, each with the model in memory; there are {os.cpu_count()} cores "
        "here. Times are taken alone, at the end.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="A Dask scheduler, such as tcp://host:8786, whose workers measure instead of processes here.",
    ),
    click.option("-o", "--out", type=OUT, help="Folder for the results.  [default: ./<source>-sweep]"),
)


@contextmanager
def resumable() -> Iterator[progress.Advance]:
    """A bar for what keeps all that it measured: Ctrl-C says so, and exits with 130."""
    try:
        with progress.bar() as advance:
            yield advance
    except KeyboardInterrupt:
        click.echo("\ninterrupted; what was measured is kept: the same command goes on from there", err=True)
        sys.exit(130)


input_shape = click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,336,336",
    help="Fix a dynamic input of an ONNX file; repeatable.",
)


def sizes(pairs: tuple[str, ...]) -> dict[str, list[int]]:
    """What --input-shape said, by name."""
    found: dict[str, list[int]] = {}
    for pair in pairs:
        name, _, text = pair.rpartition("=")
        numbers = [part.strip() for part in text.split(",")]
        if not name or not all(re.fullmatch("[0-9]{1,9}", part) and int(part) for part in numbers):
            raise RequestError(
                f"--input-shape {pair!r} is not NAME=SIZES", fix="Write for example --input-shape pixels=1,3,336,336."
            )
        found[name] = [int(part) for part in numbers]
    return found


# A question as text, or as ids.
Prompt = str | list[int]


class Ids(click.ParamType):
    """Ids as 1,2,3, or what else is counted so."""

    def __init__(self, name: str = "ids") -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
        if not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
            self.fail(f"{value!r} are no {self.name}. Write them with commas: 1,15043.", param, ctx)
        return [int(part) for part in parts] or value


prompt_ids = click.option(
    "--prompt-ids",
    "ids",
    type=Ids(),
    default=(),
    metavar="1,2,3",
    help="The whole prompt as ids, where the bundle has no tokenizer.",
)


def one_prompt(prompt: str | None, ids: Sequence[int]) -> Prompt | None:
    """The question as it was given; RequestError where it was given twice."""
    if prompt and ids:
        raise RequestError("--prompt and --prompt-ids are given", fix="Give one of them.")
    return [*ids] if ids else prompt


# Kind of preprocessing -> the option that takes such an input.
_OPTIONS = {"image": "--image", "video": "--video", "log_mel": "--audio", "waveform": "--audio"}
_NAMES = {"--image": "images", "--video": "videos", "--audio": "sound"}


def check_kind(record: Preprocess | None, bundle: Path, option: str) -> None:
    """Refuse a kind of input that the model does not take, where the bundle records which one it takes."""
    if record is None or _OPTIONS[record.kind] == option:
        return
    wanted = _OPTIONS[record.kind]
    raise RequestError(
        f"the model takes {_NAMES[wanted]}, not {_NAMES[option]}",
        where=str(bundle),
        fix=f"Give it a file with {wanted}.",
    )


def once(_: click.Context, option: click.Parameter, given: tuple[Path, ...]) -> Path | None:
    """The value of an option that may be given once; None without one.

    Raises:
        RequestError: it was given several times.
    """
    return only(option.opts[0], given) if given else None


def only(option: str, given: tuple[Path, ...]) -> Path:
    """The one value of an option; RequestError where it was given several times."""
    if len(given) > 1:
        raise RequestError(
            f"{option} was given {len(given)} times, and a bundle takes one at a time",
            fix="Give one of them, and ask about each.",
        )
    return given[0]


def runtime_options(command: F) -> F:
    """The options that say what runs a bundle."""
    command = click.option(
        "--provider",
        type=click.Choice(["cpu", "cuda", "tensorrt"]),
        help="Where ONNX Runtime runs; refused where it does not load.  [default: cpu]",
    )(command)
    return click.option("--runtime", type=click.Choice(["ort", "tensorrt"]), default="ort", show_default=True)(command)


def media_options(*, images: bool = False) -> Callable[[F], F]:
    """The options that name the input, for `one_input`; with `images` there may be several of these, as a tuple."""

    def with_options(command: F) -> F:
        for name, text in reversed(_MEDIA.items()):
            several = images and name == "image"
            said = f"{text[:-1]}; repeatable, in their order, where a prompt may have several." if several else text
            callback = None if several else once
            command = click.option(f"--{name}", type=OUT, multiple=True, callback=callback, help=said)(command)
        return command

    return with_options


_MEDIA = {
    "image": "An image file.",
    "video": "An MP4, MKV, WebM or AVI file, an animated GIF, WebP or PNG, or a folder of pictures, one a frame.",
    "audio": "A sound file, for a model that hears.",
}


def one_input(given: Mapping[str, M | None]) -> tuple[str, M]:
    """The option that names the input, and its value; `given` has all of them, by name without the dashes.

    Raises:
        RequestError: none of them, or several.
    """
    found = {f"--{name}": media for name, media in given.items() if media}
    if len(found) != 1:
        which = f"{' and '.join(found)} are" if found else f"none of {', '.join(f'--{name}' for name in given)} is"
        raise RequestError(f"{which} given", fix="Give the one that the model takes.")
    return next(iter(found.items()))


def clip_options(command: F) -> F:
    """The options that ask for the graphs of videos, of a checkpoint that reads some."""
    fps = "Frames a second that the N frames stand for, where the model is told the time.  [default: 2; of SmolVLM2 1]"
    frames = "Ask about videos: of each N frames are read, evenly spaced, by a checkpoint that reads them."
    command = click.option("--fps", type=NUMBER, help=fps)(command)
    return click.option("--frames", type=WHOLE, metavar="N", help=frames)(command)


def frames_again(frames: int | None, fps: float | None) -> str:
    """The same options, as they were typed; empty without them."""
    return "" if frames is None else f" --frames {frames}" + ("" if fps is None else f" --fps {fps:g}")
