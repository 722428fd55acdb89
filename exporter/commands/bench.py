"""`tokexport bench`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from ...files import size
from .. import render, tables
from ..progress import bar
from .shared import (
    OUT,
    WHOLE,
    Ids,
    check_kind,
    common,
    media_options,
    one_input,
    one_prompt,
    prompt_ids,
    runtime_options,
)

_NAMES = {"encoder": "encoder", "prefill": "prefill", "first_token": "first token", "token": "per token"}


class _Share(click.ParamType):
    """A share as 5% or 0.05."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(%?)", str(value).strip())
        share = float(found[1]) / (100 if found[2] else 1) if found else 0.0
        if not found or (share > 1 and not found[2]):
            self.fail(f"{value!r} is not a share. Write 5% or 0.05.", param, ctx)
        return share


@click.command(short_help="Measure how fast a bundle answers, alone or against another.")
@click.argument("bundle", type=OUT)
@click.option("--against", type=OUT, metavar="BUNDLE", help="What it is held against, such as that of the main branch.")
@media_options(images=True)
@click.option("--prompt", help="A question about the input.  [default: what it was proved with, or an example]")
@prompt_ids
@runtime_options
@click.option("--threads", type=WHOLE, help="Of ONNX Runtime, inside one operator.  [default: one per core]")
@click.option("--variant", metavar="NAME", help="Of BUNDLE.  [default: the first]")
@click.option("--against-variant", metavar="NAME", help="Of the other, which may be the same bundle.")
@click.option(
    "--tokens", type=Ids("lengths"), default="1,20,100", show_default=True, metavar="N,N", help="Lengths of answers."
)
@click.option("--rounds", type=WHOLE, default=20, show_default=True, help="How often each answers, in turns.")
@click.option("--warmup", type=WHOLE, default=2, show_default=True, help="How often before that.")
@click.option(
    "--max-regression",
    type=_Share(),
    metavar="5%",
    help="Fail (exit 1) where BUNDLE surely takes longer than that: by the lower end of the interval.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="NAME",
    help="Of these alone, such as first_token or answer_20; repeatable.  [default: all]",
)
@common
@tables.wide_option
def bench(
    bundle: Path,
    image: tuple[Path, ...],
    video: Path | None,
    audio: Path | None,
    prompt: str | None,
    ids: tuple[int, ...],
    as_json: bool,
    **request: Any,
) -> None:
    """Measure encoder, prefill, first token, token and whole answers of BUNDLE, its memory, and energy where that is
    known.

    With --against both answer in turns, so that a slower machine slows both, and each stage gets a ratio with an
    interval. Each bundle is given what it was proved with, or the same file by --image, --video or --audio.

    \b
    tokexport bench new --against old --max-regression 5%
    """
    from ...runtimes.bundle.reader import open_bundle
    from ..speed.bench import bench as run

    given = {"image": image, "video": (video,) if video else (), "audio": (audio,) if audio else ()}
    option, inputs = one_input(given) if any(given.values()) else ("", ())
    sides = ((bundle, request["variant"]), (request["against"], request["against_variant"]))
    for path, variant in sides if option else ():
        if path is not None:
            opened = open_bundle(path)
            check_kind(opened.manifest.preprocess_of(opened.variant(variant)), path, option)
    with bar() as advance:
        result = run(bundle, inputs=inputs, prompt=one_prompt(prompt, ids), advance=advance, **request)
    render.result(result, as_json, measured)
    if not result["ok"]:
        sys.exit(1)


def measured(data: dict[str, Any]) -> None:
    """Print the result of `tokexport bench`."""
    two = len(data["bundles"]) > 1
    where = f"provider {data['provider']}" if data["provider"] else "the engines in it"
    threads = f", {data['threads']} thread{'s' if data['threads'] > 1 else ''}" if data["threads"] else ""
    for one in data["bundles"]:
        tables.wrapped(f"{one['bundle']}: ", f"{one['variant']}, {where}{threads}, given {one['input']}")
    rows = tables.Table(
        "stage", "bundle", "p50", "p90", "p99", "samples", "times as long", "95% interval", more={"samples"}
    )
    stages = dict.fromkeys(name for one in data["bundles"] for name in one["stages"])
    for stage in stages:
        for number, one in enumerate(data["bundles"]):
            if stage in one["stages"]:
                ratio = data["ratios"].get(stage) if number == 0 else None
                rows.add_row(_name(stage), _short(data, number) if two else "", *_times(one["stages"][stage], ratio))
    tables.show(rows)
    for one in data["bundles"]:
        tables.wrapped(f"{one['bundle']}: ", "; ".join(_costs(one)))
        for why in dict.fromkeys(one["left_out"].values()):
            names = ", ".join(_name(name) for name, because in one["left_out"].items() if because == why)
            tables.wrapped(f"{one['bundle']}: ", f"not measured: {names}: {why}")
        for note in one["notes"]:
            tables.wrapped("note: ", f"{one['bundle']}: {note}")
    for note in data["notes"]:
        tables.wrapped("note: ", note, "yellow")
    if data["max_regression"] is not None:
        most = f"{data['max_regression']:.1%} longer than {data['bundles'][1]['bundle']}"
        slow = ", ".join(_name(name) for name in data["slower"])
        verdict = f"SLOWER: {slow} surely take more than {most}" if slow else f"nothing surely takes more than {most}"
        tables.wrapped("", verdict, "red" if slow else "green")


def _name(stage: str) -> str:
    return _NAMES.get(stage) or f"answer of {stage.removeprefix('answer_')} tokens"


def _short(data: dict[str, Any], number: int) -> str:
    """The bundle in a row: its folder, and where both are of one folder the variant."""
    one, other = (data["bundles"][at] for at in (number, 1 - number))
    return one["variant"] if one["bundle"] == other["bundle"] else one["bundle"]


def _times(found: dict[str, Any], ratio: dict[str, Any] | None) -> list[str]:
    shown = [f"{found[name]:.{_digits(found['p50_ms'])}f} ms" for name in ("p50_ms", "p90_ms", "p99_ms")]
    if ratio is None:
        return [*shown, str(found["samples"]), "", ""]
    interval = f"{ratio['low']:.3f} to {ratio['high']:.3f}" if ratio["low"] is not None else "too few rounds"
    return [*shown, str(found["samples"]), f"{ratio['median']:.3f}", interval]


def _digits(milliseconds: float) -> int:
    return 3 if milliseconds < 10 else 1


def _costs(one: dict[str, Any]) -> list[str]:
    """Memory and energy of a bundle, in words."""
    unknown = one["unknown"]
    sizes = {"host memory": one["host_peak_bytes"], "device memory": one["device_peak_bytes"]}
    told = [f"{name} {unknown[name] if held is None else size(held)}" for name, held in sizes.items()]
    joules = [f"{joules:.3g} J a round by {name}" for name, joules in one["joules"].items()]
    return [*told, f"energy {', '.join(joules) or unknown['energy']}"]
