"""What plugins touch of TensorRT's Python module: a registry, enumerations, descriptions; nothing that runs."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT8 INT64")
TensorFormat = enum.Enum("TensorFormat", "LINEAR CHW4")
PluginFieldType = enum.Enum("PluginFieldType", "INT32 FLOAT32 CHAR")
TensorRTPhase = enum.Enum("TensorRTPhase", "BUILD RUNTIME")


class _Base:
    def __init__(self) -> None: ...


class IPluginV3(_Base): ...


class IPluginV3OneCore(_Base): ...


class IPluginV3OneBuild(_Base): ...


class IPluginV3OneRuntime(_Base): ...


class IPluginCreatorV3One(_Base): ...


@dataclass
class PluginField:
    name: str
    data: Any
    type: PluginFieldType


PluginFieldCollection = list
DimsExprs = list


@dataclass(frozen=True)
class Dim:
    value: int

    def get_constant_value(self) -> int:
        return self.value


class Expressions:
    constant = Dim


@dataclass
class Desc:
    """PluginTensorDesc, and DynamicPluginTensorDesc of a fixed shape."""

    dims: tuple[int, ...]
    type: DataType
    format: TensorFormat = TensorFormat.LINEAR

    @property
    def desc(self) -> Desc:
        return self

    @property
    def max(self) -> tuple[int, ...]:
        return self.dims


@dataclass
class Registry:
    all_creators: list[Any] = field(default_factory=list)

    def register_creator(self, creator: Any, namespace: str) -> None:
        assert namespace == creator.plugin_namespace == "tokexport"
        self.all_creators.append(creator)


_registry = Registry()


def get_plugin_registry() -> Registry:
    return _registry
