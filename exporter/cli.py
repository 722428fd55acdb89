"""The command line: parse, call, render. What a command does is in `pipeline`, how it looks in `render`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from .. import __version__
from ..errors import RequestError, TokexportError
from . import interrupt

F = TypeVar("F", bound=Callable[..., Any])
OUT = click.Path(path_type=Path)
# EX_SOFTWARE of sysexits: 0 to 3 have meanings of their own, and a bug of ours is none of them.
BUG = 70


class Group(click.Group):
    """Turns errors into one paragraph and an exit code; a traceback only where --debug asks for it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; `TokexportError.exit_code` becomes the exit code."""
        try:
            with interrupt.remembered():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _interrupted()
        except BrokenPipeError:
            sys.exit(0)
        except Exception as error:
            if interrupt.asked():
                _interrupted()
            if "--debug" in sys.argv:
                raise
            if isinstance(error, TokexportError):
                click.echo(f"error: {error}", err=True)
                sys.exit(error.exit_code)
            click.echo(
                f"error: this is a bug in tokexport: {type(error).__name__}: {str(error).splitlines()[:1]}. "
                "Run the same command with --debug and report what it prints.",
                err=True,
            )
            sys.exit(BUG)


def _interrupted() -> NoReturn:
    click.echo("\ninterrupted; nothing was written", err=True)
    sys.exit(130)


def common(command: F) -> F:
    """The options of every command with a result."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tokexport")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def main() -> None:
    """Put token compression into exported model graphs, prove it, and run it.

    \b
    tokexport model --method apet --ratio 0.85              the built-in tiny-vlm, all graphs, proved
    tokexport model ./llava-1.5-7b --method apet --keep 64  a checkpoint's encoder and projector
    tokexport model encoder.onnx --method kcenter_merge --ratio 0.9
    """


@main.command()
@click.argument("source", required=False)
@click.option("--method", required=True, help="Compressor; `tokexport methods` lists them.")
@click.option("--ratio", help="Share of tokens removed, read exactly: 0.85 or 8/9.")
@click.option("--keep", type=int, help="Tokens kept, instead of --ratio.")
@click.option("--seam", default="auto", show_default=True, help="Where; `tokexport inspect` lists the seams of a file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter of the method; repeatable.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True)
@click.option("--parts", type=click.Choice(["encoder", "all"]), default="all", show_default=True)
@click.option("--size-bias", type=click.Choice(["auto", "off"]), default="auto", show_default=True)
@click.option("--min-accuracy", type=float, help="Fail (exit 1) below this share of right answers; built-in models.")
@click.option("--no-verify", is_flag=True, help="Skip the proof; the bundle then says so.")
@click.option("--force", is_flag=True, help="Replace a folder that is not a bundle of ours.")
@click.option("-o", "--out", type=OUT, help="Bundle folder.  [default: ./<source>-<method>-<ratio>]")
@common
def model(as_json: bool, settings: tuple[str, ...], no_verify: bool, **request: Any) -> None:
    """Compress SOURCE, prove the result, and write a bundle.

    SOURCE is a built-in model (default tiny-vlm), a checkpoint folder, an ONNX file, or package.module:callable that
    returns an nn.Module and example inputs.
    """
    from . import render
    from .pipeline import export

    with render.progress(quiet=as_json) as step:
        result = export(params=_settings(settings), verify=not no_verify, step=step, **request)
    render.result(result.to_json(), as_json, render.exported)


@main.command()
@click.argument("bundle", type=OUT)
@click.option("--runtime", type=click.Choice(["ort"]), default="ort", show_default=True)
@common
def verify(bundle: Path, runtime: str, as_json: bool) -> None:
    """Check the hashes of BUNDLE and prove its graphs again on this machine; PyTorch is not needed."""
    from . import render
    from .verify import verify as run

    with render.progress(quiet=as_json) as step:
        result = run(bundle, runtime=runtime, step=step)
    render.result(result, as_json, render.verified)
    if not result["ok"]:
        sys.exit(1)


@main.command()
@click.argument("bundle", type=OUT)
@click.option("--image", type=OUT, required=True, help="An image file.")
@click.option("--prompt", required=True, help="A question about it.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="At most this many; the bundle's own limit otherwise.")
@common
def run(bundle: Path, image: Path, prompt: str, max_new_tokens: int | None, as_json: bool) -> None:
    """Ask BUNDLE a question about an image, with ONNX Runtime."""
    from ..runtimes.load import load
    from . import render

    if not prompt.strip():
        raise RequestError("the prompt is empty", fix="Ask something: --prompt 'what colour is the circle ?'")
    answer = load(bundle).generate(image, prompt, max_new_tokens=max_new_tokens)
    render.result(answer.to_json(), as_json, lambda data: click.echo(data["text"]))


@main.command()
@click.argument("path", metavar="MODEL.onnx", type=OUT)
@common
def inspect(path: Path, as_json: bool) -> None:
    """List the seams of an ONNX file: where a compressor can go, and what can be read there."""
    from ..graph_passes.model_io import load_model
    from ..graph_passes.seams import describe
    from . import render

    render.result(describe(load_model(path)), as_json, render.inspected)


@main.command()
@common
def methods(as_json: bool) -> None:
    """List the compressors with their parameters and defaults."""
    from ..graph_passes.compressors import table
    from . import render

    render.result(table(), as_json, render.method_table)


def _settings(pairs: tuple[str, ...]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RequestError(f"--set {pair!r} is not KEY=VALUE", fix="Write for example --set basis=16.")
        if key in settings:
            raise RequestError(f"--set {key} was given twice", fix="Give each parameter once.")
        settings[key] = value
    return settings
