"""What the references of pool and pixel_unshuffle do not have: frames, windows that are not square, stacked sound."""

from __future__ import annotations

import numpy as np
import torch
from kernel_abi import Library
from tokexport.plugins.abi import POOL_MODES
from tokexport.plugins.structs import PixelUnshuffle, Pool
from torch.nn.functional import avg_pool3d, interpolate, max_pool3d

# (frames, height, width) and a window; what does not fit is cut off.
POOLS = [((2, 7, 5), (1, 3, 2)), ((3, 4, 4), (2, 2, 4)), ((5, 1, 6), (2, 1, 1))]
RESIZES = [((2, 7, 5), (1, 2, 3)), ((3, 4, 6), (1, 4, 2))]
STACKS = [((2, 4, 6), (2, 3)), ((1, 1, 17), (1, 5)), ((3, 5, 2), (2, 1))]


def windows_of(grid: tuple[int, int, int], by: tuple[int, int, int]) -> np.ndarray:
    """The window [N] of each token, counted in reading order; -1 where it is cut off."""
    counts = np.array(grid) // by
    at = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3) // np.array(by)
    number = np.ravel_multi_index(tuple(np.minimum(at, counts - 1).T), counts)
    return np.where((at < counts).all(1), number, -1)


def check_pool(library: Library, mode: str, grid, by, tokens: torch.Tensor) -> None:
    batch, _, dim = tokens.shape
    frames = tokens.float().view(batch, *grid, dim).permute(0, 4, 1, 2, 3)
    if mode == "bilinear":
        sizes = [-(-grid[axis] // by[axis]) for axis in (1, 2)]
        flat = interpolate(frames.permute(0, 2, 1, 3, 4).flatten(0, 1), size=sizes, mode="bilinear")
        expected = flat.unflatten(0, (batch, grid[0])).permute(0, 2, 1, 3, 4)
    else:
        expected = (avg_pool3d if mode == "average" else max_pool3d)(frames, by, by)
    expected = expected.flatten(2).mT
    got = library.run("pool", expected.shape[1], Pool(*grid, *by, POOL_MODES[mode]), tokens)
    step = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[tokens.dtype]
    rounded = expected.to(tokens.dtype).float().numpy()
    np.testing.assert_allclose(got.tokens.astype(np.float32), rounded, rtol=step, atol=step)
    if mode != "bilinear":
        window = windows_of(grid, by)
        np.testing.assert_array_equal(got.assignment, np.tile(window, (batch, 1)))
        assert (got.sizes == np.prod(by)).all()
        # The middle of a window of n along an axis is its token number (n - 1) // 2.
        middle = ((by[0] - 1) // 2 * grid[1] + (by[1] - 1) // 2) * grid[2] + (by[2] - 1) // 2
        first = [np.flatnonzero(window == slot)[0] for slot in range(window.max() + 1)]
        np.testing.assert_array_equal(got.kept_indices, np.tile(first, (batch, 1)) + middle)


def check_stack(library: Library, grid, by, tokens: torch.Tensor) -> None:
    batch, _, dim = tokens.shape
    window = windows_of(grid, (1, *by))
    members = [np.flatnonzero(window == slot) for slot in range(window.max() + 1)]
    wide = by[0] * by[1] * dim
    got = library.run("pixel_unshuffle", len(members), PixelUnshuffle(*grid, *by, 0), tokens, dim=wide)
    expected = torch.stack([tokens[:, rows].flatten(1) for rows in members], 1)
    assert torch.equal(torch.from_numpy(got.tokens.astype(np.float32)), expected.float())
    np.testing.assert_array_equal(got.assignment, np.tile(window, (batch, 1)))
    np.testing.assert_array_equal(got.kept_indices, np.tile([rows[0] for rows in members], (batch, 1)))
    assert (got.sizes == 1).all()
