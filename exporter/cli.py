"""The command line: the group, its errors and its exit codes. Each command is a file in `commands`."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from ..errors import TokexportError
from ..version import __version__
from . import interrupt, tables, wrong_words
from .commands.attach import attach
from .commands.bench import bench
from .commands.build import build
from .commands.debug import debug
from .commands.devices import devices
from .commands.doctor import doctor
from .commands.export_to import export_to
from .commands.inspect import inspect
from .commands.methods import methods
from .commands.model import model
from .commands.plugins import plugins
from .commands.recommend import recommend
from .commands.run import run
from .commands.show import show
from .commands.sweep import sweep
from .commands.verify import verify

# EX_SOFTWARE of sysexits: 0 to 3 have meanings of their own, and a bug in tokexport has none of these.
BUG = 70
# 128 and the number of SIGINT, as shells have it.
INTERRUPTED = 130
_TYPED = "tokexport.typed"


class Group(click.Group):
    """Turns errors into one paragraph and an exit code; prints a traceback only with --debug.

    With --json the error is an object on stdout as well: ``{"error": {"kind", "what", "where", "fix", "exit_code"}}``.
    """

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run as a program, where names are UTF-8 whatever the locale says: as they are in bundles and reports."""
        if args is None and sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
        return super().main(args, *rest, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember what was typed: which options were given decides how an error is shown."""
        ctx.meta[_TYPED] = list(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a word of other tools is answered with the one that is meant."""
        if not ctx.resilient_parsing and args and self.get_command(ctx, args[0]) is None and args[0][:1] != "-":
            raise wrong_words.command(args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; `TokexportError.exit_code` becomes the exit code."""
        _settle()
        if tables.colourless():
            ctx.color = False
        typed = ctx.meta[_TYPED]
        try:
            with interrupt.remembered():
                return super().invoke(ctx)
        except click.ClickException as error:
            told = wrong_words.option(error) if isinstance(error, click.NoSuchOption) else error
            _object(typed, type(told).__name__, told.format_message(), code=told.exit_code)
            raise told from None
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _interrupted(typed)
        except BrokenPipeError:
            sys.exit(0)
        except Exception as error:
            if interrupt.asked():
                _interrupted(typed)
            if "--debug" in typed:
                raise
            if isinstance(error, TokexportError):
                _object(typed, type(error).__name__, error.what, error.where, error.fix, error.exit_code)
                click.echo(f"error: {error}", err=True)
                if error.example:
                    click.echo(error.example)
                sys.exit(error.exit_code)
            what = f"this is a bug in tokexport: {type(error).__name__}: {str(error).splitlines()[:1]}"
            fix = "Run the same command with --debug and report what it prints."
            _object(typed, "Bug", what, fix=fix, code=BUG)
            click.echo(f"error: {what}. {fix}", err=True)
            sys.exit(BUG)


def _object(typed: list[str], kind: str, what: str, where: str = "", fix: str = "", code: int = 2) -> None:
    """With --json, the error as an object on stdout."""
    if "--json" in typed:
        error = {"kind": kind, "what": what, "where": where, "fix": fix, "exit_code": code}
        click.echo(json.dumps({"error": error}, indent=2))


def _interrupted(typed: list[str]) -> NoReturn:
    _object(typed, "Interrupted", "interrupted; nothing was written", code=INTERRUPTED)
    click.echo("\ninterrupted; nothing was written", err=True)
    sys.exit(INTERRUPTED)


def _settle() -> None:
    """What makes a process whose only work is one command faster; set before torch is loaded."""
    # An export makes millions of objects that live on: looking through them for circles takes a tenth of the time.
    gc.set_threshold(100_000, 20, 100)
    # torch's threads and ONNX Runtime's take turns, and those that spin while they wait take the others' cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tokexport")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def main() -> None:
    """Put token compression into exported model graphs, prove it, and run it.

    \b
    tokexport model --method kcenter_merge --ratio 0.85         built-in tiny-vlm
    tokexport model ./llava --method kcenter_merge --keep 64    a checkpoint
    tokexport model encoder.onnx --method apet --ratio 0.85     any ONNX file

    Exit codes: 0 done; 1 a gate failed; 2 the request or the input is wrong; 3 something is missing
    here; 70 a bug in tokexport; 130 interrupted.
    """


for command in (
    *(model, verify, run, bench, show, build, export_to, attach, sweep, recommend, debug, inspect),
    *(methods, devices, doctor, plugins),
):
    main.add_command(command)
