"""Tokens followed through several compressors, in `tokexport show`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokexport
from click.testing import CliRunner
from PIL import Image
from tokexport.exporter.cli import main
from tokexport.exporter.pipeline import export
from tokexport.exporter.report.picks import Picks
from tokexport.exporter.report.stages import followed
from tokexport.runtimes.media.encoder_input import encoder_input

RECIPE = """
[[steps]]
method = "kcenter_merge"
seam = "encoder_layer:1"
keep = 36

[[steps]]
method = "divprune"
seam = "projector_input"
keep = 9
"""


def picks(kept: list[int], sizes: list[float], assignment: list[int]) -> Picks:
    return Picks(np.array(kept), np.array(sizes, np.float32), np.array(assignment))


def test_a_choice_among_slots_is_one_among_tokens():
    """Two slots of 2 and 1 of four tokens; then they are one, or the second alone, or nothing."""
    first = picks([0, 3], [2, 1], [0, 0, -1, 1])
    joined = first.then(picks([1], [2], [0, 0]))
    assert (joined.kept.tolist(), joined.sizes.tolist(), joined.assignment.tolist()) == ([3], [3], [0, 0, -1, 0])
    chosen = first.then(picks([1], [1], [-1, 0]))
    assert (chosen.kept.tolist(), chosen.sizes.tolist(), chosen.assignment.tolist()) == ([3], [1], [-1, -1, -1, 0])
    assert first.then(Picks.none(2)).assignment.tolist() == [-1] * 4
    # As ToMe leaves a slot that nothing went into.
    assert first.then(picks([0, 1], [1, 1], [-1, 1])).sizes.tolist() == [2, 1]


def test_each_stage_is_drawn_and_the_last_is_what_the_bundle_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(RECIPE)
    export("tiny-vlm", "b", recipe=Path("mine.toml"), parts="encoder", verify=False)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (72, 72, 3), dtype=np.uint8)).save("a.png")

    def show(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["show", "b", "--image", "a.png", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    (told,) = json.loads(show("-o", "kept.svg", "--json"))["bundles"]
    titles = ["1. kcenter_merge at encoder_layer:1: 144 → 36", "2. divprune at projector_input: 36 → 9"]
    assert [stage["at"] for stage in told["stages"]] == titles and told["unasked"] == []
    assert told["stages"][1]["summary"] == told["summary"]
    drawn = Path("kept.svg").read_text(encoding="utf-8")
    assert "2. divprune at projector_input" in drawn and "36 of 144 tokens" in drawn and "9 of 144 tokens" in drawn
    show("-o", "kept.png")
    size = Image.open("kept.png").size
    assert size[0] > 3 * size[1] / 2, "the input and two stages"
    session = tokexport.load("b")
    pixels = encoder_input("a.png", session.preprocess, Path("b"))
    encoded = Picks.of(session.encode(pixels))
    last = followed(session, pixels, encoded, "")[-1].picks
    for name in ("kept", "sizes", "assignment"):
        assert np.array_equal(getattr(last, name), getattr(encoded, name)), name
