"""The table of families: every family has a row, cells say what was measured, and some rows are measured again."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_families
from tiny_families import FAMILIES, key
from tokexport.exporter import families

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import family_tables  # noqa: E402

ROWS = json.loads((BENCHMARKS / "results/families.json").read_text())["results"]
CHECKS = dict.fromkeys(("head", "compressor", "tail", "embed", "prefill", "decode", "generation"), True)
DONE = {"status": "ok", "reason": "", "seam": "projector_output", "checks": CHECKS}
ROW = {"here": DONE, "inside": DONE, "rtx": {"encoder, portable": {"ok": True}, "decode, portable": {"ok": True}}}
INSIDE = "encoder_layer:0"
OK = ("ok", "ok", "ok", "ok", "all 2")


def changed(**more: Any) -> tuple[str, ...]:
    return tuple(family_tables.cells({**copy.deepcopy(ROW), **more}).values())


def test_every_architecture_has_a_row_and_every_row_was_measured():
    built_in = {name for names in families.FAMILIES.values() for name in names}
    assert {family.architecture for family in FAMILIES} == built_in
    assert list(ROWS) == list(map(key, FAMILIES)), "run python benchmarks/families.py with the rows that are missing"
    assert [row["architecture"] for row in ROWS.values()] == [family.architecture for family in FAMILIES]


def test_every_family_is_whole_and_inside_proved_or_refused_with_the_reason():
    for name, row in ROWS.items():
        assert row["here"]["status"] == "ok" and all(row["here"]["checks"].values()), name
        here, inside = row["here"], row["inside"]
        assert here["tokens"][1] == here["tokens"][0] // 2, name
        # Behind an encoder without a language model there is no attention that sizes would weigh.
        assert here["size_bias"] == (here["seam"] == INSIDE or "generation" in here["checks"]), name
        assert inside.get("size_bias", True) and inside.get("seam", INSIDE) == INSIDE, name
        assert inside["status"] == "ok" or "so none may be missing" in inside["reason"], name
        assert all(inside.get("checks", {}).values()) and all(one["ok"] or one["why"] for one in row["rtx"].values())
        assert ("generation" in row["here"]["checks"]) == row["architecture"].endswith("ForConditionalGeneration"), name


def test_cells_say_what_was_measured():
    assert changed() == OK
    for part, column in (("tail", 0), ("head", 0), ("prefill", 1), ("decode", 1), ("generation", 2)):
        found = changed(here={**DONE, "checks": {**CHECKS, part: False}})
        assert found[column] == "failed" and found[:column] + found[column + 1 :] == OK[:column] + OK[column + 1 :]
    alone = changed(here={**DONE, "checks": {"head": True, "compressor": True}})
    assert alone == ("ok", "", "", "ok", "all 2")
    assert changed(rtx={"decode, portable": {"ok": False, "why": "no"}})[4] == "decode, portable: no"
    said = "seam encoder_layer:0 of m is not valid: its merger makes one, by their places, so none"
    assert changed(inside={"status": "refused", "reason": said})[3] == "refused: its merger makes one"
    assert changed(inside={"status": "failed", "reason": "odd"})[3] == "failed: odd"
    assert set(changed(here={"status": "refused", "reason": "odd"})) == {"refused: odd"}


# What no other test exports whole: the others have tests of their own.
AGAIN = ("llava-1.5-that-keeps-cls", "paligemma", "clipforimageclassification", "siglipforimageclassification")


@pytest.mark.slow
@pytest.mark.parametrize("name", AGAIN)
def test_a_row_measured_again_is_that_of_the_file(name, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("tensorrt_rtx")
    import families as program

    family = next(family for family in tiny_families.FAMILIES if key(family) == name)
    assert family_tables.cells(program.row(family, tmp_path)) == family_tables.cells(ROWS[name])
