"""The command line: the group, its errors and its exit codes. Each command is a file in `commands`."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any, NoReturn

import click

from ..errors import TokexportError
from ..version import __version__
from . import interrupt, tables
from .commands.build import build
from .commands.devices import devices
from .commands.doctor import doctor
from .commands.inspect import inspect
from .commands.methods import methods
from .commands.model import model
from .commands.plugins import plugins
from .commands.run import run
from .commands.show import show
from .commands.sweep import sweep
from .commands.verify import verify

# EX_SOFTWARE of sysexits: 0 to 3 have meanings of their own, and a bug in tokexport has none of these.
BUG = 70


class Group(click.Group):
    """Turns errors into one paragraph and an exit code; prints a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; `TokexportError.exit_code` becomes the exit code."""
        _settle()
        if tables.colourless():
            ctx.color = False
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
                if error.example:
                    click.echo(error.example)
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
    tokexport model --method apet --ratio 0.85              the built-in tiny-vlm, all graphs, proved
    tokexport model ./llava-1.5-7b --method apet --keep 64  a checkpoint's encoder and projector
    tokexport model encoder.onnx --method kcenter_merge --ratio 0.9
    """


for command in (model, verify, run, show, build, sweep, inspect, methods, devices, doctor, plugins):
    main.add_command(command)
