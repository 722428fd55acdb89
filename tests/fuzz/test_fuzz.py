"""Every reader on some changed inputs, always the same ones; `make fuzz` runs more, and others."""

from __future__ import annotations

import pytest
from run import run
from targets import TARGETS

NEEDS = {
    "families": "transformers",
    "film": "av",
    "llava": "transformers",
    "whisper": "transformers",
    "proof": "torch",
    "sound": "soundfile",
    "tokenizer": "tokenizers",
    "transcript": "soundfile",
}
CASES = {"families": 400, "llava": 40, "whisper": 40, "proof": 40, "manifest": 100}


# Forty folders take their time.
EACH = [pytest.param(name, marks=pytest.mark.slow) if name == "families" else name for name in TARGETS]


@pytest.mark.parametrize("name", EACH)
def test_changed_inputs_are_read_or_refused(name: str) -> None:
    pytest.importorskip(NEEDS.get(name, "numpy"))
    # The number of cases is fixed, not the time: a slow machine reads the same ones.
    assert run(name, seed=1, cases=CASES.get(name, 200), seconds=600) == []
