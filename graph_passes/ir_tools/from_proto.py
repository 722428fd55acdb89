"""Turns an ONNX message into a model, and refuses what protobuf lets through and no reader understands."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor

from ...errors import GraphError, first_line

if TYPE_CHECKING:
    import onnx
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message


def from_proto(proto: onnx.ModelProto, what: str = "the model") -> ir.Model:
    """The model of a message.

    Args:
        proto: the message; weights in it are not copied.
        what: it is called in errors.

    Raises:
        GraphError: a text in it is no UTF-8, or it is no model.
    """
    wrong = not_text(proto)
    if wrong:
        raise GraphError(f"the graph is damaged: {wrong} is no text", where=what, fix="Export the ONNX file again.")
    try:
        return ir.from_proto(proto)
    except Exception as error:
        # onnx_ir raises errors of many kinds.
        raise not_a_model(what, proto.ByteSize(), error) from error


def not_a_model(what: str, size: int, error: BaseException) -> GraphError:
    """The error for what cannot be read as a model: what it is called, its bytes, and why."""
    # onnx_ir says which function failed, at each level, and only the innermost error says why.
    while below := error.__cause__ or error.__context__:
        error = below
    return GraphError(
        f"{what} is not an ONNX model, or was truncated ({size} bytes)",
        where=first_line(error, 200),
        fix="Copy or export the ONNX file again.",
    )


def not_text(message: Message) -> str:
    """The first text in a message that is no UTF-8, as ``graph.node.name b'...'``; empty where all are.

    The schema of ONNX leaves texts unchecked, and Python then gives bytes in the place of a str.
    """
    todo: list[tuple[str, Any]] = [("", message)]
    while todo:
        path, at = todo.pop()
        fields = _fields(at.DESCRIPTOR)
        for name in fields.text:
            if isinstance(text := getattr(at, name), bytes):
                return f"{path}{name} {text[:40]!r}"
        for name in fields.texts:
            for text in getattr(at, name):
                if isinstance(text, bytes):
                    return f"{path}{name} {text[:40]!r}"
        for name in fields.part:
            if at.HasField(name):
                todo.append((f"{path}{name}.", getattr(at, name)))
        for name in fields.parts:
            if held := getattr(at, name):
                below = f"{path}{name}."
                todo += [(below, each) for each in held]
    return ""


class _Fields(NamedTuple):
    """Names of the fields of a kind of message that hold one text, several, one message, several."""

    text: list[str]
    texts: list[str]
    part: list[str]
    parts: list[str]


@functools.lru_cache(maxsize=64)
def _fields(kind: Descriptor) -> _Fields:
    kinds = [(each.type, each.has_presence) for each in kind.fields]
    return _Fields(
        *(
            [each.name for each, found in zip(kind.fields, kinds) if found == (wanted, one)]
            for wanted in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
            for one in (True, False)
        )
    )
