"""Kernels that are told a grid, on the CPU."""

from __future__ import annotations

import pytest
from kernel_checks import DTYPES, GRIDS, draw, is_equal

GRID_IDS = ["-".join([method, *map(str, params.values()), str(k)]) for method, params, _, k in GRIDS]


@pytest.mark.parametrize(("method", "params", "n", "k"), GRIDS, ids=GRID_IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_grids_agree_with_the_reference(library, method, params, n, k, dtype):
    for dim in (5, 16, 261):
        is_equal(library, method, params, k, draw("normal", (2, n, dim)).to(DTYPES[dtype]))
