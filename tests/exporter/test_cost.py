"""What a bundle costs; a compressor that takes much of its encoder's time is named, with its share."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from tokexport.exporter.evaluate import cost

FED = {"x": np.zeros(1, np.float32)}


def computes(seconds):
    def run(fed):
        assert fed is FED
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return run


def test_each_compressor_is_timed_beside_its_encoder():
    whole, parts = cost.parted(computes(0.05), FED, [("dear", computes(0.02), FED), ("cheap", computes(0.0), FED)])
    assert 50 <= whole < 60 and [method for method, _ in parts] == ["dear", "cheap"]
    assert 20 <= parts[0][1] < 30 and parts[1][1] < 10


def test_what_takes_long_is_run_twice_and_not_more(monkeypatch):
    monkeypatch.setattr(cost, "_LONG", 0.01)
    runs = []

    def run(fed):
        runs.append(fed)
        computes(0.02)(FED)

    assert cost.milliseconds(run, FED) >= 20 and len(runs) == 2


def test_only_a_costly_compressor_is_named():
    first, second = cost.costly([("kcenter_merge", 0.2), ("uniform", cost.SHARE), ("slow", 1.7)])
    assert first.startswith("kcenter_merge takes about 20% of the encoder's time in ONNX Runtime on this machine")
    assert "docs/methods.md" in first
    assert second.startswith("slow takes about 100% ")


@pytest.mark.parametrize(
    ("attention", "shapes", "wanted"),
    [
        # 20 slots of which 6 are the input's: with 16 tokens there are ten more.
        ("self", {"past_key_0": [1, 2, 20, 8], "past_value_0": [1, 2, 20, 8]}, (2560, 3840)),
        # Behind a cut a layer holds less, and uncompressed as much as the first.
        ("self", {"past_key_0": [1, 2, 20, 8], "past_key_1": [1, 2, 15, 8]}, (2240, 3840)),
        ("cross", {"past_key_0": [1, 2, 20, 8], "cross_key_0": [1, 2, 6, 8]}, (1664, 2304)),
        ("self", {"past_key_0": [1, 2, 20, 8], "state_0": [1, 4]}, (1296, 1936)),
    ],
)
def test_caches_are_counted_for_all_tokens_too(attention, shapes, wanted):
    inputs = {name: SimpleNamespace(shape=shape, dtype="float32") for name, shape in shapes.items()}
    variant = SimpleNamespace(
        graphs={"decode": SimpleNamespace(inputs=inputs)}, generation=SimpleNamespace(attention=attention, images=None)
    )
    assert cost.caches(variant, 16, 6) == wanted


def test_an_encoder_alone_has_no_caches():
    assert cost.caches(SimpleNamespace(graphs={}, generation=None), 16, 6) == (0, 0)
