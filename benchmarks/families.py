"""Every family that tokexport reads, on a tiny random folder: what is exported, proved, and built by TensorRT-RTX.

    python benchmarks/families.py [ROW ...]

For each row of `tests/tiny_families.py` the command `tokexport model` compresses the folder by half with a method that
merges: where it puts the compressor by itself, and then inside the encoder, where the tokens are put back at their
places if what follows needs them there. Its own proof says whether the encoder, the
language graphs and the answers agree with transformers. Then TensorRT-RTX builds every graph, without a GPU. Rows that
are not named stay in the file as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from report import RESULTS, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from tiny_families import FAMILIES, Family, key

NAME = "families"
METHOD, RATIO, INSIDE = "kcenter_merge", "0.5", "encoder_layer:0"
ROWS: Mapping[str, Family] = {key(family): family for family in FAMILIES}


def exported(folder: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """What `tokexport model` says of a folder: its seam, counts and checks, or why it refuses or fails."""
    from tokexport.exporter.cli import main

    command = ["model", str(folder), "--method", METHOD, "--ratio", RATIO, *arguments, "-o", str(out), "--json"]
    done = CliRunner().invoke(main, command)
    if done.exit_code:
        told = _error(done.stderr) or _error(done.stdout) or repr(done.exception)
        return {"status": "refused" if done.exit_code == 2 else "failed", "reason": told}
    data = json.loads(done.stdout)
    (compression,) = data["compression"]
    checks = data["proof"]["checks"]
    return {
        "status": "ok",
        "seam": compression["seam"]["kind"],
        "tokens": [compression["tokens_in"], compression["tokens_out"]],
        "size_bias": compression["size_bias"],
        "checks": {part: all(one["ok"] for one in checks if one["part"] == part) for part in _parts(checks)},
        "answers": next((one["detail"] for one in checks if one["part"] == "generation"), ""),
    }


def _parts(checks: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(one["part"] for one in checks))


def _error(text: str) -> str:
    """What an error printed as JSON says is wrong; empty without one."""
    try:
        error = json.loads(text[text.index("{") :])["error"]
    except (ValueError, KeyError):
        return ""
    return str(error["what"])


def built(bundle: Path, roles: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """By the name of each graph of a bundle in each form: whether TensorRT-RTX builds it, or why not."""
    from tokexport.runtimes.bundle.reader import open_bundle
    from tokexport.runtimes.tensorrt import rtx

    found: dict[str, dict[str, Any]] = {}
    for role, record in open_bundle(bundle).variant().graphs.items():
        for form, file in record.forms.items() if not roles or role in roles else ():
            result = rtx.build(bundle / file, plugins="python")
            found[f"{role}, {form}"] = {"ok": result.ok} | ({} if result.ok else {"why": str(result.errors[0])[:300]})
    return found


def row(family: Family, scratch: Path) -> dict[str, Any]:
    """All cells of a family."""
    folder = scratch / "model"
    family.make(folder)
    asked = family.options
    here = exported(folder, scratch / "here", *asked)
    inside = here if here.get("seam", "").startswith("encoder_layer") else None
    inside = inside or exported(folder, scratch / "inside", *asked, "--seam", INSIDE)
    if inside["status"] == "refused":
        back = exported(folder, scratch / "inside", *asked, "--seam", INSIDE, "--rebuild")
        inside = back if back["status"] == "ok" else inside
    rtx = built(scratch / "here") if here["status"] == "ok" else {}
    if inside is not here and inside["status"] == "ok":
        rtx |= {f"inside, {name}": one for name, one in built(scratch / "inside", ("encoder",)).items()}
    return {
        "family": family.name,
        "architecture": family.architecture,
        "date": datetime.date.today().isoformat(),
        "here": here,
        "inside": inside,
        "rtx": rtx,
    }


def measured(names: list[str]) -> None:
    """Fill these rows of results/families.json, each kept when it is there."""
    file = RESULTS / f"{NAME}.json"
    for name in names:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            one = row(ROWS[name], Path(scratch))
        rows = json.loads(file.read_text())["results"] if file.is_file() else {}
        rows[name] = one
        save(NAME, {each: rows[each] for each in ROWS if each in rows}, f"python benchmarks/{NAME}.py")
        told = {place: one[place].get("reason") or one[place]["checks"] for place in ("here", "inside")}
        unbuilt = {graph: each["why"] for graph, each in one["rtx"].items() if not each["ok"]}
        print(f"{name}: {time.perf_counter() - start:.0f} s, {told}, not built: {unbuilt}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all without one: " + ", ".join(ROWS))
    asked = parser.parse_args().rows
    if unknown := {*asked} - {*ROWS}:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    measured(asked or list(ROWS))
