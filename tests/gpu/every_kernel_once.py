"""Run every kernel on the GPU on small odd shapes, for compute-sanitizer to watch."""

from __future__ import annotations

from gpu_needs import gpu_library  # it comes first: it puts tests/plugins on the path
from kernel_checks import GRIDS, METHODS, agrees, draw, is_equal
from paper_checks import check_tome


def main() -> None:
    library = gpu_library()
    for b, n, d, k in [(2, 37, 20, 9), (1, 300, 33, 40)]:
        tokens = draw("normal", (b, n, d)).half()
        for method, params in METHODS:
            agrees(library, method, params, k, tokens)
        check_tome(library, n - k, 1, tokens, tokens, None)
    for method, params, n, k in GRIDS:
        is_equal(library, method, params, k, draw("normal", (2, n, 5)))


if __name__ == "__main__":
    main()
