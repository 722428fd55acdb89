from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokexport.errors import RequestError
from tokexport.graph_passes.reference import reference


@pytest.mark.parametrize("n", [15, 17])
def test_a_signal_of_other_tokens_is_refused(n: int) -> None:
    with pytest.raises(RequestError, match=rf"'cls_attention' is \[1, {n}\]"):
        reference("topk", torch.ones(1, 16, 4), keep=3, cls_attention=torch.ones(1, n))


@pytest.mark.parametrize(
    "tokens", [torch.ones(16, 4), torch.ones(1, 1, 2, 16, 4), torch.ones(1, 16, 4, dtype=torch.int64)]
)
def test_tokens_are_floating_point_of_rank_3(tokens: torch.Tensor) -> None:
    with pytest.raises(RequestError, match="floating point"):
        reference("kcenter_merge", tokens, keep=3)


def test_a_video_is_one_set_of_all_its_tokens() -> None:
    frames = torch.randn(2, 3, 6, 4)
    got, flat = (reference("kcenter_merge", x, keep=5) for x in (frames, frames.flatten(1, 2)))
    assert torch.equal(got.tokens, flat.tokens) and got.assignment.shape == (2, 18)


def test_keep_is_whole() -> None:
    with pytest.raises(RequestError, match="whole number"):
        reference("uniform", torch.ones(1, 16, 4), keep=True)


@pytest.mark.parametrize("tokens", [None, np.ones((1, 16, 4), np.float32)])
def test_tokens_are_a_tensor(tokens: Any) -> None:
    with pytest.raises(RequestError, match=r"Pass a torch\.Tensor"):
        reference("uniform", tokens, keep=3)


def test_tokens_that_are_not_finite_are_refused():
    tokens = torch.zeros(1, 6, 4)
    tokens[0, 2, 1] = float("nan")
    with pytest.raises(RequestError, match="1 values of the tokens are NaN"):
        reference("kcenter_merge", tokens, keep=3)
