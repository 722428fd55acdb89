"""What the C ABI refuses, and that it says so before anything is touched."""

from __future__ import annotations

import ctypes
import re

import pytest
from kernel_build import KERNELS
from tokexport.plugins.abi import KernelError
from tokexport.plugins.structs import (
    MAX_BASIS,
    MAX_BATCH,
    MAX_DIM,
    MAX_TOKENS,
    Apet,
    Cdpruner,
    Dart,
    Evs,
    KcenterMerge,
    Outputs,
    Scope,
    Shape,
    Tome,
    Topk,
    Visionzip,
    Workspace,
)

GOOD = {"batch": 2, "tokens": 12, "dim": 4, "keep": 4, "dtype": 0}
BAD_SHAPES = [
    ("batch", 0, "TOKEXPORT_BAD_BATCH"),
    ("batch", MAX_BATCH + 1, "TOKEXPORT_BAD_BATCH"),
    ("tokens", 0, "TOKEXPORT_BAD_TOKENS"),
    ("tokens", MAX_TOKENS + 1, "TOKEXPORT_BAD_TOKENS"),
    ("dim", 0, "TOKEXPORT_BAD_DIM"),
    ("dim", MAX_DIM + 1, "TOKEXPORT_BAD_DIM"),
    ("keep", 0, "TOKEXPORT_BAD_KEEP"),
    ("keep", 13, "TOKEXPORT_BAD_KEEP"),
    ("dtype", -1, "TOKEXPORT_BAD_DTYPE"),
    ("dtype", 3, "TOKEXPORT_BAD_DTYPE"),
]
APET = {"basis": 3, "merge": 1, "basis_slots": 0, "start": 0, "ridge": 1e-5}
BAD_PARAMS = [
    ("apet", Apet(**{**APET, "basis": 0}), "TOKEXPORT_BAD_BASIS"),
    ("apet", Apet(**{**APET, "basis": 13}), "TOKEXPORT_BAD_BASIS"),
    ("apet", Apet(**{**APET, "basis": 4}), "TOKEXPORT_BAD_KEEP"),
    ("apet", Apet(**{**APET, "merge": 2}), "TOKEXPORT_BAD_PARAMETER"),
    ("apet", Apet(**{**APET, "basis_slots": 3}), "TOKEXPORT_BAD_PARAMETER"),
    ("apet", Apet(**{**APET, "start": -1}), "TOKEXPORT_BAD_PARAMETER"),
    ("apet", Apet(**{**APET, "ridge": 0.0}), "TOKEXPORT_BAD_PARAMETER"),
    ("apet", Apet(**{**APET, "ridge": float("nan")}), "TOKEXPORT_BAD_PARAMETER"),
    ("kcenter_merge", KcenterMerge(3), "TOKEXPORT_BAD_PARAMETER"),
    ("topk", Topk(3, 0), "TOKEXPORT_BAD_PARAMETER"),
    ("topk", Topk(0, 3), "TOKEXPORT_BAD_DTYPE"),
    ("scope", Scope(-0.5, 0), "TOKEXPORT_BAD_PARAMETER"),
    ("scope", Scope(11.0, 0), "TOKEXPORT_BAD_PARAMETER"),
    ("scope", Scope(float("nan"), 0), "TOKEXPORT_BAD_PARAMETER"),
    ("scope", Scope(1.0, 3), "TOKEXPORT_BAD_DTYPE"),
    ("cdpruner", Cdpruner(0, 0, 0), "TOKEXPORT_BAD_PARAMETER"),
    ("cdpruner", Cdpruner(MAX_TOKENS + 1, 0, 0), "TOKEXPORT_BAD_PARAMETER"),
    ("cdpruner", Cdpruner(3, 2, 0), "TOKEXPORT_BAD_PARAMETER"),
    ("cdpruner", Cdpruner(3, 0, -1), "TOKEXPORT_BAD_DTYPE"),
    ("evs", Evs(3, 2, 1), "TOKEXPORT_BAD_GRID"),
    ("evs", Evs(-3, -2, 2), "TOKEXPORT_BAD_GRID"),
    ("evs", Evs(2, 6, 1), "TOKEXPORT_BAD_KEEP"),
    ("tome", Tome(4, -1), "TOKEXPORT_BAD_PARAMETER"),
    ("tome", Tome(4, 13), "TOKEXPORT_BAD_PARAMETER"),
    ("tome", Tome(-1, 0), "TOKEXPORT_BAD_DIM"),
    ("tome", Tome(4, 4), "TOKEXPORT_BAD_KEEP"),
    ("dart", Dart(0, 4), "TOKEXPORT_BAD_PARAMETER"),
    ("dart", Dart(5, 4), "TOKEXPORT_BAD_KEEP"),
    ("dart", Dart(2, MAX_DIM + 1), "TOKEXPORT_BAD_DIM"),
    ("visionzip", Visionzip(-1, 0, 0, 4), "TOKEXPORT_BAD_PARAMETER"),
    ("visionzip", Visionzip(4, 0, 0, 4), "TOKEXPORT_BAD_PARAMETER"),
    ("visionzip", Visionzip(1, 2, 0, 4), "TOKEXPORT_BAD_PARAMETER"),
    ("visionzip", Visionzip(1, 0, 3, 4), "TOKEXPORT_BAD_DTYPE"),
    ("visionzip", Visionzip(1, 0, 0, 0), "TOKEXPORT_BAD_DIM"),
]
PARAMS = {
    "apet": Apet(**APET),
    "kcenter_merge": KcenterMerge(0),
    "topk": Topk(1, 0),
    "tome": Tome(4, 0),
    "divprune": None,
    "cdpruner": Cdpruner(3, 1, 0),
    "scope": Scope(1.0, 0),
    "evs": Evs(3, 2, 2),
    "dart": Dart(2, 4),
    "visionzip": Visionzip(1, 0, 0, 4),
}
WITHOUT_PARAMS = [method for method, params in PARAMS.items() if params is None]
SIGNALS = {
    "topk": [None],
    "tome": [16, None],
    "cdpruner": [16],
    "scope": [16],
    "dart": [16],
    "visionzip": [16, 16],
}


