"""pool and pixel_unshuffle on the CPU."""

from __future__ import annotations

import pytest
from grid_checks import POOLS, RESIZES, STACKS, check_pool, check_stack
from kernel_checks import DTYPES, GRIDS, draw, is_equal

GRID_IDS = ["-".join([method, *map(str, params.values()), str(k)]) for method, params, _, k in GRIDS]


@pytest.mark.parametrize(("method", "params", "n", "k"), GRIDS, ids=GRID_IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_grids_agree_with_the_reference(library, method, params, n, k, dtype):
    for dim in (5, 16, 261):
        is_equal(library, method, params, k, draw("normal", (2, n, dim)).to(DTYPES[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mode", "grid", "by"),
    [*((mode, *case) for mode in ("average", "max") for case in POOLS), *(("bilinear", *case) for case in RESIZES)],
)
def test_pools_of_frames(library, mode, grid, by, dtype):
    check_pool(library, mode, grid, by, draw("normal", (2, grid[0] * grid[1] * grid[2], 8)).to(DTYPES[dtype]))


@pytest.mark.parametrize(("grid", "by"), STACKS)
@pytest.mark.parametrize("dim", [5, 16])
def test_stacked_frames(library, grid, by, dim):
    check_stack(library, grid, by, draw("normal", (2, grid[0] * grid[1] * grid[2], dim)).half())
