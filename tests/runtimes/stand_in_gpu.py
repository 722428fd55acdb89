"""Puts the stand-ins for TensorRT and CUDA (stand_ins/) where they are imported, here and in child processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("stand_ins")


def _ours(name: str) -> bool:
    return name.partition(".")[0] in ("cuda", "tensorrt")


@contextmanager
def installed() -> Iterator[pytest.MonkeyPatch]:
    """Within this, `tensorrt` and `cuda.bindings` are the stand-ins; yields a patch that ends with it."""
    before = {name: module for name, module in sys.modules.items() if _ours(name)}
    for name in before:
        del sys.modules[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        try:
            yield patch
        finally:
            for name in [name for name in sys.modules if _ours(name)]:
                del sys.modules[name]
            sys.modules.update(before)
