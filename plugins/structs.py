"""The structures and limits of kernels/tokexport_kernels.h."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_size_t, c_void_p

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
MAX_BATCH, MAX_TOKENS, MAX_DIM, MAX_BASIS = 65535, 32768, 32768, 64

_GRID = [(name, c_int32) for name in ("frames", "height", "width")]


class Shape(ctypes.Structure):
    """tokexport_shape: B, N, D, K, and the dtype of the tokens as `DTYPES` counts them."""

    _fields_ = [(name, c_int32) for name in ("batch", "tokens", "dim", "keep", "dtype")]


class Outputs(ctypes.Structure):
    """tokexport_outputs: device pointers."""

    _fields_ = [(name, c_void_p) for name in ("tokens", "kept_indices", "sizes", "assignment")]


class Workspace(ctypes.Structure):
    """tokexport_workspace: a device pointer, aligned to 16 bytes, and its size."""

    _fields_ = [("data", c_void_p), ("bytes", c_size_t)]


class KcenterMerge(ctypes.Structure):
    """tokexport_kcenter_merge_params."""

    _fields_ = [("start", c_int32)]


class Apet(ctypes.Structure):
    """tokexport_apet_params."""

    _fields_ = [*((name, c_int32) for name in ("basis", "merge", "basis_slots", "start")), ("ridge", c_float)]


class Topk(ctypes.Structure):
    """tokexport_topk_params."""

    _fields_ = [("score", c_int32), ("scores_dtype", c_int32)]


class Scope(ctypes.Structure):
    """tokexport_scope_params."""

    _fields_ = [("alpha", c_float), ("attention_dtype", c_int32)]


class Cdpruner(ctypes.Structure):
    """tokexport_cdpruner_params."""

    _fields_ = [(name, c_int32) for name in ("text_length", "inverted", "text_dtype")]


class Evs(ctypes.Structure):
    """tokexport_evs_params."""

    _fields_ = _GRID


class Dart(ctypes.Structure):
    """tokexport_dart_params."""

    _fields_ = [("pivots", c_int32), ("keys_dim", c_int32)]


class Visionzip(ctypes.Structure):
    """tokexport_visionzip_params."""

    _fields_ = [(name, c_int32) for name in ("contextual", "merge", "attention_dtype", "keys_dim")]


class Tome(ctypes.Structure):
    """tokexport_tome_params."""

    _fields_ = [("metric_dim", c_int32), ("protect", c_int32)]
