"""A compressor that takes much of its encoder's time is named, with its share."""

import time

import numpy as np
from tokexport.exporter.evaluate import share

FED = {"x": np.zeros(1, np.float32)}


def sleeps(seconds):
    def run(fed):
        assert fed is FED
        time.sleep(seconds)
        return {}

    return run


def test_only_what_takes_more_than_a_twentieth_is_named():
    found = share.notes(sleeps(0.1), FED, [("dear", sleeps(0.03), FED), ("cheap", sleeps(0.0), FED)])
    assert len(found) == 1
    assert found[0].startswith("dear takes about ")
    assert 15 <= int(found[0].split("about ")[1].split("%")[0]) <= 60


def test_the_words():
    told = share.worded("kcenter_merge", 0.2)
    assert told.startswith("kcenter_merge takes about 20% of the encoder's time in ONNX Runtime on this machine")
    assert "docs/methods.md" in told
    assert "100%" in share.worded("slow", 1.7)
