"""The structures and limits of kernels/tokexport_kernels.h, for ctypes.

Generated from plugins/schema.py by `python -m tokexport.plugins.generate`: do not edit.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_size_t, c_void_p

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
MAX_BATCH = 65535
MAX_TOKENS = 32768
MAX_DIM = 32768
MAX_BASIS = 64


class Shape(ctypes.Structure):
    """tokexport_shape."""

    _fields_ = [
        ("batch", c_int32),
        ("tokens", c_int32),
        ("dim", c_int32),
        ("keep", c_int32),
        ("dtype", c_int32),
    ]


class Outputs(ctypes.Structure):
    """tokexport_outputs."""

    _fields_ = [
        ("tokens", c_void_p),
        ("kept_indices", c_void_p),
        ("sizes", c_void_p),
        ("assignment", c_void_p),
    ]


class Workspace(ctypes.Structure):
    """tokexport_workspace."""

    _fields_ = [
        ("data", c_void_p),
        ("bytes", c_size_t),
    ]


class KcenterMerge(ctypes.Structure):
    """tokexport_kcenter_merge_params."""

    _fields_ = [
        ("start", c_int32),
    ]


class Apet(ctypes.Structure):
    """tokexport_apet_params."""

    _fields_ = [
        ("basis", c_int32),
        ("merge", c_int32),
        ("basis_slots", c_int32),
        ("start", c_int32),
        ("ridge", c_float),
    ]


class Topk(ctypes.Structure):
    """tokexport_topk_params."""

    _fields_ = [
        ("score", c_int32),
        ("scores_dtype", c_int32),
    ]


class Tome(ctypes.Structure):
    """tokexport_tome_params."""

    _fields_ = [
        ("metric_dim", c_int32),
        ("protect", c_int32),
    ]


class Dart(ctypes.Structure):
    """tokexport_dart_params."""

    _fields_ = [
        ("pivots", c_int32),
        ("keys_dim", c_int32),
    ]


class Visionzip(ctypes.Structure):
    """tokexport_visionzip_params."""

    _fields_ = [
        ("contextual", c_int32),
        ("merge", c_int32),
        ("attention_dtype", c_int32),
        ("keys_dim", c_int32),
    ]


class Cdpruner(ctypes.Structure):
    """tokexport_cdpruner_params."""

    _fields_ = [
        ("text_length", c_int32),
        ("inverted", c_int32),
        ("text_dtype", c_int32),
    ]


class Scope(ctypes.Structure):
    """tokexport_scope_params."""

    _fields_ = [
        ("alpha", c_float),
        ("attention_dtype", c_int32),
    ]


class Evs(ctypes.Structure):
    """tokexport_evs_params."""

    _fields_ = [
        ("frames", c_int32),
        ("height", c_int32),
        ("width", c_int32),
    ]


PARAMETERS: dict[str, type[ctypes.Structure]] = {
    "kcenter_merge": KcenterMerge,
    "apet": Apet,
    "topk": Topk,
    "tome": Tome,
    "dart": Dart,
    "visionzip": Visionzip,
    "cdpruner": Cdpruner,
    "scope": Scope,
    "evs": Evs,
}
