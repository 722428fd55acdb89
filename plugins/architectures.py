"""Which GPUs a compiled library runs on: CUDA's rules of compatibility.

Source: CUDA C++ Programming Guide, "Compute Capabilities" and "Binary Compatibility". Code for a GPU (``-real``) runs
on that one and on later minor versions of its major one, but not between a Jetson and a desktop GPU. PTX (``-virtual``)
runs on that one and all later ones. Without a suffix a library has both. ``90a`` runs on that one alone, ``100f`` on
its family.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Xavier, Orin, Thor.
_JETSONS = {72, 87, 101, 110}
_KNOWN = re.compile(r"(\d+)([af]?)(-real|-virtual)?")


def runs_on(architectures: Sequence[str], compute_capability: str) -> bool:
    """Whether a library has code that a GPU runs.

    Args:
        architectures: it was compiled for, as CMake has them: ``87-real``, ``120``.
        compute_capability: such as ``8.7``.

    Returns:
        True too where this cannot be known: none are given, or words such as ``all``.
    """
    major, minor = map(int, compute_capability.split("."))
    found = [_KNOWN.fullmatch(one) for one in architectures]
    return not found or any(match is None or _runs(match, 10 * major + minor) for match in found)


def _runs(match: re.Match[str], gpu: int) -> bool:
    code, only, part = int(match[1]), match[2], match[3] or ""
    if code == gpu:
        return True
    if only == "a":
        return False
    same_major = code // 10 == gpu // 10 and code < gpu
    if only == "f":
        return same_major
    compiled = same_major and not {code, gpu} & _JETSONS
    return (part != "-virtual" and compiled) or (part != "-real" and code < gpu)