def codes() -> dict[str, int]:
    """The status codes as the header has them."""
    body = re.search(r"enum \{\s*(TOKEXPORT_OK.*?)\}", (KERNELS / "tokexport_kernels.h").read_text(), re.S)[1]
    names = [line.strip().rstrip(",") for line in body.splitlines() if line.strip()]
    return {name.split(" = ")[0]: int(name.split(" = ")[1]) if " = " in name else i for i, name in enumerate(names)}


CODES = codes()


def status(library, method, shape=GOOD, params=None, tokens=1, outputs=(1, 1, 1, 1), workspace=None, signals=None):
    """What a call returns; numbers are pointers that must not be looked at. "null" is a null pointer to parameters."""
    shape = shape and Shape(**shape)
    params = params or PARAMS[method]
    takes_workspace = hasattr(library.dll, f"tokexport_{method}_workspace")
    return getattr(library.dll, f"tokexport_{method}")(
        shape and ctypes.byref(shape),
        *([] if method in WITHOUT_PARAMS else [None if params == "null" else ctypes.byref(params)]),
        ctypes.c_void_p(tokens),
        *(ctypes.c_void_p(signal) for signal in signals or SIGNALS.get(method, [])),
        Outputs(*outputs),
        *([Workspace(*(workspace or (1 << 20, 1 << 20)))] if takes_workspace else []),
        None,
    )


@pytest.mark.parametrize("method", PARAMS)
@pytest.mark.parametrize(("field", "value", "code"), BAD_SHAPES)
def test_bad_shapes(library, method, field, value, code):
    assert status(library, method, {**GOOD, field: value}) == CODES[code]


@pytest.mark.parametrize(("method", "params", "code"), BAD_PARAMS)
def test_bad_parameters(library, method, params, code):
    assert status(library, method, params=params) == CODES[code]
    if hasattr(library.dll, f"tokexport_{method}_workspace"):
        with pytest.raises(KernelError) as error:
            library.workspace_bytes(method, Shape(**GOOD), params)
        assert error.value.status == CODES[code]


