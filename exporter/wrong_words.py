"""Answers commands and options that people know from other tools with the ones that are here."""

from __future__ import annotations

import difflib

import click

_COMMANDS = {
    "model": ("export", "convert", "compress", "make", "prune"),
    "recommend": ("choose", "suggest", "auto", "pareto", "tune", "search", "advise", "best"),
    "sweep": ("compare", "eval", "evaluate"),
    "bench": ("benchmark", "time", "profile", "speed", "latency", "measure"),
    "verify": ("check", "test", "prove", "validate"),
    "run": ("infer", "predict", "generate", "ask", "transcribe"),
    "show": ("draw", "plot", "view", "visualize", "visualise", "overlay"),
    "build": ("compile", "engine", "trt", "tensorrt"),
    "inspect": ("seams", "info", "graph", "layers"),
    "methods": ("list", "ls", "compressors", "recipes"),
    "attach": ("inject", "size-bias"),
    "debug": ("diff", "bisect", "reduce", "polygraphy", "localize"),
    "doctor": ("diagnose", "env", "version"),
}
_OPTIONS = {
    "--precision": ("--dtype", "--fp16", "--half", "--bf16", "--fp32", "--type"),
    "--method": ("-m", "--compressor", "--algorithm", "--methods"),
    "--ratio": ("-r", "--rate", "--ratios", "--compression"),
    "--keep": ("-k", "--tokens", "--num-tokens", "--budget"),
    "--out": ("--output", "--output-dir", "--out-dir", "--output-folder"),
    "--seam": ("--layer", "--where", "--position"),
    "--set": ("-s", "--param", "--params", "-p"),
    "--image": ("-i", "--img", "--picture", "--input"),
    "--audio": ("--sound", "--wav"),
    "--language": ("--lang", "-l"),
    "--timestamps": ("--times", "--segments", "--timestamp"),
    "--prompt": ("--question", "--text", "--query"),
    "--runtime": ("--backend",),
    "--provider": ("--execution-provider", "--ep", "--providers"),
    "--device": ("--gpu", "--target", "--arch"),
    "--inputs": ("--data", "--dataset", "--images", "--load-inputs"),
    "--max-regression": ("--threshold", "--tolerance"),
    "--tokens": ("-k", "--keep", "--num-tokens", "--budget"),
    "--latency-ms": ("--latency", "--ms", "--time", "--max-latency", "--deadline"),
    "--loss": ("--max-loss", "--drop", "--max-drop", "--tolerance"),
    "--workers": ("-j", "-n", "--jobs", "--processes", "--parallel", "--num-workers"),
    "--scheduler": ("--dask", "--cluster", "--address"),
    "--against": ("--reference", "--ref", "--with", "--other", "--baseline"),
}


def command(name: str, known: list[str]) -> click.UsageError:
    """The error for a command that is not there."""
    meant = [right for right, wrong in _COMMANDS.items() if name.lower() in wrong]
    close = meant or difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(f'`tokexport {one}`' for one in close)}?" if close else ""
    return click.UsageError(f"No such command {name!r}.{hint} Commands: {', '.join(sorted(known))}.")


def option(error: click.NoSuchOption) -> click.NoSuchOption:
    """The error for an option that is not there, with the one that is meant, where the command has it."""
    name, taken = error.option_name, error.ctx.command.params if error.ctx else []
    takes = [each for one in taken for each in one.opts]
    meant = [right for right, wrong in _OPTIONS.items() if name.lower() in wrong and right in takes]
    if meant:
        hint = f"Did you mean {' or '.join(map(repr, meant))}?"
    elif name == "--model" and any(one.name == "source" for one in taken):
        hint = "The model is named without an option, as in `tokexport model SOURCE`."
    else:
        # click compares the dashes too, by which all long options are alike.
        names = {one.lstrip("-"): one for one in takes if one.startswith("--")}
        close = difflib.get_close_matches(name.lstrip("-").lower(), names, n=2, cutoff=0.65)
        return click.NoSuchOption(name, possibilities=[names[one] for one in close], ctx=error.ctx)
    return click.NoSuchOption(name, message=f"No such option {name!r}. {hint}", ctx=error.ctx)
