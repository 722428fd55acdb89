"""The most attended tokens stay, and the others go into them by halves, the last one weighing most."""

import numpy as np
import pytest
from body_runner import every_way
from tokexport.graph_passes.compressors import Case, make

# Two directions; 1 and 4 are kept. Along the first 0, 2 and 5, along the second 3.
TOKENS = np.array([[8, 0], [16, 0], [4, 0], [0, 6], [0, 2], [2, 0]], np.float32)[None]
ATTENTION = np.array([[0.1, 0.9, 0.2, 0.1, 0.5, 0.3]], np.float32)
CASE = Case(6, 2, 2)


@pytest.mark.parametrize(
    ("blend", "first", "second"),
    # ((16 + 8) / 2 + 4) / 2 = 8, and (8 + 2) / 2 = 5.
    [("halves", 5, 4), ("mean", (16 + 8 + 4 + 2) / 4, 4)],
)
def test_others_go_into_their_nearest_one_after_the_other(blend, first, second):
    for way, got in every_way(make("holitom_inner", {"blend": blend}), CASE, TOKENS, cls_attention=ATTENTION).items():
        np.testing.assert_allclose(got.tokens, [[[first, 0], [0, second]]], rtol=1e-6, err_msg=way)
        assert got.kept_indices.tolist() == [[1, 4]] and got.sizes.tolist() == [[4, 2]], way
        assert got.assignment.tolist() == [[0, 0, 0, 1, 1, 0]], way


def test_it_ranks_by_the_attention_that_is_named():
    method, paid = make("holitom_inner", {"attention": "peak"}), np.float32([[0, 0, 0.5, 0.9, 0, 0]])
    for way, got in every_way(method, CASE, TOKENS, peak_attention=paid).items():
        assert got.kept_indices.tolist() == [[2, 3]], way
