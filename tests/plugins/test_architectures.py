"""CUDA's rules of which code runs where."""

from __future__ import annotations

import pytest
from tokexport.plugins.architectures import runs_on


@pytest.mark.parametrize(
    ("architectures", "here", "elsewhere"),
    [
        ("87-real", ["8.7"], ["8.6", "8.9", "9.0"]),
        ("80-real", ["8.0", "8.6", "8.9"], ["7.5", "8.7", "9.0"]),
        ("86-real", ["8.6", "8.9"], ["8.0", "8.7"]),
        ("75-virtual", ["7.5", "8.7", "12.0"], ["7.2"]),
        ("89", ["8.9", "9.0", "11.0", "12.0"], ["8.7", "8.6"]),
        ("90a-real", ["9.0"], ["8.9", "10.0"]),
        ("90a", ["9.0"], ["10.0"]),
        ("100f-real", ["10.0", "10.3"], ["12.0"]),
        ("75-real 87-real", ["7.5", "8.7"], ["8.9"]),
        ("", ["7.5"], []),
        ("all", ["7.5"], []),
    ],
)
def test_what_runs_where(architectures: str, here: list[str], elsewhere: list[str]) -> None:
    assert [gpu for gpu in (*here, *elsewhere) if runs_on(architectures.split(), gpu)] == here
