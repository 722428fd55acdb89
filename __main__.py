"""`python -m tokexport`: the command line."""

from .exporter.cli import main

main(prog_name="python -m tokexport")