def test_a_basis_above_the_limit(library):
    shape = {**GOOD, "tokens": 200, "keep": 150}
    assert status(library, "apet", shape, Apet(**{**APET, "basis": MAX_BASIS + 1})) == CODES["TOKEXPORT_BAD_BASIS"]
    assert library.workspace_bytes("apet", Shape(**shape), Apet(**{**APET, "basis": MAX_BASIS})) > 0


@pytest.mark.parametrize("method", PARAMS)
def test_null_pointers(library, method):
    shape, null = GOOD, CODES["TOKEXPORT_NULL_POINTER"]
    assert status(library, method, None) == null
    assert status(library, method, shape, tokens=0) == null
    for i in range(4):
        assert status(library, method, shape, outputs=tuple(16 * int(i != j) for j in range(4))) == null
    if method not in WITHOUT_PARAMS:
        assert status(library, method, shape, params="null") == null
    params = Topk(0, 0) if method == "topk" else None
    if method in SIGNALS:
        assert status(library, method, shape, params=params, tokens=16, outputs=(16,) * 4, signals=[None, None]) == null


@pytest.mark.parametrize("method", PARAMS)
def test_workspaces(library, method):
    shape = {**GOOD, "keep": 8}
    needed = library.workspace_bytes(method, Shape(**shape), *filter(None, [PARAMS[method]]))
    outputs = (16,) * 4
    assert (
        status(library, method, shape, tokens=16, outputs=outputs, workspace=(0, needed))
        == CODES["TOKEXPORT_NULL_POINTER"]
    )
    small = CODES["TOKEXPORT_SMALL_WORKSPACE"]
    assert status(library, method, shape, tokens=16, outputs=outputs, workspace=(16, needed - 1)) == small
    misaligned = CODES["TOKEXPORT_MISALIGNED"]
    assert status(library, method, shape, tokens=16, outputs=outputs, workspace=(24, needed)) == misaligned


@pytest.mark.parametrize("method", PARAMS)
@pytest.mark.parametrize("which", range(5))
def test_misaligned_pointers(library, method, which):
    tokens, *outputs = [16 + 2 * int(i == which) for i in range(5)]
    assert status(library, method, tokens=tokens, outputs=outputs) == CODES["TOKEXPORT_MISALIGNED"]


@pytest.mark.parametrize(
    ("method", "signals"),
    [
        ("topk", [18]),
        ("tome", [18, 16]),
        ("tome", [16, 18]),
        ("scope", [18]),
        ("cdpruner", [18]),
        ("dart", [18]),
        ("visionzip", [18, 16]),
        ("visionzip", [16, 18]),
    ],
)
def test_misaligned_signals(library, method, signals):
    params = Topk(0, 0) if method == "topk" else None
    got = status(library, method, {**GOOD, "keep": 8}, params, 16, (16,) * 4, signals=signals)
    assert got == CODES["TOKEXPORT_MISALIGNED"]


def test_every_status_has_its_own_message(library):
    messages = [library.message(code) for code in CODES.values()]
    assert len(set(messages)) == len(messages)
    assert library.message(999) == library.message(-1) == "not a status of this library"
    assert library.message(CODES["TOKEXPORT_CUDA_ERROR"] + 9) == "invalid configuration argument"
    assert "not compiled for this GPU" in library.message(CODES["TOKEXPORT_CUDA_ERROR"] + 209)
    assert library.architectures() == []


def test_limits_are_those_of_the_header_and_the_messages(library):
    header = (KERNELS / "tokexport_kernels.h").read_text()
    limits = {"BATCH": MAX_BATCH, "TOKENS": MAX_TOKENS, "DIM": MAX_DIM, "BASIS": MAX_BASIS}
    for name, limit in limits.items():
        assert f"#define TOKEXPORT_MAX_{name} {limit}\n" in header
        assert f"1..{limit}" in library.message(CODES[f"TOKEXPORT_BAD_{name}"])
